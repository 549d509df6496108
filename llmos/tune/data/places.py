"""Fills the placeholders of command pages: a realistic value in the command, and the same in the sentence."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from llmos.tune.data import slots
from llmos.tune.data.names import Filler

_MAX_TOLD = 4
_PLACE = re.compile(r"\{\{(.*?)\}\}")
_OPTION = re.compile(r"\[(-[^|\]]*|[\w-]+)\|([^|\]]+)\]")
_MNEMONIC = re.compile(r"\[(\w+)\](?=\w|\s|$)")
_ASIDE = re.compile(r"\s*\((?:optionally|see also|note|e\.g|i\.e|requires|default)[^)]*\)", re.IGNORECASE)
_LITERAL = re.compile(r"[\d.:,x%/+-]+[A-Za-z]{0,2}|HEAD|origin|master|main|/[\w/.]+|[\w-]+=[\w.-]+|\*\.\w+")
_FILE = re.compile(
    r"file|path|文件|路径|source|target|destination|input|output|目标|输入|输出|script|archive"
)
_FOLDER = re.compile(r"director|folder|目录")

# What a placeholder's name tells of its kind; the first that fits.
_KINDS = (
    (r"director|folder|目录", "newdir"),
    (r"package|包名|软件包|依赖|dependency|crate", "pkg"),
    (r"user|用户|author|owner", "user"),
    (r"image|镜像", "image"),
    (r"container|容器|pod", "cont"),
    (r"service|unit|服务", "svc"),
    (r"volume|卷", "vol"),
    (r"network|网络", "net"),
    (r"interface|ethx|网卡|device_name", "iface"),
    (r"host|domain|server|主机|地址|域名", "host"),
    (r"port|端口", "port"),
    (r"pid|process_id|进程id|进程号", "pid"),
    (r"process|program|进程", "proc"),
    (r"url|website|网址", "url"),
    (r"message|text|string|字符串|消息|文本", "stem"),
    (r"regex|pattern|search|keyword|term|模式|正则|关键|word", "word"),
    (
        r"count|number|seconds|minutes|lines|depth|level|amount|size|width|height|length|bits|bytes|percent|days|"
        r"hours|秒|数量|行数|^n$|times",
        "num",
    ),
    (r"mode|权限", "mode"),
)
_NOUN = (
    r"(file|directory|folder|package|container|image|branch|service|unit|process|user|host|archive|pattern|commit|"
    r"volume|network|repository|command|string|text|keyword|port|tag|remote|domain|server|script|program|url|URL)"
)
_SOME = re.compile(
    r"\b(?:a|an|the|the given|a given|a specific|the specified|a specified|specific) "
    rf"(?:given |specific |specified )?{_NOUN}\b(?!/)"
)


class Places:
    """The placeholders of one command: the same name is the same value, two names are two values."""

    def __init__(self, filler: Filler) -> None:
        self._filler, self._rng = filler, filler.rng
        self._values: dict[str, str] = {}
        self.told: list[str] = []

    def fill(self, command: str) -> str | None:
        """The command with values, or None for what nobody can fill."""
        line = _PLACE.sub(self._put, command)
        return None if "{{" in line or len(self.told) > _MAX_TOLD else line

    def _put(self, match: re.Match[str]) -> str:
        inside = match[1].strip()
        if option := _OPTION.fullmatch(inside):
            return option[1]
        if inside.startswith("[") or "<" in inside:
            return "{{"
        inside = self._rng.choice(inside.split("|"))
        if inside not in self._values:
            self._values[inside] = self._another(inside)
        value = self._values[inside]
        if value not in self.told and not value.startswith("-"):
            self.told.append(value)
        return value

    def _another(self, inside: str) -> str:
        value = self._value(inside)
        for _ in range(5):
            if value not in self.told:
                break
            value = self._value(inside)
        return value

    def _value(self, inside: str) -> str:
        """A realistic value; what is a value already stays."""
        low = inside.lower()
        if inside.endswith(("...", "…")) and " " in inside:
            one = re.sub(r"_?\d+(?=\.|_|$)", "", inside.split(maxsplit=1)[0])
            return f"{self._value(one)} {self._value(one)}"
        if found := re.match(r"([a-z]+) (?=\S*path/|路径)", inside):
            return f"{found[1]} {self._value(inside[found.end() :])}"
        if _LITERAL.fullmatch(inside) and "path" not in low and "example" not in low:
            return inside
        return self._of_git(low) or self._file(low) or self._of_kind(low) or self._last(inside, low)

    def _of_git(self, low: str) -> str:
        """Addresses, commits, branches, remotes, versions and commands."""
        rng = self._rng
        if re.search(r"(^|_)ip(v[46])?(_|$)|ip_?addr", low):
            return f"10.0.{rng.randint(0, 9)}.{rng.randint(2, 250)}"
        if low in ("commit", "commit_hash", "commit-ish", "hash", "revision", "提交"):
            return f"{rng.randrange(16**7):07x}"
        if "branch" in low or "分支" in low:
            return rng.choice(["dev", "feature-login", "release", "bugfix", "experiment", "next"])
        if "remote" in low and "host" not in low and "path" not in low:
            return rng.choice(["origin", "upstream"])
        if "version" in low or "版本" in low or low == "tag":
            return f"{rng.randint(0, 5)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}"
        commands = ["ls -l", "date", "make", "uptime", "df -h"]
        return rng.choice(commands) if low in ("command", "命令", "command_to_run") else ""

    def _file(self, low: str) -> str:
        if found := re.search(r"\.(tar\.gz|tar\.xz|tar\.bz2|[a-z][a-z0-9]{0,5})$", low):
            return f"{self._filler.word()}.{found[1]}"
        if not _FILE.search(low) or _FOLDER.search(low):
            return ""
        plain = ["txt", "log", "csv", "md", "json", "conf", "dat", "py"]
        ext = "sh" if "script" in low or "executable" in low else self._rng.choice(plain)
        return f"{self._filler.word()}.{ext}"

    def _of_kind(self, low: str) -> str:
        kind = next((kind for pattern, kind in _KINDS if re.search(pattern, low)), "")
        value = slots.draw(self._filler, kind) if kind else None
        return str(value.meant) if value else ""

    def _last(self, inside: str, low: str) -> str:
        short = re.fullmatch(r"[\w.-]{1,14}", inside) and "_" not in inside and inside.isascii()
        if short and not re.search(r"name|value|key|id$|arg|option", low):
            return inside
        return self._filler.word()


def clean(say: str) -> str:
    """The sentence without the pages' marks: `[u]ser`, back quotes, asides."""
    return _ASIDE.sub("", _MNEMONIC.sub(r"\1", say).replace("`", "").rstrip(".。"))


def tell(say: str, values: Sequence[str], rng: random.Random, lang: str) -> str:
    """The sentence with the values in it: in place of `a file`, or behind."""
    values = [value for value in values if value not in say]
    if not values:
        return say
    if lang == "zh":
        return say + rng.choice(
            [f"：{'、'.join(values)}", f"（{'、'.join(values)}）", f" {' '.join(values)}"]
        )
    if len(values) == 1 and (found := _SOME.search(say)):
        said = f"the {found[1]} {values[0]}" if rng.random() < 0.6 else values[0]
        return say[: found.start()] + said + say[found.end() :]
    row, listed = ", ".join(values), " and ".join([", ".join(values[:-1]), values[-1]][-len(values) :])
    return say + rng.choice([f": {row}", f" ({row})", f", {listed}", f": {listed}", f" - {row}"])

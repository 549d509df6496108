"""Public pairs of a sentence and a command, made fit for training: filled, cleaned, parsed, or dropped.

They are read from a folder that the person names and are never part of the repository. What is dropped:
pages of other systems, commands that bash cannot parse or that span lines, options of programs said
without naming the program, placeholders that nobody can fill, and commands that destroy a machine.
A placeholder's value stands in the sentence, too: a command must follow from what was said.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmos.tune.data.check import parses
from llmos.tune.data.slots import Filler

MAX_CHARS = 220
_CORE = set(
    """ls cp mv rm mkdir rmdir touch cat head tail wc sort uniq cut paste tr sed awk grep egrep rg find xargs tar gzip gunzip
    zip unzip xz bzip2 zstd df du free ps kill killall pkill pgrep nice renice ln chmod chown chgrp stat file date cal echo
    printf seq sleep time timeout watch tee diff cmp comm patch curl wget ssh scp rsync ping ip ss netstat dig host git
    docker systemctl journalctl apt apt-get dpkg crontab who w whoami id groups mount umount lsblk lsof uname hostname uptime
    dmesg env which whereis man basename dirname realpath readlink md5sum sha256sum sha1sum base64 openssl jq tree split
    shuf nl fold column rev tac od hexdump xxd strings iconv python3 pip npm make gcc go cargo ffmpeg screen tmux kubectl""".split()
)
_FIG = set("git docker kubectl systemctl npm cargo go pip apt brew gh helm tmux yarn poetry podman terraform ssh tar rsync curl make uv".split())
_NOT_HERE = re.compile(
    r"\b(mkfs|fdisk|parted|wipefs|shred|reboot|shutdown|poweroff|halt|init 0)\b|rm -rf? /(\s|$)|of=/dev/|"
    r":\(\)|>\s*/dev/sd|chmod -R 777 /|\bpowershell\b|\bbrew\b|\bosascript\b|defaults write|C:\\"
)
_PLACE = re.compile(r"\{\{(.*?)\}\}")
_MNEMONIC = re.compile(r"\[(\w+)\](?=\w|\s|$)")
_LEFTOVER = re.compile(r"\{\{|\}\}|<[\w /.|-]+>|\.\.\.|…|path/to|路径|\[options?\]|\b[A-Z]+_[A-Z]+\b|foobar")


@dataclass(frozen=True, slots=True)
class Pair:
    say: str
    command: str
    source: str
    id: str
    lang: str


def load(folder: Path, rng: random.Random) -> Iterator[Pair]:
    """All usable pairs of the folder, in a fixed order for a seed."""
    filler = Filler(rng)
    for name in ("nl2bash", "tldr", "tldr_zh", "cheatsheets", "cheatsh", "fig"):
        file = folder / f"{name}.jsonl.gz"
        if not file.is_file():
            continue
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                row = json.loads(line)
                for pair in _pairs(name, number, row, filler, rng):
                    if _good(pair):
                        yield pair


_READS = set("awk cut sort uniq tr diff comm cmp date cal seq echo printf paste rev tac nl column file stat md5sum sha256sum who id env which basename dirname readlink realpath join fold ps uname hostname dig".split())
_TYPED = re.compile(r"^(ls|cat|head|tail|grep|find|du|df|wc|free|uptime)\b[^|]*$")


def for_shell(pair: Pair) -> bool:
    """Whether a pair is also an example for shell.run: it only reads, and no typed tool does it."""
    command = pair.command
    if pair.source not in ("nl2bash", "tldr", "tldr_zh") or _TYPED.match(command) or len(command) > 120:
        return False
    if re.search(r">|-i\b|-delete|\b(rm|mv|cp|kill|tee|xargs|chmod|chown|sudo|ssh|curl|wget)\b|`", command):
        return False
    parts = [part.split()[0] for part in command.split("|") if part.split()]
    if "$" in command and not parts[0].startswith("awk") or len(pair.say.split()) > 24:
        return False
    small = _READS | {"head", "tail", "wc", "grep", "sed"}
    return (parts[0] in _READS and all(part in small for part in parts)) or (len(parts) > 1 and parts[0] in ("ls", "cat", "grep", "find", "du", "df", "head", "tail") and all(part in small for part in parts[1:]))


def _good(pair: Pair) -> bool:
    return (
        3 <= len(pair.command) <= MAX_CHARS
        and 8 <= len(pair.say) + 4 * (pair.lang == "zh") <= 260
        and "\n" not in pair.command + pair.say
        and not _NOT_HERE.search(pair.command)
        and not _LEFTOVER.search(pair.command)
        and pair.command.strip() == pair.command
        and parses(pair.command)
    )


def _pairs(name: str, number: int, row: dict[str, str], filler: Filler, rng: random.Random) -> Iterator[Pair]:
    id_ = f"{name}:{row['src'].split('/', 1)[-1]}:{number}" if name != "nl2bash" else f"{name}:{number}"
    say, command = row["nl"].strip(), row["cmd"].strip()
    match name:
        case "nl2bash":
            if found := _nl2bash(say, command):
                yield Pair(*found, name, id_, "en")
        case "tldr" | "tldr_zh":
            yield from _tldr(name, id_, row["src"], say, command, filler, rng)
        case "cheatsheets" | "cheatsh":
            if found := _sheet(row["src"], say, command, rng):
                yield Pair(*found, name, id_, "en")
        case _:
            if found := _fig(row["src"], say, command, rng):
                yield Pair(*found, name, id_, "en")


# --- nl2bash -------------------------------------------------------------------------------------


def _nl2bash(say: str, command: str) -> tuple[str, str] | None:
    """Its own wording, unless sentence and command disagree in what can be compared."""
    if not say.isascii() or not command.isascii() or _UNFIT.search(command) or _UNFIT_SAY.search(say):
        return None
    loose = [v for v in re.findall(r"\$\{?([A-Za-z_]\w*)", command) if v not in ("HOME", "PWD", "USER", "PATH")]
    bound = re.findall(r"\b(?:for|read(?: -r)?) (\w+)|(\w+)=", command)
    names = {name for pair in bound for name in pair if name}
    if any(v not in names and not command.startswith(("awk", "perl")) and "awk" not in command for v in loose):
        return None
    if re.search(r"\$[@*#1-9]", command) and "awk" not in command and "perl" not in command:
        return None
    command = _tidy(command)
    return (say.rstrip("."), command) if _agree(say, command) else None


_UNFIT = re.compile(
    r"sudo|\byum\b|\| *(?:less|more)\b|\bfinger\b|\bscreen\b|-type -|\bpbcopy|\bpbpaste|\bshopt|\beval\b|-[acm]time [+-]?\d+[smhdw]|find \S+ -d \d|\bmd5\b(?!sum)|^\$ |^set |^bind |^alias |^export |"
    r"\b(regex|expression|dir\d|path_to|your|search-?term|cmd\d|constraints|dirname/|whatever|foo_bar)\b",
    re.IGNORECASE,
)
_UNFIT_SAY = re.compile(r"interactive|\bpage\b|subshell|shell option|\bvariable|prompt|readline|\bsession|\bcommand named|alias|macro|\bN\b|\$[A-Za-z]")


def _tidy(command: str) -> str:
    """One spelling where there are several: no `-print` at the end, plain `{}` and `!`."""
    command = command.replace("\\{\\}", "{}").replace('"{}"', "{}").replace("\\!", "!").replace(" '{}'", " {}")
    command = re.sub(r"^(find [^|;]*) -print$", r"\1", command)
    if not command.endswith("\\;"):
        command = command.rstrip(" ;")
    return command if re.search(r"['\"].*  .*['\"]", command) else re.sub(r"  +", " ", command)


def _agree(say: str, command: str) -> bool:
    """Negations, directions, kinds, numbers and quoted words that stand in one stand in the other."""
    low = say.lower()
    no = r"\b(not|no|except|exclud\w*|without|other than|skip\w*|ignor\w*|but|non-?\w+|omit\w*|avoid\w*|unless|besides|outside|prun\w*|lack\w*|missing|never|neither|un\w+)\b|n't\b"
    negated = re.search(r"(^|\s)!\s|-not\b|-prune|grep [^|]*-\w*[vL]\b|--exclude|!~|\bsed .*!", command)
    if bool(negated) and not re.search(no, low):
        return False
    if not negated and re.search(r"\b(except|excluding|other than|do not contain|not containing|don't contain)\b", low):
        return False
    sized = re.search(r"-size\s+['\"]?([+-]?)\d", command)
    if sized and re.search(r"\b(larger|bigger|greater|more|over|exceed\w*) (than|in size)", low) and sized[1] != "+" and not negated:
        return False
    if sized and re.search(r"\b(smaller|less|under) than", low) and sized[1] != "-" and not negated:
        return False
    aged = re.search(r"-[acm](?:time|min)\s+['\"]?([+-]?)\d", command)
    if aged and re.search(r"\b(older than|more than|before|over)\b", low) and aged[1] == "-" and "less" not in low and "-mtime +" not in command:
        return False
    if aged and re.search(r"\b(within|in the last|in last|less than|during|past|newer)\b", low) and aged[1] != "-" and not negated:
        return False
    if re.match(r"(count|how many|print the number|number of)", low) and not re.search(r"wc|-c\b|uniq|NR|count|length|tr -dc|grep \S*c|-\w*c ", command):
        return False
    if "regular file" in low and "find" in command and "-type f" not in command:
        return False
    if re.match(r"(find|search|list|display|print|show) (all |for |the )*(the )?(directories|folders|sub-?directories)\b(?!/)", low) and "-type d" not in command and command.startswith("find"):
        return False
    if re.search(r"director|folder", low) and "file" not in low and "-type f" in command:
        return False
    if re.search(r"case.?insensitive", low) and not re.search(r"-i|IGNORECASE|tolower|\\L|/I\b", command):
        return False
    quoted = re.findall(r"\"([^\"]{1,40})\"|(?<!\w)'([^']{1,40})'(?!\w)", say)
    flat = command.replace("\\", "")
    if any((a or b).replace("\\", "").strip("*/. ") not in flat for a, b in quoted):
        return False
    return _numbers_agree(say, command) and all(n in command for n in re.findall(r"(?<![\w.-])\d{2,}(?![\w.-]*\w)", say))


def _numbers_agree(say: str, command: str) -> bool:
    """A number of three digits or more in the command stands in the sentence (or is a unit's size)."""
    known = {"1024", "1000", "100", "60", "644", "755", "777", "000", "200", "127", "255", "600", "1440", "365", "1023", "2048", "10240", "1048576", "102400", "3600", "4096"}
    return all(n in say or n in known for n in re.findall(r"\b\d{3,}\b", command))


# --- tldr ----------------------------------------------------------------------------------------


def _tldr(name: str, id_: str, src: str, say: str, command: str, filler: Filler, rng: random.Random) -> Iterator[Pair]:
    lang = "zh" if name == "tldr_zh" else "en"
    _, platform, page = src.split("/", 2)
    if platform not in ("common", "linux") or command.startswith(("tldr ", "man ")):
        return
    if re.search(r"display help|display version|show help|原命令的文档|显示帮助|documentation for|interactive|<Ctrl|keyboard", say, re.IGNORECASE):
        return
    program = page.split("-")[0] if page not in _CORE else page
    core = program in _CORE
    times = 2 if core and "{{" in command else 1
    if not core and rng.random() < (0.72 if lang == "en" else 0.5):
        return
    for _ in range(times):
        filler.lang = lang
        filled = _fill_places(say, command.removeprefix("sudo "), filler, rng, lang)
        if filled is None:
            return
        words, line = filled
        yield Pair(_with_program(words, line, core, rng, lang), line, name, id_, lang)


def _fill_places(say: str, command: str, filler: Filler, rng: random.Random, lang: str) -> tuple[str, str] | None:
    """Sentence and command with each placeholder replaced by one value."""
    values: dict[str, str] = {}
    told: list[str] = []

    def put(match: re.Match[str]) -> str:
        inside = match[1].strip()
        if option := re.fullmatch(r"\[(-[^|\]]*|[\w-]+)\|([^|\]]+)\]", inside):
            return option[1]
        if inside.startswith("[") or "<" in inside:
            return "{{"
        if "|" in inside:
            inside = rng.choice(inside.split("|"))
        if inside not in values:
            values[inside] = _value(inside, filler, rng)
            for _ in range(5):  # two placeholders are two things
                if values[inside] not in told:
                    break
                values[inside] = _value(inside, filler, rng)
        if values[inside] not in told and not values[inside].startswith("-"):
            told.append(values[inside])
        return values[inside]

    line = _PLACE.sub(put, command)
    if "{{" in line or len(told) > 4:
        return None
    words = _MNEMONIC.sub(r"\1", say).replace("`", "").rstrip(".。")
    words = re.sub(r"\s*\((?:optionally|see also|note|e\.g|i\.e|requires|default)[^)]*\)", "", words, flags=re.IGNORECASE)
    return _tell(words, told, rng, lang), line


_KINDS = (
    (r"director|folder|目录", "newdir"), (r"package|包名|软件包|依赖|dependency|crate", "pkg"),
    (r"user|用户|author|owner", "user"), (r"image|镜像", "image"), (r"container|容器|pod", "cont"),
    (r"service|unit|服务", "svc"), (r"volume|卷", "vol"), (r"network|网络", "net"),
    (r"interface|ethx|网卡|device_name", "iface"), (r"host|domain|server|ip_address|_ip|主机|地址|域名", "host"),
    (r"port|端口", "port"), (r"pid|process_id|进程id|进程号", "pid"), (r"process|program|进程", "proc"),
    (r"url|website|网址", "url"), (r"message|text|string|字符串|消息|文本", "stem"),
    (r"regex|pattern|search|keyword|term|模式|正则|关键|word", "word"),
    (r"count|number|seconds|minutes|lines|depth|level|amount|size|width|height|length|bits|bytes|percent|days|hours|秒|数量|行数|^n$|times", "num"),
    (r"mode|权限", "mode"),
)  # fmt: skip


def _value(inside: str, filler: Filler, rng: random.Random) -> str:
    """A realistic value for a placeholder; what is a value already stays."""
    low = inside.lower()
    if inside.endswith(("...", "…")) and " " in inside:
        one = re.sub(r"_?\d+(?=\.|_|$)", "", inside.split()[0])
        return f"{_value(one, filler, rng)} {_value(one, filler, rng)}"
    if found := re.match(r"([a-z]+) (?=\S*path/|路径)", inside):
        return f"{found[1]} {_value(inside[found.end() :], filler, rng)}"
    if re.search(r"(^|_)ip(v[46])?(_|$)|ip_?addr", low):
        return f"10.0.{rng.randint(0, 9)}.{rng.randint(2, 250)}"
    if re.fullmatch(r"[\d.:,x%/+-]+[A-Za-z]{0,2}|HEAD|origin|master|main|/[\w/.]+|[\w-]+=[\w.-]+|\*\.\w+", inside) and "path" not in low and "example" not in low:
        return inside
    if low in ("commit", "commit_hash", "commit-ish", "hash", "revision", "提交"):
        return f"{rng.randrange(16**7):07x}"
    if "branch" in low or "分支" in low:
        return rng.choice(["dev", "feature-login", "release", "bugfix", "experiment", "next"])
    if "remote" in low and "host" not in low and "path" not in low:
        return rng.choice(["origin", "upstream"])
    if "version" in low or "版本" in low or low == "tag":
        return f"{rng.randint(0, 5)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}"
    if low in ("command", "命令", "command_to_run"):
        return rng.choice(["ls -l", "date", "make", "uptime", "df -h"])
    if found := re.search(r"\.(tar\.gz|tar\.xz|tar\.bz2|[a-z][a-z0-9]{0,5})$", low):
        return f"{_stem(filler)}.{found[1]}"
    if re.search(r"file|path|文件|路径|source|target|destination|input|output|目标|输入|输出|script|archive", low) and not re.search("director|folder|目录", low):
        ext = "sh" if "script" in low or "executable" in low else rng.choice(["txt", "log", "csv", "md", "json", "conf", "dat", "py"])
        return f"{_stem(filler)}.{ext}"
    for pattern, kind in _KINDS:
        if re.search(pattern, low):
            value = filler.draw(kind)
            return str(value.meant) if value else _stem(filler)
    if re.fullmatch(r"[\w.-]{1,14}", inside) and "_" not in inside and inside.isascii() and not re.search(r"name|value|key|id$|arg|option", low):
        return inside
    return _stem(filler)


def _stem(filler: Filler) -> str:
    value = filler.draw("stem")
    return str(value.meant) if value else "data"


_NOUN = r"(file|directory|folder|package|container|image|branch|service|unit|process|user|host|archive|pattern|commit|volume|network|repository|command|string|text|keyword|port|tag|remote|domain|server|script|program|url|URL)"  # fmt: skip


def _tell(say: str, values: list[str], rng: random.Random, lang: str) -> str:
    """The sentence with the values in it: in place of `a file`, or behind."""
    values = [value for value in values if value not in say]
    if not values:
        return say
    if lang == "zh":
        return say + rng.choice([f"：{'、'.join(values)}", f"（{'、'.join(values)}）", f" {' '.join(values)}"])
    if len(values) == 1 and (found := re.search(rf"\b(?:a|an|the|the given|a given|a specific|the specified|a specified|specific) (?:given |specific |specified )?{_NOUN}\b(?!/)", say)):
        keep = f"the {found[1]} {values[0]}" if rng.random() < 0.6 else values[0]
        return say[: found.start()] + keep + say[found.end() :]
    listed = " and ".join([", ".join(values[:-1]), values[-1]]) if len(values) > 1 else values[0]
    return say + rng.choice([f": {', '.join(values)}", f" ({', '.join(values)})", f", {listed}", f": {listed}", f" - {', '.join(values)}"])


def _with_program(say: str, command: str, core: bool, rng: random.Random, lang: str) -> str:
    program = command.split()[0]
    if program.lower() in say.lower() or "=" in program:
        return _lower(say, rng)
    if core and rng.random() < 0.55 and program not in ("git", "docker", "kubectl", "npm", "cargo", "go", "pip", "openssl", "ffmpeg", "tmux", "screen"):
        return _lower(say, rng)
    if lang == "zh":
        return rng.choice([f"用 {program} {say}", f"{program}：{say}", f"{say}（用 {program}）", f"使用 {program} {say}"])
    say = say[0].lower() + say[1:] if say[:2].isalpha() and not say[:2].isupper() else say
    return rng.choice([f"{say} with {program}", f"{program}: {say}", f"use {program} to {say}", f"{say}, using {program}", f"with {program}, {say}", f"{say} ({program})"])


def _lower(say: str, rng: random.Random) -> str:
    return say[0].lower() + say[1:] if rng.random() < 0.6 and say[1:2].islower() else say


# --- the others ----------------------------------------------------------------------------------


def _sheet(src: str, say: str, command: str, rng: random.Random) -> tuple[str, str] | None:
    """Cheat sheets: only of common programs, and only what needs no filling."""
    say = re.sub(r"^(to|how to)\s+", "", say.strip(" .:#"), flags=re.IGNORECASE)
    page = src.rsplit("/", 1)[-1]
    command = re.sub(r"^\$ ", "", command.removeprefix("sudo ")).split("  #")[0].strip()
    program = command.split()[0] if command.split() else ""
    if len(say.split()) < 3 or program not in _CORE or not say.isascii() or not command.isascii():
        return None
    if page not in (program, "find", "awk", "sed", "grep", "tar", "git") or re.search(r"[<>\[\]]|\bfoo\b|\bbar\b|file_?name|directory_name|user@|\bUSER\b|^\w+ -\w$|dir_?name", command):
        return None
    if program in ("vim", "less", "screen", "tmux") or not _words_known(say, command):
        return None
    return _with_program(say, command, True, rng, "en"), command


def _words_known(say: str, command: str) -> bool:
    """Every file, host or number in the command is in the sentence."""
    words = [w for w in re.findall(r"[\w./-]+", command)[1:] if re.search(r"\.\w|/|\d{2}", w) and not w.startswith("-")]
    return all(w.strip("./") in say for w in words)


def _fig(src: str, say: str, command: str, rng: random.Random) -> tuple[str, str] | None:
    """Option and subcommand descriptions: only whole commands of common programs."""
    program = src.rsplit("/", 1)[-1]
    if program not in _FIG or "<" in command or len(say.split()) < 3 or len(say) > 110 or not say.isascii():
        return None
    if "-" in command.split()[-1] or not re.match(r"(list|show|display|print|get) ", say, re.IGNORECASE):
        return None
    if re.search(r"help|deprecat|alias|interactive|--version|verbose|color|e\.g|:$|\bthis (option|flag)|\bflag\b", say, re.IGNORECASE):
        return None
    parts = command.split()
    if len(parts) > 3:
        return None
    say = say.strip(" .").replace("`", "")
    say = say[0].lower() + say[1:] if say[1:2].islower() else say
    name = " ".join(part for part in parts if not part.startswith("-"))
    return (f"{name}: {say}" if any(part.startswith("-") for part in parts) else _with_program(say, command, False, rng, "en")), command

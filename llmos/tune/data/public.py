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

from llmos.tune.data.agreement import agree
from llmos.tune.data.check import parses
from llmos.tune.data.names import Filler, words
from llmos.tune.data.places import Places, clean, tell

FILES = ("nl2bash", "tldr", "tldr_zh", "cheatsheets", "cheatsh", "fig")
MAX_CHARS = 220
_NOT_HERE = re.compile(
    r"\b(mkfs|fdisk|parted|wipefs|shred|reboot|shutdown|poweroff|halt|init 0)\b|rm -rf? /(\s|$)|of=/dev/|"
    r":\(\)|>\s*/dev/sd|chmod -R 777 /|\bpowershell\b|\bbrew\b|\bosascript\b|defaults write|C:\\"
)
_LEFTOVER = re.compile(r"\{\{|\}\}|<[\w /.|-]+>|\.\.\.|…|path/to|路径|\[options?\]|\b[A-Z]+_[A-Z]+\b|foobar")


@dataclass(frozen=True, slots=True)
class Pair:
    say: str
    command: str
    source: str
    id: str
    lang: str = "en"


def load(folder: Path, rng: random.Random) -> Iterator[Pair]:
    """All usable pairs of the folder, in a fixed order for a seed."""
    reader = _Reader(Filler(rng))
    for name in FILES:
        file = folder / f"{name}.jsonl.gz"
        if not file.is_file():
            continue
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                yield from filter(_good, reader.pairs(name, number, json.loads(line)))


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


# --- as calls ------------------------------------------------------------------------------------

_TYPED = re.compile(r"^(ls|cat|head|tail|grep|find|du|df|wc|free|uptime)\b[^|]*$")
_CHANGES = re.compile(r">|-i\b|-delete|\b(rm|mv|cp|kill|tee|xargs|chmod|chown|sudo|ssh|curl|wget)\b|`")


def for_shell(pair: Pair) -> bool:
    """Whether a pair is also an example for shell.run: it only reads, and no typed tool does it."""
    command = pair.command
    if pair.source not in ("nl2bash", "tldr", "tldr_zh") or len(command) > 120 or len(pair.say.split()) > 24:
        return False
    parts = [part.split()[0] for part in command.split("|") if part.split()]
    if _TYPED.match(command) or _CHANGES.search(command) or ("$" in command and parts[0] != "awk"):
        return False
    reads = set(words()["shell"]["reads"].split())
    rest = reads | {"head", "tail", "wc", "grep", "sed"}
    first = reads | ({"ls", "cat", "grep", "find", "du", "df", "head", "tail"} if len(parts) > 1 else set())
    return parts[0] in first and all(part in rest for part in parts[1:])


# --- by source -----------------------------------------------------------------------------------

_UNFIT = re.compile(
    r"sudo|\byum\b|\| *(?:less|more)\b|\bfinger\b|\bscreen\b|-type -|\bpbcopy|\bpbpaste|\bshopt|\beval\b|"
    r"-[acm]time [+-]?\d+[smhdw]|find \S+ -d \d|\bmd5\b(?!sum)|^\$ |^set |^bind |^alias |^export |"
    r"\b(regex|expression|dir\d|path_to|your|search-?term|cmd\d|constraints|dirname/|whatever|foo_bar)\b",
    re.IGNORECASE,
)
_UNFIT_SAY = re.compile(
    r"interactive|\bpage\b|subshell|shell option|\bvariable|prompt|readline|\bsession|\bcommand named|alias|"
    r"macro|\bN\b|\$[A-Za-z]"
)
_NO_TASK = re.compile(
    r"display help|display version|show help|原命令的文档|显示帮助|documentation for|interactive|<Ctrl|keyb",
    re.IGNORECASE,
)
_FIG_UNFIT = re.compile(
    r"help|deprecat|alias|interactive|--version|verbose|color|e\.g|:$|\bthis (option|flag)|\bflag\b",
    re.IGNORECASE,
)
_SHEET_UNFIT = re.compile(
    r"[<>\[\]]|\bfoo\b|\bbar\b|file_?name|dir_?name|user@|_name\b|\bFILE\b|\bPKG\b|hostname_or|\$[A-Z]|\bUSER\b|"
    r"^\w+ -\w$"
)
_SHEETS = frozenset(["find", "awk", "sed", "grep", "tar", "git"])


class _Reader:
    """Turns the rows of each source into pairs."""

    def __init__(self, filler: Filler) -> None:
        self._filler, self._rng = filler, filler.rng
        self._core = frozenset(words()["shell"]["core"].split())
        self._fig = frozenset(words()["shell"]["fig"].split())

    def pairs(self, name: str, number: int, row: dict[str, str]) -> Iterator[Pair]:
        id_ = f"{name}:{row['src'].rsplit('/', 1)[-1]}:{number}"
        say, command = row["nl"].strip(), row["cmd"].strip()
        if name.startswith("tldr"):
            yield from self._tldr(name, id_, row["src"], say, command)
            return
        page = row["src"].rsplit("/", 1)[-1]
        if name == "nl2bash":
            found = _nl2bash(say, command)
        else:
            found = self._from_fig(page, say, command) if name == "fig" else self._sheet(page, say, command)
        if found:
            yield Pair(*found, name, id_)

    def _tldr(self, name: str, id_: str, src: str, say: str, command: str) -> Iterator[Pair]:
        lang = "zh" if name == "tldr_zh" else "en"
        _, platform, page = src.split("/", 2)
        if (
            platform not in ("common", "linux")
            or command.startswith(("tldr ", "man "))
            or _NO_TASK.search(say)
        ):
            return
        core = page in self._core or page.split("-")[0] in self._core
        if not core and self._rng.random() < (0.72 if lang == "en" else 0.5):
            return  # of programs that few have, some are enough
        self._filler.lang = lang
        for _ in range(2 if core and "{{" in command else 1):
            places = Places(self._filler)
            if line := places.fill(command.removeprefix("sudo ")):
                said = tell(clean(say), places.told, self._rng, lang)
                yield Pair(self._with_program(said, line, core, lang), line, name, id_, lang)

    def _with_program(self, say: str, command: str, core: bool, lang: str = "en") -> str:
        """The sentence with the program's name in it, which for a well-known one is not always needed."""
        program, rng = command.split(maxsplit=1)[0], self._rng
        guessed = core and program not in self._fig and rng.random() < 0.55
        if program.lower() in say.lower() or "=" in program or guessed:
            return _small(say) if rng.random() < 0.6 else say
        if lang == "zh":
            ways = [
                f"用 {program} {say}",
                f"{program}：{say}",
                f"{say}（用 {program}）",
                f"使用 {program} {say}",
            ]
            return rng.choice(ways)
        ways = ["{} with {}", "{1}: {0}", "use {1} to {0}", "{}, using {}", "with {1}, {0}", "{} ({})"]
        return rng.choice(ways).format(_small(say), program)

    def _sheet(self, page: str, say: str, command: str) -> tuple[str, str] | None:
        """Cheat sheets: only of common programs, and only what needs no filling."""
        say = re.sub(r"^(to|how to)\s+", "", say.strip(" .:#"), flags=re.IGNORECASE)
        command = re.sub(r"^\$ ", "", command.removeprefix("sudo ")).split(" # ")[0].strip()
        program = command.split()[0] if command.split() else ""
        if len(say.split()) < 3 or program not in self._core or page not in (program, *_SHEETS):
            return None
        fit = say.isascii() and command.isascii() and not _SHEET_UNFIT.search(command)
        if not fit or program in ("vim", "less", "screen", "tmux") or not _words_known(say, command):
            return None
        return self._with_program(say, command, True), command

    def _from_fig(self, program: str, say: str, command: str) -> tuple[str, str] | None:
        """Descriptions of subcommands: only whole commands of common programs that list or show."""
        parts, say = command.split(), say.strip(" .").replace("`", "")
        if program not in self._fig or "<" in command or not 1 < len(parts) <= 3 or parts[-1].startswith("-"):
            return None
        if not 3 <= len(say.split()) <= 16 or not say.isascii() or _FIG_UNFIT.search(say):
            return None
        if not re.match(r"(list|show|display|print|get) ", say, re.IGNORECASE):
            return None
        return self._with_program(say, command, False), command


def _nl2bash(say: str, command: str) -> tuple[str, str] | None:
    """Its own wording, unless sentence and command disagree in what can be compared."""
    if not say.isascii() or not command.isascii() or _UNFIT.search(command) or _UNFIT_SAY.search(say):
        return None
    if _unbound(command):
        return None
    command = _tidy(command)
    return (say.rstrip("."), command) if agree(say, command) else None


def _unbound(command: str) -> bool:
    """Whether a command needs variables or arguments that nobody has set."""
    if re.match(r"awk|perl", command) or "awk" in command:
        return False
    used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", command)) - {"HOME", "PWD", "USER", "PATH"}
    bound = {name for pair in re.findall(r"\b(?:for|read(?: -r)?) (\w+)|(\w+)=", command) for name in pair}
    return bool(used - bound) or bool(re.search(r"\$[@*#1-9]", command) and "perl" not in command)


def _tidy(command: str) -> str:
    """One spelling where there are several: no `-print` at the end, plain `{}` and `!`."""
    command = (
        command.replace("\\{\\}", "{}").replace('"{}"', "{}").replace("\\!", "!").replace(" '{}'", " {}")
    )
    command = re.sub(r"^(find [^|;]*) -print$", r"\1", command)
    if not command.endswith("\\;"):
        command = command.rstrip(" ;")
    return command if re.search(r"['\"].*  .*['\"]", command) else re.sub(r"  +", " ", command)


def _words_known(say: str, command: str) -> bool:
    """Every file, host or number in the command is in the sentence."""
    found = [w for w in re.findall(r"[\w./-]+", command)[1:] if re.search(r"\.\w|/|\d{2}", w)]
    return all(w.strip("./") in say for w in found if not w.startswith("-"))


def _small(say: str) -> str:
    """With a small first letter, unless the first word is a name in capitals."""
    return say[0].lower() + say[1:] if say[:2].isalpha() and not say[:2].isupper() else say

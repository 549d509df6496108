"""The source of man pages, man(7) and mdoc(7), as far as lists of options go. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

OPTION = re.compile(r"(?<![\w-])(?:--?[A-Za-z0-9?#@][\w-]*|-[A-Za-z0-9?#])")
_ESCAPES = re.compile(
    r"\\(?:f(?:\[[^]]*\]|\(..|.)|s[-+]?\d|\((?P<two>..)|\[(?P<named>[^]]*)\]|\*(?:\(..|\[[^]]*\]|.)|(?P<one>.))"
)
_NAMED = {
    **{"aq": "'", "dq": '"', "lq": "“", "rq": "”", "em": "—", "en": "–"},
    **{"co": "©", "bu": "•", "ti": "~", "ha": "^"},
}
_ONE = {
    "-": "-",
    "e": "\\",
    " ": " ",
    "~": " ",
    "0": " ",
    "'": "'",
    "`": "`",
}  # everything else prints nothing
# Macros that stand at the start of a line of their own, and all that may stand among its words.
_MDOC_LINES = frozenset(
    ["It", "Op", "Fl", "Ar", "Nm", "Cm", "Ic", "Pa", "Li", "Sy", "Em", "Xr", "Dq", "Sq", "Nd", "Va", "Ev"]
)
_MDOC = _MDOC_LINES | {"Ns", "Pf"}
_SKIPPED = frozenset({".PD", ".sp", ".br", ".nf", ".fi", ".ft", ".ad", ".RS", '.\\"', ".TP", ".TQ"})
_BREAKS = frozenset({".SH", ".Sh", ".SS", ".Ss", ".RE"})
_PARAGRAPHS = frozenset({".PP", ".LP", ".P", ".Pp"})
_STARTS = re.compile(r"(?:\\f[BI]|\.B |\.BR )?\\?-|\\fB[a-z]")  # of a tag that no macro marks


def entries(text: str) -> Iterator[tuple[str, str]]:
    """(tag, words about it) of every tagged paragraph: `-C, --directory=DIR`, or a subcommand's name."""
    tags: list[str] = []
    about: list[str] = []
    wanting = False  # the next line of text is a tag
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        macro = _name(line)
        if wanting and macro not in _SKIPPED:
            tags.append(plain(macro_text(line)).strip())
            wanting = False
            continue
        here = macro in (".IP", ".It", ".HP") and _has_tag(line)
        below = macro in _PARAGRAPHS or line.strip() == ".HP"  # as help2man writes them
        begins = macro in (".TP", ".TQ") or here or (below and bool(_STARTS.match(following)))
        if (begins and about) or macro in _BREAKS:
            yield from _entry(tags, about)
            tags, about = [], []
        if begins:
            wanting = not here
            tags += [] if wanting else [plain(macro_text(line)).strip()]
        elif tags and macro not in _SKIPPED and (words := plain(macro_text(line)).strip()):
            about.append(words)
    yield from _entry(tags, about)


def _name(line: str) -> str:
    return line.split(None, 1)[0] if line.startswith((".", "'")) and line.strip(" .'") else ""


def _has_tag(line: str) -> bool:
    return bool(OPTION.search(plain(macro_text(line))))


def _entry(tags: list[str], about: list[str]) -> Iterator[tuple[str, str]]:
    tag = ", ".join(tags).strip()
    if re.match(r"-|[a-z][\w-]*(?: |,|$)", tag) and about:
        yield tag, " ".join(about)


def macro_text(line: str) -> str:
    """A line's text: macros' arguments joined as they are printed."""
    found = re.match(r"^[.'](\w\w?)\s*(.*)$", line)
    if not found:
        return "" if line.startswith((".", "'")) and not re.match(r"^'[\w ]", line) else line
    name, rest = found[1], found[2]
    words = [quoted or bare for quoted, bare in re.findall(r'"((?:[^"]|"")*)"|((?:\\.|\S)+)', rest)]
    if name in _MDOC_LINES:
        return _mdoc([name, *words])
    if name == "IP":
        return words[0] if words else ""
    if name in ("BR", "RB", "BI", "IB", "IR", "RI"):
        return "".join(words)
    return " ".join(words) if name in ("B", "I", "SM", "SB", "HP", "TP", "PP") else ""


def _mdoc(words: list[str]) -> str:
    """mdoc: `Fl a` is -a, `Ar x` is x; `It` and the rest are markup around words."""
    out, flag, glue = "", False, True
    for word in words:
        if word in _MDOC:
            flag, glue = word == "Fl" or (flag and word == "Ns"), glue or word == "Ns"
            continue
        out += ("" if glue or word in (",", ".", ")", "|", "=") else " ") + (
            "-" + word if flag and word != "," else word
        )
        glue = False
        flag = flag and word == ","
    return out


def plain(text: str) -> str:
    """roff's escapes as characters."""

    def character(found: re.Match[str]) -> str:
        if name := found["two"] or found["named"]:
            return _NAMED.get(name, "")
        return _ONE.get(found["one"] or "", "")

    return _ESCAPES.sub(character, text.split('\\"', maxsplit=1)[0])

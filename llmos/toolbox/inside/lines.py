"""Lines of text files: filtered, compared with another list, counted, sorted, shown or written.

A line is compared without what is blank at its end, and written as it stood. Bytes that are no UTF-8 are
written as they are. All is made before a file is opened for writing, so what goes wrong leaves it alone.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llmos.toolbox.inside.patterns import is_same, taken_in
from llmos.toolbox.inside.told import Refused, count, say, shown

# 1,234 is a thousand and more, as everywhere; the line in file-10 is no minus.
_NUMBER = re.compile(r"(?:(?<!\w)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_MARK = "\ufeff"
# Inside brackets, as grep has them: what people and models know from there.
_LETTERS = "a-zA-Z\u00c0-\u024f"
_CLASSES = {"digit": "0-9", "space": r"\s", "blank": r" \t", "alpha": _LETTERS, "alnum": f"0-9{_LETTERS}",
            "upper": "A-Z", "lower": "a-z", "punct": r"!-/:-@\[-`{-~"}  # fmt: skip


def main(args: dict[str, Any]) -> int:
    source = Path(args["path"])
    target = source if args["in_place"] else Path(args["to"]) if args["to"] else None
    files = _files(source, target, args)
    args = args | {"in_place": args["in_place"] or is_same(source, target)}
    _check(source, target, files, args)
    texts = [_piped()] if args["path"] == "-" else [_text(file) for file in files]
    lines = [line for text in texts for line in _lines(text)]
    found = _chosen(lines, args)
    if args["count"]:
        found = [str(len(found))]
    if target is None:
        say("\n".join(found) if found else "No line fits." if lines else "There are no lines.")
        return 0
    _write(target, found, texts[0])
    name = shown(args["to_name"] or args["name"])
    before = f", {len(lines):,} before" if args["in_place"] else ""
    say(f"{name} has {count(len(found), 'line')} now{before}")
    return 0


# --- files -------------------------------------------------------------------------------------------


def _files(source: Path, target: Path | None, args: dict[str, Any]) -> list[Path]:
    """The file, or those that a pattern takes in but for the one to be written. Raises Refused for none."""
    name = args["name"]
    if name == "-":
        return [source]
    if source.exists() or not set("*?") & set(source.name):
        if source.exists() and not source.is_file():
            raise Refused(f"{shown(name)} is {'a folder' if source.is_dir() else 'no regular file'}")
        return [source]
    found = taken_in(source, target)
    if not found:
        raise Refused(f"nothing matches {shown(name)}")
    return found


def _check(source: Path, target: Path | None, files: list[Path], args: dict[str, Any]) -> None:
    if args["in_place"]:
        if files != [source]:
            raise Refused(f"{shown(args['name'])} is a pattern; name the one file to be written")
        if any(args[key] and is_same(source, Path(args[key])) for key in ("also_in", "not_in")):
            raise Refused(f"{shown(args['name'])} is compared with itself, so nothing was changed")
    if target is None or (args["in_place"] and not args["to"]):
        return
    name = shown(args["to_name"])
    if args["to_name"].endswith("/") or target.is_dir():
        raise Refused(f"{name} is a folder; name the new file")
    if target.exists() and not target.is_file():
        raise Refused(f"{name} is no regular file")
    if target.exists() and not args["overwrite"]:
        raise Refused(f"{name} exists already; nothing was written (overwrite=true replaces it)")


def _text(file: Path) -> str:
    return _decoded(file.read_bytes(), str(file))


def _piped() -> str:
    return _decoded(sys.stdin.buffer.read(), "the piped data")


def _decoded(raw: bytes, name: str) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refused(f"{shown(name)} is in UTF-16; convert it first, such as with iconv -f utf-16 -t utf-8")
    if b"\0" in raw:
        raise Refused(f"{shown(name)} is no text")
    return raw.decode("utf-8", "surrogateescape")


def _lines(text: str) -> list[str]:
    """Not by str.splitlines, which takes form feeds and others for line ends, too."""
    *lines, rest = text.removeprefix(_MARK).split("\n")
    return [line.removesuffix("\r") for line in lines] + ([rest] if rest else [])


def _write(target: Path, lines: list[str], like: str) -> None:
    """With the line ends that most lines have, and the byte order mark, of the text it comes from."""
    end = "\r\n" if like.count("\r\n") * 2 > like.count("\n") else "\n"
    mark = _MARK if like.startswith(_MARK) else ""
    whole = mark + "".join(f"{line}{end}" for line in lines)
    target.write_bytes(whole.encode("utf-8", "surrogateescape"))


# --- lines -------------------------------------------------------------------------------------------


def _chosen(lines: list[str], args: dict[str, Any]) -> list[str]:
    """In the order of the arguments. Raises Refused where a file would be changed by a slip of the pen."""
    for name, wanted in (("with", True), ("without", False)):
        if args[name]:
            has, before = _search(args[name], args), lines
            lines = [line for line in lines if has(line) is wanted]
            if args["in_place"] and lines == before:
                every = "every" if wanted and lines else "no"
                raise Refused(_unchanged(f"{every} line of {shown(args['name'])} has {shown(args[name])}"))
    same = _same(args)
    for name, wanted in (("also_in", True), ("not_in", False)):
        if args[name]:
            others = {same(line) for line in _lines(_text(Path(args[name])))}
            lines = [line for line in lines if (same(line) in others) is wanted]
    if args["drop_blank"]:
        lines = [line for line in lines if line.strip()]
    lines = _often(_cased(lines, args["case"]), same, args)
    if args["in_place"] and not lines and (args["with"] or args["also_in"] or args["occurs"] != "any"):
        raise Refused(_unchanged(f"no line of {shown(args['name'])} fits"))
    lines = _ordered(lines, args["sort"])
    lines = lines[: args["first"]] if args["first"] else lines
    return lines[-args["last"] :] if args["last"] else lines


def _unchanged(why: str) -> str:
    return f"{why}, so nothing was changed"


def _search(text: str, args: dict[str, Any]) -> Callable[[str], bool]:
    """Whether a line has the text. Capitals count where the text has some, or it is said so."""
    ignoring = args["ignore_case"]
    if ignoring is None:
        ignoring = not args["regex"] and text == text.lower()
    for name, signs in _CLASSES.items() if args["regex"] else ():
        text = text.replace(f"[:{name}:]", signs)
    try:
        pattern = re.compile(text if args["regex"] else re.escape(text), re.IGNORECASE if ignoring else 0)
    except (re.error, OverflowError, RecursionError) as error:
        raise Refused(f"{shown(text)} is no regular expression: {error}") from None
    return lambda line: pattern.search(line) is not None


def _same(args: dict[str, Any]) -> Callable[[str], str]:
    """What two lines that are the same have in common."""
    return (lambda line: line.rstrip().casefold()) if args["ignore_case"] else str.rstrip


def _often(lines: list[str], same: Callable[[str], str], args: dict[str, Any]) -> list[str]:
    if args["occurs"] == "any":
        as_list = (args["also_in"] or args["not_in"]) and not args["in_place"]
        return _once(lines, same) if args["unique"] or as_list else lines
    times = Counter(map(same, lines))
    if args["occurs"] == "once":
        return [line for line in lines if times[same(line)] == 1]
    return _once((line for line in lines if times[same(line)] > 1), same)


def _once(lines: Iterable[str], same: Callable[[str], str]) -> list[str]:
    first: dict[str, str] = {}
    for line in lines:
        first.setdefault(same(line), line)
    return list(first.values())


def _cased(lines: list[str], case: str) -> list[str]:
    return [line.upper() if case == "upper" else line.lower() if case == "lower" else line for line in lines]


def _ordered(lines: list[str], sort: str) -> list[str]:
    match sort:
        case "a-z" | "z-a":
            return sorted(lines, key=lambda line: (line.casefold(), line), reverse=sort == "z-a")
        case "0-9":
            return sorted(lines, key=lambda line: _first_number(line, math.inf))
        case "9-0":
            return sorted(lines, key=lambda line: -_first_number(line, -math.inf))
        case "reverse":
            return lines[::-1]
    return lines


def _first_number(line: str, none: float) -> float:
    """Lines without a number come last."""
    found = _NUMBER.search(line)
    return float(found[0].replace(",", "")) if found else none

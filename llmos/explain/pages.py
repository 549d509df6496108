"""What programs say of their own options: local man pages, and the text of `--help`. Offline, nothing is run
here.

Man pages are read as source (man(7) and mdoc(7) macros), so neither `man` nor groff has to be there. It
reads lists of options and the one-line summary, no more; a page written in an unusual way gives less, never
something wrong on purpose. The text is documentation by others: it is shown, and never followed.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, cast

from llmos.explain.roff import OPTION, entries, macro_text, plain

MAN_FOLDERS = (Path("/usr/share/man"), Path("/usr/local/share/man"), Path("/usr/local/man"))
SECTIONS = ("1", "8", "6", "7", "5")
MAX_PAGE_BYTES = 4 << 20
MAX_ABOUT = 240


@dataclass(frozen=True)
class Page:
    """What is known of a program's options: their text, and the tag they stand under (`-C, --dir=DIR`)."""

    source: str  # "tar(1)", "tar --help"
    summary: str = ""
    options: dict[str, tuple[str, str]] = field(default_factory=dict)  # option: (tag, about)

    def about(self, option: str) -> str:
        return self.options.get(option, ("", ""))[1]

    def takes_value(self, option: str) -> bool:
        """Whether its tag names a value in the next word: `-C DIR`, `-n NUM`, `--file=ARCHIVE`."""
        tag = self.options.get(option, ("", ""))[0]
        found = re.search(rf"{re.escape(option)}(?![\w-])(=| )(\S+)", tag)
        if "=true|false" in tag or "[=" in tag:
            return False
        if found and not found[2].startswith("-"):
            return (
                found[1] == "=" or not option.startswith("--") or found[2][:1] in "<[" or found[2].isupper()
            )
        # `-n, --lines=NUM`: what the long form takes, the short one takes as well.
        return not option.startswith("--") and bool(re.search(r"--[\w-]+(?:=\[\]|=[^\[\s]| [<A-Z])", tag))


# --- man pages ---------------------------------------------------------------------------------------


@cache
def man(name: str) -> Page | None:
    """The man page of a program (or `git-commit`), or None."""
    found = _find(name)
    return None if found is None else _page(name, *found)


def _find(name: str) -> tuple[str, str] | None:
    """(section, source text)."""
    if not re.fullmatch(r"[\w.+@\[-]+", name):
        return None
    for section in SECTIONS:
        for folder in MAN_FOLDERS:
            for file in sorted((folder / f"man{section}").glob(f"{_literal(name)}.{section}*")):
                if (text := read(file)) is not None:
                    return section, text
    return None


def _literal(name: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", name)


def _opened(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return cast(IO[bytes], gzip.open(file))
    if file.suffix == ".bz2":
        return cast(IO[bytes], bz2.open(file))
    return cast(IO[bytes], lzma.open(file)) if file.suffix == ".xz" else file.open("rb")


def read(file: Path, most: int = MAX_PAGE_BYTES, depth: int = 0) -> str | None:
    """A page's source (or that of the page it stands for), None where it cannot be read."""
    try:
        with _opened(file) as handle:
            text = handle.read(most).decode("utf-8", "replace")
    except (OSError, EOFError, lzma.LZMAError):
        return None
    if (other := re.match(r"\s*\.so (\S+)", text)) and depth < 3:
        target = file.parents[1] / other[1]
        candidates = (target, *target.parent.glob(f"{_literal(target.name)}.*"))
        return next((found for one in candidates if (found := read(one, most, depth + 1)) is not None), None)
    return text


def _page(name: str, section: str, text: str) -> Page:
    summary = ""
    options: dict[str, tuple[str, str]] = {}
    for tag, about in entries(text):
        for option in OPTION.findall(tag) if tag.startswith("-") else [tag.split()[0].rstrip(",")]:
            options.setdefault(option, (tag, clipped(about)))
    if found := re.search(
        r"^\.(?:SH|Sh) \"?NAME\"?[^\n]*\n(.*?)(?=^\.S[Hh] )", text, re.MULTILINE | re.DOTALL
    ):
        body = " ".join(plain(macro_text(line)) for line in found[1].splitlines())
        cut = re.split(r"\s+(?:-|–|—|\\-)\s+", body, maxsplit=1)
        summary = cut[-1].strip() if len(cut) > 1 else body.strip().removeprefix(f"{name} ")
    return Page(f"{name}({section})", clipped(summary), options)


def clipped(text: str) -> str:
    """The first sentence or two."""
    text = " ".join(text.split())
    if len(text) <= MAX_ABOUT:
        return text
    end = max(text.rfind(". ", 0, MAX_ABOUT), text.rfind("; ", 0, MAX_ABOUT))
    return text[: end + 1] if end > 40 else text[:MAX_ABOUT].rsplit(" ", 1)[0] + " …"


# --- --help ------------------------------------------------------------------------------------------

_HELP_LINE = re.compile(r"^\s{1,12}(?P<tag>-[^\s].*?)(?:\s{2,}|\s*:\s+|$)(?P<about>.*)$")


def from_help(source: str, text: str) -> Page:
    """The options in a `--help` text: `  -x, --extract   what it does`, with continuation lines."""
    options: dict[str, tuple[str, str]] = {}
    tag, about = "", ""

    def keep() -> None:
        for option in OPTION.findall(tag) if about else ():
            options.setdefault(option, (tag, clipped(about)))

    for line in text.splitlines():
        found = _HELP_LINE.match(line)
        if found:
            keep()
            tag, about = found["tag"], found["about"].strip()
        elif tag and line.startswith(" " * 8) and line.strip():
            about = f"{about} {line.strip()}".strip()
        else:
            keep()
            tag = ""
    keep()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    summary = next((line for line in lines[:6] if not re.match(r"(?i)usage|or:|-|\[|try ", line)), "")
    return Page(source, clipped(summary), options)

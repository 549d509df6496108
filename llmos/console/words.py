"""The person's language: catalogues in gettext's format, `locale/LANGUAGE.po`, read by polib on first need.

`tr("yes")` is for words of the console, `told(text)` for whole sentences that come from elsewhere: errors,
reasons of the policy, answers of the broker. Those are found by their pattern, so that the places that raise
them know nothing of languages; rare ones stand in `locale/rare/LANGUAGE.po`, read when one is not found.
What has no translation stays English. A model's answers are never touched.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from llmos import paths

FOLDER = Path(__file__).with_name("locale")
SAID = "said"  # msgctxt of the sentences that `told` recognises, and the name of a hole for one
_HOLE = re.compile(r"\\\{([a-z_0-9]+)\\\}")
_MAX_JOINED = 1000  # characters of a sentence whose parts are looked up by themselves
_REASON = re.compile(r"(.*?)((?: \(.*\))?)\.", re.DOTALL)  # `It writes a file (/tmp/x).`


class Catalogue(NamedTuple):
    """Translations by the English text, and sentences with names and numbers in them."""

    messages: Mapping[str, str]
    sentences: tuple[Sentence, ...] = ()

    def __add__(self, other: Catalogue) -> Catalogue:  # type: ignore[override]  # not as a tuple
        return Catalogue({**self.messages, **other.messages}, _by_length(self.sentences + other.sentences))


class Sentence:
    """`no tool {name}` and its translation. The pattern is made when a text has all the rest of it.

    What stands in a hole stays as it was; in one that is called `said` it is a sentence itself.
    """

    def __init__(self, template: str, translation: str) -> None:
        self.template, self._translation = template, translation
        pieces = re.split(r"(?<!\{)\{[a-z_0-9]+\}", template)
        self._pieces = [piece.replace("{{", "{").replace("}}", "}") for piece in pieces if piece]

    def of(self, text: str, tell: Callable[[str], str]) -> str | None:
        """The translation of this text; None if it is another. `tell` translates a sentence within it."""
        if not all(piece in text for piece in self._pieces):
            return None
        match = pattern(self.template).fullmatch(text)
        if match is None:
            return None
        holes = {name: tell(held) if name == SAID else held for name, held in match.groupdict().items()}
        return self._translation.format(**holes)


def _by_length(sentences: Iterable[Sentence]) -> tuple[Sentence, ...]:
    """What says more fits less by accident, and comes first."""
    return tuple(sorted(sentences, key=lambda one: -len(one.template)))


def read(file: Path) -> Catalogue:
    """A .po file; what is marked fuzzy counts as missing, as gettext has it."""
    import polib

    entries = [entry for entry in polib.pofile(str(file)) if entry.translated()]
    said = (Sentence(entry.msgid, entry.msgstr) for entry in entries if entry.msgctxt == SAID)
    return Catalogue({entry.msgid: entry.msgstr for entry in entries}, _by_length(said))


@functools.cache
def pattern(template: str) -> re.Pattern[str]:
    """`no tool {name}` as an expression that finds the name; braces of the text itself are doubled."""
    found = _HOLE.sub(r"(?P<\1>.+?)", re.escape(template))
    return re.compile(found.replace(r"\{\{", r"\{").replace(r"\}\}", r"\}"), re.DOTALL)


def languages(environment: Mapping[str, str], configured: str = "") -> list[str]:
    """The languages asked for, first choice first: `[console] language`, then LANGUAGE, then the locale."""
    if configured:
        return [configured]
    locale = next(
        (value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environment.get(name))), ""
    )
    if locale.split(".")[0] in ("", "C", "POSIX"):
        return []
    return [name for name in (*environment.get("LANGUAGE", "").split(":"), locale) if name]


def configured() -> str:
    """`language` under `[console]` in config.toml; a file that is wrong is complained of by the daemon."""
    file = paths.config_dir() / "config.toml"
    if not file.is_file():
        return ""
    import tomllib

    try:
        console = tomllib.loads(file.read_text(encoding="utf-8")).get("console")
    except (OSError, ValueError):
        return ""
    return str(console.get("language") or "") if isinstance(console, dict) else ""


@functools.cache
def _file() -> Path | None:
    for language in languages(os.environ, configured()):
        name = language.split(".")[0].split("@")[0]
        if name.split("_")[0] == "en":
            break
        if file := catalogue_file(name):
            return file
    return None


@functools.cache
def _catalogue() -> Catalogue | None:
    return read(file) if (file := _file()) else None


@functools.cache
def _rare() -> Catalogue:
    """With the sentences that are seldom said."""
    common, file = _catalogue(), _file()
    assert common is not None and file is not None
    return common + read(rare_file(file))


def rare_file(file: Path) -> Path:
    """Where the rare sentences of a catalogue stand."""
    return file.parent / "rare" / file.name


def catalogue_file(name: str) -> Path | None:
    """`zh_CN.po` for zh_CN, and for every other zh, which has none of its own."""
    if not re.fullmatch(r"[A-Za-z]{2,3}(?:[_-][A-Za-z]+)?", name):
        return None
    exact = FOLDER / f"{name.replace('-', '_')}.po"
    return (
        exact
        if exact.is_file()
        else next(iter(sorted(FOLDER.glob(f"{re.split('[_-]', name)[0]}_*.po"))), None)
    )


def tr(message: str) -> str:
    """The message in the person's language."""
    found = _catalogue()
    return message if found is None else found.messages.get(message, message)


def told(text: str) -> str:
    """A sentence that comes from elsewhere, in the person's language; unchanged where it is not known."""
    common = _catalogue()
    if common is None or not text:
        return text
    found = sentence(text, common)
    return sentence(text, _rare()) if found == text else found


def teller(file: Path) -> Callable[[str], str]:
    """`told` in the language of a catalogue, whatever the person's is."""
    whole = read(file) + read(rare_file(file))
    return lambda text: sentence(text, whole)


def sentence(text: str, catalogue: Catalogue) -> str:
    """Pure half of `told`."""
    if text in catalogue.messages:
        return catalogue.messages[text]
    reason = _REASON.fullmatch(text)
    if reason and reason[1] in catalogue.messages:
        return f"{catalogue.messages[reason[1]]}{reason[2]}。"
    for known in catalogue.sentences:
        if (found := known.of(text, lambda part: sentence(part, catalogue))) is not None:
            return found
    return _joined(text, catalogue)


def _joined(text: str, catalogue: Catalogue) -> str:
    """`FILE:12: key: what is wrong`, `llmos run: argument FILE: …`: its parts, where one of them is known."""
    head, colon, tail = text.partition(": ")
    if not colon or "\n" in text or len(text) > _MAX_JOINED:
        return text
    parts = sentence(head, catalogue), sentence(tail, catalogue)
    return text if parts == (head, tail) else "：".join(parts)

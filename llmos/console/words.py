"""The person's language: catalogues in gettext's format, `locale/LANGUAGE.po`, read by polib on first need.

`tr("yes")` is for words of the console, `told(text)` for whole sentences that come from elsewhere: errors,
reasons of the policy, answers of the broker. Those are found by their pattern, so that the places that raise
them know nothing of languages. What has no translation stays English. A model's answers are never touched.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llmos import paths

FOLDER = Path(__file__).with_name("locale")
SAID = "said"  # msgctxt of the sentences that `told` recognises
_HOLE = re.compile(r"\\\{([a-z_0-9]+)\\\}")
_REASON = re.compile(r"(.*?)((?: \(.*\))?)\.", re.DOTALL)  # `It writes a file (/tmp/x).`


class Catalogue(NamedTuple):
    """Translations by the English text, and patterns of sentences with names and numbers in them."""

    messages: Mapping[str, str]
    sentences: tuple[tuple[re.Pattern[str], str], ...] = ()


def read(file: Path) -> Catalogue:
    """A .po file; what is marked fuzzy counts as missing, as gettext has it."""
    import polib

    entries = [entry for entry in polib.pofile(str(file)) if entry.translated()]
    said = [entry for entry in entries if entry.msgctxt == SAID]
    said.sort(key=lambda entry: -len(entry.msgid))  # what says more fits less by accident
    sentences = [(pattern(entry.msgid), entry.msgstr) for entry in said]
    return Catalogue({entry.msgid: entry.msgstr for entry in entries}, tuple(sentences))


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
def _catalogue() -> Catalogue | None:
    for language in languages(os.environ, configured()):
        name = language.split(".")[0].split("@")[0]
        if name.split("_")[0] == "en":
            break
        if file := catalogue_file(name):
            return read(file)
    return None


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
    found = _catalogue()
    return text if found is None else sentence(text, found)


def sentence(text: str, catalogue: Catalogue) -> str:
    """Pure half of `told`. What stands in the holes is put back as it was."""
    if text in catalogue.messages:
        return catalogue.messages[text]
    reason = _REASON.fullmatch(text)
    if reason and reason[1] in catalogue.messages:
        return f"{catalogue.messages[reason[1]]}{reason[2]}。"
    for known, translated in catalogue.sentences:
        if match := known.fullmatch(text):
            return translated.format(**match.groupdict())
    return text

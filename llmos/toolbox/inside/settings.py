"""Set one setting of a configuration file; every other byte stays as it was, comments and order included.

JSON is read by its tokens, everything else by its lines: `key: value` (YAML, by its indentation),
`key = value` below `[section]` (INI, TOML, systemd), `KEY=value` (.env, shell), `Key value` (sshd_config and
its like). A setting that is only there as a comment is uncommented. What stands in several places is refused
with their names, and so is a value that is itself a list or a section.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.toolbox.inside.told import Refused, say, shown, some

_MOST_BYTES = 16 << 20
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_SECTION = re.compile(r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(?:[#;].*)?$")
_LINE = re.compile(
    r"""(?P<indent>[ \t]*)(?P<off>[#;]+[ \t]?)?(?P<export>export[ \t]+)?
    (?P<quote>["']?)(?P<key>[\w./-]+)(?P=quote)
    (?P<sep>[ \t]*=[ \t]*|:[ \t]+|:(?=$)|[ \t]+)
    (?P<value>"(?:[^"\\]|\\.)*"|'[^']*'|.*?)
    [ \t]*(?:[ \t][#;].*)?$""",
    re.VERBOSE,
)
_LITERAL = re.compile(r"true|false|null|-?\d+(\.\d+)?([eE][+-]?\d+)?")
_PLAIN = re.compile(r"(?![\s\-?:,\[\]{}#&*!|>'\"%@`])(?!.*(?:: | #))[^\n]*(?<![\s:])")  # a YAML plain scalar


@dataclass(frozen=True, slots=True)
class Setting:
    """One value in the text: its names from the outermost section on, where it stands, and as what."""

    names: tuple[str, ...]
    start: int
    end: int
    form: str  # json, yaml, toml, env or plain
    commented: tuple[int, int] | None = None  # the mark that makes it a comment

    @property
    def path(self) -> str:
        return ".".join(self.names)


def main(args: dict[str, Any]) -> int:
    file = Path(args["path"])
    try:
        text, found = changed(_read(file), args["key"], args["value"], file.name)
    except Refused as refused:
        raise Refused(f"{shown(args['name'])}: {refused}") from None
    if text is not None:
        with file.open("r+b") as opened:  # the same file: its links, owner and mode stay
            opened.write(text.encode("utf-8", "surrogateescape"))
            opened.truncate()
    say(found)
    return 0


def _read(file: Path) -> str:
    if file.stat().st_size > _MOST_BYTES:
        raise Refused("it is larger than a configuration file, and nothing is changed")
    content = file.read_bytes()
    if b"\0" in content:
        raise Refused("it is a binary file, and nothing is changed")
    return content.decode("utf-8", "surrogateescape")


def changed(text: str, key: str, value: str, name: str) -> tuple[str | None, str]:
    """The new text (None where the value is there already) and what is told about it."""
    if not value.isprintable():
        raise Refused("a setting's value is one line of text")
    setting = _chosen(list(_settings(text, name)), key)
    old = text[setting.start : setting.end]
    if old[:1] in ("[", "{", "|", ">") and setting.form != "plain":
        raise Refused(f"{shown(setting.path)} holds a list or a section, and no single value")
    new = _written(old, value, setting.form)
    line = text.count("\n", 0, setting.start) + 1
    where = f"{shown(setting.path)} (line {line})"
    if new == old and not setting.commented:
        return None, f"{where} is {shown(old)} already."
    result = text[: setting.start] + new + text[setting.end :]
    if setting.commented:
        start, end = setting.commented
        return result[:start] + result[end:], f"{where} was a comment and is now {shown(new)}."
    return result, f"{where}: {shown(old or 'nothing')} -> {shown(new)}"


def _chosen(settings: Sequence[Setting], key: str) -> Setting:
    """The one that is meant: its last names are those of `key`; raises Refused when none or several are."""
    wanted = [part for part in re.split(r"[./]", key.strip()) if part]
    fold = [part.casefold() for part in wanted]
    exact = [s for s in settings if list(s.names[-len(wanted) :]) == wanted or s.path == key]
    alike = exact or [s for s in settings if [n.casefold() for n in s.names[-len(wanted) :]] == fold]
    in_force = [setting for setting in alike if not setting.commented] or alike[:1]
    whole = [setting for setting in in_force if len(setting.names) == len(wanted)]
    found = whole if len(whole) == 1 else in_force
    if not found:
        there = dict.fromkeys(setting.path for setting in settings if not setting.commented)
        hint = f"; it has {some(there, 12)}" if there else ""
        raise Refused(f"there is no setting {shown(key)} in it{hint}")
    if len(found) > 1:
        paths = list(dict.fromkeys(setting.path for setting in found))
        if len(paths) == 1:
            raise Refused(f"{shown(paths[0])} stands there {len(found)} times. Change it with text.replace")
        raise Refused(f"{shown(key)} may be {some(paths, 6)}. Say which one")
    return found[0]


def known(text: str, name: str) -> Iterator[Setting]:
    """All that are in force, as they stand; commented ones are left out. Raises Refused for broken JSON."""
    return (one for one in _settings(text, name) if one.commented is None)


def _settings(text: str, name: str) -> Iterator[Setting]:
    ending = name.rpartition(".")[2].lower()
    if ending == "json" or (ending not in ("yaml", "yml") and text.lstrip()[:1] == "{"):
        return _of_json(text)
    return _of_lines(text, ending)


def _of_json(text: str) -> Iterator[Setting]:
    """Every plain value by the keys around it; what stands in lists has no name and is left out."""
    around: list[str | None] = []  # the keys of the objects that are open; None for a list
    key: str | None = None
    named = False
    for token in _TOKEN.finditer(text):
        match token.group():
            case "{":
                around.append(key or "")
                key, named = None, False
            case "[":
                around.append(None)
                named = False
            case "}" | "]":
                around = around[:-1]
                key, named = None, False
            case ":":
                named = True
            case ",":
                key, named = None, False
            case word if named and key is not None and None not in around:
                names = (*(part for part in around if part), key)
                yield Setting(names, token.start(), token.end(), "json")
                named = False
            case word if word.startswith('"'):
                key = _unquoted(word)


def _unquoted(word: str) -> str:
    try:
        return str(json.loads(word))
    except ValueError:
        return word.strip('"')


def _of_lines(text: str, ending: str) -> Iterator[Setting]:
    form = {"yaml": "yaml", "yml": "yaml", "toml": "toml", "env": "env", "sh": "env"}.get(ending, "plain")
    section: tuple[str, ...] = ()
    outer: list[tuple[int, str]] = []  # YAML: the keys around a line, with how far they are indented
    start = 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\r\n")
        if found := _SECTION.fullmatch(bare):
            section = tuple(part.strip("\"' ") for part in found[1].split("."))
        elif (match := _LINE.fullmatch(bare)) and _is_setting(match, form):
            indent = len(match["indent"].expandtabs())
            outer = [(width, key) for width, key in outer if width < indent] if form == "yaml" else []
            if match["value"] or form != "yaml":
                off = (start + match.start("off"), start + match.end("off")) if match["off"] else None
                names = (*section, *(key for _, key in outer), match["key"])
                yield Setting(names, start + match.start("value"), start + match.end("value"), form, off)
            elif not match["off"]:
                outer.append((indent, match["key"]))
        start += len(line)


def _is_setting(match: re.Match[str], form: str) -> bool:
    """A colon in YAML and an equals sign elsewhere; a blank only in files of `Key value`."""
    sep = match["sep"].strip()
    if match["off"] and not sep and (" " in match["value"] or match["off"].endswith(" ")):
        return False  # a sentence
    if form == "yaml":
        return sep == ":"
    return sep == "=" if form in ("toml", "env") else bool(match["value"] or sep)


def _written(old: str, value: str, form: str) -> str:
    """The value in the spelling of the old one: its quotes stay, and what must be quoted is."""
    if form == "json":
        bare = _LITERAL.fullmatch(value) and not old.startswith('"')
        return value if bare else json.dumps(value, ensure_ascii=False)
    if (quote := old[:1]) in ('"', "'") and old.endswith(quote) and len(old) > 1:
        return f"'{value}'" if quote == "'" and "'" not in value else json.dumps(value, ensure_ascii=False)
    if form == "env" and re.search(r"[\s#'\"$`\\&|;<>()]", value):
        return "'" + value.replace("'", "'\\''") + "'"
    if form == "plain" and old.endswith(";") and not value.endswith(";"):
        return f"{value};"
    plain = {"toml": _LITERAL, "yaml": _PLAIN}.get(form)
    return value if not plain or plain.fullmatch(value) else json.dumps(value, ensure_ascii=False)

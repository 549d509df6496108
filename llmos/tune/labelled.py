"""Requests with labels, out of the generator's rows: what kind of thing is asked for, and what its words are.

Kind (text classification): the family of the tool a request means (`file`, `process`, `docker` …),
`several` for more than one call, `ask` for what is unclear, `answer` for what is no task. Spans (sequence
labelling): where a call's arguments stand in the sentence, copied: paths, names, numbers; and planted
secrets and hosts, which no row has, in sentences of their own. Of a shell command the words that the
sentence has too. An argument that the sentence says in other words has no span.
"""

from __future__ import annotations

import random
import re
import shlex
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from llmos.messages import ToolSpec
from llmos.toolbox.manifest import Arg

TAGS = ("path", "name", "number", "text", "secret", "host")
_TAG_OF_TYPE = {
    "path": "path", "list-of-path": "path", "integer": "number", "number": "number", "size": "number",
    "duration": "number",
}  # fmt: skip
_TEXT_ARGS = (
    "text",
    "content",
    "question",
    "pattern",
    "replacement",
    "query",
    "say",
    "old",
    "new",
    "message",
)
_SKIPPED_TYPES = ("boolean", "enum")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters start..end of the text."""

    start: int
    end: int
    tag: str


@dataclass(frozen=True, slots=True)
class Labelled:
    text: str
    kind: str
    spans: tuple[Span, ...]


def from_rows(rows: Sequence[Mapping[str, Any]], args: Mapping[str, Mapping[str, Arg]]) -> list[Labelled]:
    """`args` are each tool's arguments. Rows for command lines alone have no kind and are left out."""
    return [
        Labelled(row["say"], kind(row["calls"]), _spans(row["say"], row["calls"], args))
        for row in rows
        if row["kind"] == "call" and row["say"].strip()
    ]


def kind(calls: Sequence[Mapping[str, Any]]) -> str:
    if len(calls) != 1:
        return "several"
    return str(calls[0]["tool"]).partition(".")[0]


def _spans(
    say: str, calls: Sequence[Mapping[str, Any]], args: Mapping[str, Mapping[str, Arg]]
) -> tuple[Span, ...]:
    found: list[Span] = []
    for call in calls:
        if call["tool"] == "shell.run":
            found += _of_command(say, str(call["args"].get("command", "")))
            continue
        for name, value in call["args"].items():
            arg = args.get(call["tool"], {}).get(name)
            if arg is None or arg.type in _SKIPPED_TYPES:
                continue
            tag = _TAG_OF_TYPE.get(arg.type) or ("text" if name in _TEXT_ARGS else "name")
            for one in value if isinstance(value, list) else [value]:
                found += _where(say, str(one), tag)
    return _apart(found)


def _of_command(say: str, command: str) -> Iterator[Span]:
    """A command's words that the sentence has too, but for the programs and options."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # quotes that a shell would go on reading
        return
    for word in words[1:]:
        if len(word) > 1 and not word.startswith("-") and not set(word) <= set("|&;<>(){}"):
            yield from _where(say, word, _looks_like(word))
        elif word.isdigit():
            yield from _where(say, word, "number")


def _looks_like(word: str) -> str:
    if re.fullmatch(r"\d+([.,]\d+)?[kKmMgG]?", word):
        return "number"
    return "path" if "/" in word or re.search(r"[^.]\.\w{1,8}$|^\*\.|^~", word) else "name"


def _where(say: str, value: str, tag: str) -> Iterator[Span]:
    """Where a value stands as itself, and not within a longer word or number."""
    if not value:
        return
    edge = r"(?<![\w./-])" if value[0].isascii() else ""
    after = r"(?![\w/-]|\.\w)" if value[-1].isascii() else ""
    for match in re.finditer(edge + re.escape(value) + after, say):
        yield Span(match.start(), match.end(), tag)


def _apart(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Of spans that overlap the longer one."""
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda span: (span.start - span.end, span.start)):
        if all(span.end <= other.start or span.start >= other.end for other in kept):
            kept.append(span)
    return tuple(sorted(kept, key=lambda span: span.start))


def arguments(specs: Sequence[ToolSpec], manifests: Mapping[str, Mapping[str, Arg]]) -> dict[str, Any]:
    """By tool; for tools without a manifest here, what their parameters' JSON Schema tells."""
    found: dict[str, Any] = {}
    for spec in specs:
        known = manifests.get(spec.name)
        found[spec.name] = known if known is not None else _of_schema(spec.parameters)
    return found


def _of_schema(parameters: Mapping[str, Any]) -> dict[str, Arg]:
    kinds = {"integer": "integer", "number": "number", "boolean": "boolean", "array": "list-of-string"}
    properties = parameters.get("properties", {})
    return {
        name: Arg.model_validate({"type": kinds.get(about.get("type", ""), "string")})
        for name, about in properties.items()
    }


# --- secrets and hosts ------------------------------------------------------------------------------

_WORDS = ("db", "web", "api", "cache", "mail", "build", "node", "edge", "backup", "git", "proxy", "stage")
_ENDS = ("example.com", "example.org", "internal", "corp.example.net", "lan", "test")
_ALPHABETS = (string.ascii_letters + string.digits, string.hexdigits.lower(), string.ascii_letters + "-_")
_PREFIXES = ("", "", "ghp_", "sk-", "AKIA", "xoxb-", "glpat-", "hvs.", "eyJ")


def planted(rng: random.Random, count: int, file: str = "planted.txt") -> list[Labelled]:
    """Sentences with a made-up secret or host in them; what is asked for is no tool's business here."""
    sentences = resources.files("llmos.tune.data").joinpath(file).read_text("utf-8").splitlines()
    made = []
    for _ in range(count):
        text, spans = "", []
        for piece in re.split(r"(\{\w+\})", rng.choice(sentences)):
            if piece in ("{secret}", "{host}"):
                tag = piece.strip("{}")
                value = _secret(rng) if tag == "secret" else _host(rng)
                spans.append(Span(len(text), len(text) + len(value), tag))
                text += value
            else:
                text += piece
        made.append(Labelled(text, "", tuple(spans)))
    return made


def _secret(rng: random.Random) -> str:
    if rng.random() < 0.3:  # as people choose them
        one, two, mark = rng.choice(_WORDS), rng.choice(_WORDS), rng.choice("!#%&*_-.$@+")
        number = rng.randrange(10, 9999)
        return rng.choice(
            (
                *(f"{one.title()}{two}{mark}{number}", f"{one.title()}{mark}{two.title()}{number}"),
                *(f"{one}{number}{mark}", f"{mark}{two.title()}{number}{one}", f"{one}{two}{number}"),
                f"{one[:2].upper()}{number}{two[::-1]}{mark}",
            )
        )
    letters = rng.choice(_ALPHABETS)
    return rng.choice(_PREFIXES) + "".join(rng.choice(letters) for _ in range(rng.randrange(16, 44)))


def _host(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return ".".join(str(rng.randrange(1, 255)) for _ in range(4))
    return f"{rng.choice(_WORDS)}{rng.choice(('', '-1', '02', '7'))}.{rng.choice(_ENDS)}"

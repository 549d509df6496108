"""Names that the model copied wrongly, put right from the words of the request.

A name is written token by token, and a rare one is cut differently behind a blank than behind a quotation
mark: of ` napper` the model may leave off the first letter, of `flihuxyan.md` a syllable in the middle. At
best such a name would be found nowhere, at worst it would be another's. So an argument that stands nowhere in
the request is compared with the words there that no argument holds, and becomes the one it must have been.

Words that people use are left alone: the model may put an error of typing right, or shorten a plural. Only a
call that looks takes a frequent word, where the folder has that name. What the folder has under the name as
written is left alone, too. Nothing is repaired in a raw command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from llmos.messages import JsonObject, ToolCall, ToolSpec

# Text of the person's own, which is composed and not copied; and expressions, which are made.
_COMPOSED = frozenset({"content", "question", "text", "where", "select", "replace"})
# Arguments that name what is not there yet.
_NEW = {"file.mkdir": ("path",), "file.write": ("path",), "file.copy": ("to",), "file.move": ("to",)}
_PATHS = frozenset({"a", "archive", "b", "path", "target"})
_LOOKS = frozenset(
    {"file.list", "file.read", "file.tree", "file.usage", "text.columns", "text.compare", "text.count",
     "text.query", "text.search", "text.tail"}
)  # fmt: skip
_OTHERS_STAY = re.compile(
    r"(?i)\b(?:keep|leave|spare) (?:everything|anything|all) else\b"
    r"|\beverything else\b[^,.;]{0,30}\b(?:stays?|remains?|untouched|alone|precious)\b"
    r"|(?:其[余他它]|别的)[^，。；]{0,6}(?:保?留|别动|不动)"
)
_UNDERSCORES = re.compile(r"underscore|下划线", re.IGNORECASE)
_WORD = re.compile(r"[\w.@%+~/-]+", re.ASCII)
_SHORTEST = 3  # characters of a value and of a word
_LOST = 2  # characters that may have been lost at the beginning, whatever the word
_RARE = 3  # tokens: words of fewer are used often, or nearly
_ALIKE = 0.6  # of difflib's ratio (Ratcliff & Obershelp 1988); with the same ending of a file's name, less
_ALIKE_WITH_ENDING = 0.5
_INFLECTED = ("s", "es", "ed", "ing")

CountTokens = Callable[[str], int]  # of a word behind a blank


class Copies:
    """The words of one request."""

    def __init__(self, text: str, entries: Collection[str], count_tokens: CountTokens) -> None:
        self._text = text
        self._entries = {entry.rstrip("/") for entry in entries}
        # A name with blanks, or in a writing without them, is no word of the text; the folder knows it.
        named = (entry for entry in self._entries if len(entry) >= _SHORTEST and self._standing(entry))
        words = (word.strip("./") for word in _WORD.findall(text))
        self._words = tuple(dict.fromkeys([*sorted(named), *words]))
        self._count_tokens = count_tokens

    def mended(self, calls: Sequence[ToolCall], specs: Mapping[str, ToolSpec]) -> tuple[ToolCall, ...]:
        """The same calls, with each wrongly copied argument replaced."""
        values = [value for call in calls for value in strings(call.args.values())]
        left = [word for word in self._words if not any(word.casefold() in v.casefold() for v in values)]
        return tuple(self._mended(call, specs[call.tool], left) for call in calls)

    def _mended(self, call: ToolCall, spec: ToolSpec, left: list[str]) -> ToolCall:
        if spec.raw is not None or call.args.get("regex"):
            return call
        names = {name for name, schema in spec.parameters.get("properties", {}).items() if _is_name(schema)}
        args: JsonObject = {}
        for name, given in call.args.items():
            args[name] = given
            if name == "except" and isinstance(given, list):
                args[name] = self._exceptions(given, str(call.args.get("path", "")), left)
            if name not in names - _COMPOSED or not isinstance(given, str):
                continue
            new = name in _NEW.get(spec.name, ())
            there = name in _PATHS and spec.name.startswith(("file.", "text.")) and not new
            args[name] = value = self._cased(given) if there else given
            if word := self._meant(value, left, exists=spec.name in _LOOKS):
                left.remove(word)
            elif new:
                word = self._spaced(value, call.args.values())
            if word:
                args[name] = word + ("/" if value.endswith("/") else "")
        return call if args == call.args else call.model_copy(update={"args": args})

    def _meant(self, value: str, left: Sequence[str], *, exists: bool) -> str | None:
        """The word it was copied from; of a call that only looks, what `exists` may be meant, too."""
        name = value.rstrip("/")
        if len(name) < _SHORTEST or "*" in name or name in self._entries or self._standing(name):
            return None
        alike = [(_ratio(name, word), word) for word in left if self._may_be(name, word, exists=exists)]
        return max(alike)[1] if alike else None

    def _exceptions(self, given: Sequence[object], path: str, left: list[str]) -> list[str]:
        """Without what the path itself is, where the words only say that others stay: all would be left."""
        same = {path, path.rpartition("/")[2]} if _OTHERS_STAY.search(self._text) else set()
        return [self._spared(str(one), left) for one in given if one not in same]

    def _spared(self, value: str, left: list[str]) -> str:
        """An exception is something that is there."""
        if word := self._meant(value, left, exists=True):
            left.remove(word)
        return word or value

    def _cased(self, value: str) -> str:
        """`Inbox/*.pdf` for `inbox/*.pdf`, where the folder has the one and not the other."""
        first, slash, rest = value.partition("/")
        if not first or first in self._entries:
            return value
        alike = [entry for entry in self._entries if entry.casefold() == first.casefold()]
        return f"{alike[0]}{slash}{rest}" if len(alike) == 1 else value

    def _spaced(self, value: str, others: Collection[object]) -> str | None:
        """The new name that has blanks in the request, where the model wrote underscores unasked."""
        name = value.rstrip("/")
        if (
            "_" not in name
            or name in self._entries
            or self._standing(name)
            or _UNDERSCORES.search(self._text)
        ):
            return None
        found = self._standing(name.replace("_", " "))
        return None if found in others else found

    def _standing(self, value: str) -> str | None:
        """A value as it stands in the request, as a word or as several: part of a word is none."""
        found = re.search(rf"(?<![a-z0-9_]){re.escape(value)}(?![a-z0-9_])", self._text, re.IGNORECASE)
        return found[0] if found else None

    def _may_be(self, value: str, word: str, *, exists: bool) -> bool:
        if len(word) < _SHORTEST or any(word.casefold() == value.casefold() + end for end in _INFLECTED):
            return False
        if word.endswith(value) and len(word) - len(value) <= _LOST:
            return True
        exists = exists and word in self._entries  # and what the model wrote does not
        if not exists and (self._count_tokens(word) < _RARE or self._count_tokens(value) < 2):
            return False
        return _ratio(value, word) >= (_ALIKE_WITH_ENDING if _ending(value, word) else _ALIKE)


def strings(values: Iterable[object]) -> Iterator[str]:
    """The texts among a call's arguments, those in lists too."""
    for value in values:
        yield from [value] if isinstance(value, str) else map(str, value) if isinstance(value, list) else ()


def _is_name(schema: JsonObject) -> bool:
    return schema.get("type") == "string" and "enum" not in schema


def _ratio(value: str, word: str) -> float:
    return SequenceMatcher(None, value.casefold(), word.casefold(), autojunk=False).ratio()


def _ending(value: str, word: str) -> bool:
    head, dot, ending = word.rpartition(".")
    return bool(head and dot) and value.endswith(f".{ending}")

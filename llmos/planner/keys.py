"""Settings by the name that the file has for them: what is said of "debugging" is its `debug`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from llmos.messages import ToolCall

_HEAD = "Settings of "  # as daemon.request tells them
_ALIKE = 0.8  # of difflib's ratio (Ratcliff & Obershelp 1988)
_SHORTEST = 4  # letters of which one name may be the beginning of the other


def as_named(calls: Sequence[ToolCall], heads: Sequence[str]) -> tuple[ToolCall, ...]:
    """The same calls, with a key that the file has not got become the only one there that is like it."""
    known = dict(_known(heads))
    return tuple(_named(call, known.get(str(call.args.get("path")), [])) for call in calls)


def _known(heads: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for head in heads:
        name, colon, keys = head.removeprefix(_HEAD).partition(": ")
        if colon and head.startswith(_HEAD):
            yield name, keys.split(", ")


def _named(call: ToolCall, keys: Sequence[str]) -> ToolCall:
    said = call.args.get("key")
    if call.tool != "text.set" or not isinstance(said, str) or said in keys:
        return call
    alike = [key for key in keys if _is_alike(said.casefold(), key.casefold())]
    return call.model_copy(update={"args": {**call.args, "key": alike[0]}}) if len(alike) == 1 else call


def _is_alike(said: str, key: str) -> bool:
    last, own = said.rpartition(".")[2], key.rpartition(".")[2]
    short, long = sorted((last, own), key=len)
    begins = len(short) >= _SHORTEST and long.startswith(short)
    return last == own or begins or SequenceMatcher(None, last, own, autojunk=False).ratio() >= _ALIKE

"""Settings by the name that the file has for them: what is said of "debugging" is its `debug`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmos.messages import ToolCall

_HEAD = "Settings of "  # as daemon.request tells them
_MOST = 14  # names that it tells at most: there may be more then (toolbox/glance.py)
_ENDINGS = ("s", "ed", "ing", "ging", "ting", "ning", "_mode")


def as_named(calls: Sequence[ToolCall], heads: Sequence[str]) -> tuple[ToolCall, ...]:
    """The same calls, with a key that the file has not got become the only one there that it can mean."""
    known = dict(_known(heads))
    return tuple(_named(call, known.get(str(call.args.get("path")), [])) for call in calls)


def _known(heads: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for head in heads:
        name, colon, keys = head.removeprefix(_HEAD).partition(": ")
        if colon and head.startswith(_HEAD):
            yield name, keys.split(", ")


def _named(call: ToolCall, keys: Sequence[str]) -> ToolCall:
    said = call.args.get("key")
    if call.tool != "text.set" or not isinstance(said, str) or said in keys or len(keys) >= _MOST:
        return call
    meant = [key for key in keys if _is_meant(said.casefold(), key.casefold())]
    return call.model_copy(update={"args": {**call.args, "key": meant[0]}}) if len(meant) == 1 else call


def _is_meant(said: str, key: str) -> bool:
    """But for its case, its ending, or the section that it stands in, where only one of the two names one."""
    if "." in said and "." in key:
        return said == key
    last, own = said.rpartition(".")[2], key.rpartition(".")[2]
    return last == own or any(last == own + end or own == last + end for end in _ENDINGS)

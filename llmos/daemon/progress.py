"""How far a request of several calls came that ended early: what was done, what not, what takes it back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmos.daemon.carrying import Item
from llmos.daemon.hands import failure

_MAX_CHARS = 60  # of one call's command in the sentence


def told(items: Sequence[Item], request_id: str) -> str:
    """Sentences for the end of an answer; empty for one call, and where nothing was begun."""
    numbered = [(number, item) for number, item in enumerate(items, 1) if item.judged.plan.reply is None]
    if len(numbered) < 2 or not any(item.outcome for _, item in numbered):
        return ""
    done = [pair for pair in numbered if _did_its_work(pair[1])]
    not_done = [pair for pair in numbered if pair[1].outcome is None]
    parts = [f"Done: {_named(done)}." if done else "", f"Not done: {_named(not_done)}." if not_done else ""]
    if any(item.undo_id for item in items):
        parts.append(f"To take back what was done: llmos undo {request_id}")
    return " ".join(filter(None, parts))


def _did_its_work(item: Item) -> bool:
    return item.outcome is not None and not failure(item.judged.plan, item.outcome)


def _named(pairs: Iterable[tuple[int, Item]]) -> str:
    return ", ".join(f"{number} ({_short(item.judged.plan.command)})" for number, item in pairs)


def _short(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= _MAX_CHARS else line[: _MAX_CHARS - 1] + "…"

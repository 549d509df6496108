"""The inbox: requests that were made with nobody there and need a person's word, until they get it.

Items are files, so they survive the daemon. What waits is exact calls with their pins; each is judged again
when its owner says yes, from whichever terminal.
"""

from __future__ import annotations

import asyncio

from llmos import paths
from llmos.errors import UsageError
from llmos.messages import Caller, JsonObject, Message, Pinned
from llmos.shelf import Shelf, check_share

MAX_WAITING = 10_000
MAX_WAITING_OF_ONE = 500  # of one user: nobody fills it for the others


class Waiting(Message):
    """A request that needs a person's word."""

    id: str
    uid: int
    gid: int
    origin: str  # "watch w1", "schedule s1", "request"
    said: str
    cwd: str
    write: tuple[str, ...] = ()
    policy: str = ""
    created: float
    reason: str
    calls: tuple[Pinned, ...]


class Inbox:
    """All users' waiting requests. Every method is called in the event loop's thread."""

    def __init__(self) -> None:
        self._shelf = Shelf(paths.state_dir() / "inbox", Waiting, MAX_WAITING)
        self._waiting: dict[str, Waiting] = {}

    async def start(self) -> None:
        self._waiting = await asyncio.to_thread(self._shelf.all)

    def waiting(self, caller: Caller) -> list[Waiting]:
        return [item for item in self._waiting.values() if caller.uid in (0, item.uid)]

    def item(self, item_id: str, caller: Caller) -> Waiting:
        found = self._waiting.get(item_id)
        if found is None or caller.uid not in (0, found.uid):
            raise UsageError(f"nothing called {item_id} waits in the inbox", "See: llmos inbox")
        return found

    async def put(self, item: Waiting) -> Waiting:
        """Let it wait. The same calls of the same origin wait once, however often they were made."""
        for other in self._waiting.values():
            same = other.uid == item.uid and other.origin == item.origin and other.cwd == item.cwd
            if same and [_asked(call) for call in other.calls] == [_asked(call) for call in item.calls]:
                item = item.model_copy(update={"id": other.id})
                break
        else:
            owners = (other.uid for other in self._waiting.values())
            check_share("inbox", owners, item.uid, MAX_WAITING_OF_ONE)
        await asyncio.to_thread(self._shelf.put, item.id, item)
        self._waiting[item.id] = item
        return item

    async def drop(self, item: Waiting) -> None:
        self._waiting.pop(item.id, None)
        await asyncio.to_thread(self._shelf.remove, item.id)


def _asked(call: Pinned) -> JsonObject:
    return {"tool": call.tool, "args": call.args}

"""The Python client of the llmos daemon: a small public API, blocking and asyncio, on the standard library
alone.

    from llmos.client import Client

    with Client() as llmos:
        print(llmos.ask("what are the three largest files here?").text)
        llmos.call("file.list", {"path": "/var/log"}).raise_for_status()
        llmos.ask("remove the empty folders", approve=lambda question: input(question.command + "? ") == "y")

`AsyncClient` has the same methods as coroutines, any number of them at once on one connection. What the
daemon refuses is raised as its `llmos.errors` error; a result that was denied or failed is a result, until
`raise_for_status`. The daemon must be running: a library starts none. Protocol: docs/protocol.md.
"""

from __future__ import annotations

from llmos.client.aio import AsyncClient
from llmos.client.blocking import Client
from llmos.client.results import Call, Event, Question, Result, Translation

__all__ = ["AsyncClient", "Call", "Client", "Event", "Question", "Result", "Translation"]

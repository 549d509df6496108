"""Backends that answer badly: no hang, the right one asked next, no key in an error."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmos.cloud import chat as chats
from llmos.cloud import desk as desks
from llmos.cloud.backends import Backend as Asked
from llmos.cloud.backends import Cancel, Reply
from llmos.cloud.desk import Desk
from llmos.config import BackendSettings, OffloadSettings
from llmos.errors import Cancelled, CloudError, NotUnderstood, OverBudget
from llmos.messages import Think, ToolSpec
from tests.cloud.backend import Backend, calls

KEY = "sk-live-0123456789abcdef0123456789"
SHELL = ToolSpec(
    name="shell.run",
    summary="run a command",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    raw="command",
)
LIST = ToolSpec(
    name="file.list",
    summary="list a folder",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}},
        "required": ["path"],
        "additionalProperties": False,
    },
)
GOOD = calls(("file.list", {"path": "/tmp", "limit": 3}))


@dataclass
class Line:
    """Connects to loopback, and keeps what was told of the attempts."""

    ports: dict[str, int]
    refuse: Exception | None = None
    told: list[tuple[str, bool, str]] = field(default_factory=list)
    dials: list[str] = field(default_factory=list)

    def connect(self, backend: str) -> socket.socket:
        self.dials.append(backend)
        if self.refuse:
            raise self.refuse
        return socket.create_connection(("127.0.0.1", self.ports[backend]))

    def ended(self, backend: str, *, billed: bool, why: str, reply: Reply | None) -> None:
        self.told.append((backend, billed, why))


@pytest.fixture
def servers() -> Iterator[Callable[..., Backend]]:
    made: list[Backend] = []

    def make(*faults: str, says: Any = GOOD) -> Backend:
        made.append(Backend(says, list(faults)))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "FIRST_WAIT_S", 0.02)


class Asking:
    """A desk over these servers, asked once or several times."""

    def __init__(
        self, *servers: Backend, within_s: float = 20.0, offload: Any = None, **settings: Any
    ) -> None:
        names = [f"b{number}" for number in range(len(servers))]
        self.line = Line({name: server.port for name, server in zip(names, servers, strict=True)})
        made = {
            name: Asked(BackendSettings.model_validate(server.settings(name, **settings)), KEY, None)
            for name, server in zip(names, servers, strict=True)
        }
        self.desk = Desk(made, OffloadSettings.model_validate({"breaker_rest_s": 60, **(offload or {})}))
        self.order, self.within_s, self.cancel = names, within_s, Cancel()
        self.chat, self.shown = chats.compose(Think(id="t", text="list /tmp"), (SHELL, LIST), str)

    def ask(self) -> desks.Answer:
        return self.desk.ask(
            self.chat,
            self.order,
            self.line,
            timeout_s=self.within_s,
            cancel=self.cancel,
            restore=lambda value: value,
        )


def test_a_good_answer(servers: Callable[..., Backend]) -> None:
    server = servers()
    answer = Asking(server).ask()
    assert answer.backend == "b0"
    assert [call.model_dump() for call in answer.reading.calls] == [
        {"tool": "file.list", "args": {"path": "/tmp", "limit": 3}}
    ]
    assert (answer.reply.prompt_tokens, answer.reply.reply_tokens) == (100, 10)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert not [name for name in server.headers[0] if name.lower().startswith("x-stainless")]


# (fault, how often the first backend is asked before the second one)
FAULTS = {
    "status:500": 3,
    "status:503": 3,
    "status:429": 3,
    "status:401": 1,
    "status:404": 4,  # the simpler dialects are tried
    "status:429:Retry-After: 300": 1,
    "reset": 3,
    "half": 3,
    "bad": 3,
    "html": 3,
    "endless": 1,
    "silent:30": 3,
    "drip:0.05": 1,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_backend_is_left_for_the_next_one(servers: Callable[..., Backend], fault: str) -> None:
    bad, good = servers(*[fault] * 6), servers()
    patience_s = 5.0 if fault.startswith("drip") else 0.6  # a machine that pauses is no silent server
    asking = Asking(bad, good, silence_timeout_s=patience_s, timeout_s=1.0)
    start = time.monotonic()
    answer = asking.ask()
    assert time.monotonic() - start < 8
    assert answer.backend == "b1"
    assert asking.line.dials.count("b0") == FAULTS[fault]
    assert not any(KEY in why for _, _, why in asking.line.told)


@pytest.mark.parametrize("fault", ["status:500", "status:429:Retry-After: 0.2", "reset", "half", "bad"])
def test_a_passing_fault_is_tried_again(servers: Callable[..., Backend], fault: str) -> None:
    server = servers(fault)
    start = time.monotonic()
    assert Asking(server).ask().backend == "b0"
    assert len(server.requests) == 2
    assert "Retry-After" not in fault or time.monotonic() - start >= 0.2


def test_all_fail_and_each_says_why(servers: Callable[..., Backend]) -> None:
    asking = Asking(servers(*["status:401"] * 9), servers(*["status:500"] * 9))
    with pytest.raises(CloudError, match=r"b0 refuses the key.*; b1 answered 500") as caught:
        asking.ask()
    assert KEY not in str(caught.value) and KEY[:12] not in str(caught.value)
    assert "--local" in caught.value.next_step


def test_everything_ends_at_the_deadline(servers: Callable[..., Backend]) -> None:
    asking = Asking(servers("drip:0.05"), servers("silent:30"), within_s=0.7)
    start = time.monotonic()
    with pytest.raises(CloudError):
        asking.ask()
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("fault", ["silent:30", "drip:0.05"])
def test_the_first_one_takes_half_of_the_time_and_no_more(
    servers: Callable[..., Backend], fault: str
) -> None:
    """With the time for one attempt, and the pause that ends it, longer than all there is."""
    asking = Asking(servers(*[fault] * 6), servers(), within_s=3.0)
    start = time.monotonic()
    assert asking.ask().backend == "b1"
    assert 1 < time.monotonic() - start < 3


@pytest.mark.parametrize("fault", ["silent:30", "drip:0.05", "status:429:Retry-After: 15"])
def test_cancel_ends_it_at_once(servers: Callable[..., Backend], fault: str) -> None:
    asking = Asking(servers(fault))
    threading.Timer(0.3, asking.cancel.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        asking.ask()
    assert time.monotonic() - start < 2


def test_an_open_breaker_is_not_asked_until_it_has_rested(servers: Callable[..., Backend]) -> None:
    bad, good = servers(*["status:500"] * 3), servers()
    asking = Asking(bad, good, offload={"breaker_rest_s": 0.5})
    asking.ask()
    assert len(bad.requests) == 3
    asking.ask()
    assert len(bad.requests) == 3 and "answered 500" in asking.desk.breakers["b0"].why()
    time.sleep(0.55)
    assert asking.ask().backend == "b0"  # it is well again
    assert asking.desk.breakers["b0"].why() == ""


def test_a_silent_backend_is_hedged_and_the_loser_is_cut(servers: Callable[..., Backend]) -> None:
    slow, quick = servers("slow:5"), servers()
    asking = Asking(slow, quick, offload={"hedge_after_s": 0.2})
    start = time.monotonic()
    assert asking.ask().backend == "b1"
    assert time.monotonic() - start < 2
    assert sorted(name for name, _, _ in asking.line.told) == ["b0", "b1"]


def test_a_prompt_backend_is_not_hedged(servers: Callable[..., Backend]) -> None:
    first, second = servers(), servers()
    assert Asking(first, second, offload={"hedge_after_s": 2.0}).ask().backend == "b0"
    assert not second.requests


WRONG = {
    "no json": "I would list the files.",
    "no tool": calls(("rm.all", {})),
    "wrong type": calls(("file.list", {"path": 5})),
    "missing": calls(("file.list", {})),
    "unknown argument": calls(("file.list", {"path": "/", "force": True})),
    "too small": calls(("file.list", {"path": "/", "limit": 0})),
    "empty": '{"calls": []}',
    "a list": "[]",
    "NaN": '{"calls": [{"tool": "file.list", "args": {"path": "/", "limit": NaN}}]}',
    "nested": "[" * 20_000,
}


@pytest.mark.parametrize("reply", WRONG.values(), ids=WRONG.keys())
def test_an_invalid_reply_is_repaired_once(servers: Callable[..., Backend], reply: str) -> None:
    server = servers(says=lambda body: GOOD if len(body["messages"]) > 2 else reply)
    assert Asking(server, max_reply_tokens=8000, window=20000).ask().reading.calls[0].tool == "file.list"
    assert "cannot be used" in server.requests[1]["messages"][-1]["content"]


def test_and_else_it_is_refused(servers: Callable[..., Backend]) -> None:
    server, other = servers(says="no"), servers()
    with pytest.raises(NotUnderstood, match="twice"):
        Asking(server, other).ask()
    assert len(server.requests) == 2 and not other.requests


def test_a_reply_that_ran_out_of_tokens_is_never_used(servers: Callable[..., Backend]) -> None:
    server = servers("length:" + calls(("shell.run", {"command": "rm -r build"})), "length:x")
    with pytest.raises(NotUnderstood, match="ran out of tokens"):
        Asking(server).ask()


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "<think>hm, {{</think>\n{}", " \n{}\n"])
def test_what_models_put_around_the_object_is_passed_over(
    servers: Callable[..., Backend], fence: str
) -> None:
    assert Asking(servers(says=fence.replace("{}", GOOD).replace("{{", "{"))).ask().reading.calls


def test_a_dialect_that_a_server_refuses_is_left_for_a_simpler_one(servers: Callable[..., Backend]) -> None:
    server = servers("refuses:response_format")
    asking = Asking(server)
    asking.ask()
    asking.ask()
    forms = [request.get("response_format", {}).get("type") for request in server.requests]
    assert forms == ["json_schema", "json_object", "json_object", None, None]
    assert "schema" in server.requests[1]["response_format"]


@pytest.mark.parametrize(
    ("dialect", "field"),
    [
        ("json_schema", "response_format"),
        ("json_object", "response_format"),
        ("llama_cpp", "response_format"),
        ("guided", "structured_outputs"),
        ("tools", "tools"),
    ],
)
def test_each_dialect_asks_for_the_form(servers: Callable[..., Backend], dialect: str, field: str) -> None:
    server = servers()
    Asking(server, dialect=dialect).ask()
    assert field in server.requests[0]


def test_no_connection_is_tried_again_and_a_refusal_is_not(servers: Callable[..., Backend]) -> None:
    asking = Asking(servers())
    asking.line.refuse = ConnectionRefusedError("connection refused")
    with pytest.raises(CloudError, match="connection refused"):
        asking.ask()
    assert len(asking.line.dials) == 3
    asking = Asking(servers())
    asking.line.refuse = OverBudget("the cap is reached", "Wait.")
    with pytest.raises(OverBudget, match="the cap is reached"):
        asking.ask()
    assert len(asking.line.dials) == 1

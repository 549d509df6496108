"""Frames between the broker and the courier, the process that speaks with cloud backends.

They stand apart from `messages` so that a broker that sends nothing need not hold them in memory.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmos.messages import Delta, Failed, JsonObject, Message, Stop, Teach, Think, Thought


class Equip(Message):
    """Broker to courier, once: the backends (each a `config.BackendSettings` as JSON) and how to try them."""

    type: Literal["equip"] = "equip"
    backends: tuple[JsonObject, ...]
    offload: JsonObject


class Prepare(Message):
    """Broker to courier: put this request into the words that would leave. Nothing is sent yet."""

    type: Literal["prepare"] = "prepare"
    id: str
    think: Think
    kind: str
    backends: tuple[str, ...]
    document: str | None = None  # piped data as a whole, where the request is about it
    known: tuple[tuple[str, str], ...] = ()  # (kind, value) to hide wherever they stand: names, home


class Send(Message):
    """Broker to courier: what was prepared under this id may go to these backends, in this order."""

    type: Literal["send"] = "send"
    id: str
    backends: tuple[str, ...]
    timeout_s: float


ToCourier = Annotated[Equip | Teach | Prepare | Send | Stop, Field(discriminator="type")]


class Equipped(Message):
    """Courier to broker: it is confined and waits. `keyless`: backends without their key, and why."""

    type: Literal["equipped"] = "equipped"
    keyless: dict[str, str] = Field(default_factory=dict)
    unconfined: tuple[str, ...] = ()


class Offer(Message):
    """What one backend would be sent, at most. `unhealthy` says why it is not asked at the moment."""

    backend: str
    num_bytes: int
    prompt_tokens: int  # estimated
    max_prompt_tokens: int  # no tokenizer makes more of these bytes
    max_reply_tokens: int
    fits: bool
    unhealthy: str = ""


class Prepared(Message):
    """Courier to broker: exactly what would leave, with what was replaced in it, by kind."""

    type: Literal["prepared"] = "prepared"
    id: str
    text: str  # all but the list of tools
    tools_bytes: int
    replaced: dict[str, int]
    offers: tuple[Offer, ...]


class Attempted(Message):
    """Courier to broker: how one attempt, over one connection, ended. `billed` is false for a refusal."""

    type: Literal["attempted"] = "attempted"
    id: str
    backend: str
    dial: int
    ok: bool
    billed: bool
    why: str = ""
    prompt_tokens: int = 0
    reply_tokens: int = 0


FromCourier = Annotated[
    Equipped | Prepared | Attempted | Delta | Thought | Failed, Field(discriminator="type")
]

"""What leaves this machine for a backend: prepared, approved, counted, carried and receipted.

    prepare   the courier puts the request into words and takes out what must not leave; nothing is sent
    approve   the person's word, or one that is remembered (`consents`); the planner has no part in it
    send      a grant names the backends, the bytes and the most it may cost; connections are made under it

A connection exists only under a grant: the courier can make none itself. Each one reserves its worst
price in the ledger first, so a cap holds whatever the courier or a backend does. What was sent, how much,
where and for how much money is written down before and after.

What it does not protect against: a backend that keeps what it was sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import pwd
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmos.cloud.budget import NOTHING, Cost, Ledger
from llmos.config import BackendSettings, Settings
from llmos.daemon import supervisor
from llmos.daemon.consents import Consents, destination
from llmos.daemon.request import Job
from llmos.errors import CallFailed, Cancelled, CloudError, Denied, LlmosError, UsageError
from llmos.guard.audit import Audit
from llmos.messages import Caller, JsonObject, Stop, Teach, Think, Thought, ToolSpec
from llmos.waiting import done_or_set

if TYPE_CHECKING:
    from llmos.cloud.frames import Attempted, Offer, Prepared
    from llmos.daemon.carrier import Carrier
    from llmos.daemon.courier_link import CourierLink

log = logging.getLogger(__name__)

GRACE_S = 5.0  # the courier ends by itself before we end it
# Variables that reach the courier, besides those that a backend's key is read from.
VARIABLES = frozenset(
    {"CREDENTIALS_DIRECTORY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)


@dataclass(slots=True)
class _Try:
    """One connection that was made under a grant."""

    backend: str
    entry: int  # in the ledger
    carrier: Carrier
    max_prompt_tokens: int
    ended: Attempted | None = None
    cost: Cost = NOTHING


@dataclass(slots=True)
class _Grant:
    """Leave for one request to reach these backends, at these prices at most."""

    job: Job
    offers: dict[str, Offer]
    tries: dict[int, _Try] = field(default_factory=dict)

    def max_tries(self, retries: int) -> int:
        """Of all backends together: retries, for the reply and for its repair, and simpler dialects."""
        return len(self.offers) * (2 * (retries + 1) + 3)


class Offload:
    """The broker's part of it; owns the courier's life, the ledger and the consents."""

    def __init__(self, settings: Settings, *, argv: Sequence[str] = supervisor.COURIER_ARGV) -> None:
        self.settings = settings
        self.backends = {one.name: one for one in settings.backend}
        self.ledger = Ledger(settings.budget)
        self.consents = Consents()
        self._argv = tuple(argv)
        self._tools: tuple[ToolSpec, ...] = ()
        self._link: CourierLink | None = None
        self._starting = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._grants: dict[str, _Grant] = {}
        self._stopping: asyncio.Task[None] | None = None

    # --- facts ---

    def cost(self, backend: str, prompt_tokens: int, reply_tokens: int) -> Cost:
        one = self.backends[backend]
        usd = ((one.price_in or 0.0) * prompt_tokens + (one.price_out or 0.0) * reply_tokens) / 1e6
        return Cost(usd, prompt_tokens + reply_tokens)

    def most(self, offer: Offer) -> Cost:
        """The most that one attempt at this offer can cost."""
        return self.cost(offer.backend, offer.max_prompt_tokens, offer.max_reply_tokens)

    async def listed(self, caller: Caller) -> JsonObject:
        """What `llmos backend list` shows."""
        keyless: dict[str, str] = {}
        if self.backends:
            link = await self._alive()
            keyless = link.equipped.result().keyless
        consents = await asyncio.to_thread(self.consents.of, caller.uid)
        return {
            "backends": [
                {
                    **one.model_dump(
                        include={"name", "url", "model", "window", "price_in", "price_out", "dialect"}
                    ),
                    "key": "missing" if one.name in keyless else "there" if _has_key(one) else "none needed",
                    "problem": keyless.get(one.name, ""),
                    "allowed": sorted(
                        c.kind
                        for c in consents
                        if c.backend == one.name and c.destination == destination(one)
                    ),
                }
                for one in self.backends.values()
            ]
        }

    def status(self) -> JsonObject:
        link = self._link
        alive = link is not None and not link.lost
        return {
            "backends": list(self.backends),
            "courier": "running" if alive else "not running",
            "pid": link.pid if link is not None and alive else None,
            "unconfined": list(link.equipped.result().unconfined) if link is not None and alive else [],
            "sending": len(self._grants),
        }

    def find(self, name: str) -> BackendSettings:
        """Raises UsageError for a name that is not configured."""
        if name not in self.backends:
            known = ", ".join(self.backends) or "none; add a [[backend]] to config.toml"
            raise UsageError(f"there is no backend {name[:40]!r}", f"There is: {known}.")
        return self.backends[name]

    # --- life ---

    def teach(self, tools: tuple[ToolSpec, ...]) -> None:
        self._tools = tools
        if self._link is not None and not self._link.lost:
            self._link.send(Teach(tools=tools))

    async def stop(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        link, self._link = self._link, None
        if link is not None:
            link.close()
            await link.ended

    async def _alive(self) -> CourierLink:
        async with self._starting:
            if self._link is None or self._link.lost:
                from llmos.cloud.frames import Equip  # none of this is held where nothing leaves
                from llmos.daemon.courier_link import CourierLink

                dumped = tuple(one.model_dump(mode="json") for one in self.backends.values())
                offload = self.settings.offload.model_dump(mode="json")
                keys = {one.key_env for one in self.backends.values() if one.key_env}
                self._link = await CourierLink.start(
                    self._argv,
                    Equip(backends=dumped, offload=offload),
                    variables=VARIABLES | keys,
                    on_dial=self._dial,
                    on_attempt=self._attempted,
                )
                self._link.send(Teach(tools=self._tools))
        self._rest()
        return self._link

    def _rest(self) -> None:
        """End the courier, and its keys with it, after a while without use."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(self.settings.offload.idle_s, self._unload)

    def _unload(self) -> None:
        if self._grants:
            self._rest()
        else:
            self._stopping = asyncio.ensure_future(self.stop())

    # --- prepare ---

    async def prepare(
        self,
        job: Job,
        think: Think,
        kind: str,
        *,
        document: str | None = None,
    ) -> Prepared:
        """What would leave, and what each backend would take for it. Raises CloudError."""
        from llmos.cloud.frames import Prepare

        link = await self._alive()
        found = await link.prepare(
            Prepare(
                id=think.id,
                think=think,
                kind=kind,
                backends=tuple(self.backends),
                document=document,
                known=private_names(job),
            )
        )
        keyless = link.equipped.result().keyless
        offers = tuple(
            one.model_copy(update={"unhealthy": keyless.get(one.backend) or one.unhealthy})
            for one in found.offers
        )
        return found.model_copy(update={"offers": offers})

    # --- send ---

    async def send(
        self,
        job: Job,
        prepared: Prepared,
        order: tuple[str, ...],
        *,
        kind: str,
        how: str,
        audit: Audit,
        cancel: asyncio.Event,
    ) -> Thought:
        """Send what was prepared, and wait for the answer. Consent was given: `how` says in which way.

        Raises CloudError, NotUnderstood, OverBudget, Cancelled, and DiskFull when it cannot be written down.
        """
        offers = {one.backend: one for one in prepared.offers if one.backend in order}
        grant = self._grants[prepared.id] = _Grant(job, offers)
        facts = self._facts(job, prepared, order, kind, how)
        error: LlmosError | None = None
        try:
            await asyncio.to_thread(audit.note, "offload", job.id, facts)
            return await self._answer(prepared.id, order, cancel)
        except LlmosError as failed:
            error = failed
            raise
        finally:
            del self._grants[prepared.id]
            for one in grant.tries.values():
                one.carrier.cut()
            await asyncio.to_thread(self._receipt, audit, job, grant, error)
            self._rest()

    async def _answer(self, request: str, order: tuple[str, ...], cancel: asyncio.Event) -> Thought:
        from llmos.cloud.frames import Send

        link = await self._alive()
        timeout_s = self.settings.offload.timeout_s
        answer = link.ask(Send(id=request, backends=order, timeout_s=timeout_s))
        if not await done_or_set(answer, cancel, timeout_s=timeout_s + GRACE_S):
            link.send(Stop(id=request))
            await asyncio.wait({answer}, timeout=GRACE_S)
            if not answer.done():
                link.kill()
                await link.ended
            elif not answer.cancelled():
                answer.exception()
            if cancel.is_set():
                raise Cancelled("the request was cancelled", "Nothing was run for it.")
            raise CloudError(
                f"no backend answered within {timeout_s:g} s", "Try again, or stay local: --local"
            )
        thought = answer.result()
        assert isinstance(thought, Thought)
        return thought

    def _facts(self, job: Job, prepared: Prepared, order: tuple[str, ...], kind: str, how: str) -> JsonObject:
        most = [self.most(one) for one in prepared.offers if one.backend in order]
        return {
            "uid": job.caller.uid,
            "backends": list(order),
            "destinations": [destination(self.backends[name]) for name in order],
            "what": kind,
            "consent": how,
            "bytes": max((one.num_bytes for one in prepared.offers if one.backend in order), default=0),
            "sha256": hashlib.sha256(prepared.text.encode()).hexdigest(),
            "replaced": prepared.replaced,
            "ceiling_usd": round(max((one.usd for one in most), default=0.0), 8),
        }

    def _receipt(self, audit: Audit, job: Job, grant: _Grant, error: LlmosError | None) -> None:
        tries = [
            {
                "backend": one.backend,
                "bytes_up": one.carrier.up,
                "bytes_down": one.carrier.down,
                "ok": bool(one.ended and one.ended.ok),
                "why": one.ended.why if one.ended else "it did not end",
                "prompt_tokens": one.ended.prompt_tokens if one.ended else 0,
                "reply_tokens": one.ended.reply_tokens if one.ended else 0,
                "usd": round(one.cost.usd, 8),
            }
            for one in grant.tries.values()
        ]
        facts = {"uid": job.caller.uid, "attempts": tries, "error": str(error) if error else ""}
        try:
            audit.note("receipt", job.id, facts)
        except CallFailed as failed:
            log.error("request %s was sent, but: %s", job.id, failed)

    # --- connections, each under a grant ---

    async def _dial(self, number: int, request: str, backend: str) -> socket.socket:
        from llmos.cloud.frames import Attempted
        from llmos.daemon.carrier import Carrier

        grant = self._grants.get(request)
        offer = grant.offers.get(backend) if grant else None
        if grant is None or offer is None:
            raise Denied(f"nothing may go to {backend} for this request", "It was not approved.")
        if len(grant.tries) >= grant.max_tries(self.settings.offload.retries):
            raise CloudError("this request was tried too often", "Try again later.")
        carrier = Carrier(2 * offer.num_bytes * (1 + len(grant.tries)) + (64 << 10))
        most = self.most(offer)
        entry = await asyncio.to_thread(
            self.ledger.reserve, uid=grant.job.caller.uid, request=grant.job.id, backend=backend, most=most
        )
        one = grant.tries[number] = _Try(backend, entry, carrier, offer.max_prompt_tokens, cost=most)
        try:
            return await carrier.open(self.backends[backend])
        except OSError:
            one.cost = NOTHING
            await asyncio.to_thread(self.ledger.settle, entry, NOTHING)
            one.ended = Attempted(
                id=request, backend=backend, dial=number, ok=False, billed=False, why="no connection"
            )
            raise

    def _attempted(self, ended: Attempted) -> None:
        grant = self._grants.get(ended.id)
        one = grant.tries.get(ended.dial) if grant else None
        if one is None or one.ended is not None:
            return
        if ended.ok and not ended.prompt_tokens:
            # A server that does not count: as many as there can have been.
            ended = ended.model_copy(update={"prompt_tokens": one.max_prompt_tokens})
        one.ended = ended
        one.carrier.cut()
        if ended.ok:
            one.cost = self.cost(one.backend, ended.prompt_tokens, ended.reply_tokens)
        elif not ended.billed:
            one.cost = NOTHING
        else:
            return  # it may have been paid for: what was reserved stands
        try:
            self.ledger.settle(
                one.entry, one.cost, prompt_tokens=ended.prompt_tokens, reply_tokens=ended.reply_tokens
            )
        except CallFailed as error:
            log.error("request %s: %s", ended.id, error)


def private_names(job: Job) -> tuple[tuple[str, str], ...]:
    """Names that tell who and where this is: the person, the machine, a home that is not below /home."""
    found = [("HOST", socket.gethostname()), ("HOST", socket.gethostname().partition(".")[0])]
    try:
        person = pwd.getpwuid(job.caller.uid)
    except KeyError:
        return tuple(found)
    found += [("USER", person.pw_name), ("USER", person.pw_gecos.partition(",")[0])]
    if job.home.count("/") > 1 and not job.home.startswith(("/home/", "/Users/")):
        found.append(("HOME", job.home))
    return tuple((kind, value) for kind, value in found if value)


def _has_key(backend: BackendSettings) -> bool:
    return bool(backend.key_env or backend.key_file or backend.key_credential or backend.key_keyring)

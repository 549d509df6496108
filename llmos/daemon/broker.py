"""What the daemon holds between requests: the parts that act, the planner, and who is running what.

Parts that are slow to import or read (policy engine, grammars, manifests) are loaded in a thread after
the socket answers; requests wait for them, `status` does not. A manifest or policy that breaks while
we run leaves the last good parts in force and its error in `status`; one that is broken from the
start refuses requests with that error until it is mended. The examples of the rules that came with us
are tried once requests are served: one that fails, which is a damaged installation, ends the serving.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmos import heap
from llmos.config import Settings
from llmos.daemon import hands, ladder, lean, steplog, supervisor
from llmos.daemon.accepted import Accepted
from llmos.daemon.counting import Counts
from llmos.daemon.hands import Hands
from llmos.daemon.offload import Offload
from llmos.daemon.personal import Personal
from llmos.daemon.routing import Minds
from llmos.daemon.session import Session
from llmos.daemon.shares import too_many
from llmos.daemon.thinking import Planner
from llmos.daemon.tokens import Tokens
from llmos.daemon.undoing import Undoing
from llmos.errors import CallFailed, Cancelled, LlmosError, Overloaded, UsageError
from llmos.guard import forks
from llmos.messages import Caller, Event, JsonObject, ToolSpec

if TYPE_CHECKING:
    from llmos.daemon.watching import Watch

log = logging.getLogger(__name__)
_TOLD_CHARS = 200
_PROVE_AFTER_S = 2.0  # who started us, or waited for us, goes first


class Client(Protocol):
    """What the broker needs of a connection."""

    caller: Caller
    gone: bool

    def event(self, params: JsonObject, *, may_drop: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class Running:
    session: Session | Undoing
    owner: Client
    detached: bool
    since: float


class Broker:
    def __init__(
        self, settings: Settings, *, worker_argv: Sequence[str] | None = None, shared: bool = False
    ) -> None:
        self.settings = settings
        self._shared = shared  # several users are served, each within their share
        argv = worker_argv or supervisor.WORKER_ARGV
        self.planner = Planner(settings.model, worker_argv=argv)
        self.minds = Minds(
            self.planner, Offload(settings), Tokens(settings.quota), Personal(), ladder.rungs(settings, argv)
        )
        self._accepted = Accepted()
        self._counts = Counts()
        self.running: dict[tuple[int, str], Running] = {}  # by user and id
        self._watchers: set[Client] = set()
        self._offered: set[int] = set()  # users who heard what of theirs may go on
        self._hands: Hands | None = None
        self._recovered = False
        self._broken: LlmosError | None = None  # why the newest manifests or policies are not in force
        self._unfit: LlmosError | None = None  # why even those in force may not be used
        self._loaded = asyncio.Event()
        self._loading = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._started = time.time()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: Watch | None = None

    # --- life ---

    def start(self) -> None:
        """Begin loading in the background."""
        self._spawn(self._first_load())

    async def drain(self) -> None:
        """Take no new requests; return when the running ones are done. Nobody is waited for to say yes."""
        self._draining = True
        for running in tuple(self.running.values()):
            if running.session.asks:
                running.session.stop()
        await self._idle.wait()

    def cancel_all(self) -> None:
        for running in tuple(self.running.values()):
            running.session.stop()

    async def stop(self) -> None:
        if self._watch is not None:
            await asyncio.to_thread(self._watch.stop)
        for task in tuple(self._tasks):
            task.cancel()
        for planner in self.minds.planners:
            await planner.stop()
        await self.minds.offload.stop()
        if self._hands is not None:
            self._hands.spawner.close()
        self._accepted.close()

    # --- parts: load once, reload on change ---

    async def loaded(self) -> None:
        """Return once the first parts are in force, or known to be broken."""
        await self._loaded.wait()

    async def hands(self) -> Hands:
        """The parts in force; raises what kept the first ones from loading."""
        await self.loaded()
        if self._unfit is not None:
            raise self._unfit
        if self._hands is None:
            raise self._broken or CallFailed("tools and policy could not be loaded", "Read the daemon's log.")
        return self._hands

    @property
    def parts(self) -> Hands | None:
        """The parts in force, where they are there already."""
        return self._hands

    async def _first_load(self) -> None:
        """Watch, then read: a file changed between the two would else stay unnoticed."""
        loop = asyncio.get_running_loop()

        def changed() -> None:  # called in a watchdog thread
            loop.call_soon_threadsafe(self.reload)

        try:
            self._watch = await asyncio.to_thread(_watch, changed)
        finally:  # where nothing can be watched, requests are served all the same
            await self._load()

    def reload(self) -> None:
        self._spawn(self._load())

    async def reconfigure(self, reread: Callable[[], Settings]) -> None:
        """Read settings, tools and policies anew. What is broken is told in `status`, and changes nothing."""
        try:
            self.settings = await asyncio.to_thread(reread)
        except LlmosError as error:
            log.error("not in force: %s %s", error, error.next_step)
            self._broken = error
            return
        self.planner.configure(self.settings.model)
        self.minds.tokens.configure(self.settings.quota)
        await self._load()
        if self._broken is None:
            log.info("settings, tools and policies were read anew")

    async def _load(self) -> None:
        """One at a time: of two that overlap, the older reading could else come into force last."""
        async with self._loading:
            await self._load_now()

    async def _load_now(self) -> None:
        try:
            if not self._recovered:
                await asyncio.to_thread(_recover, self.settings)
                self._recovered = True
            fresh = await asyncio.to_thread(hands.load, self.settings, self._hands)
            if self._hands is None and (cut_off := await asyncio.to_thread(self._write_down, fresh)):
                log.warning("%d requests were cut off when the last daemon ended", cut_off)
        except LlmosError as error:
            log.error("not in force: %s %s", error, error.next_step)
            self._broken = error
        else:
            if self._hands is None:
                self._spawn(self._prove(fresh))
            self._hands, self._broken, self._unfit = fresh, None, None
            self._teach(fresh.catalog.specs)
        finally:
            first = not self._loaded.is_set()
            self._loaded.set()
        if first:
            heap.settle()  # memory is given back when the rules are proved: who waited goes first
        else:
            await asyncio.to_thread(lean.give_back)

    async def _prove(self, fresh: Hands) -> None:
        await asyncio.sleep(_PROVE_AFTER_S)
        try:
            await asyncio.to_thread(hands.prove, fresh)
        except LlmosError as error:
            log.error("nothing is served: %s %s", error, error.next_step)
            if self._hands is fresh:  # and not mended meanwhile
                self._broken = self._unfit = error
        await asyncio.to_thread(forks.prepare)
        await asyncio.to_thread(lean.give_back)

    def _write_down(self, hands: Hands) -> int:
        return self._accepted.write_down(hands.gate.audit)

    def _teach(self, tools: tuple[ToolSpec, ...]) -> None:
        for planner in self.minds.planners:
            planner.teach(tools)
        self.minds.offload.teach(tools)

    # --- requests ---

    def admit(self, session: Session | Undoing, owner: Client, *, detached: bool = False) -> None:
        """Enter a request among the running; raises Overloaded, or UsageError for an id in use."""
        request_id = session.job.id
        if owner.gone:
            raise Cancelled("the client has gone", "Nothing was run for it.")
        if self._draining:
            raise Overloaded("the daemon is stopping", "Try again in a moment.")
        if len(self.running) >= self.settings.server.max_queued:
            raise Overloaded(f"{len(self.running)} requests are waiting already", "Try again in a moment.")
        self._check_share(session.job.caller)
        key = (session.job.caller.uid, request_id)
        if key in self.running:
            raise UsageError(f"a request with the id {request_id} is running", "Use a fresh id.")
        self._accepted.enter(session.job)
        self.running[key] = Running(session, owner, detached, time.monotonic())
        self._idle.clear()

    def _check_share(self, caller: Caller) -> None:
        """Nobody but root may take all places where several share them. Raises Overloaded."""
        if not self._shared or caller.uid == 0:
            return
        own, limits = sum(uid == caller.uid for uid, _ in self.running), self.settings.server
        if own >= limits.max_queued_per_user or too_many(own, len(self.running), limits.max_queued):
            raise Overloaded(f"{own} of your requests are waiting already", "Try again when some are done.")

    def release(self, session: Session | Undoing) -> None:
        key = (session.job.caller.uid, session.job.id)
        # Once the answer is on its way: who is killed between the two would else have told nobody. Who stops
        # before the end of what nobody waits for leaves it to the next daemon to say so.
        if not (self._draining and session.cancelled and self.running[key].owner.gone):
            asyncio.get_running_loop().call_soon(self._accepted.leave, session.job)
        del self.running[key]
        if not self.running:
            self._idle.set()

    def instead(self, error: Cancelled) -> LlmosError:
        """What to say where a request was cancelled and nothing of it ran: was it us, it may come again."""
        if not self._draining:
            return error
        return Overloaded(
            "the daemon is stopping, and nothing was run for this request", "Ask again in a moment."
        )

    def find(self, request_id: str, caller: Caller) -> Running:
        """A running request of this caller; raises UsageError. Others' requests do not exist for them."""
        if running := self.running.get((caller.uid, request_id)):
            return running
        others = [running for (_, name), running in self.running.items() if name == request_id]
        if caller.uid != 0 or not others:
            raise UsageError(f"no request {request_id} is running", "See what runs: llmos status")
        return others[0]

    def left(self, client: Client) -> None:
        """A client has gone: its requests are cancelled, except detached ones."""
        self._watchers.discard(client)
        for running in tuple(self.running.values()):
            if running.owner is client and not running.detached:
                running.session.cancel()

    def subscribe(self, client: Client) -> None:
        self._watchers.add(client)

    def emit(self, event: Event, owner: Client) -> None:
        """To who asked, and to onlookers of the same user (or root)."""
        running = self.running.get((owner.caller.uid, event.id))
        self._counts.heard(event, time.monotonic() - running.since if running else 0.0)
        params = event.model_dump(mode="json")
        owner.event(params)
        for watcher in self._watchers:
            if watcher is not owner and watcher.caller.uid in (0, owner.caller.uid):
                watcher.event(params, may_drop=True)

    # --- facts ---

    def notice(self, hands: Hands, caller: Caller) -> str:
        """What a person is told with each request: that newer files are broken, and older ones in force."""
        problem = self._broken or hands.gate.tiers.problem(caller)
        if problem is None:
            return ""
        return f"not in force, so the last good version is: {problem} {problem.next_step}".strip()

    def offer(self, caller: Caller) -> str:
        """Once for each user: that a request of theirs was cut off, and may go on. Blocks."""
        if caller.uid in self._offered:
            return ""
        self._offered.add(caller.uid)
        waiting = steplog.waiting(caller.uid)
        if not waiting:
            return ""
        text = " ".join(str(waiting[-1].request["text"]).split())[:_TOLD_CHARS]
        return f"A request of several steps was cut off: {text}. To go on with it: llmos resume"

    def sentence(self) -> str:
        """How it stands, on one line, for a service manager."""
        if self._broken is not None:
            return f"{self._state()}; not in force: {self._broken}".replace("\n", " ")
        count, planner = len(self.running), self.planner.status()["state"]
        return f"{self._state()}; {count} request{'' if count == 1 else 's'} running; planner {planner}"

    def status(self, caller: Caller) -> JsonObject:
        """For one caller: others' requests are not told."""
        parts = self._hands
        seen = [one for one in self.running.values() if caller.uid in (0, one.session.job.caller.uid)]
        return {
            "pid": os.getpid(),
            "uptime_s": round(time.time() - self._started, 3),
            "resident_bytes": _resident_bytes(),
            "state": self._state(),
            "error": self._broken.to_rpc() if self._broken else None,
            "policy": self.settings.policy,
            "tools": len(parts.catalog.specs) if parts else 0,
            "audit": parts.gate.audit.facts() if parts else None,
            "requests": [self._request_facts(running) for running in seen],
            "max_queued": self.settings.server.max_queued,
            "counts": self._counts.told() if caller.uid in (0, os.geteuid()) else None,
            "planner": self.planner.status(),
            "larger": [rung.status() for rung in self.minds.larger],
            "cloud": self.minds.offload.status(),
        }

    def _state(self) -> str:
        if self._draining:
            return "stopping"
        if self._hands is not None and self._unfit is None:
            return "ready"
        return "broken" if self._loaded.is_set() else "loading"

    def _request_facts(self, running: Running) -> JsonObject:
        age_s = round(time.monotonic() - running.since, 3)
        job = running.session.job
        return {"id": job.id, "age_s": age_s, "uid": job.caller.uid, "text": job.text[:_TOLD_CHARS]}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _recover(settings: Settings) -> None:
    """Finish changes that a crash cut off, before anybody is served. Raises CallFailed."""
    from llmos.guard import staging, turning

    try:
        for undo_id in turning.recover(settings.undo):
            log.warning("finished change %s, which had been cut off", undo_id)
        staging.clear_forgotten()
    except OSError as error:
        raise CallFailed(
            f"changes that were cut off cannot be finished: {error}", "Mend that, and start the daemon again."
        ) from error


def _watch(changed: Callable[[], None]) -> Watch:
    from llmos.daemon.watching import Watch  # watchdog takes a while to import

    return Watch(hands.watched_dirs(), changed)


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")

"""One request's way to a thought: the local model, a larger one, or a backend; see `planner.route`.

    facts -> choose -> think locally -> facts, with how sure it was -> choose -> prepare -> consent -> send

Facts are gathered here and checked again where they count: what a policy keeps on this machine, the sizes of
what was really prepared, budget and policy for each backend, and the person's consent. A local answer that is
there is kept when nothing may leave for a better one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llmos.daemon import pieces
from llmos.daemon.hands import Hands
from llmos.daemon.ladder import Rung
from llmos.daemon.leaving import AskPerson, Leaving
from llmos.daemon.offload import Offload
from llmos.daemon.personal import Personal
from llmos.daemon.request import Job
from llmos.daemon.thinking import Planner
from llmos.daemon.tokens import Tokens
from llmos.errors import (
    CloudError,
    Denied,
    LlmosError,
    ModelError,
    NeedsApproval,
    NotUnderstood,
    OverBudget,
    PlannerDied,
    TooLong,
    UsageError,
)
from llmos.messages import JsonObject, Think, Thought
from llmos.planner import route
from llmos.planner.route import Choice, Facts, Tried

REPLY_TOKENS = 192  # what the planner may write
OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Minds:
    """Who can think: the local model, larger local ones where some are named, and the backends."""

    planner: Planner
    offload: Offload
    tokens: Tokens
    personal: Personal
    larger: tuple[Rung, ...] = ()

    @property
    def planners(self) -> tuple[Planner, ...]:
        """Of the models on this machine, the one that is asked first standing first."""
        return (self.planner, *(rung.planner for rung in self.larger))


class Routing:
    """One request. `ask` puts what would leave to the person; `tell` says where the thinking goes on."""

    def __init__(
        self, job: Job, hands: Hands, minds: Minds, *, ask: AskPerson, tell: Callable[[str], None]
    ) -> None:
        self._job, self._hands, self._minds = job, hands, minds
        self._tell = tell
        self._offload = minds.offload
        self._leaving = Leaving(job, hands, minds.offload, ask)
        self._forget()
        self.kind = route.kind_of(job.text, has_data=job.data is not None)

    def _forget(self) -> None:
        self._tried: list[Tried] = []
        self._kept: Thought | None = None
        self._thinker = self._minds.planner  # who gave what is kept
        self._failure: LlmosError | None = None

    # --- thinking ---

    async def think(
        self, think: Think, *, cancel: asyncio.Event, on_start: Callable[[], None], on_delta: OnText
    ) -> Thought:
        """The thought to go on with. Raises what the last place that was asked raises."""
        if think.mode == "translate":
            self.kind = "translate"
        label = await self._leaving.label()
        texts = _Texts(on_delta, held=bool(self._offload.backends or self._minds.larger))
        return await self._climb(think, label, cancel=cancel, on_start=on_start, texts=texts)

    async def _climb(
        self,
        think: Think,
        label: str,
        *,
        cancel: asyncio.Event,
        on_start: Callable[[], None],
        texts: _Texts,
    ) -> Thought:
        """`label`: why nothing of it may leave, or empty."""
        while True:
            choice = route.choose(self._facts(think, label))
            if choice.where in ("local", "larger"):
                await self._locally(choice, think, cancel=cancel, on_start=on_start, texts=texts)
            elif choice.where == "keep":
                if self._kept is None:
                    assert self._failure is not None
                    raise self._failure
                texts.release()
                return self._kept
            elif choice.where == "refuse":
                raise _refusal(choice, label)
            else:
                return await self._away(think, choice, cancel, on_start)

    async def read(self, think: Think, *, cancel: asyncio.Event) -> Thought:
        """What the local model makes of a piece of a text. Raises Cancelled, TooLong, PlannerDied."""
        self._minds.tokens.check(self._job.caller)
        thought = await self._minds.planner.think(
            think, cancel=cancel, on_start=lambda: None, on_delta=lambda text: None
        )
        self._minds.tokens.spend(self._job.caller, thought.timing)
        return thought

    async def explain(self, think: Think, *, cancel: asyncio.Event) -> JsonObject:
        """Where it would be thought about, and why; the local model is asked, nothing leaves."""
        from llmos.daemon.explaining import explained  # reads the heads

        label, why = await self._leaving.label(), list[str]()
        while True:
            facts = self._facts(think, label)
            choice = route.choose(facts)
            why += choice.why
            if choice.where not in ("local", "larger") or (choice.where == "local" and facts.want == "local"):
                return explained(facts, replace(choice, why=tuple(why)), self._kept, think.text)
            texts = _Texts(lambda text: None, held=True)
            await self._locally(choice, think, cancel=cancel, on_start=lambda: None, texts=texts)

    async def go_on(self, think: Think, last: Thought, *, cancel: asyncio.Event, label: str) -> Thought:
        """The next thought about a request of which `think.taken` is done, by whoever had the last one.

        A local model's goes up like the first one; another backend may stand in for one. `label`: why nothing
        of it may leave.
        """
        self.kind = "steps"
        if last.route == "local":
            self._forget()
            texts = _Texts(lambda text: None, held=True)
            return await self._climb(think, label, cancel=cancel, on_start=lambda: None, texts=texts)
        first = last.route.removeprefix("cloud:")
        others = [] if self._job.backend else [name for name in self._offload.backends if name != first]
        why = f"{first} wants to see what came of its calls"
        return await self._send(think, Choice("cloud", (first, *others), (why,)), cancel, lambda: None)

    async def otherwise(self, think: Think, attempt: int, *, cancel: asyncio.Event) -> Thought:
        """The local model's next best reading of a request; raises NotUnderstood when there is none left."""
        self._minds.tokens.check(self._job.caller)
        thought = await self._thinker.think(
            think.model_copy(update={"id": f"{think.id}.{attempt}", "attempt": attempt}),
            cancel=cancel,
            on_start=lambda: None,
            on_delta=lambda text: None,
        )
        self._minds.tokens.spend(self._job.caller, thought.timing)
        return thought

    async def _locally(
        self,
        choice: Choice,
        think: Think,
        *,
        cancel: asyncio.Event,
        on_start: Callable[[], None],
        texts: _Texts,
    ) -> None:
        """Ask a local model, and remember how sure it was or why it gave nothing."""
        assert choice.where in ("local", "larger")
        model = choice.order[0] if choice.where == "larger" else ""
        planner = next(
            (rung.planner for rung in self._minds.larger if rung.name == model), self._minds.planner
        )
        tried = Tried(choice.where, model=model)
        texts.forget()
        self._minds.tokens.check(self._job.caller)
        try:
            thought = await planner.think(think, cancel=cancel, on_start=on_start, on_delta=texts.say)
            self._minds.tokens.spend(self._job.caller, thought.timing)
        except (TooLong, NotUnderstood, ModelError, PlannerDied) as error:
            self._failure = self._failure or error
            self._tried.append(replace(tried, problem=str(error)))
            return
        if thought.understood and (thought.calls or thought.command):
            self._tried.append(replace(tried, confidence=thought.confidence))
        else:
            self._tried.append(replace(tried, problem=f"{tried.title} could make no call of it"))
            if self._kept is not None:
                return
        self._kept, self._thinker = thought, planner

    # --- facts ---

    def _facts(self, think: Think, label: str) -> Facts:
        chars = len(think.text) + sum(map(len, think.entries)) + len(think.data_head or "")
        chars += sum(len(step.outcome) for step in think.taken)
        document = self._document()
        prompt = route.tokens(chars + len(document or "")) + _tools_tokens(self._hands)
        offload = self._offload.settings.offload
        return Facts(
            kind=self.kind,
            prompt_tokens=prompt,
            reply_tokens=REPLY_TOKENS,
            window=self._offload.settings.model.context_tokens,
            want=self._job.route,
            backend=self._job.backend,
            may_not_leave=label,
            consent=self._leaving.consent(self.kind),
            min_confidence=offload.min_confidence,
            larger=tuple(rung.facts() for rung in self._minds.larger),
            pieces=self._pieces(),
            backends=tuple(
                self._leaving.backend(one, self.kind, prompt) for one in self._offload.backends.values()
            ),
            tried=tuple(self._tried),
            free_bytes=_free_bytes(),
        )

    def _document(self) -> str | None:
        """The piped data as text, where the request is about what it says."""
        if self.kind != "document" or self._job.data is None:
            return None
        return self._job.data.decode("utf-8", "replace")

    def _pieces(self) -> int:
        data = self._job.data if self.kind in ("document", "question") else None
        return route.pieces(len(data.decode("utf-8", "replace"))) if data else 0

    # --- leaving ---

    async def _away(
        self, think: Think, choice: Choice, cancel: asyncio.Event, on_start: Callable[[], None]
    ) -> Thought:
        try:
            return await self._send(think, choice, cancel, on_start)
        except (NeedsApproval, CloudError, OverBudget):
            if self._kept is None or self._job.route == "cloud" or self._job.backend:
                raise
            return self._kept  # unsure, but there; the policy judges what it proposes

    async def _send(
        self,
        think: Think,
        choice: Choice,
        cancel: asyncio.Event,
        on_start: Callable[[], None],
    ) -> Thought:
        think = think.model_copy(update={"examples": ()})  # a person's own examples stay here
        data, document = self._job.data, None
        if data is not None and pieces.are_read_whole(self._job.text):
            document = data.decode("utf-8", "replace")

        def started(backend: str) -> None:
            self._tell(backend)
            on_start()

        return await self._leaving.send(
            think, self.kind, choice, cancel=cancel, on_start=started, document=document
        )  # fmt: skip


class _Texts:
    """Streamed words of a local model, held back while it may still be replaced by a better one."""

    def __init__(self, on_delta: OnText, *, held: bool) -> None:
        self._on_delta, self._held = on_delta, held
        self._parts: list[str] = []

    def say(self, text: str) -> None:
        if self._held:
            self._parts.append(text)
        else:
            self._on_delta(text)

    def forget(self) -> None:
        self._parts.clear()

    def release(self) -> None:
        if self._parts:
            self._on_delta("".join(self._parts))
        self._held = False


def _refusal(choice: Choice, label: str) -> LlmosError:
    why = "; ".join(choice.why)
    if label:
        return Denied(f"nothing was sent: {why}", "Ask without --cloud: the local model may read it.")
    if "could cost" in why:
        return OverBudget(f"nothing was sent: {why}", "Raise it in [budget] of config.toml, or use --local.")
    if any("no backend" in reason for reason in choice.why):
        return UsageError(
            f"nothing was sent: {why}",
            "Add a [[backend]] to config.toml (docs/cloud.md), or see: llmos backend list",
        )
    if any("fit" in reason for reason in choice.why):
        return TooLong(f"nothing was sent: {why}", "Send less, or name a backend with a larger window.")
    return CloudError(f"nothing was sent: {why}", "See: llmos backend list")


def _tools_tokens(hands: Hands) -> int:
    """About what the list of tools takes in a local prompt."""
    chars = sum(
        len(spec.name) + len(spec.summary) + 8 * len(spec.parameters.get("properties", {}))
        for spec in hands.catalog.specs
    )
    return route.tokens(chars)


def _free_bytes() -> int:
    """MemAvailable of proc_meminfo(5)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0

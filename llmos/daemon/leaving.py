"""Of one request, what may leave and by whose word: labels, budget, policy, consent, and then sending.

The planner has no part in this. Flags of the request (`--cloud`, `--backend`, `--yes`) and answers at the
terminal are the person's; what was answered is remembered for a backend and a kind of request (`consents`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmos.config import BackendSettings
from llmos.daemon.consents import destination
from llmos.daemon.hands import Hands
from llmos.daemon.offload import Offload
from llmos.daemon.peers import PEERS
from llmos.daemon.request import Job
from llmos.errors import CloudError, NeedsApproval, OverBudget
from llmos.messages import Decision, Effects, JsonObject, Plan, Think, Thought, ToolCall
from llmos.planner import route
from llmos.planner.route import BackendFacts, Choice, Kind

if TYPE_CHECKING:
    from llmos.cloud.frames import Offer, Prepared

SEND_TOOL = "cloud.send"
_PATH_WORD = re.compile(r"(?:~|\.{0,2})?/[^\s'\"`,;:!?()]+|[\w.-]+/[\w./-]+|[\w-]+\.\w+")
Word = Literal["yes", "once", "always", "no"]
AskPerson = Callable[[JsonObject], Awaitable[Word]]
_HOW_TO_ALLOW = "Add --cloud, or allow it for good: llmos backend allow NAME"


class Leaving:
    """One request. `ask` puts what would leave to the person."""

    def __init__(self, job: Job, hands: Hands, offload: Offload, ask: AskPerson) -> None:
        self._job, self._hands, self._offload, self._ask = job, hands, offload, ask

    # --- facts ---

    async def label(self) -> str:
        return await asyncio.to_thread(self._labelled)

    def _labelled(self) -> str:
        """Why nothing of this request may leave, as the policy's `keep` and `hide` have it; or empty."""
        named = [self._job.cwd, *_PATH_WORD.findall(self._job.text)]
        if self._job.data is not None and (source := _stdin_file(self._job.caller.pid)):
            named.append(source)
        kept = self._hands.gate.kept(self._job.caller, self._job.cwd, named, self._job.rules)
        return f"the policy keeps {kept[0]} on this machine" if kept else ""

    def backend(self, one: BackendSettings, kind: Kind, prompt_tokens: int) -> BackendFacts:
        """Before anything is prepared: by estimates."""
        most = self._offload.cost(one.name, prompt_tokens, one.max_reply_tokens)
        problem = self._offload.ledger.refusal(self._job.caller.uid, self._job.id, one.name, most)
        return BackendFacts(
            name=one.name,
            fits=prompt_tokens + one.max_reply_tokens <= one.window,
            window=one.window,
            ceiling_usd=most.usd,
            problem=problem or self._policy_refusal(one, kind),
        )

    def consent(self, kind: Kind) -> route.Consent:
        if self._job.consent == "yes" or self._job.route == "cloud" or self._job.backend:
            return "given"
        uid, consents = self._job.caller.uid, self._offload.consents
        if any(consents.given(uid, one, kind) for one in self._offload.backends.values()):
            return "given"
        return "can be asked" if self._job.consent == "interactive" else "nobody to ask"

    def _policy_refusal(self, one: BackendSettings, kind: Kind) -> str:
        """What a rule that denies the connection says; what it asks about is asked anyway."""
        verdict = self._hands.judge_plan(_send_plan(one, kind), self._job)
        return f"rule {verdict.rule}: {verdict.reason}" if verdict.decision is Decision.DENY else ""

    # --- sending ---

    async def send(
        self,
        think: Think,
        kind: Kind,
        choice: Choice,
        *,
        cancel: asyncio.Event,
        on_start: Callable[[str], None],
        document: str | None = None,
    ) -> Thought:
        """Prepare, have it approved, and send. Raises NeedsApproval, OverBudget, CloudError, TooLong."""
        prepared = await self._offload.prepare(self._job, think, kind, document=document)
        order = self._ready(prepared, choice.order)
        order, how = await self._approved(prepared, order, kind, choice)
        on_start(order[0])
        return await self._offload.send(
            self._job, prepared, order, kind=kind, how=how, audit=self._hands.gate.audit, cancel=cancel
        )

    def _ready(self, prepared: Prepared, order: tuple[str, ...]) -> tuple[str, ...]:
        """The backends that can take what was really prepared. Raises the reason when there is none."""
        ready, problems, over = [], [], ""
        for offer in sorted(prepared.offers, key=lambda one: _place(order, one.backend)):
            if offer.backend not in order:
                continue
            budget = self._offload.ledger.refusal(
                self._job.caller.uid, self._job.id, offer.backend, self._offload.most(offer)
            )
            window = self._offload.backends[offer.backend].window
            room = "" if offer.fits else f"{offer.prompt_tokens} tokens do not fit its window of {window}"
            over = over or budget
            if problem := budget or offer.unhealthy or room:
                problems.append(f"{offer.backend}: {problem}")
            else:
                ready.append(offer.backend)
        if ready:
            return tuple(ready)
        if over:
            raise OverBudget(
                over, "Raise it in [budget] of config.toml, wait until tomorrow, or use --local."
            )
        raise CloudError("nothing was sent: " + "; ".join(problems), "See: llmos backend list")

    async def _approved(
        self, prepared: Prepared, order: tuple[str, ...], kind: Kind, choice: Choice
    ) -> tuple[tuple[str, ...], str]:
        """Who may be sent it, and by whose word. Raises NeedsApproval."""
        job, consents = self._job, self._offload.consents
        if job.backend or job.route == "cloud":
            return order, "--backend" if job.backend else "--cloud"
        backends = [self._offload.backends[name] for name in order]
        given = tuple(one.name for one in backends if consents.given(job.caller.uid, one, kind))
        if given:
            return given, "remembered"
        if job.consent == "yes":
            return order, "--yes"
        if job.consent == "none":
            raise NeedsApproval("this would leave the machine, and nobody is there to ask", _HOW_TO_ALLOW)
        word = await self._ask(self._question(prepared, order, kind, choice))
        if word == "no":
            raise NeedsApproval("you said no, so nothing was sent", "")
        if word != "once":
            for one in backends:
                consents.give(job.caller.uid, one, kind, self._offload.settings.offload.consent_days)
        return order, "asked"

    def _question(self, prepared: Prepared, order: tuple[str, ...], kind: Kind, choice: Choice) -> JsonObject:
        """The data of the `approval` event: exactly what would leave, where to, and what it can cost."""
        offers = {one.backend: one for one in prepared.offers}
        going = [self._destination(offers[name]) for name in order]
        first = going[0]
        size = f"{offers[order[0]].num_bytes} bytes, about {offers[order[0]].prompt_tokens} tokens"
        command = (
            f"send {size}, to {first['backend']} ({first['url']}), for at most {first['ceiling_usd']:.6f} USD"
        )
        hosts = tuple(f"{self._offload.backends[n].host}:{self._offload.backends[n].port}" for n in order)
        return {
            "tool": SEND_TOOL,
            "call": {"tool": SEND_TOOL, "args": {"backends": list(order), "what": kind}},
            "command": command,
            "effects": Effects(network=hosts).model_dump(mode="json"),
            "verdict": "ask",
            "rule": "offload",
            "reason": "; ".join(choice.why),
            "offload": {
                "what": kind,
                "text": prepared.text,
                "bytes": offers[order[0]].num_bytes,
                "tools_bytes": prepared.tools_bytes,
                "replaced": prepared.replaced,
                "destinations": going,
            },
        }

    def _destination(self, offer: Offer) -> JsonObject:
        one = self._offload.backends[offer.backend]
        about = self._offload.cost(one.name, offer.prompt_tokens, min(200, offer.max_reply_tokens))
        return {
            "backend": one.name,
            "url": one.url,
            "model": one.model,
            "about_usd": about.usd,
            "ceiling_usd": self._offload.most(offer).usd,
        }


def _send_plan(one: BackendSettings, kind: str) -> Plan:
    """Sending, as the policy sees it: a connection that changes nothing here."""
    return Plan(
        call=ToolCall(tool=SEND_TOOL, args={"backend": one.name, "what": kind}),
        command=f"send to {destination(one)}",
        effects=Effects(network=(f"{one.host}:{one.port}",)),
        steps=(),
        read_only=True,
    )


def _place(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _stdin_file(pid: int) -> str:
    """The file that a client's stdin is, where it is one (`< report.txt`)."""
    try:
        target = str(Path(f"/proc/{pid}/fd/0").readlink()) if pid else ""
    except OSError:
        return ""
    if not PEERS.is_there(pid):
        return ""  # it has ended, and this may be another's
    return target if target.startswith("/") and not target.startswith("/dev/") else ""

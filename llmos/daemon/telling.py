"""What clients are told of a call: in events while it is judged, in the result when it is over. Pure."""

from __future__ import annotations

from llmos.daemon.hands import Judged
from llmos.errors import LlmosError
from llmos.messages import CallResult, JsonObject, Outcome


def facts(judged: Judged) -> JsonObject:
    """What a `call` or `approval` event tells: the exact command, its effects, the rule and why."""
    plan, verdict = judged.plan, judged.verdict
    return {
        "call": plan.call.model_dump(mode="json"),
        "tool": plan.call.tool,
        "command": plan.command,
        "effects": plan.effects.model_dump(mode="json"),
        "verdict": verdict.decision.word,
        "rule": verdict.rule,
        "reason": verdict.reason,
    }


def call_result(
    judged: Judged,
    outcome: Outcome | None,
    *,
    changes: JsonObject | None = None,
    preview: str = "",
    undo_id: str = "",
) -> CallResult:
    """One entry of `calls`; `exit_code` stays None for a call that did not run.

    `changes` is what it did or, in a plan, would do; `preview` says why that is not known.
    """
    plan, verdict = judged.plan, judged.verdict
    ran = outcome or Outcome()
    effects = plan.effects.model_dump(mode="json")
    if changes is not None:
        effects["changes"] = changes
    if preview:
        effects["no_preview"] = preview
    return CallResult(
        tool=plan.call.tool,
        args=plan.call.args,
        verdict=verdict.decision.word,
        rule=verdict.rule,
        reason=verdict.reason,
        exit_code=ran.exit_code,
        stdout=ran.stdout,
        stderr=ran.stderr,
        effects=effects,
        undo_id=undo_id or None,
    )


def sentences(error: LlmosError) -> str:
    """What happened and what to do next, as an answer."""
    return f"{error} {error.next_step}".strip()

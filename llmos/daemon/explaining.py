"""What `llmos route --explain` tells: where a request would be thought about, and each fact that counted."""

from __future__ import annotations

from llmos import hints
from llmos.messages import JsonObject, Thought
from llmos.planner.route import Choice, Facts


def explained(facts: Facts, choice: Choice, kept: Thought | None, text: str) -> JsonObject:
    """`kept`: the local answer so far; its calls are told, and none is run."""
    tried = facts.tried[-1].where if facts.tried else "local"
    return {
        "route": tried if choice.where == "keep" else choice.where,
        "order": list(choice.order),
        "why": list(choice.why),
        "facts": {
            "kind": facts.kind,
            "wants_change": round(hints.wants_change(text), 3),
            "prompt_tokens": facts.prompt_tokens,
            "reply_tokens": facts.reply_tokens,
            "local_window": facts.window,
            "pieces": facts.pieces,
            "free_memory_bytes": facts.free_bytes,
            "flags": {"route": facts.want, "backend": facts.backend},
            "may_not_leave": facts.may_not_leave,
            "consent": facts.consent,
            "min_confidence": facts.min_confidence,
            "local": [
                {
                    "where": one.where,
                    "model": one.model,
                    "confidence": round(one.confidence, 4),
                    "problem": one.problem,
                }
                for one in facts.tried
            ],
            "larger": [
                {
                    "name": one.name,
                    "memory_bytes": one.num_bytes,
                    "loaded": one.loaded,
                    "problem": one.problem,
                }
                for one in facts.larger
            ],
            "backends": [
                {
                    "name": one.name,
                    "window": one.window,
                    "fits": one.fits,
                    "ceiling_usd": one.ceiling_usd,
                    "problem": one.problem,
                }
                for one in facts.backends
            ],
        },
        "calls": [call.model_dump(mode="json") for call in kept.calls] if kept else [],
    }

"""The tool `advise`: what is wrong here, how that is known, and which calls would mend it. Read-only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from llmos.messages import JsonObject, Observe
from llmos.toolbox.advisor.finding import Finding
from llmos.toolbox.advisor.findings import findings
from llmos.toolbox.advisor.measure import measure, note_on
from llmos.toolbox.context import Args, Context, Draft, Pair


def plan(args: Args, context: Context) -> Draft:
    told: dict[str, Any] = {"about": args["about"], "uid": context.uid}
    if args["json"]:
        told["json"] = True
    return Draft((Observe(observer="advise", args=told),), command=f"advise about {args['about']}")


def advise(args: JsonObject) -> str:
    note_on()
    facts = measure(int(args["uid"]))
    found = findings(facts, str(args["about"]))
    if args.get("json"):
        whole = {"findings": [one.as_json for one in found], "over_s": round(facts.over_s, 1),
                 "unseen": facts.unseen}  # fmt: skip
        return json.dumps(whole, ensure_ascii=False) + "\n"
    return "\n".join(_told(found)) + "\n" + "".join(f"Not looked at: {one}.\n" for one in facts.unseen)


def _told(found: list[Finding]) -> Iterator[str]:
    if not found:
        yield "Nothing is wrong, as far as can be measured."
    for one in found:
        yield f"{one.what}."
        yield from (f"    {line}" for line in one.evidence)
        for call in one.suggestions:
            yield f"    → {call.tool} {json.dumps(call.args, ensure_ascii=False)}  ({call.why})"


PAIRS = {"advise": Pair(plan)}
OBSERVERS: dict[str, Callable[[JsonObject], str]] = {"advise": advise}

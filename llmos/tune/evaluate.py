"""How well a model turns requests into calls, by rows kept aside, in the very loop that answers requests.

    llmos tune evaluate --rows valid.jsonl --limit 200
    llmos tune evaluate --rows valid.jsonl --baselines --beside tiny --save said.jsonl
    llmos tune evaluate --browse said.jsonl --tool file.delete

Each row's request is thought about as a person's would be: the same prompt, grammar and adapter. A reply is
right when it is the row's calls exactly; `tool` counts replies with the right tools in their order,
whatever the arguments. `wrong_action` are wrong replies that would change something, the worst there is;
`asks` are replies that ask back. Confidence is set against correctness in ten bins (expected calibration
error, Guo et al. 2017). With --baselines the same rows are asked of the model without its adapter, with
examples in its prompt, and of the nearest example alone; --beside names further models. An equally good
other call counts as wrong: the bench `tests.bench.understand` judges by outcome instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmos.engine import adapter as adapters
from llmos.engine import store
from llmos.engine.adapter import Adapter
from llmos.engine.engine import Engine
from llmos.errors import NotUnderstood, UsageError
from llmos.messages import Think
from llmos.paths import tool_dirs
from llmos.planner.loop import Loop
from llmos.planner.retrieval import Retriever
from llmos.toolbox import catalog
from llmos.tune import options as tune_options
from llmos.tune.prepare import read_rows
from llmos.tune.pretrain import say

_BINS = 10
_MOST_CONFUSIONS = 12
_COLUMNS = ("exact", "tool", "valid", "asks", "wrong_action", "calibration_error", "median_s")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Judged:
    """One request: what was wanted, what was said (None: nothing that could be read), how sure, how long."""

    text: str
    wanted: tuple[Mapping[str, Any], ...]
    said: tuple[Mapping[str, Any], ...] | None
    nearest: str
    confidence: float
    seconds: float

    @property
    def right(self) -> bool:
        return self.said is not None and list(self.said) == list(self.wanted)

    @property
    def right_tools(self) -> bool:
        return self.said is not None and _tools(self.said) == _tools(self.wanted)


def _tools(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(call["tool"]) for call in calls]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tune_options.parser("evaluate", __doc__)
    parser.add_argument("--rows", type=Path, help="of `llmos tune data --valid`")
    parser.add_argument("--model", default="default")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--adapter", type=Path, help="a folder, in place of the one that belongs to the model")
    which.add_argument("--untuned", action="store_true", help="without an adapter")
    parser.add_argument("--limit", type=int, default=0, help="so many of the rows (0: all)")
    parser.add_argument("--failures", action="store_true", help="show each wrong reply")
    parser.add_argument("--baselines", action="store_true", help="untuned with examples, and retrieval alone")
    parser.add_argument("--beside", action="append", default=[], metavar="MODEL", help="on the same rows")
    parser.add_argument("--save", type=Path, metavar="FILE", help="every reply, to be browsed")
    parser.add_argument("--browse", type=Path, metavar="FILE", help="show what was saved, the surest first")
    parser.add_argument("--tool", default="", help="browse: where this tool was wanted or said")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--context", type=int, default=8192)
    found = parser.parse_args(argv)
    if not (found.rows or found.browse):
        parser.error("give --rows, or --browse")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    given = _options(argv)
    if given.browse:
        return _browse(given.browse, given.tool)
    tools = catalog.load(tool_dirs()[:1])
    rows = rows_about(tools, given.rows)
    rows = rows[: given.limit] if given.limit else rows
    if not rows:
        raise UsageError(f"{given.rows} has no row about the tools in force", "Make rows: llmos tune data")
    adapter = _adapter(given)
    judged = _asked(given, given.model, adapter, tools, rows)
    read_only = {name for name, tool in tools.tools.items() if tool.manifest.read_only}
    report = summary(judged, read_only)
    others = {name: summary(one, read_only) for name, one in _others(given, adapter, tools, rows)}
    if given.save:
        lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in judged)
        given.save.write_text("".join(lines), encoding="utf-8")
    say(_text(report))
    say(_table({"this": report, **others}))
    told = {"model": given.model, "adapter": adapter.name if adapter else "", **report}
    told["beside"] = {name: {column: one[column] for column in _COLUMNS} for name, one in others.items()}
    say(json.dumps(told, ensure_ascii=False))
    return 0


def _others(
    given: argparse.Namespace, adapter: Adapter | None, tools: catalog.Catalog, rows: Rows
) -> Iterator[tuple[str, list[Judged]]]:
    """Who is asked the same."""
    if given.baselines:
        yield "nearest example", _retrieved(tools, rows)
        if adapter:
            yield "untuned, with examples", _asked(given, given.model, None, tools, rows)
    for name in given.beside:
        yield name, _asked(given, name, _own_adapter(name), tools, rows)


def _asked(
    given: argparse.Namespace, model: str, adapter: Adapter | None, tools: catalog.Catalog, rows: Rows
) -> list[Judged]:
    """What one model says to all rows."""
    engine = Engine.load(
        store.resolve(model),
        dtype="auto",
        threads=given.threads,
        context_tokens=given.context,
        adapter=adapter,
    )
    return ask(engine, tools, rows, on_wrong=(lambda one: say(_failure(one))) if given.failures else None)


def ask(
    engine: Engine, tools: catalog.Catalog, rows: Rows, *, on_wrong: Callable[[Judged], None] | None = None
) -> list[Judged]:
    """What the model in this engine says to all rows."""
    loop = Loop(engine, context_tokens=engine.context_tokens)
    loop.teach(tools.specs)
    retriever = Retriever(tools.specs)
    judged = []
    for number, row in enumerate(rows, 1):
        judged.append(one := _judge(loop, retriever, row))
        if on_wrong and not one.right:
            on_wrong(one)
        if number % 50 == 0:
            say(f"{engine.name}: {number} of {len(rows)}, {sum(one.right for one in judged)} right")
    return judged


def _retrieved(tools: catalog.Catalog, rows: Rows) -> list[Judged]:
    """The nearest example's own call, word for word; its similarity is its confidence."""
    retriever = Retriever(tools.specs)
    judged = []
    for row in rows:
        began = time.perf_counter()
        score, shot = next(iter(retriever.ranked(row["say"])), (0.0, None))
        said = ({"tool": shot.spec.name, "args": shot.args},) if shot else None
        nearest = shot.spec.name if shot else ""
        seconds = time.perf_counter() - began
        judged.append(Judged(row["say"], tuple(row["calls"]), said, nearest, min(1.0, score), seconds))
    return judged


def _browse(file: Path, tool: str) -> int:
    """Wrong replies, the surest first: these are the ones that would be carried out."""
    try:
        with file.open(encoding="utf-8") as lines:
            known = [Judged(**{**one, **_tuples(one)}) for one in map(json.loads, lines)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{file} holds no replies: {error}", "Make it with --save FILE.") from None
    wrong = [
        one
        for one in known
        if not one.right and (not tool or tool in _tools([*one.wanted, *(one.said or ())]))
    ]
    for one in sorted(wrong, key=lambda one: -one.confidence):
        say(_failure(one))
    say(f"{len(wrong)} of {len(known)} are wrong" + (f" with {tool}" if tool else ""))
    return 0


def _tuples(one: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples they were."""
    return {"wanted": tuple(one["wanted"]), "said": None if one["said"] is None else tuple(one["said"])}


def rows_about(tools: catalog.Catalog, file: Path) -> Rows:
    """Those that these tools answer."""
    return [
        row
        for row in read_rows(file)
        if row["kind"] == "call" and all(call["tool"] in tools.tools for call in row["calls"])
    ]


def _adapter(given: argparse.Namespace) -> Adapter | None:
    if given.untuned:
        return None
    if given.adapter:
        return adapters.read(given.adapter)
    return _own_adapter(given.model)


def _own_adapter(model: str) -> Adapter | None:
    return adapters.chosen(True, store.sha256_of(model))


def _judge(loop: Loop, retriever: Retriever, row: Mapping[str, Any]) -> Judged:
    think = Think(id="", text=row["say"], entries=tuple(row["entries"] or ()), data_head=row["data_head"])
    shots = retriever.nearest(row["say"], 1)
    nearest = shots[0].spec.name if shots else ""
    began = time.perf_counter()
    try:
        thought = loop.think(think, cancel=threading.Event(), on_text=lambda text: None)
    except NotUnderstood:
        return Judged(row["say"], tuple(row["calls"]), None, nearest, 0.0, time.perf_counter() - began)
    said = tuple({"tool": call.tool, "args": call.args} for call in thought.calls)
    seconds = time.perf_counter() - began
    return Judged(row["say"], tuple(row["calls"]), said, nearest, thought.confidence, seconds)


# --- what came of it ----------------------------------------------------------------------------------------


def summary(judged: Sequence[Judged], read_only: set[str]) -> dict[str, Any]:
    count = len(judged)
    by_tool: dict[str, list[bool]] = defaultdict(list)
    confused: Counter[str] = Counter()
    for one in judged:
        wanted = "+".join(_tools(one.wanted))
        by_tool[wanted].append(one.right)
        if one.said is not None and not one.right_tools:
            confused[f"{wanted} → {'+'.join(_tools(one.said))}"] += 1
    return {
        "rows": count,
        "exact": _share(sum(one.right for one in judged), count),
        "tool": _share(sum(one.right_tools for one in judged), count),
        "valid": _share(sum(one.said is not None for one in judged), count),
        "asks": _share(sum(_tools(one.said or ()) == ["ask"] for one in judged), count),
        "wrong_action": _share(sum(_changes(one, read_only) for one in judged if not one.right), count),
        "nearest_example_tool": _share(sum([one.nearest] == _tools(one.wanted) for one in judged), count),
        "calibration_error": round(calibration_error([(one.confidence, one.right) for one in judged]), 4),
        "bins": bins([(one.confidence, one.right) for one in judged]),
        "median_s": round(statistics.median(one.seconds for one in judged), 3),
        "by_tool": {
            tool: [sum(right), len(right)]
            for tool, right in sorted(by_tool.items(), key=lambda item: -len(item[1]))
        },
        "confusions": dict(confused.most_common(_MOST_CONFUSIONS)),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4)


def _changes(one: Judged, read_only: set[str]) -> bool:
    return any(tool not in read_only and tool not in ("ask", "answer") for tool in _tools(one.said or ()))


def bins(known: Sequence[tuple[float, bool]]) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, how many) of each tenth of confidence that occurs."""
    held: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for confidence, right in known:
        held[min(_BINS - 1, int(confidence * _BINS))].append((confidence, right))
    return [
        (
            round(sum(confidence for confidence, _ in some) / len(some), 4),
            round(sum(right for _, right in some) / len(some), 4),
            len(some),
        )
        for _, some in sorted(held.items())
    ]


def calibration_error(known: Sequence[tuple[float, bool]]) -> float:
    """The mean distance of confidence and share right, each bin by its weight (Guo et al. 2017)."""
    return sum(abs(sure - right) * count for sure, right, count in bins(known)) / len(known)


def _failure(one: Judged) -> str:
    def shown(calls: Sequence[Mapping[str, Any]]) -> str:
        return "; ".join(f"{call['tool']} {json.dumps(call['args'], ensure_ascii=False)}" for call in calls)

    said = "nothing that could be read" if one.said is None else shown(one.said)
    return f"✗ {one.text}\n    wanted {shown(one.wanted)}\n    said   {said}  ({one.confidence:.2f})"


def _text(report: Mapping[str, Any]) -> str:
    names = (
        "rows",
        "exact",
        "tool",
        "valid",
        "asks",
        "wrong_action",
        "nearest_example_tool",
        "calibration_error",
    )
    lines = [f"{name.replace('_', ' '):<22}{report[name]:>8}" for name in (*names, "median_s")]
    lines += [
        f"  {right:>4} of {count:<4} {tool}" for tool, (right, count) in list(report["by_tool"].items())[:20]
    ]
    lines += [f"  {count:>4} × {what}" for what, count in report["confusions"].items()]
    lines += ["confidence   right   replies"]
    lines += [f"      {sure:.2f}    {right:.2f}   {count:>7}" for sure, right, count in report["bins"]]
    return "\n".join(lines)


def _table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Everybody who was asked the same rows, a line each."""
    wide = max(map(len, reports))
    head = " " * wide + "".join(f"{name.replace('_', ' '):>19}" for name in _COLUMNS)
    lines = [
        f"{name:<{wide}}" + "".join(f"{report[column]:>19}" for column in _COLUMNS)
        for name, report in reports.items()
    ]
    return "\n".join([head, *lines])

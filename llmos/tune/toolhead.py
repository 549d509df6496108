"""Make the head that says which tools a sentence is about, beside retrieval by the manifests' examples.

    llmos tune data --out train.jsonl --valid valid.jsonl --count 40000
    llmos tune tools --rows train.jsonl --valid valid.jsonl --out toolhead.safetensors

Multinomial logistic regression over hashed features (`planner.toolhead`), by PyTorch: a request of several
calls is shared among their tools. Judged by how many requests find all tools that they need in their list.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from llmos.paths import tool_dirs
from llmos.planner import choosing, toolhead
from llmos.planner.retrieval import Retriever
from llmos.planner.toolhead import ToolHead
from llmos.toolbox import catalog
from llmos.tune import options as tune_options
from llmos.tune.evaluate import rows_about
from llmos.tune.hints import scores
from llmos.tune.pretrain import say

_BUCKETS = 1 << 14
_BATCH = 512
_RATE, _DECAY = 0.01, 0.1
Rows = Sequence[Mapping[str, Any]]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tune_options.parser("tools", __doc__)
    parser.add_argument("--rows", type=Path, required=True, help="of `llmos tune data`")
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    given = _options(argv)
    torch.manual_seed(given.seed)
    tools = catalog.load(tool_dirs()[:1])
    head = learnt(rows_about(tools, given.rows), tuple(spec.name for spec in tools.specs), given.epochs)
    table = figures(tools, head, rows_about(tools, given.valid))
    toolhead.write(given.out, head, table)
    say("\n".join(table))
    return 0


def learnt(rows: Rows, names: tuple[str, ...], epochs: int) -> ToolHead:
    places = {name: index for index, name in enumerate(names)}
    known = [toolhead.features(row["say"]) for row in rows]
    wanted = torch.zeros(len(rows), len(names))
    for number, row in enumerate(rows):
        needed = sorted({places[call["tool"]] for call in row["calls"]})
        wanted[number, needed] = 1 / len(needed)
    bag = nn.EmbeddingBag(_BUCKETS, len(names), mode="sum")
    nn.init.zeros_(bag.weight)
    bias = nn.Parameter(torch.zeros(len(names)))
    optimizer = torch.optim.AdamW([bag.weight, bias], lr=_RATE, weight_decay=_DECAY)
    for _ in range(epochs):
        for some in torch.split(torch.randperm(len(rows)), _BATCH):
            told = scores(bag, [known[number] for number in some.tolist()]) + bias
            loss = -(wanted[some] * told.log_softmax(-1)).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    weights = bag.weight.detach()
    step = float(weights.abs().max()) / 127
    return ToolHead(
        names,
        (weights / step).round().to(torch.int8).numpy(),
        bias.detach().numpy().astype(np.float32),
        step,
    )


def figures(tools: catalog.Catalog, head: ToolHead, held: Rows) -> list[str]:
    """How many requests have all that they need among so many tools beside the common ones."""
    common = {spec.name for spec in tools.specs if spec.common}
    retriever = Retriever(tools.specs)
    ways: dict[str, Callable[[str], list[tuple[float, str]]]] = {
        "head": head.likely,
        "nearest examples": lambda text: [(score, spec.name) for score, spec in retriever.tools(text)],
    }
    lines = [f"{len(held)} requests" + "".join(f"{most:>7} others" for most in (2, 4, 6, 8))]
    for name, ranked in ways.items():
        orders = [[tool for _, tool in ranked(row["say"]) if tool not in common] for row in held]
        shares = [_complete(held, orders, most, common) for most in (2, 4, 6, 8)]
        lines.append(f"{name:<17}" + "".join(f"{share:>14.3f}" for share in shares))
    likely = [
        [tool for share, tool in head.likely(row["say"]) if share >= choosing.LEAST and tool not in common]
        for row in held
    ]
    mean = sum(min(len(one), choosing.LIKELY) for one in likely) / len(held)
    lines.append(f"as listed: {_complete(held, likely, choosing.LIKELY, common):.3f} with {mean:.1f} others")
    return lines


def _complete(held: Rows, orders: Sequence[Sequence[str]], most: int, common: set[str]) -> float:
    there = [
        all(call["tool"] in common or call["tool"] in order[:most] for call in row["calls"])
        for row, order in zip(held, orders, strict=True)
    ]
    return sum(there) / len(there)

"""Smaller models out of larger ones, and how much of the quality comes back.

    llmos tune prune --model tiny --text ~/notes --drop 6 --out ~/models/shorter --max-steps 500
    llmos tune quantize --model tiny --text ~/notes --bits 4 --out ~/models/coarser --max-steps 500
    llmos tune distill --model tiny --text ~/notes --layers 6 --width 288 --out ~/models/child --max-steps 900
    llmos tune prune --rows train.jsonl --valid valid.jsonl --drop 2 --out ~/models/shorter --max-seconds 3600

`prune` leaves out the blocks that change what passes through them least (Men et al. 2024, "ShortGPT": block
influence, one minus the cosine of a block's input and output). `quantize` trains through the rounding to 7, 5
or 4 bits a weight, groups of 32 with a scale, as the engine packs them (Jacob et al. 2018; straight-through
gradients). `distill` starts a fresh, smaller model of the same tokens. All three learn from the model they
come from: the divergence of its next-token probabilities and the student's (Hinton et al. 2015), mixed with
the text itself. --max-steps 0 skips the learning. report.json holds the table: parameters, bytes, perplexity.
With --rows they learn calls from requests as `llmos tune train` does, from the model with its adapter, and
the table has the share of replies that are right in every token, given what stands before.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmos.engine import adapter as adapters
from llmos.engine import store, weights
from llmos.engine.groups import GROUP, rounded
from llmos.engine.model import ModelConfig
from llmos.errors import UsageError
from llmos.tune import folders, lessons
from llmos.tune import options as tune_options
from llmos.tune.lessons import Lessons
from llmos.tune.network import Batch, Network, Whole, collate
from llmos.tune.prepare import AS_TRAINED
from llmos.tune.pretrain import say, start
from llmos.tune.train import Run

_OF_TEACHER = 0.7  # of the loss; the rest is the text's
_BYTES = {16: 2.0, 7: 8.5 / 8, 5: 5.5 / 8, 4: 4.5 / 8}  # a weight of a matrix, its scale's share included
_POSITIONS = 1 << 14
_MATRICES = ("qkv.weight", "out.weight", "gate_up.weight", "down.weight")


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A student before it learns."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    bits: int = 0


class Student(Whole):
    """Learns what its teacher says of the next token. With `bits`, its matrices are read rounded."""

    def __init__(self, made: Made, teacher: Network, *, positions: int, mixed: bool = False) -> None:
        super().__init__(made.config, made.tensors, positions=positions, mixed=mixed)
        self._teacher = [teacher]  # in a list: its weights are not ours
        self.bits = made.bits

    def weight(self, name: str) -> Tensor:
        whole = super().weight(name)
        if not self.bits or not name.endswith(_MATRICES):
            return whole
        return whole + (rounded(whole.detach(), self.bits).plain() - whole).detach()

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """While it learns: the mixed loss. Judged: the text's alone, so that perplexities can be compared."""
        logits = self.logits(self.hidden(batch.ids)[batch.rows, batch.columns]).float()
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        if torch.is_grad_enabled():
            losses = (1 - _OF_TEACHER) * losses + _OF_TEACHER * self._divergence(batch, logits)
        return losses, logits.argmax(-1) == batch.targets

    @torch.no_grad()
    def _told(self, batch: Batch) -> Tensor:
        teacher = self._teacher[0]
        return teacher.logits(teacher.hidden(batch.ids)[batch.rows, batch.columns]).float()

    def _divergence(self, batch: Batch, logits: Tensor) -> Tensor:
        """KL(teacher, student) of each target."""
        told = self._told(batch).log_softmax(-1)
        return F.kl_div(logits.log_softmax(-1), told, reduction="none", log_target=True).sum(-1)

    def tensors(self) -> dict[str, Tensor]:
        return {name: self.weight(name).detach() for name in super().tensors()}


# --- the three ways ---------------------------------------------------------------------------------------


def pruned(
    given: argparse.Namespace, teacher: Network, tensors: dict[str, Tensor], text: Sequence[Any]
) -> Made:
    config = teacher.config
    if not 0 < given.drop < config.num_layers:
        raise UsageError(
            f"{given.drop} of {config.num_layers} blocks cannot be left out",
            f"Give --drop between 1 and {config.num_layers - 1}.",
        )
    influence = block_influence(teacher, text)
    least = sorted(range(config.num_layers), key=lambda layer: influence[layer])[: given.drop]
    say(f"blocks left out: {', '.join(map(str, sorted(least)))}")
    kept = [layer for layer in range(config.num_layers) if layer not in least]
    numbers = {layer: number for number, layer in enumerate(kept)}
    renamed = {}
    for name, tensor in tensors.items():
        if not name.startswith("blocks."):
            renamed[name] = tensor
        elif int(name.split(".")[1]) in numbers:
            _, layer, part = name.split(".", 2)
            renamed[f"blocks.{numbers[int(layer)]}.{part}"] = tensor
    return Made(dataclasses.replace(config, num_layers=len(kept)), renamed)


@torch.no_grad()
def block_influence(network: Network, text: Sequence[Any]) -> list[float]:
    """1 - cos(input, output) of each block, the mean over the tokens of the text."""
    found = torch.zeros(network.config.num_layers)
    for sample in text:
        device = network.weight("norm.weight").device
        seen = network.states(torch.from_numpy(sample.ids).long()[None].to(device))
        pairs = itertools.pairwise(seen)
        found += torch.stack(
            [1 - F.cosine_similarity(a.float(), b.float(), dim=-1).mean() for a, b in pairs]
        ).cpu()
    return [float(value) / len(text) for value in found]


def coarser(
    given: argparse.Namespace, teacher: Network, tensors: dict[str, Tensor], text: Sequence[Any]
) -> Made:
    narrow = [name for name, t in tensors.items() if name.endswith(_MATRICES) and t.shape[1] % GROUP]
    if narrow:
        raise UsageError(
            f"{narrow[0]} has no multiple of {GROUP} columns and cannot be packed", "Choose another model."
        )
    return Made(teacher.config, tensors, given.bits)


def child(
    given: argparse.Namespace, teacher: Network, tensors: dict[str, Tensor], text: Sequence[Any]
) -> Made:
    heads = given.heads or max(1, given.width // 64)
    if given.width % (2 * heads):
        raise UsageError(f"a width of {given.width} cannot be parted among {heads} heads", "Choose others.")
    config = dataclasses.replace(
        teacher.config, architecture="llama", num_layers=given.layers, hidden_size=given.width,
        intermediate_size=4 * given.width, num_heads=heads, num_kv_heads=heads, head_dim=given.width // heads,
        qkv_bias=False, tied=True, rope_factors=(), embedding_scale=1.0, attention_scale=None,
    )  # fmt: skip
    return Made(config, start(config))


# --- the run ------------------------------------------------------------------------------------------------

_Way = Callable[[argparse.Namespace, Network, dict[str, Tensor], Sequence[Any]], Made]
_WAYS: dict[str, _Way] = {"prune": pruned, "quantize": coarser, "distill": child}


def _options(way: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tune_options.parser(way, __doc__)
    parser.add_argument("--model", default="default", help="the model it comes from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the smaller model")
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="products in bfloat16: quicker on a GPU, and on CPUs that have them",
    )
    lessons.add_options(parser)
    match way:
        case "prune":
            parser.add_argument("--drop", type=int, required=True, help="how many blocks are left out")
        case "quantize":
            parser.add_argument("--bits", type=int, choices=(7, 5, 4), default=4)
        case "distill":
            parser.add_argument("--layers", type=int, required=True)
            parser.add_argument("--width", type=int, required=True)
            parser.add_argument("--heads", type=int, default=0, help="(default: width / 64)")
    rate = 1e-3 if way == "distill" else 5e-5
    tune_options.add_settings(parser, learning_rate=rate, batch_tokens=2048, accumulate=1)
    return parser.parse_args(argv)


def main(way: str, argv: Sequence[str] | None = None) -> int:
    given = _options(way, argv)
    settings = tune_options.settings(given)
    torch.manual_seed(settings.seed)
    device = tune_options.device()
    path = store.resolve(given.model)
    source, adapter = weights.open_source(path), lessons.adapter(given)
    learnt = lessons.read(given, source.tokenizer)
    tensors = weights.tensors(source, torch.float32, change=adapters.change(adapter) if adapter else None)
    told = {
        name: tensor.to(torch.bfloat16 if given.mixed else tensor.dtype) for name, tensor in tensors.items()
    }
    teacher = Network(source.config, told, positions=_POSITIONS).to_device(device)
    made = _WAYS[way](given, teacher, tensors, learnt.some)
    student = Student(made, teacher, positions=_POSITIONS, mixed=given.mixed).to_device(device)
    table = [
        _row("before", teacher, learnt, device),
        _row(f"{way}d" if way != "distill" else "fresh", student, learnt, device),
    ]
    if settings.max_steps or settings.max_seconds:
        run = Run(
            student, learnt.train, settings,
            device=device, folder=given.out / "state", validation={}, on_progress=say,
        )  # fmt: skip
        curve = run.go()
        table.append(_row("after learning", student, learnt, device))
        given.out.mkdir(parents=True, exist_ok=True)
        curve.write(given.out)
    folders.save_like(given.out, student.config, student.tensors(), source.tokenizer)
    if asked := adapter or adapters.asked(path) or (AS_TRAINED if learnt.calls else None):
        adapters.write_asked(given.out, dataclasses.replace(asked, heads=asked.heads or learnt.calls))
    (given.out / "report.json").write_text(json.dumps({"way": way, "table": table}, indent=1) + "\n")
    say(_text(table))
    return 0


prune, quantize, distill = (functools.partial(main, way) for way in _WAYS)


@torch.no_grad()
def _row(name: str, network: Network, learnt: Lessons, device: torch.device) -> dict[str, Any]:
    loss, tokens, right = 0.0, 0, 0
    for sample in learnt.valid:
        losses, hits = network.losses(collate([sample], device))
        loss, tokens, right = loss + float(losses.sum()), tokens + len(losses), right + bool(hits.all())
    bits = getattr(network, "bits", 0) or 16
    named = network.tensors() if isinstance(network, Student) else network.frozen
    matrices = sum(t.numel() for name, t in named.items() if name.endswith(_MATRICES))
    everything = sum(t.numel() for t in named.values())
    row = {
        "model": name,
        "parameters": everything,
        "megabytes": round((matrices * _BYTES[bits] + (everything - matrices) * 2) / 1e6, 2),
        "loss": round(loss / tokens, 4),
        "perplexity": round(math.exp(min(loss / tokens, 60)), 3),
    }
    return row | ({"exact": round(right / len(learnt.valid), 3)} if learnt.calls else {})


def _text(table: Sequence[dict[str, Any]]) -> str:
    columns = {"parameters": 12, "megabytes": 11, "perplexity": 12, "exact": 9}
    shown = {name: width for name, width in columns.items() if name in table[0]}
    lines = [f"{'model':<16}" + "".join(f"{name:>{width}}" for name, width in shown.items())]
    for row in table:
        lines.append(
            f"{row['model']:<16}" + "".join(f"{row[name]:>{width}}" for name, width in shown.items())
        )
    return "\n".join(lines)

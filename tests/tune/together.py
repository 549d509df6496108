"""Training runs in several processes, for test_launch.py: tiny weights, real processes, gloo.

    python tests/tune/together.py FOLDER CASE… [--launch torchrun] [--processes 2]

Every process writes its number to FOLDER/pid-RANK and what it learnt to "FOLDER/CASE of RANK.pt".
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmos.engine.model import ModelConfig
from llmos.tune import launch, options
from llmos.tune.chats import Sample
from llmos.tune.lora import Trainee
from llmos.tune.network import Whole
from llmos.tune.train import Run, Settings
from llmos.tune.world import World, joined

CASES = {"adapter": False, "adapter, spread": True, "all weights": True}  # whether weights are spread
SHAPE = ModelConfig(
    architecture="qwen2", num_layers=2, hidden_size=32, intermediate_size=48, num_heads=4, num_kv_heads=2,
    head_dim=8, vocab_size=100, max_positions=512, rms_eps=1e-6, rope_theta=10000.0, qkv_bias=True,
    tied=False,
)  # fmt: skip


def base() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (100, 32), "head.weight": (100, 32)}
    for layer in range(SHAPE.num_layers):
        block = f"blocks.{layer}"
        shapes |= {
            f"{block}.attention.qkv.weight": (64, 32),
            f"{block}.attention.qkv.bias": (64,),
            f"{block}.attention.out.weight": (32, 32),
            f"{block}.feed_forward.gate_up.weight": (96, 32),
            f"{block}.feed_forward.down.weight": (32, 48),
        }
    made = {name: torch.randn(shape) * 0.15 for name, shape in shapes.items()}
    norms = [f"blocks.{n}.{which}_norm.weight" for n in range(2) for which in ("attention", "feed_forward")]
    return made | {name: torch.ones(32) for name in ["norm.weight", *norms]}


def chats() -> Iterator[Sample]:
    """Of many lengths, with many and with few learnt tokens: a mean of means would show."""
    rng = np.random.default_rng(7)
    while True:
        ids = rng.integers(1, 100, rng.integers(8, 40)).astype(np.int32)
        ids[1:] = (ids[0] + 3 * np.arange(1, len(ids))) % 100  # something that can be learnt
        learnt = np.arange(len(ids)) >= rng.integers(2, len(ids) - 1)
        yield Sample(ids, learnt, np.where(learnt, 0, -1).astype(np.int32))


def held(count: int) -> list[Sample]:
    stream = chats()
    return [next(stream) for _ in range(count)]


def slowly(stream: Iterator[Sample], pause_s: float) -> Iterator[Sample]:
    for sample in stream:
        time.sleep(pause_s)
        yield sample


def learner(case: str) -> Trainee | Whole:
    torch.manual_seed(11)
    made: Trainee | Whole = (
        Whole(SHAPE, base(), positions=128)
        if case == "all weights"
        else Trainee(SHAPE, base(), rank=4, alpha=8, positions=128)
    )
    made.recomputed = case == "all weights"
    return made


def run(case: str, folder: Path, world: World, *, steps: int = 20, pause_s: float = 0.0) -> dict[str, Any]:
    """The curve and all tensors that were learnt."""
    trainee = learner(case)
    settings = Settings(
        max_steps=steps, learning_rate=0.01, batch_tokens=160, accumulate=4, validations=2,
        keep_every_s=0.0 if pause_s else 1000.0,
    )  # fmt: skip
    made = Run(
        trainee,
        slowly(chats(), pause_s),
        settings,
        device=torch.device("cpu"),
        folder=folder / "state",
        validation={"held": held(13)},
        on_progress=lambda line: print(line, flush=True),
        world=world,
    )
    curve = made.go()
    tensors = (trainee.lora if isinstance(trainee, Trainee) else trainee).tensors()
    return {"losses": [line["loss"] for line in curve.steps], "judged": curve.validations, "tensors": tensors}


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("folder", type=Path)
    made.add_argument("cases", nargs="+", choices=CASES)
    made.add_argument("--steps", type=int, default=20)
    made.add_argument("--pause-s", type=float, default=0.0)
    options.add_settings(made, accumulate=4)
    launch.add_options(made)
    given = made.parse_args()
    if launch.wanted(given):
        sys.exit(launch.run([__file__, *sys.argv[1:]], given))
    torch.set_num_threads(1)
    with joined(sharded=False) as world:
        given.folder.mkdir(parents=True, exist_ok=True)
        (given.folder / f"pid-{world.rank}").write_text(str(os.getpid()))
        for case in given.cases:
            folder = given.folder / case
            spread = dataclasses.replace(world, sharded=CASES[case])
            result = run(case, folder, spread, steps=given.steps, pause_s=given.pause_s)
            torch.save(result, given.folder / f"{case} of {world.rank}.pt")


if __name__ == "__main__":
    main()

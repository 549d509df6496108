"""Train an adapter for a model on rows made by `llmos tune data`.

    llmos tune train --rows train.jsonl --valid valid.jsonl --out adapters/NAME --max-seconds 3600
    llmos tune train … --launch torchrun --processes 4 --accumulate 4

Everything is done here: rows to tokens, training (a GPU is used where torch sees one), and the adapter with
its card. A run that was killed goes on where it last wrote its state. What the tools are is read from the
manifests in force and from the foreign ones that rows name.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llmos.engine import adapter as adapters
from llmos.engine import store, weights
from llmos.engine.adapter import WEIGHTS_FILE
from llmos.engine.source import Source
from llmos.errors import UsageError
from llmos.tune import folders, launch
from llmos.tune import options as tune_options
from llmos.tune.chats import MAX_TOKENS, Composer, judged
from llmos.tune.lora import Trainee
from llmos.tune.network import Whole
from llmos.tune.prepare import AS_TRAINED, Preparer, read_rows
from llmos.tune.train import Run
from llmos.tune.upper import Upper
from llmos.tune.world import World, joined

_POSITIONS = 1 << 15


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tune_options.parser("train", __doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--model", default="default")
    parser.add_argument(
        "--mode",
        choices=("lora", "full"),
        default="lora",
        help="full: all weights; --out becomes a model folder",
    )
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--alpha", type=float, default=64)
    parser.add_argument(
        "--start", type=Path, metavar="DIR", help="an adapter to go on from, whose rank and alpha are kept"
    )
    parser.add_argument(
        "--upper",
        type=int,
        default=0,
        metavar="N",
        help="train the last N blocks only, on a processor: a step is quicker",
    )
    parser.add_argument(
        "--chat-tokens",
        type=int,
        default=MAX_TOKENS,
        metavar="N",
        help=f"of a chat: the longer, the more requests share one list of tools ({MAX_TOKENS})",
    )
    parser.add_argument("--judged", type=int, default=300, help="validation rows of each kind")
    tune_options.add_settings(parser)
    tune_options.add_memory(parser)
    launch.add_options(parser)
    return parser.parse_args(argv)


def _write(folder: Path, trainee: Trainee, tensors: dict[str, Tensor], options: argparse.Namespace) -> None:
    info = store.show(options.model)
    start = adapters.read(options.start) if options.start else AS_TRAINED
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / WEIGHTS_FILE
    save_file({name: t.to(torch.bfloat16).contiguous().cpu() for name, t in tensors.items()}, file)
    card: dict[str, Any] = {
        "base": info.card.title,
        "base_sha256": info.card.sha256,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "rank": trainee.lora.rank,
        "alpha": trainee.lora.alpha,
        **adapters.how(start),
        "heads": AS_TRAINED.heads,  # whatever it starts from, these rows have them
    }
    adapters.write_card(folder, card)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    options = _options(words)
    _check(options)
    if launch.wanted(options):
        return launch.train(words, options)
    with joined(sharded=options.fsdp) as world:
        return _learn(options, world)


def _check(options: argparse.Namespace) -> None:
    if not (options.max_seconds or options.max_steps):
        raise UsageError("a run needs an end", "Give --max-seconds or --max-steps.")
    for file in (options.rows, options.valid):
        if not file.is_file():
            raise UsageError(f"{file} is not there", "Rows are made by `llmos tune data`.")
    if options.start and options.mode == "full":
        raise UsageError("--start is an adapter's, and --mode full makes none", "Leave one of them out.")
    if options.start and adapters.read(options.start).base_sha256 != store.show(options.model).card.sha256:
        raise UsageError(f"{options.start} was trained on other weights", "Name the model it belongs to.")
    if options.upper and options.mode == "full":
        raise UsageError("--upper makes an adapter, and --mode full none", "Leave one of them out.")
    if options.mode == "lora" and not store.show(options.model).card.sha256:
        raise UsageError(
            f"{options.model} is a folder, and adapters belong to one weights file, known by its SHA-256",
            "Train all of it with --mode full, or name a model of `llmos model list`.",
        )


def _learn(options: argparse.Namespace, world: World) -> int:
    settings = tune_options.settings(options)
    torch.manual_seed(settings.seed)
    device = tune_options.device()
    source = weights.open_source(store.resolve(options.model))
    preparer = Preparer.for_tools_in_force(source.tokenizer)
    pools = preparer.pools(read_rows(options.rows), seed=settings.seed)
    held = preparer.pools(read_rows(options.valid), looked_up=1.0)
    trainee = _trainee(options, source, device)
    run = Run(
        trainee.to_device(device),
        iter(Composer(pools, seed=settings.seed, max_tokens=options.chat_tokens)),
        settings,
        device=device,
        folder=options.out / "state",
        validation=judged(held, options.judged),
        on_progress=lambda line: print(line, flush=True),  # noqa: T201
        world=world,
    )
    curve = run.go()
    tensors = (trainee.lora if isinstance(trainee, Trainee) else trainee).tensors()
    if not world.leads:
        return 0
    if isinstance(trainee, Trainee):
        _write(options.out, trainee, tensors, options)
    else:
        folders.save_like(options.out, trainee.config, tensors, source.tokenizer)
        adapters.write_asked(options.out, AS_TRAINED)
    curve.write(options.out)
    return 0


def _trainee(options: argparse.Namespace, source: Source, device: torch.device) -> Trainee | Whole:
    config, tensors = source.config, weights.tensors(source, tune_options.frozen(device))
    start = adapters.read(options.start) if options.start else None
    kind = Upper if options.upper else Trainee
    made: Trainee | Whole
    if options.mode == "full":
        made = Whole(config, tensors, positions=_POSITIONS, mixed=device.type == "cuda")
    elif start:
        made = kind.going_on(start, config, tensors, positions=_POSITIONS)
    else:
        made = kind(config, tensors, rank=options.rank, alpha=options.alpha, positions=_POSITIONS)
    if isinstance(made, Upper):
        path = store.resolve(options.model)
        made.stand_on(path, start, learning=options.upper)
    made.recomputed = options.activation_checkpointing
    return made


if __name__ == "__main__":
    sys.exit(main())

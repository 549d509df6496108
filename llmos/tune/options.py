"""What every training verb's command line has: the parser, the run's settings, where it computes."""

from __future__ import annotations

import argparse
import dataclasses

import torch

from llmos.engine.model import multiplies_bfloat16
from llmos.tune.train import Settings


def parser(verb: str, about: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"llmos tune {verb}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_settings(made: argparse.ArgumentParser, **defaults: float) -> None:
    """An option for each field of `Settings`; `defaults` in place of those fields' own."""
    for field in dataclasses.fields(Settings):
        default = defaults.get(field.name, field.default)
        made.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=default)


def add_memory(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--activation-checkpointing",
        action="store_true",
        help="compute each block again in the backward pass: less memory, about a third more work",
    )


def settings(given: argparse.Namespace) -> Settings:
    return Settings(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Settings)})


def device() -> torch.device:
    """The GPU that was chosen for this process, the first if none was."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def frozen(device: torch.device) -> torch.dtype:
    """The type of weights that do not learn. On a processor without bfloat16 products float32 needs twice the
    memory and a small part of the time: a step backward in bfloat16 took some 75 times as long there."""
    quick = device.type == "cuda" or multiplies_bfloat16()
    return torch.bfloat16 if quick else torch.float32

"""`llmos tune`: training and what belongs to it, each action with a command line of its own."""

from __future__ import annotations

import argparse
import importlib
import sys

from llmos.cli_parser import in_quotes
from llmos.console import screen
from llmos.errors import UsageError

# Action: what it does, and the function that reads its words.
ACTIONS = {
    "data": (
        "make training rows out of the tools' phrases and public pairs",
        "llmos.tune.data.__main__:main",
    ),
    "train": ("an adapter for a model, or all of its weights, from such rows", "llmos.tune.__main__:main"),
    "evaluate": ("how often a model's calls are right, on rows kept aside", "llmos.tune.evaluate:main"),
    "personal": ("your own phrases, learnt from calls that you approved: on, off", "llmos.cli_personal:main"),
    "heads": (
        "what kind of thing a request asks for, and what its words are",
        "llmos.tune.label:main",
    ),
    "hints": (
        "two small heads of hashed words: secrets, and whether a change is wanted",
        "llmos.tune.hints:main",
    ),
    "tools": ("which tools a request is likely about, for its prompt's list", "llmos.tune.toolhead:main"),
    "answers": (
        "how well questions about commands are answered from manual pages",
        "llmos.tune.answers:main",
    ),
    "pretrain": ("a small transformer from scratch, on text of your own", "llmos.tune.pretrain:main"),
    "prune": ("a model without its least needed blocks, and its recovery", "llmos.tune.compress:prune"),
    "quantize": ("a model trained through its own rounding to few bits", "llmos.tune.compress:quantize"),
    "distill": ("a smaller model that learns from a larger one", "llmos.tune.compress:distill"),
}
_EXAMPLE = "llmos tune pretrain --text ~/notes --out ~/models/mine --max-seconds 600"


def tune(options: argparse.Namespace) -> int:
    action, *words = options.words or ["--help"]
    if action in ("--help", "-h"):
        screen.write(sys.stdout, overview())
        return 0
    if action not in ACTIONS:
        plainly = in_quotes(" ".join(["tune", *options.words]))
        raise UsageError(
            f"llmos tune knows no {action!r}",
            f"It knows {', '.join(ACTIONS)}. To ask it in plain words: {plainly}",
        )
    module, _, function = ACTIONS[action][1].partition(":")
    return int(getattr(importlib.import_module(module), function)(words))


def overview() -> str:
    lines = "".join(f"  {name:<10} {summary}\n" for name, (summary, _) in ACTIONS.items())
    return (
        "usage: llmos tune ACTION …      (llmos tune ACTION --help)\n\n"
        f"actions:\n{lines}\nexample:\n  {_EXAMPLE}\n"
    )


VERBS = {"tune": tune}

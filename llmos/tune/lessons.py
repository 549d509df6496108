"""What a smaller model learns from, and is judged by: text, or requests with their calls."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmos.engine import adapter as adapters
from llmos.engine import store
from llmos.engine.adapter import Adapter
from llmos.engine.tokenizer import Tokenizer
from llmos.errors import UsageError
from llmos.tune import corpus
from llmos.tune.chats import Composer, judged
from llmos.tune.prepare import Preparer, read_rows
from llmos.tune.pretrain import shuffled

_SOME = 16  # samples that influence is measured on


@dataclass(frozen=True, slots=True)
class Lessons:
    train: Iterator[Any]
    some: Sequence[Any]
    valid: Sequence[Any]
    calls: bool


def add_options(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, nargs="+", help="files of text, or folders of them")
    source.add_argument(
        "--rows", type=Path, help="requests of `llmos tune data`; the model's adapter goes in first"
    )
    parser.add_argument("--valid", type=Path, help="with --rows: requests that it is judged by")
    parser.add_argument("--judged", type=int, default=100, help="of them, at most")
    parser.add_argument("--context", type=int, default=256, help="tokens of a block of text")
    parser.add_argument("--blocks", type=int, default=0, help="of text, at most (0: all)")


def adapter(given: argparse.Namespace) -> Adapter | None:
    """The model's own adapter where it is about calls. A text's smaller model is of the bare one."""
    return adapters.chosen(True, store.sha256_of(given.model)) if given.rows else None


def read(given: argparse.Namespace, tokenizer: Tokenizer) -> Lessons:
    """Raises UsageError for files that are not there or hold nothing."""
    return _of_rows(given, tokenizer) if given.rows else _of_text(given, tokenizer)


def _of_rows(given: argparse.Namespace, tokenizer: Tokenizer) -> Lessons:
    for file in (given.rows, given.valid):
        if file is None or not file.is_file():
            raise UsageError(
                f"{file or '--valid'} is not there", "Give --rows and --valid, made by `llmos tune data`."
            )
    preparer = Preparer.for_tools_in_force(tokenizer)
    pools = preparer.pools(read_rows(given.rows), seed=given.seed)
    held = judged(preparer.pools(read_rows(given.valid), looked_up=1.0), given.judged)
    some = list(islice(Composer(pools, seed=given.seed + 1), _SOME))
    return Lessons(
        iter(Composer(pools, seed=given.seed)), some, held["calls"] or held["commands"], calls=True
    )


def _of_text(given: argparse.Namespace, tokenizer: Tokenizer) -> Lessons:
    text = corpus.read_texts(given.text)
    end = min(tokenizer.eos_ids)
    train, valid = (
        corpus.blocks(part, tokenizer.hf, given.context, end) for part in (text.train, text.valid)
    )
    if given.blocks:
        train, valid = train[: given.blocks], valid[: max(1, given.blocks // 10)]
    return Lessons(shuffled(train, given.seed), train[:_SOME], valid, calls=False)

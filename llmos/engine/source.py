"""An opened model file or folder, as `weights` reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llmos.engine.groups import Grouped
from llmos.engine.model import ModelConfig
from llmos.engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Source:
    """`names` are the tensors it holds, named as `transformers` does; `get` reads one in a type of choice.

    `grouped` gives a matrix as the file's own groups of whole numbers, `rows` its untouched blocks and their
    format; both None where the file has no such thing.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    names: frozenset[str]
    get: Callable[[str, torch.dtype], Tensor]
    grouped: Callable[[str], Grouped | None] = lambda name: None
    rows: Callable[[str], tuple[str, Tensor] | None] = lambda name: None

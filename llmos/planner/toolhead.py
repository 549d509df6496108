"""Which of the product's own tools a sentence is about: a linear head over hashed words and letter trigrams.

`llmos tune tools` makes `toolhead.safetensors` and measures it. It only orders tools: what it does not find
can still be called. Trigrams carry it over typing errors; the words are hashed (Weinberger et al. 2009), so
that no list of them is kept.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from llmos import hints

FILE = Path(__file__).with_name("toolhead.safetensors")
_WORD = re.compile(r"[^\W\d_]+")
_MOST_CHARS = 2000


@dataclass(frozen=True, slots=True)
class ToolHead:
    """`weights` [buckets, tools] in steps of `step`, `bias` [tools]."""

    tools: tuple[str, ...]
    weights: npt.NDArray[np.int8]
    bias: npt.NDArray[np.float32]
    step: float

    def likely(self, say: str) -> list[tuple[float, str]]:
        """(probability, tool) of all tools, the likeliest first."""
        places = [number % len(self.weights) for number in features(say)]
        scores = self.weights[places].sum(0, dtype=np.int32) * self.step + self.bias
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        return [(float(shares[index]), self.tools[index]) for index in np.argsort(-shares, kind="stable")]


def features(say: str) -> list[int]:
    """Numbers of the words, their pairs and their trigrams; each is taken modulo the buckets there are."""
    text = unicodedata.normalize("NFKC", say[:_MOST_CHARS]).casefold()
    words = [f"<{word}>" for word in _WORD.findall(text)]
    trigrams = dict.fromkeys(word[i : i + 3] for word in words for i in range(len(word) - 2))
    return [*hints.of_sentence(text), *(zlib.crc32(f"3{trigram}".encode()) for trigram in trigrams)]


@functools.cache
def shipped() -> ToolHead:
    """Shipped with the program, so whatever is wrong with it is our bug."""
    return read(FILE)


def read(file: Path) -> ToolHead:
    with safe_open(str(file), "np") as held:
        told: dict[str, Any] = held.metadata()
        return ToolHead(
            tuple(json.loads(told["tools"])),
            held.get_tensor("weights"),
            held.get_tensor("bias"),
            float(told["step"]),
        )


def write(file: Path, head: ToolHead, figures: Sequence[str] = ()) -> None:
    from safetensors.numpy import save_file

    told = {"tools": json.dumps(head.tools), "step": repr(head.step), "figures": json.dumps(figures)}
    save_file({"weights": head.weights, "bias": head.bias}, file, metadata=told)

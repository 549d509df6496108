"""Keeps evaluation sentences out of training: exact ones, near ones, and a report of what is shared."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[~./]*[\w-]+(?:[./][\w-]+)+/?|\d+|['\"`“”]")


def normal(say: str, *, names: bool = False) -> str:
    """Small letters, no marks; with `names`, every path and number is alike."""
    text = say.lower()
    if names:
        text = _NAME.sub(" # ", text)
    return " ".join(re.findall(r"[#\w./*]+", text)).strip(" .")


def grams(text: str, n: int = 3) -> set[str]:
    """Letter n-grams of a sentence, which also work where no blanks stand between words."""
    flat = text.replace(" ", "_")
    return {flat[i : i + n] for i in range(max(1, len(flat) - n + 1))}


@dataclass(frozen=True)
class Held:
    """Sentences that must not be trained on."""

    exact: frozenset[str]
    grams: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, sayings: Iterable[str]) -> Held:
        normals = {normal(say) for say in sayings}
        return cls(frozenset(normals), tuple(frozenset(grams(n)) for n in normals if len(n) > 12))

    def too_near(self, say: str, *, limit: float = 0.8) -> bool:
        """Equal but for marks and case, or four fifths of the letter trigrams shared."""
        text = normal(say)
        if text in self.exact:
            return True
        mine = grams(text)
        for other in self.grams:
            if not 0.8 <= len(mine) / len(other) <= 1.25:
                continue
            shared = len(mine & other)
            if shared / (len(mine) + len(other) - shared) >= limit:
                return True
        return False

    def share_of_five_grams(self, sayings: Iterable[str]) -> float:
        """How many of the held sentences' word 5-grams (with their names) stand in `sayings`."""
        seen = {gram for say in sayings for gram in _word_grams(normal(say))}
        mine = {gram for text in self.exact for gram in _word_grams(text)}
        return len(mine & seen) / max(1, len(mine))


def _word_grams(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def cases(file: Path) -> list[str]:
    """The sentences of a cases.toml."""
    return [case["say"] for case in tomllib.loads(file.read_text(encoding="utf-8"))["cases"]]

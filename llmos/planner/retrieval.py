"""Finds the manifest examples that are most like a sentence, so that the model sees them worked out.

Cosine similarity of TF-IDF vectors over words, their letter trigrams (typing errors, inflection) and,
for Chinese and its like, characters and their pairs. Everything is in memory: some hundred sentences
take well under a millisecond. docs/decisions.md has the measured comparison with SQLite's FTS5.

It compares letters, not meanings: a synonym that no manifest uses is not found.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmos.messages import JsonObject, ToolSpec

# Runs of letters or digits of scripts that put blanks between words; or one character of those that do not.
_CJK = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_TRIGRAM_WEIGHT = 0.3  # a word's trigrams together weigh about as much as the word itself
_SINGLE_WEIGHT = 0.4  # one Chinese character says less than a pair


@dataclass(frozen=True, slots=True)
class Shot:
    """A worked example: the sentence, the tool it needs and the arguments it means."""

    say: str
    spec: ToolSpec
    args: JsonObject


class Retriever:
    """The examples of the tools in force, ready to be searched."""

    def __init__(self, specs: Sequence[ToolSpec]) -> None:
        self._shots = [Shot(e.say, spec, e.args) for spec in specs for e in spec.examples]
        counts = [_features(shot.say) for shot in self._shots]
        seen = Counter(feature for count in counts for feature in count)
        self._idf = {feature: math.log(1 + len(counts) / n) for feature, n in seen.items()}
        self._postings: dict[str, list[tuple[int, float]]] = {}
        for index, count in enumerate(counts):
            for feature, weight in self._weigh(count).items():
                self._postings.setdefault(feature, []).append((index, weight))

    def nearest(self, say: str, limit: int, *, per_tool: int = 3) -> tuple[Shot, ...]:
        """At most `limit` shots, the most similar first, at most `per_tool` of one tool."""
        taken: Counter[str] = Counter()
        found: list[Shot] = []
        for _, shot in self.ranked(say):
            if len(found) == limit:
                break
            if taken[shot.spec.name] < per_tool:
                taken[shot.spec.name] += 1
                found.append(shot)
        return tuple(found)

    def ranked(self, say: str) -> list[tuple[float, Shot]]:
        """All shots that share anything with the sentence: cosine similarity 0..1, best first."""
        scores: Counter[int] = Counter()
        for feature, weight in self._weigh(_features(say)).items():
            for index, other in self._postings.get(feature, ()):
                scores[index] += weight * other  # type: ignore[assignment]
        return [(score, self._shots[index]) for index, score in scores.most_common()]

    def _weigh(self, count: dict[str, float]) -> dict[str, float]:
        weights = {f: (1 + math.log(n) if n > 1 else n) * self._idf.get(f, 0.0) for f, n in count.items()}
        norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        return {feature: weight / norm for feature, weight in weights.items() if weight}


def _features(text: str) -> dict[str, float]:
    count: dict[str, float] = {}
    for feature, weight in _extract(unicodedata.normalize("NFKC", text).casefold()):
        count[feature] = count.get(feature, 0.0) + weight
    return count


def _extract(text: str) -> Iterator[tuple[str, float]]:
    for word in _TOKEN.findall(text):
        if "\u2e80" <= word[0] <= "\ufaff":
            yield from ((char, _SINGLE_WEIGHT) for char in word)
            yield from ((word[i : i + 2], 1.0) for i in range(len(word) - 1))
        else:
            yield f"={word}", 1.0
            padded = f"<{word}>"
            yield from ((padded[i : i + 3], _TRIGRAM_WEIGHT) for i in range(len(padded) - 2))

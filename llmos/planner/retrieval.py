"""Finds the manifest examples that are most like a sentence, so that the model sees them worked out.

Cosine similarity of TF-IDF vectors over words, their letter trigrams (typing errors, inflection) and,
for Chinese and its like, characters and their pairs. Paths and numbers count by their presence: that a
file is named matters, its name does not. What the tool's own name and summary share with the sentence
counts too. Everything is in memory: some hundred sentences take well under a millisecond.
docs/decisions.md has the measured comparison with SQLite's FTS5.

It compares letters, not meanings: a synonym that no manifest uses is not found.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llmos.messages import JsonObject, ToolSpec

# Runs of letters or digits of scripts that put blanks between words; or one character of those that do not.
_CJK = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_TRIGRAM_WEIGHT = 0.3  # a word's trigrams together weigh about as much as the word itself
_SINGLE_WEIGHT = 0.4  # one Chinese character says less than a pair
_SUMMARY_WEIGHT = 0.7  # of the tool's own words, beside the example's
_PATH = re.compile(r"(?<!\w)(?:[~.]?/[\w./-]*|\*?[\w-]*\.[a-z]\w{0,4})(?!\w)")
_NUMBER = re.compile(r"\d+")


Vector = dict[str, float]


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
        sayings = [_features(shot.say) for shot in self._shots]
        seen = Counter(feature for count in sayings for feature in count)
        self._rarest = math.log(1 + len(sayings))
        self._idf = {feature: math.log(1 + len(sayings) / n) for feature, n in seen.items()}
        self._examples = _Index(self._weigh(count) for count in sayings)
        self._specs = tuple(specs)
        self._tools = _Index(self._weigh(_features(f"{spec.name} {spec.summary}")) for spec in specs)
        places = {spec.name: index for index, spec in enumerate(specs)}
        self._tool_of = [places[shot.spec.name] for shot in self._shots]

    def nearest(self, say: str, limit: int, *, per_tool: int = 3) -> tuple[Shot, ...]:
        """At most `limit` shots, the most similar first, at most `per_tool` of one tool."""
        if not limit:
            return ()  # a tuned prompt carries none: nothing need be compared
        taken: Counter[str] = Counter()
        found: list[Shot] = []
        for _, shot in self.ranked(say):
            if len(found) == limit:
                break
            if taken[shot.spec.name] < per_tool:
                taken[shot.spec.name] += 1
                found.append(shot)
        return tuple(found)

    def tools(self, say: str) -> list[tuple[float, ToolSpec]]:
        """All tools that share anything with the sentence, by their best example, best first."""
        query = self._weigh(_features(say))
        own = {index: _SUMMARY_WEIGHT * score for index, score in self._tools.similar(query).items()}
        best = dict(own)
        for index, score in self._examples.similar(query).items():
            tool = self._tool_of[index]
            best[tool] = max(best.get(tool, 0.0), score + own.get(tool, 0.0))
        return [(best[tool], self._specs[tool]) for tool in sorted(best, key=lambda i: (-best[i], i))]

    def ranked(self, say: str) -> list[tuple[float, Shot]]:
        """All shots that share anything with the sentence, by similarity, best first."""
        query = self._weigh(_features(say))
        tools = self._tools.similar(query)
        scores = {
            index: score + _SUMMARY_WEIGHT * tools.get(self._tool_of[index], 0.0)
            for index, score in self._examples.similar(query).items()
        }
        order = sorted(scores, key=lambda index: (-scores[index], index))
        return [(scores[index], self._shots[index]) for index in order]

    def _weigh(self, count: Vector) -> Vector:
        """TF-IDF of length one (Salton & Buckley 1988); what no example has is as rare as can be."""
        weights = {
            feature: (1 + math.log(n) if n > 1 else n) * self._idf.get(feature, self._rarest)
            for feature, n in count.items()
        }
        norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        return {feature: weight / norm for feature, weight in weights.items()}


class _Index:
    """Sparse unit vectors by feature, so that only what a query shares is looked at."""

    def __init__(self, vectors: Iterable[Vector]) -> None:
        self._postings: dict[str, list[tuple[int, float]]] = {}
        for index, vector in enumerate(vectors):
            for feature, weight in vector.items():
                self._postings.setdefault(feature, []).append((index, weight))

    def similar(self, query: Vector) -> dict[int, float]:
        """Cosine similarity, by position, of all vectors that share a feature with the query."""
        scores: dict[int, float] = {}
        for feature, weight in query.items():
            for index, other in self._postings.get(feature, ()):
                scores[index] = scores.get(index, 0.0) + weight * other
        return scores


def _features(text: str) -> Vector:
    count: Vector = {}
    for feature, weight in _extract(unicodedata.normalize("NFKC", text).casefold()):
        count[feature] = count.get(feature, 0.0) + weight
    return count


def _extract(text: str) -> Iterator[tuple[str, float]]:
    text, num_paths = _PATH.subn(" ", text)
    text, num_numbers = _NUMBER.subn(" ", text)
    yield from ((mark, 1.0) for mark, n in (("#path", num_paths), ("#number", num_numbers)) if n)
    if num_paths > 1:
        yield "#paths", 1.0
    for word in _TOKEN.findall(text):
        if "\u2e80" <= word[0] <= "\ufaff":
            yield from ((char, _SINGLE_WEIGHT) for char in word)
            yield from ((word[i : i + 2], 1.0) for i in range(len(word) - 1))
        else:
            yield f"={word}", 1.0
            padded = f"<{word}>"
            yield from ((padded[i : i + 3], _TRIGRAM_WEIGHT) for i in range(len(padded) - 2))

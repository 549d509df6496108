"""Which tools a prompt lists: all where they are few; else the common ones and those a request is about.

The common tools stand first and are the same in every prompt, so that their keys and values are kept. The
others cost a request some thirty tokens each. Of the product's own a linear head says which are likely
(`toolhead`); of those it does not know, a person's own, retrieval finds what the sentence or one of its parts
is near to. A tool that is not listed is not forbidden: the grammar knows all of them.

A request whose words are near to no example of the tool it needs is answered with others, mostly shell.run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from llmos.messages import ToolSpec
from llmos.planner import toolhead
from llmos.planner.retrieval import Retriever

FEW = 32  # tools that are listed whole
LIKELY = 6  # of the product's others, at most
LEAST = 0.002  # of the head's probability
CHOSEN = 6  # of a person's own, for a sentence as a whole
PART, MOST = 2, 8  # for one part of a sentence of several, and for all of them
NEAR = 0.35  # of the similarity of the nearest tool, common or not
_PARTS = re.compile(r"[,;，；。、]|\b(?:and|then)\b|然后|接着|并且|再")
_SHORT = 3  # characters: no part that says anything


class Chooser:
    """The tools in force, in the order of their names, ready to be chosen from."""

    def __init__(self, specs: Sequence[ToolSpec], retriever: Retriever) -> None:
        self._specs, self._retriever = tuple(specs), retriever
        self._by_name = {spec.name: spec for spec in specs}
        self.common = tuple(spec for spec in specs if spec.common or len(specs) <= FEW)
        self._common_names = frozenset(spec.name for spec in self.common)
        self._known = frozenset(toolhead.shipped().tools)
        self._has_own = any(spec.name not in self._known for spec in specs)

    def listed(self, say: str, *, also: Collection[str] = ()) -> tuple[ToolSpec, ...]:
        """The common tools, then what the sentence is likely about, and those of these names."""
        if len(self.common) == len(self._specs):
            return self.common
        chosen = {spec.name: spec for spec in self._likely(say)}
        if self._has_own:
            chosen |= {spec.name: spec for spec in self._near_ones(say)}
        named = [self._by_name[name] for name in sorted(also) if name in self._by_name]
        named = [spec for spec in named if spec.name not in (*self._common_names, *chosen)]
        return (*self.common, *chosen.values(), *named)

    def _likely(self, say: str) -> list[ToolSpec]:
        others = [
            self._by_name[name]
            for share, name in toolhead.shipped().likely(say)
            if share >= LEAST and name in self._by_name and name not in self._common_names
        ]
        return others[:LIKELY]

    def _near_ones(self, say: str) -> list[ToolSpec]:
        """Of a person's own tools."""
        parts = [part for part in _PARTS.split(say) if len(part.strip()) >= _SHORT]
        found = {spec.name: spec for spec in self._near(say, CHOSEN)}
        for part in parts if len(parts) > 1 else ():
            found |= {spec.name: spec for spec in self._near(part, PART)}
        return list(found.values())[:MOST]

    def _near(self, say: str, limit: int) -> list[ToolSpec]:
        tools = self._retriever.tools(say)
        floor = NEAR * max((score for score, _ in tools), default=0.0)
        others = self._known | self._common_names
        return [spec for score, spec in tools if score >= floor and spec.name not in others][:limit]

"""Which tools a prompt lists: all where they are few; else the common ones and those a request is near to.

The common tools stand first and are the same in every prompt, so that their keys and values are kept. The
others cost a request some thirty tokens each and are therefore chosen by retrieval, for the sentence and for
each of its parts. A tool that is not listed is not forbidden: the grammar knows all of them.

A request whose words are near to no example of the tool it needs is answered with others, mostly shell.run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from llmos.messages import ToolSpec
from llmos.planner.retrieval import Retriever

FEW = 32  # tools that are listed whole
CHOSEN = 6  # others, for a sentence as a whole
PART, MOST = 2, 8  # for one part of a sentence of several, and for all of them
NEAR = 0.35  # of the similarity of the nearest tool, common or not
_PARTS = re.compile(r"[,;，；。、]|\b(?:and|then)\b|然后|接着|并且|再")
_SHORT = 3  # characters: no part that says anything


class Chooser:
    """The tools in force, in the order of their names, ready to be chosen from."""

    def __init__(self, specs: Sequence[ToolSpec], retriever: Retriever) -> None:
        self._specs, self._retriever = tuple(specs), retriever
        self.common = tuple(spec for spec in specs if spec.common or len(specs) <= FEW)
        self._common_names = frozenset(spec.name for spec in self.common)

    def listed(self, say: str, *, also: Collection[str] = ()) -> tuple[ToolSpec, ...]:
        """The common tools, then what the sentence is near to, nearest first, and those of these names."""
        if len(self.common) == len(self._specs):
            return self.common
        parts = [part for part in _PARTS.split(say) if len(part.strip()) >= _SHORT]
        found = {spec.name: spec for spec in self._near(say, CHOSEN)}
        for part in parts if len(parts) > 1 else ():
            found |= {spec.name: spec for spec in self._near(part, PART)}
        near = list(found.values())[:MOST]
        named = [spec for spec in self._specs if spec.name in also and spec not in (*self.common, *near)]
        return (*self.common, *near, *named)

    def _near(self, say: str, limit: int) -> list[ToolSpec]:
        tools = self._retriever.tools(say)
        floor = NEAR * max((score for score, _ in tools), default=0.0)
        near = [spec for score, spec in tools if score >= floor and spec.name not in self._common_names]
        return near[:limit]

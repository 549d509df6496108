"""Whether a target can be written at run time: the very grammar, the very argument check, bash's syntax.

The grammar is run over bytes, so that no model is needed. A tool's grammar knows its arguments' types;
`arguments.check` knows bounds as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import llguidance
import tree_sitter
import tree_sitter_bash

from llmos.engine.grammar import lark, render_call
from llmos.errors import LlmosError
from llmos.messages import ToolSpec

MAX_CALLS = 4


@lru_cache(maxsize=1)
def _bytes() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer("byte")


class Checker:
    """Accepts or refuses replies made of calls of these tools."""

    def __init__(self, specs: Sequence[ToolSpec]) -> None:
        self.specs: Mapping[str, ToolSpec] = {spec.name: spec for spec in specs}
        self._matchers: dict[str, llguidance.LLMatcher] = {}

    def problem(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Why this reply can not be written, or empty."""
        if not 1 <= len(calls) <= MAX_CALLS:
            return "the number of calls"
        if len(calls) > 1 and any(call["tool"] in ("answer", "ask") for call in calls):
            return "answer or ask beside other calls"
        return next((found for call in calls if (found := self._call_problem(call))), "")

    def plain(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call without arguments that only repeat their default, and with text where text is wanted: a
        slot of a phrase draws a number as a number."""
        spec = self.specs.get(call["tool"])
        if spec is None or spec.raw is not None:
            return dict(call)
        properties = spec.parameters["properties"]
        kept = {k: v for k, v in call["args"].items() if v != properties.get(k, {}).get("default", object())}
        for name, value in kept.items():
            if type(value) is int and properties.get(name, {}).get("type") == "string":
                kept[name] = str(value)
        return {"tool": call["tool"], "args": kept}

    def _call_problem(self, call: Mapping[str, Any]) -> str:
        spec = self.specs.get(call["tool"])
        if spec is None:
            return f"no tool {call['tool']}"
        try:
            text = render_call(spec, dict(call["args"]))
        except LlmosError as error:
            return str(error)
        matcher = self._matcher(spec)
        matcher.reset()
        data = text.encode()
        if matcher.try_consume_tokens(list(data)) != len(data) or not matcher.is_accepting():
            return f"the grammar refuses {text[:100]}"
        if spec.name == "shell.run" and not parses(call["args"]["command"]):
            return f"not bash: {text[:100]}"
        return ""

    def _matcher(self, spec: ToolSpec) -> llguidance.LLMatcher:
        if spec.name not in self._matchers:
            grammar = llguidance.LLMatcher.grammar_from_lark(lark([spec], max_calls=1))
            self._matchers[spec.name] = llguidance.LLMatcher(_bytes(), grammar)
        return self._matchers[spec.name]


@lru_cache(maxsize=1)
def _parser() -> tree_sitter.Parser:
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def parses(command: str) -> bool:
    """One line of bash without a syntax error."""
    if not command.strip() or "\n" in command:
        return False
    return not _parser().parse(command.encode()).root_node.has_error

"""Requests as every engine of `bench.engine` gets them: the same prompt tokens, and an equivalent grammar.

The prompt is the planner's own; the weights are without an adapter, since the other engines have none. The
grammar is llmos' for llmos, and the same alternatives as GBNF for llama.cpp: a tool's name, then JSON by its
schema (or one line of text). llmos writes JSON without blanks, llama.cpp may choose them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmos.engine.tokenizer import Tokenizer
from llmos.messages import Think, ToolSpec
from llmos.paths import tool_dirs
from llmos.planner import prompt
from llmos.planner.choosing import Chooser
from llmos.planner.retrieval import Retriever
from llmos.toolbox import catalog

MAX_REPLY_TOKENS = 96
CASES = Path(__file__).parent / "understand" / "cases.toml"
ENTRIES = ("access.log", "config.yaml", "notes.txt", "old.log", "photos/", "src/", "util.py")


def specs() -> tuple[ToolSpec, ...]:
    return catalog.load(tool_dirs()[:1]).specs


def requests(count: int) -> list[str]:
    """Sentences that stand in no manifest, spread evenly over those of `bench.understand`."""
    says = [case["say"] for case in tomllib.loads(CASES.read_text(encoding="utf-8"))["cases"]]
    return says[:: max(1, len(says) // count)][:count]


def prompts(tokenizer: Tokenizer, tools: Sequence[ToolSpec], says: Sequence[str]) -> list[list[int]]:
    chooser = Chooser(tools, Retriever(tools))
    form = prompt.PromptForm.SIGNATURES
    chats = [
        prompt.call_chat(chooser.listed(say), (), Think(id="bench", text=say, entries=ENTRIES), form)
        for say in says
    ]
    return [tokenizer.encode(tokenizer.render_chat(chat), special=True) for chat in chats]


def gbnf(tools: Sequence[ToolSpec]) -> str:
    """llama.cpp's grammar of one call."""
    from llama_cpp.llama_grammar import SchemaConverter

    converter: Any = SchemaConverter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    lines = ["root ::= " + " | ".join(f"call{index}" for index in range(len(tools)))]
    for index, spec in enumerate(tools):
        rest = "line" if spec.raw else converter.visit(_closed(spec.parameters), f"tool{index}")
        lines.append(f'call{index} ::= "{spec.name} " {rest}')
    # The converter writes a pattern's `\.` as it is, which its own parser takes for no escape.
    rules = [
        rule.replace("\\.", ".")
        for rule in converter.format_grammar().splitlines()
        if not rule.startswith("root ")
    ]
    return "\n".join([*lines, r"line ::= [^\x00-\x1f ] [^\x00-\x1f]*", *rules, ""])


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return {"additionalProperties": False, **schema}

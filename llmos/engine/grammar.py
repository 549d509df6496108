"""The text form of tool calls, and the grammar that lets a model write nothing else.

    file.list {"path":"src","limit":3}        TOOL and its arguments as compact JSON, one call a line
    shell.run ls -la | head -3                a tool with one raw text argument: the rest of the line
    answer The capital is Paris.              `answer` and `ask` stand alone in a reply

JSON is written without blanks, keys in the schema's order: there is one spelling of a call, so the
braces, keys and tool names that follow from what is already written are forced and cost no decoding.

The grammar (llguidance, a Lark dialect with inline JSON Schema: https://github.com/guidance-ai/llguidance)
makes a *finished* reply valid. It does not make it wise: the policy judges that. Nor can it close
a reply that ran out of tokens: whoever generates must discard such a reply, since the head of a
shell command can be a different and worse command.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

import llguidance
import numpy as np
import torch

from llmos.engine.tokenizer import Tokenizer
from llmos.errors import ConfigError, ModelError, NotUnderstood, UsageError
from llmos.messages import JsonObject, ToolCall, ToolSpec

ALONE = frozenset({"answer", "ask"})

# Whole numbers that every JSON reader keeps exactly (RFC 8259, section 6); and a bound for the others
# keeps `1e999`, which reads back as infinity, from being written.
_MAX_INTEGER = 2**53 - 1
_MAX_NUMBER = 1e15

# Plain text of one line: no control characters, no line or paragraph separators, nothing that reverses
# the reading direction (what is shown must be what is run), and no blank at either end.
_CONTROL = r"\x00-\x1f\x7f-\x9f\u{2028}\u{2029}\u{202a}-\u{202e}\u{2066}-\u{2069}\u{feff}"
_LINE = rf"/[^ {_CONTROL}]([^{_CONTROL}]*[^ {_CONTROL}])?/"

_COMPACT = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "json_allowed_escapes": 'nt"\\',
    "json_allow_general_unicode_escapes": False,
}


# --- text form ---------------------------------------------------------------------------------


def render_call(spec: ToolSpec, args: JsonObject) -> str:
    """The line that stands for this call; raises UsageError for what one line cannot carry."""
    if spec.raw is not None:
        text = args.get(spec.raw, "")
        if not isinstance(text, str) or "\n" in text or set(args) - {spec.raw}:
            raise UsageError(
                f"{spec.name} takes one line of text as {spec.raw}", "Join the lines, for example with `;`."
            )
        return f"{spec.name} {text}"
    known = spec.parameters.get("properties", {})
    ordered = {key: args[key] for key in known if key in args} | args
    try:
        text = json.dumps(ordered, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the arguments of {spec.name} are not JSON: {error}", "Give plain JSON values."
        ) from error
    return f"{spec.name} {text}"


def parse_calls(text: str, specs: Sequence[ToolSpec]) -> tuple[ToolCall, ...]:
    """Read a reply back. Structure only: the catalogue checks the arguments against the manifest.

    Raises NotUnderstood for an empty reply, an unknown tool, or arguments that are no JSON object.
    """
    by_name = {spec.name: spec for spec in specs}
    calls = tuple(_parse_line(line, by_name) for line in text.split("\n") if line.strip())
    if not calls:
        raise NotUnderstood("the model gave an empty reply", "Say it in other words.")
    if len(calls) > 1 and (mixed := next((c.tool for c in calls if c.tool in ALONE), "")):
        raise NotUnderstood(f"`{mixed}` stands beside other calls", "Ask for one thing at a time.")
    return calls


def _parse_line(line: str, by_name: Mapping[str, ToolSpec]) -> ToolCall:
    name, _, rest = line.partition(" ")
    spec = by_name.get(name)
    if spec is None:
        raise NotUnderstood(f"there is no tool `{name[:80]}`", "See `llmos tools` for what there is.")
    if spec.raw is not None:
        return ToolCall(tool=name, args={spec.raw: rest})
    try:
        args = json.loads(rest, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood(f"the arguments of {name} are not JSON: {error}", "Say it again.") from error
    if not isinstance(args, dict):
        raise NotUnderstood(f"the arguments of {name} are not a JSON object", "Say it again.")
    return ToolCall(tool=name, args=args)


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits[:20]} is out of range")
    return value


# --- grammar -----------------------------------------------------------------------------------


def lark(specs: Sequence[ToolSpec], *, max_calls: int = 4) -> str:
    """The llguidance grammar of a reply: one to `max_calls` lines, or one of `ALONE` by itself.

    Raises ConfigError, naming the tool, for a schema that the grammar cannot enforce.
    """
    rules = {f"t{index}": spec for index, spec in enumerate(specs)}
    alone = [rule for rule, spec in rules.items() if spec.name in ALONE]
    calls = [rule for rule, spec in rules.items() if spec.name not in ALONE]
    more = f' ("\\n" call){{0,{max_calls - 1}}}' if max_calls > 1 else ""
    replies = alone + ([f"call{more}"] if calls else [])
    if not replies:
        raise ConfigError("there are no tools", "Put a manifest into a tools folder.")
    lines = ["start: " + " | ".join(replies)]
    if calls:
        lines.append("call: " + " | ".join(calls))
    lines += [f"{rule}: {_rule(spec)}" for rule, spec in rules.items()]
    return "\n".join([*lines, f"LINE: {_LINE}", ""])


def _rule(spec: ToolSpec) -> str:
    name = json.dumps(spec.name + " ")
    if spec.raw is None:
        return f"{name} %json {json.dumps(_schema(spec), ensure_ascii=False)}"
    declared = spec.parameters.get("properties", {}).get(spec.raw, {"type": "string"})
    # One line of text is all the rule says, so a schema that says more would not be enforced.
    if declared.get("type") != "string" or set(declared) - {"type", "minLength", "description"}:
        raise ConfigError(
            f"{spec.name}: the raw argument {spec.raw} must be plain text",
            "Drop its constraints, or drop `raw`.",
        )
    return f"{name} LINE"


def _schema(spec: ToolSpec) -> JsonObject:
    if spec.parameters.get("type") != "object":
        raise ConfigError(f"{spec.name}: the parameters are not an object schema", "Say `type = object`.")
    closed = {"additionalProperties": False, **_bounded(spec.parameters)}
    return {**closed, "x-guidance": _COMPACT}


def _bounded(schema: Any) -> Any:
    """The same schema with numbers kept to what survives a round trip through JSON."""
    if isinstance(schema, list):
        return [_bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _bounded_part(key, value) for key, value in schema.items()}
    limit = {"integer": _MAX_INTEGER, "number": _MAX_NUMBER}.get(str(schema.get("type")))
    if limit is None:
        return inner
    low = {} if "exclusiveMinimum" in inner else {"minimum": -limit}
    high = {} if "exclusiveMaximum" in inner else {"maximum": limit}
    return low | high | inner


def _bounded_part(keyword: str, value: Any) -> Any:
    if keyword in ("enum", "const"):  # values, not schemas
        return _printable(value)
    if keyword in ("properties", "$defs"):  # names of the manifest's own choosing, not keywords
        return {name: _bounded(schema) for name, schema in value.items()}
    return _bounded(value)


def _printable(value: Any) -> Any:
    """Values as they are, unless they need an escape that the grammar does not write."""
    words = value if isinstance(value, list) else [value]
    if wrong := next((w for w in words if isinstance(w, str) and any(ord(c) < 32 for c in w)), None):
        raise ConfigError(
            f"{wrong!r} is no value a model can write", "Use values without control characters."
        )
    return value


# --- constraint --------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _vocabulary(tokenizer: Tokenizer) -> llguidance.LLTokenizer:
    """llguidance's token trie of this tokenizer; half a second for 150,000 tokens, hence kept."""
    pieces = tokenizer.pieces()
    wrapper = None if pieces is None else llguidance.TokenizerWrapper(_Bytes(tokenizer, pieces))
    trie = llguidance.LLTokenizer(
        wrapper or tokenizer.hf.to_str(),
        n_vocab=tokenizer.vocab_size,
        eos_token=sorted(tokenizer.eos_ids),
        slices=[],  # of the vocabulary, for quicker masks inside strings: 0.3 s at each start for 4 ms a call
    )
    if wrapper is not None:
        wrapper.tokens.clear()  # 8 MB that only the trie was made of
    return trie


class _Bytes:
    """What llguidance asks of a tokenizer. The alternative, JSON text, it would parse a second time."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, pieces: list[bytes]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.eos_ids)
        marks = tokenizer.marks
        # A control token is no text: 0xFF in front, as llguidance has it.
        self.tokens = [b"\xff" + piece if i in marks else piece for i, piece in enumerate(pieces)]
        self.special_token_ids = sorted(marks)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode())


class GrammarConstraint:
    """Implements engine.generate's `Constraint` for one reply under an llguidance Lark grammar.

    Raises ConfigError when the grammar cannot be compiled (a schema keyword that it cannot enforce).
    """

    def __init__(self, tokenizer: Tokenizer, grammar: str) -> None:
        self._vocab_size = tokenizer.vocab_size
        compiled = llguidance.LLMatcher.grammar_from_lark(grammar)
        terse = llguidance.LLParserLimits(verbose_errors=False)
        self._matcher = llguidance.LLMatcher(_vocabulary(tokenizer), compiled, log_level=0, limits=terse)
        if problem := self._matcher.get_error():
            raise ConfigError(
                f"a tool's schema cannot be enforced: {problem.strip()}", "Simplify its arguments."
            )

    def copy(self) -> Self:
        """The same constraint for another reply, beside this one: microseconds."""
        twin = copy.copy(self)
        twin._matcher = self._matcher.deep_copy()
        return twin

    def restart(self) -> None:
        """Back to the start of a reply. Cheaper than a new constraint: the lexer's states are kept."""
        self._matcher.reset()

    def forced(self) -> list[int]:
        """Tokens that must come next, as the tokenizer itself would cut them; often empty."""
        return list(self._matcher.compute_ff_tokens())

    def mask(self) -> torch.Tensor:
        """bool [vocab_size], True where a token may come next; end-of-text where the reply may end."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little", count=self._vocab_size)
        self._check()
        return torch.from_numpy(allowed).view(torch.bool)

    def accept(self, ids: Sequence[int]) -> None:
        """Move past tokens that were allowed; raises ModelError when the grammar refuses one."""
        self._matcher.consume_tokens(list(ids))
        self._check()

    @property
    def finished(self) -> bool:
        """True when nothing but end-of-text can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def complete(self) -> bool:
        """True when what was accepted so far is a whole reply."""
        return bool(self._matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(f"constrained decoding failed: {self._matcher.get_error()}", "Try again.")


class CallConstraint(GrammarConstraint):
    """A reply of one to `max_calls` valid calls of these tools, or an answer, or a question back."""

    def __init__(self, tokenizer: Tokenizer, specs: Sequence[ToolSpec], *, max_calls: int = 4) -> None:
        super().__init__(tokenizer, lark(specs, max_calls=max_calls))


class LineConstraint(GrammarConstraint):
    """A reply of one line of plain text (a command line, say)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, f"start: LINE\nLINE: {_LINE}\n")

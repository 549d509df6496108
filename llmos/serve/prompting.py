"""A chat request as tokens and a constraint: the model's template, tools as text, replies under a grammar.

Tools are written the way many open models were trained on (`<tool_call>{"name": …, "arguments": …}`), and the
grammar makes whatever call is written a valid one. What comes from outside is encoded as plain text: it
cannot end a turn or begin one. Not protected against: a model too small to choose the right function.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from llmos.engine.grammar import GrammarConstraint
from llmos.engine.sampling import Sampling
from llmos.engine.tokenizer import Tokenizer
from llmos.errors import LlmosError, ModelError
from llmos.messages import JsonObject
from llmos.serve.asked import ChatAsked, ChatMessage, Function
from llmos.serve.told import bad

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_DEFAULT_REPLY_TOKENS = 1024
_MAX_CALLS = 8
_CALLS = re.compile(rf"{OPEN}\s*(.*?)\s*{CLOSE}", re.DOTALL)
_INTRO = """\
You may call functions. They are given as JSON:
{tools}
To call one, reply with nothing but, for each call:
<tool_call>
{{"name": NAME, "arguments": ARGUMENTS}}
</tool_call>"""


@dataclass(frozen=True)
class Prompt:
    ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    constraint: GrammarConstraint | None


def build(asked: ChatAsked, tokenizer: Tokenizer, context_tokens: int) -> Prompt:
    """Raises ApiError for what does not fit, and for schemas that cannot be enforced."""
    ids = tuple(_encoded(_turns(asked), tokenizer))
    room = context_tokens - len(ids)
    wanted = asked.max_completion_tokens or asked.max_tokens
    if room < (wanted or 1):
        raise bad(
            f"This model's context is {context_tokens} tokens. The messages take {len(ids)}"
            + (f", and {wanted} are asked for the reply." if wanted else ", which leaves none for a reply."),
            "messages",
            "context_length_exceeded",
        )
    return Prompt(
        ids=ids,
        max_tokens=wanted or min(room, _DEFAULT_REPLY_TOKENS),
        sampling=Sampling(temperature=asked.temperature or 0.0, top_p=asked.top_p or 1.0, seed=asked.seed),
        stop=asked.stops,
        constraint=_constraint(asked, tokenizer),
    )


# --- messages ----------------------------------------------------------------------------------


def _turns(asked: ChatAsked) -> list[tuple[str, str]]:
    """(role, text) in roles that every template knows."""
    turns = [_turn(message) for message in asked.messages]
    if not asked.offered:
        return turns
    listed = "\n".join(json.dumps(_described(function), ensure_ascii=False) for function in asked.offered)
    intro = _INTRO.format(tools=listed)
    if turns[0][0] == "system":
        return [("system", f"{turns[0][1]}\n\n{intro}"), *turns[1:]]
    return [("system", intro), *turns]


def _turn(message: ChatMessage) -> tuple[str, str]:
    if message.role == "tool":
        return "user", f"<tool_response>\n{message.text}\n</tool_response>"
    if message.role == "developer":
        return "system", message.text
    calls = [_written(json.dumps(call.function.name), call.function.arguments) for call in message.tool_calls]
    return message.role, "\n".join(filter(None, (message.text, *calls)))


def _written(name: str, arguments: str) -> str:
    return f'{OPEN}\n{{"name": {name}, "arguments": {arguments}}}\n{CLOSE}'


def _described(function: Function) -> JsonObject:
    return {"name": function.name, "description": function.description, "parameters": function.parameters}


def _encoded(turns: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[int]:
    """The template's own text with its control tokens, what was said without any."""
    mark = secrets.token_hex(8)
    names = [f"{mark}-{index}-" for index in range(len(turns))]
    chat = [{"role": role, "content": name} for (role, _), name in zip(turns, names, strict=True)]
    try:
        rendered = tokenizer.render_chat(chat)
    except ModelError as error:  # many templates want users and assistants in turn, or no system message
        raise bad(str(error), "messages") from error
    ids: list[int] = []
    for name, (role, text) in zip(names, turns, strict=True):
        before, found, rendered = rendered.partition(name)
        if not found:
            raise bad(f"this model's chat template has no place for this {role} message", "messages")
        ids += [*tokenizer.encode(before, special=True), *tokenizer.encode(text)]
    return ids + tokenizer.encode(rendered, special=True)


# --- constraint --------------------------------------------------------------------------------


def _constraint(asked: ChatAsked, tokenizer: Tokenizer) -> GrammarConstraint | None:
    form = asked.response_format
    schema: JsonObject | None = None
    if form and form.type == "json_object":
        schema = {"type": "object"}
    elif form and form.json_schema:
        schema = form.json_schema.schema_
    if schema is None and not asked.offered:
        return None
    try:
        return GrammarConstraint(tokenizer, _grammar(asked, schema))
    except LlmosError as error:
        raise bad(
            f"this schema cannot be enforced: {error}", "response_format" if schema is not None else "tools"
        ) from error


def _grammar(asked: ChatAsked, schema: JsonObject | None) -> str:
    text = "TEXT" if schema is None else f"%json {_inline(schema)}"
    if not asked.offered:
        return f"start: {text}\nTEXT: /(?s:.*)/\n"
    many = 1 if asked.parallel_tool_calls is False else _MAX_CALLS
    starts = ["calls"] if asked.must_call else ["calls", "text"]
    more = f' ("\\n" call){{0,{many - 1}}}' if many > 1 else ""
    lines = [f"start: {' | '.join(starts)}", f"calls: call{more}"]
    lines += [f"text: {text}"] if not asked.must_call else []
    lines.append("call: " + " | ".join(f"f{index}" for index in range(len(asked.offered))))
    for index, function in enumerate(asked.offered):
        head = json.dumps(f'{OPEN}\n{{"name": {json.dumps(function.name)}, "arguments": ')
        tail = json.dumps(f"}}\n{CLOSE}")
        lines.append(f"f{index}: {head} %json {_inline(function.parameters)} {tail}")
    if schema is None and not asked.must_call:
        lines.append("TEXT: /(?s:[^<].*)?/")
    return "\n".join([*lines, ""])


def _inline(schema: JsonObject) -> str:
    """In one spelling: a model that may write blanks writes them without end."""
    compact = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return json.dumps({**schema, "x-guidance": compact}, ensure_ascii=False)


# --- replies -----------------------------------------------------------------------------------


def calls_in(text: str) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of a whole reply; empty where it is text."""
    if not text.startswith(OPEN):
        return []
    found = []
    for written in _CALLS.findall(text):
        call = json.loads(written)
        found.append((str(call["name"]), json.dumps(call["arguments"], ensure_ascii=False)))
    return found

"""The grammar: whatever the logits say, a finished reply is valid calls of the loaded tools.

Validity is judged by jsonschema, which shares no code with llguidance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import llguidance
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmos.engine.grammar import ALONE, CallConstraint, LineConstraint, lark, parse_calls, render_call
from llmos.engine.tokenizer import Tokenizer
from llmos.engine.weights import open_source
from llmos.errors import ConfigError, ModelError, NotUnderstood, UsageError
from llmos.messages import ToolSpec

MAX_TOKENS = 80


def spec(name: str, raw: str | None = None, **properties: Any) -> ToolSpec:
    needed = [key for key, value in properties.items() if value.pop("needed", False)]
    parameters = {
        "type": "object",
        "properties": properties,
        "required": needed,
        "additionalProperties": False,
    }
    return ToolSpec(name=name, summary=f"{name} does its work", parameters=parameters, raw=raw)


LIST = spec(
    "file.list",
    path={"type": "string", "needed": True},
    limit={"type": "integer", "minimum": 1, "maximum": 100},
    sort={"type": "string", "enum": ["name", "size"]},
)
SHELL = spec("shell.run", raw="command", command={"type": "string", "needed": True})
ANSWER = spec("answer", raw="text", text={"type": "string", "needed": True})
ASK = spec("ask", raw="text", text={"type": "string", "needed": True})
SPECS = (LIST, SHELL, ANSWER, ASK)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return open_source(tiny_model).tokenizer


def accepts(tokenizer: Tokenizer, text: str, specs: tuple[ToolSpec, ...] = SPECS) -> bool:
    """Whether the grammar lets exactly this text be a whole reply."""
    constraint = CallConstraint(tokenizer, specs)
    for token in tokenizer.encode(text):
        if not constraint.mask()[token]:
            return False
        constraint.accept([token])
    return constraint.complete


# --- text form ---------------------------------------------------------------------------------

JSON_TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
RAW_TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n"), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | JSON_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JSON_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(JSON_TEXT, JSON, max_size=4), RAW_TEXT)
def test_what_is_rendered_reads_back(args: dict[str, Any], command: str) -> None:
    text = "\n".join([render_call(LIST, args), render_call(SHELL, {"command": command})])
    first, second = parse_calls(text, SPECS)
    assert (first.tool, first.args) == ("file.list", args)
    assert (second.tool, second.args) == ("shell.run", {"command": command})


def test_keys_follow_the_schema_and_there_are_no_blanks() -> None:
    assert render_call(LIST, {"limit": 3, "path": "日志 1"}) == 'file.list {"path":"日志 1","limit":3}'


def test_two_lines_of_shell_are_refused() -> None:
    with pytest.raises(UsageError, match="one line"):
        render_call(SHELL, {"command": "ls\nrm x"})


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "\n\n",
        "file.lost {}",
        "file.list",
        "file.list {",
        "file.list []",
        'file.list {"limit":NaN}',
        'file.list {"limit":1e999}',
        "answer yes\nshell.run ls",
        "file.list " + "[" * 100_000,
    ],
)
def test_a_reply_that_is_no_call_is_not_understood(reply: str) -> None:
    with pytest.raises(NotUnderstood) as caught:
        parse_calls(reply, SPECS)
    assert caught.value.next_step


# --- grammar -----------------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.parametrize(
    ("reply", "allowed"),
    [
        ('file.list {"path":"src","limit":3}', True),
        ('file.list {"path":"文件 \\"1\\""}', True),
        ("shell.run ls -la | head -3", True),
        ('file.list {"path":"a"}\nshell.run wc -l a', True),
        ("answer 巴黎。", True),
        ("file.list {}", False),  # path is required
        ('file.list {"path": "src"}', False),  # one spelling only
        ('file.list {"path":"src","limit":101}', False),
        ('file.list {"path":"src","sort":"age"}', False),
        ('file.list {"path":"src","extra":1}', False),
        ('file.list {"path":"a\\u0000"}', False),
        ("shell.run ", False),
        ("shell.run  ls", False),
        ("shell.run ls\x1b[2J", False),
        ("shell.run ls \u202etxt.exe", False),
        ("answer yes\nshell.run ls", False),
        ("shell.run ls\nanswer yes", False),
        ("\n".join(["shell.run ls"] * 4), True),
        ("\n".join(["shell.run ls"] * 5), False),
        ("rm -rf /", False),
    ],
)
def test_which_replies_the_grammar_allows(tokenizer: Tokenizer, reply: str, allowed: bool) -> None:
    assert accepts(tokenizer, reply) is allowed


@pytest.mark.weights
def test_what_follows_of_itself_is_forced(tokenizer: Tokenizer) -> None:
    constraint = CallConstraint(tokenizer, (LIST,))
    constraint.accept(forced := constraint.forced())
    assert tokenizer.decode(forced).startswith('file.list {"path')
    assert not constraint.complete


@pytest.mark.weights
def test_the_last_allowed_call_ends_the_reply_and_restart_begins_anew(tokenizer: Tokenizer) -> None:
    constraint = CallConstraint(tokenizer, (LIST,), max_calls=1)
    for _ in range(2):
        constraint.accept(tokenizer.encode('file.list {"path":"a"}'))
        assert constraint.finished
        constraint.restart()
        assert not constraint.finished


@pytest.mark.weights
def test_end_of_text_is_offered_only_after_a_whole_call(tokenizer: Tokenizer) -> None:
    constraint = CallConstraint(tokenizer, SPECS)
    ends = sorted(tokenizer.eos_ids)
    for token in tokenizer.encode("shell.run ls"):
        assert not constraint.mask()[ends].any()
        constraint.accept([token])
    assert constraint.mask()[ends].all()
    assert constraint.mask().shape == (tokenizer.vocab_size,)


@pytest.mark.weights
def test_a_refused_token_is_an_error_with_a_next_step(tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError) as caught:
        CallConstraint(tokenizer, SPECS).accept(tokenizer.encode("rm"))
    assert caught.value.next_step


@pytest.mark.weights
def test_a_command_line_is_one_line(tokenizer: Tokenizer) -> None:
    constraint = LineConstraint(tokenizer)
    constraint.accept(tokenizer.encode("ls -la"))
    (newline,) = tokenizer.encode("\n")
    assert constraint.complete
    assert not constraint.mask()[newline]


@pytest.mark.weights
def test_pieces_are_what_llguidance_itself_reads_from_the_tokenizer(tokenizer: Tokenizer) -> None:
    """The same masks and forced tokens: at the start, inside a string, and after a Chinese character."""
    own = CallConstraint(tokenizer, SPECS)
    vocabulary = llguidance.LLTokenizer(
        tokenizer.hf.to_str(), n_vocab=tokenizer.vocab_size, eos_token=sorted(tokenizer.eos_ids)
    )
    grammar = llguidance.LLMatcher.grammar_from_lark(lark(SPECS))
    theirs = llguidance.LLMatcher(vocabulary, grammar, log_level=0)
    for text in ("", 'file.list {"', 'path":"', "\u6587", '","'):
        for token in tokenizer.encode(text):
            own.accept([token])
            theirs.consume_token(token)
        mask = np.unpackbits(np.frombuffer(theirs.compute_bitmask(), np.uint8), bitorder="little")
        assert mask[: tokenizer.vocab_size].astype(bool).tolist() == own.mask().tolist()
        assert theirs.compute_ff_tokens() == own.forced()


def test_a_schema_that_cannot_be_enforced_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"shell\.run"):
        lark((spec("shell.run", raw="command", command={"type": "string", "pattern": "^ls"}),))
    with pytest.raises(ConfigError, match="no value a model can write"):
        lark((spec("a.b", c={"enum": ["\x1f"]}),))
    with pytest.raises(ConfigError, match="no tools"):
        lark(())


# --- random manifests, random logits -------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True)
STRINGS = st.fixed_dictionaries({"type": st.just("string")}, optional={"maxLength": st.integers(1, 20)})
PATTERNS = st.sampled_from(["^[0-9]+[kMG]?$", "^(today|[0-9]{4})$"]).map(
    lambda pattern: {"type": "string", "pattern": pattern}
)
ENUMS = st.lists(
    st.text(st.characters(max_codepoint=0xFFFF, blacklist_categories=["Cs", "Cc", "Cn", "Co"]), max_size=9),
    min_size=1,
    max_size=4,
    unique=True,
).map(lambda words: {"enum": words})
INTEGERS = st.one_of(
    st.just({"type": "integer"}),
    st.tuples(st.integers(-1000, 1000), st.integers(0, 1000)).map(
        lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
    ),
)
NUMBERS = st.sampled_from([{"type": "number"}, {"type": "number", "minimum": 0}, {"type": "boolean"}])
SCALARS = STRINGS | PATTERNS | ENUMS | INTEGERS | NUMBERS
LISTS = st.tuples(SCALARS, st.integers(0, 2), st.integers(0, 3)).map(
    lambda part: {"type": "array", "items": part[0], "minItems": part[1], "maxItems": part[1] + part[2]}
)


@st.composite
def manifests(draw: st.DrawFn) -> tuple[ToolSpec, ...]:
    names = draw(st.lists(st.tuples(NAMES, NAMES).map(".".join), min_size=1, max_size=5, unique=True))
    tools = []
    for name in names:
        properties = draw(st.dictionaries(NAMES, SCALARS | LISTS, max_size=4))
        needed = {key: value | {"needed": draw(st.booleans())} for key, value in properties.items()}
        tools.append(spec(name, **needed))
    return (*tools, *draw(st.sampled_from([(), (SHELL,), (ANSWER, ASK), (SHELL, ANSWER)])))


def closing_bonus(tokenizer: Tokenizer) -> torch.Tensor:
    """Tokens that end a string, a list, a call or a reply: without a push random text never ends."""
    bonus = torch.zeros(tokenizer.vocab_size)
    for mark in ('"', '"}', '"]', "]", "}", '",', "0", "\n"):
        bonus[tokenizer.encode(mark)] = 1.0
    bonus[sorted(tokenizer.eos_ids)] = 1.0
    return bonus


def decode_randomly(tokenizer: Tokenizer, constraint: CallConstraint, seed: int, bonus: torch.Tensor) -> str:
    """Greedy decoding of random logits, forced tokens included, as the engine does it; "" if unfinished."""
    random_logits = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    while len(ids) < MAX_TOKENS:
        if step := constraint.forced():
            constraint.accept(step)
            ids += step
        if constraint.finished:
            return tokenizer.decode(ids)
        mask = constraint.mask()
        logits = torch.randn(tokenizer.vocab_size, generator=random_logits) + bonus * (len(ids) / 3)
        token = int(logits.masked_fill(~mask, -torch.inf).argmax())
        assert mask.any()
        if token in tokenizer.eos_ids:
            assert constraint.complete
            return tokenizer.decode(ids)
        constraint.accept([token])
        ids.append(token)
    return ""


def check_reply(reply: str, specs: tuple[ToolSpec, ...]) -> None:
    by_name = {tool.name: tool for tool in specs}
    calls = parse_calls(reply, specs)
    assert 1 <= len(calls) <= 4
    assert len(calls) == 1 or not ALONE & {call.tool for call in calls}
    for call in calls:
        jsonschema.validate(call.args, by_name[call.tool].parameters)
        assert not any(ord(char) < 32 for value in call.args.values() for char in str(value)) or "\\" in reply


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and lose much where other processes are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.weights
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("one_thread")
def test_random_manifests_and_random_logits_never_give_an_invalid_call(tokenizer: Tokenizer) -> None:
    finished: list[bool] = []
    bonus = closing_bonus(tokenizer)

    # Not shrunk: the seed is random, so a smaller manifest is another example, not a simpler one.
    @settings(
        max_examples=1000,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(manifests(), st.integers(0, 2**32))
    def run(specs: tuple[ToolSpec, ...], seed: int) -> None:
        reply = decode_randomly(tokenizer, CallConstraint(tokenizer, specs), seed, bonus)
        finished.append(bool(reply))
        if reply:
            check_reply(reply, specs)

    run()
    assert sum(finished) > 0.8 * len(finished) > 800 * 0.8

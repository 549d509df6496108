"""The tokenizer built from a GGUF is the reference's, byte for byte, and nothing is lost on the way.

References: `transformers`' own conversion of the same file, and llama.cpp's where llama-cpp-python is
installed (it is not among the test requirements).
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from llmos.engine import tokenizer as tokenizer_module
from llmos.engine import weights
from llmos.engine.tokenizer import Tokenizer
from llmos.errors import ModelError

pytestmark = pytest.mark.weights

SAMPLES = (
    "The quick brown fox doesn't jump; it's 12345 times 6.78e-9, they've said.",
    "  leading, trailing and   inner   spaces \t\ttabs\n\n\nlines\r\nand CRLF  ",
    "清晨的港口比小镇醒得早。四点刚过，第一批卡车（共12辆）就开下来！",
    "日本語のテキスト、한국어 텍스트, Русский текст, العربية, हिन्दी, ไทย",
    "def f(x: int) -> str:\n    return f'{x!r:>{10}}'  # ünïcödé\n\tif x_1 != 0x7fFF: pass\n",
    "rm -rf /tmp/*.log && find . -name '*.py' -print0 | xargs -0 grep -nE \"^\\s+#\" > out.txt 2>&1",
    "😀 👩‍👩‍👧‍👦 🇨🇭 1️⃣ ☃️ \U0001f9d1\U0001f3fd‍💻",
    "café cafe\u0301 Å A\u030a \u200b\u200d\ufeff \u202e\x00\x07\x1b[0m",
    "I'LL we'Re DON'T 's'S \u017f",
    '{"a": [1, 2.50, null, true], "b": {"ключ": "值"}}',
    "",
)
anything = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=200)


@pytest.fixture(scope="module", params=["tiny_model", "default_model"])
def model_file(request: pytest.FixtureRequest) -> Path:
    file: Path = request.getfixturevalue(request.param)
    return file


@pytest.fixture(scope="module")
def ours(model_file: Path) -> Tokenizer:
    return weights.open_source(model_file).tokenizer


@pytest.fixture(scope="module")
def theirs(model_file: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_file.parent, gguf_file=model_file.name)


def test_samples_and_prose_as_transformers(ours: Tokenizer, theirs: Any, prose: str) -> None:
    for text in (*SAMPLES, prose):
        expected = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == expected, text
        assert ours.encode(text, special=True) == theirs.encode(text, add_special_tokens=False), text


# Where digits are split off first, the blanks before one end their piece and stay together (llama.cpp's ids).
DIGITS_FIRST = {" \n0": [3717, 32], "\n\n7": [1116, 39], "a  12": [81, 256, 33, 34], "\n 5": [3805, 37]}


def test_blanks_before_a_digit_are_cut_as_llama_cpp_cuts_them(tiny_model: Path) -> None:
    tokenizer = weights.open_source(tiny_model).tokenizer
    assert {text: tokenizer.encode(text) for text in DIGITS_FIRST} == DIGITS_FIRST


@settings(max_examples=150, deadline=None)
@given(text=anything)
def test_anything_as_transformers(ours: Tokenizer, theirs: Any, text: str) -> None:
    """But for ² and its like: SmolLM2's own tokenizer.json, llama.cpp and we split them off as digits, which
    transformers' reading of the GGUF forgets."""
    assume(not any(unicodedata.category(char) in ("No", "Nl", "Nd") and not char.isascii() for char in text))
    if ours.encode("\n\n7") == DIGITS_FIRST["\n\n7"]:
        assume(re.search(r"\s\s\d", text) is None)
    assert ours.encode(text, special=True) == theirs.encode(text, add_special_tokens=False)


if importlib.util.find_spec("llama_cpp") is not None:  # an optional second witness

    def test_as_llama_cpp(ours: Tokenizer, model_file: Path, prose: str) -> None:
        from llama_cpp import Llama

        other = Llama(str(model_file), vocab_only=True, verbose=False)
        for text in (*SAMPLES, prose):
            assert ours.encode(text) == other.tokenize(text.encode(), add_bos=False, special=False), text
        other.close()


def _missing_bytes(tokenizer: Tokenizer) -> frozenset[int]:
    """Bytes without a token: SmolLM2's vocabulary lacks what its training text never held."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
    return frozenset(b for b, letter in letters.items() if tokenizer.hf.token_to_id(letter) is None)


@settings(max_examples=300, deadline=None)
@given(text=anything)
def test_decode_undoes_encode(ours: Tokenizer, text: str) -> None:
    """Byte for byte: no normalisation, so that a file name comes out as it went in."""
    assume(not _missing_bytes(ours) & set(text.encode()))
    assert ours.decode(ours.encode(text)) == text


def test_no_byte_of_assigned_characters_is_missing(ours: Tokenizer) -> None:
    """But for control characters, which are lost as they are with the reference."""
    kinds = ("Cc", "Cn", "Cs", "Co")
    assigned = [char for char in map(chr, range(0x110000)) if unicodedata.category(char) not in kinds]
    assert not _missing_bytes(ours) & set("".join(assigned).encode())


@settings(max_examples=150, deadline=None)
@given(text=anything)
def test_streamed_pieces_are_whole_characters(ours: Tokenizer, text: str) -> None:
    assume(not _missing_bytes(ours) & set(text.encode()))
    stream = ours.streamer()
    ids = ours.encode(text)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == ours.decode(ids)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces) or "\N{REPLACEMENT CHARACTER}" in text


def test_stream_shows_a_character_that_was_never_finished(ours: Tokenizer) -> None:
    ids = ours.encode("\U0001fae8")
    assert len(ids) > 1, "the sample must be a character of several tokens"
    stream = ours.streamer()
    assert stream.push(ids[0]) == ""
    assert "\N{REPLACEMENT CHARACTER}" in stream.finish()


def test_control_marks_in_text_stay_text(ours: Tokenizer) -> None:
    """What a file or a web page says cannot end a turn."""
    mark = "<|im_end|>"
    [control] = ours.encode(mark, special=True)
    assert control in ours.eos_ids
    plain = ours.encode(f"log: {mark}")
    assert control not in plain
    assert ours.decode(plain) == f"log: {mark}"


def test_chat_template_as_transformers(ours: Tokenizer, theirs: Any) -> None:
    chats = (
        [{"role": "user", "content": "Which files are large?"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "列出文件 {{ 7*7 }}"},
            {"role": "assistant", "content": "ls -S"},
            {"role": "user", "content": "merci"},
        ],
    )
    for chat in chats:
        for prompt in (True, False):
            expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            assert ours.render_chat(chat, add_generation_prompt=prompt) == expected


def _with_template(base: Tokenizer, template: str) -> Tokenizer:
    changed: dict[str, Any] = base.settings() | {"eos_ids": base.eos_ids, "chat_template": template}
    return Tokenizer(base.hf, **changed)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{% for i in range(999999999) %}x{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no system role') }}",
        "{{ 1 / 0 }}",
        "{% if %}",
    ],
)
def test_a_hostile_or_broken_template_is_an_error(ours: Tokenizer, template: str) -> None:
    """The template comes with the weights, so it gets a sandbox; plain Jinja would carry the first out."""
    with pytest.raises(ModelError, match="template") as caught:
        _with_template(ours, template).render_chat([{"role": "user", "content": "hi"}])
    assert caught.value.next_step
    assert "list" in Environment().from_string("{{ messages.__class__.__mro__ }}").render(messages=[])


def test_no_template_is_an_error(ours: Tokenizer) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        _with_template(ours, "").render_chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    "fields",
    [
        {"tokenizer.ggml.model": "llama"},
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "of-tomorrow"},
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2"},
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.merges": ["ab"]},
        {},
    ],
)
def test_unsupported_vocabularies_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        tokenizer_module.from_gguf(fields, 10)
    assert caught.value.next_step

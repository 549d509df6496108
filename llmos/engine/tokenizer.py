"""The model's own tokenizer, built with the `tokenizers` library from what the weights' file carries.

GGUF files hold vocabulary, merges and the name of the pre-tokenizer (`tokenizer.ggml.pre`); folders hold
`tokenizer.json`. Byte-level BPE only (Sennrich et al. 2016; GPT-2's byte alphabet): SentencePiece
vocabularies inside a GGUF are refused, their folders work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from llmos.errors import ModelError

_CONTROL, _USER_DEFINED = 3, 4  # gguf.TokenType
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _digits_then_gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


# By `tokenizer.ggml.pre`; the patterns are those of the models' own tokenizer.json files.
_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "qwen2": lambda: _split(f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}|{_REST}"),
    "llama-bpe": lambda: _split(f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}"),
    "smollm": _digits_then_gpt2,
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
}
# What a template's own mistakes raise beside jinja2.TemplateError.
_TEMPLATE_BUGS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<eos>")


class Tokenizer:
    """Text to ids and back. `vocab_size` is the number of the logits' rows, which may exceed the tokens'."""

    def __init__(
        self,
        hf: HfTokenizer,
        *,
        vocab_size: int,
        eos_ids: frozenset[int],
        chat_template: str,
        variables: Mapping[str, str],
        kept_pieces: Callable[[], list[bytes] | None] = lambda: None,
    ) -> None:
        """`kept_pieces` reads what `pieces` would have to find out, where that is kept."""
        self.hf = hf
        self.vocab_size = vocab_size
        self.eos_ids = eos_ids
        self._chat_template = chat_template
        self._variables = dict(variables)
        self._kept_pieces = kept_pieces

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, all but the `tokenizers` object and the pieces, as JSON values."""
        return {
            "vocab_size": self.vocab_size,
            "eos_ids": sorted(self.eos_ids),
            "chat_template": self._chat_template,
            "variables": self._variables,
        }

    @property
    def marks(self) -> frozenset[int]:
        """Ids of control tokens, and of others that are written like tags (`<tool_call>`): no plain text."""
        added = self.hf.get_added_tokens_decoder().items()
        tags = (i for i, token in added if token.content.startswith("<") and token.content.endswith(">"))
        return frozenset([*tags, *(i for i, token in added if token.special)])

    def pieces(self) -> list[bytes] | None:
        """Each id's bytes, for logits' rows without a token empty; None where the alphabet is not GPT-2's."""
        if (kept := self._kept_pieces()) is not None:
            return kept
        if not isinstance(self.hf.decoder, decoders.ByteLevel):
            return None
        alphabet = str.maketrans({letter: chr(byte) for letter, byte in _byte_alphabet().items()})
        added = self.hf.get_added_tokens_decoder()
        found = [b""] * self.vocab_size
        for token, index in self.hf.get_vocab().items():
            found[index] = token.encode() if index in added else token.translate(alphabet).encode("latin-1")
        return found

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of `text`. Only with `special` are marks like `<|im_end|>` read as control tokens: text that
        comes from outside must not be able to end a turn."""
        self.hf.encode_special_tokens = not special
        return list(self.hf.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, control tokens included; bytes that are no UTF-8 become U+FFFD."""
        return self.hf.decode(list(ids), skip_special_tokens=False)

    def render_chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat in the model's own template (Jinja, sandboxed: it comes with the weights)."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if not self._chat_template:
            raise ModelError("the model has no chat template", "Use an instruction-tuned model.")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        environment.globals["raise_exception"] = _raise_template_error
        try:
            template = environment.from_string(self._chat_template)
            return template.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **self._variables
            )
        except (TemplateError, *_TEMPLATE_BUGS) as error:
            raise ModelError(f"the model's chat template failed: {error}", "Use another model.") from error

    def streamer(self) -> TextStream:
        return TextStream(self)


def _raise_template_error(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others follow from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


class TextStream:
    """Turns ids into text as they come, never splitting a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._sent = 0

    def push(self, token_id: int) -> str:
        """The text that is now certain; empty while a character is unfinished."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        new, self._sent = text[self._sent :], len(text)
        if text.endswith("\n") or len(self._ids) > 64:
            # A line's end is a safe place to forget what came before: decoding stays linear.
            self._ids, self._sent = [], 0
        return new

    def finish(self) -> str:
        """What is left, with U+FFFD for a character that was never finished."""
        return self._tokenizer.decode(self._ids)[self._sent :]


def from_gguf(fields: Mapping[str, Any], vocab_size: int) -> Tokenizer:
    """Build from a GGUF's metadata (the `tokenizer.*` keys). Raises ModelError for unsupported kinds."""
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise ModelError(
            f"the GGUF's tokenizer is of a kind not supported here ({kind}, {pre})",
            "Use the model's safetensors folder (with its tokenizer.json), or a Qwen2 or Llama-3 style GGUF.",
        )
    try:
        tokens, merges = list(fields["tokenizer.ggml.tokens"]), fields["tokenizer.ggml.merges"]
        pairs = [tuple(merge.split(" ", 1)) for merge in merges]
        vocab = {token: index for index, token in enumerate(tokens)}
        hf = HfTokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=pre == "llama-bpe"))
    except KeyError as error:
        raise ModelError(f"the GGUF has no {error.args[0]}", "Use a complete GGUF file.") from error
    except Exception as error:  # the library raises plain Exception for merges of unknown tokens
        raise ModelError(f"the GGUF's vocabulary is broken: {error}", "Fetch the file again.") from error
    # No Unicode normalisation, as in llama.cpp: a file name has to come out as it went in.
    hf.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    hf.decoder = decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type", ())
    for index, token_kind in enumerate(kinds):
        if token_kind in (_CONTROL, _USER_DEFINED):
            added = AddedToken(tokens[index], normalized=False, special=token_kind == _CONTROL)
            hf.add_special_tokens([added]) if token_kind == _CONTROL else hf.add_tokens([added])
    return Tokenizer(
        hf,
        vocab_size=vocab_size,
        eos_ids=_eos_ids(hf, fields.get("tokenizer.ggml.eos_token_id")),
        chat_template=fields.get("tokenizer.chat_template", ""),
        variables=_named(fields, tokens),
    )


def _named(fields: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, str]:
    """bos_token and eos_token as the templates expect them."""
    found = {}
    for name in ("bos", "eos", "padding"):
        index = fields.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(index, int) and index < len(tokens):
            found["pad_token" if name == "padding" else f"{name}_token"] = tokens[index]
    return found


def _eos_ids(hf: HfTokenizer, declared: int | None) -> frozenset[int]:
    """Ids that end a turn: the declared one, and the well-known marks the vocabulary has."""
    known = {hf.token_to_id(mark) for mark in _TURN_ENDS}
    return frozenset(
        {*(index for index in known if index is not None), *([] if declared is None else [declared])}
    )


def from_folder(folder: Path, vocab_size: int) -> Tokenizer:
    """Build from a folder's tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    file = folder / "tokenizer.json"
    try:
        hf = HfTokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception for missing and for broken files
        raise ModelError(f"{file} cannot be read: {error}", "Use a complete model folder.") from error
    config = _json(folder / "tokenizer_config.json")
    template_file = folder / "chat_template.jinja"
    template = template_file.read_text() if template_file.is_file() else config.get("chat_template", "")
    variables = {
        key: _content(config[key]) for key in ("bos_token", "eos_token", "pad_token") if config.get(key)
    }
    declared = hf.token_to_id(variables["eos_token"]) if "eos_token" in variables else None
    return Tokenizer(
        hf,
        vocab_size=vocab_size,
        eos_ids=_eos_ids(hf, declared),
        chat_template=template if isinstance(template, str) else "",
        variables=variables,
    )


def _content(token: str | Mapping[str, str]) -> str:
    return token if isinstance(token, str) else token["content"]


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text()))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}", "Use a complete model folder.") from error

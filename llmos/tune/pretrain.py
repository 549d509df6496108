"""Pre-train a small transformer from scratch on text of your own.

    llmos tune pretrain --text /usr/share/doc --out ~/models/mine --max-seconds 3600
    llmos tune pretrain --pairs renamed.tsv --kind encoder-decoder --out ~/models/renamer --max-steps 2000

Kinds: `decoder` (Llama's blocks; `llmos model use FOLDER` runs it), and of Vaswani et al. 2017 `decoder-2017`
and `encoder-decoder`. A byte-level BPE tokenizer is trained first. A run that was killed goes on where it
last wrote its state, given the same command. What is left: the model, the tokenizer, curve.json, curve.svg,
and report.json with the perplexity on text that was kept aside.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from llmos.engine.model import ModelConfig
from llmos.errors import UsageError
from llmos.tune import corpus, folders
from llmos.tune import options as tune_options
from llmos.tune.network import Learner, Whole
from llmos.tune.train import Curve, Run
from llmos.tune.vaswani import Shape, Transformer2017

KINDS = ("decoder", "decoder-2017", "encoder-decoder")
_INIT_STD = 0.02
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tune_options.parser("pretrain", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", type=Path, nargs="+", help="files of text, or folders of them")
    what.add_argument("--pairs", type=Path, help="encoder-decoder: source and target a line")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--kind", choices=KINDS, default="decoder")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument(
        "--inner", type=int, default=0, help="of the feed-forward networks (default 4 widths)"
    )
    parser.add_argument(
        "--context", type=int, default=256, help="tokens of a block, or of a source or target"
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="of the transformers of 2017")
    tune_options.add_settings(parser, learning_rate=1e-3, batch_tokens=4096, accumulate=1, weight_decay=0.1)
    found = parser.parse_args(argv)
    if not (found.max_seconds or found.max_steps):
        parser.error("give --max-seconds or --max-steps")
    if bool(found.pairs) != (found.kind == "encoder-decoder"):
        parser.error("--pairs and --kind encoder-decoder belong together")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    given = options(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    settings = tune_options.settings(given)
    text = corpus.read_pairs(given.pairs) if given.pairs else corpus.read_texts(given.text)
    tokenizer = _tokenizer(given, text)
    cut: Callable[..., list[Any]] = corpus.blocks if given.text else corpus.pairs
    end = corpus.mark_id(tokenizer, corpus.END)
    train, valid = (cut(part, tokenizer, given.context, end) for part in (text.train, text.valid))
    say(
        f"{len(text.train)} documents to learn from, {len(text.valid)} kept aside, {text.left_out} left out;"
        f" {sum(len(sample.ids) for sample in train)} tokens of {tokenizer.get_vocab_size()} kinds"
    )
    torch.manual_seed(settings.seed)
    device = tune_options.device()
    learner = _fresh(given, tokenizer.get_vocab_size(), device)
    run = Run(
        learner,
        shuffled(train, settings.seed),
        settings,
        device=device,
        folder=given.out / "state",
        validation={"text": valid},
        on_progress=say,
    )
    curve = run.go()
    _save(given.out, learner, tokenizer, given)
    report = _report(curve, text, learner)
    (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    curve.write(given.out)
    say(json.dumps(report))
    return 0


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def shuffled(samples: Sequence[Any], seed: int) -> Iterator[Any]:
    """All of them, again and again, each time in another order."""
    rng = np.random.default_rng(seed)
    while True:
        for index in rng.permutation(len(samples)):
            yield samples[index]


def _tokenizer(given: argparse.Namespace, text: corpus.Corpus) -> Tokenizer:
    """Trained once: a run that goes on needs the same one."""
    file, of = given.out / "tokenizer.json", given.out / "state" / "text.sha256"
    digest = hashlib.sha256("\0".join("\1".join(document) for document in text.train).encode()).hexdigest()
    if file.exists() and of.exists():
        if of.read_text() != f"{digest} {given.vocab_size}":
            raise UsageError(
                f"{given.out} holds a run on other text, or with another vocabulary",
                "Name another folder, or remove that one.",
            )
        return Tokenizer.from_file(str(file))
    made = corpus.train_tokenizer(text, given.vocab_size)
    of.parent.mkdir(exist_ok=True)
    made.save(str(file))
    of.write_text(f"{digest} {given.vocab_size}")
    return made


def _fresh(given: argparse.Namespace, vocab_size: int, device: torch.device) -> Learner:
    inner = given.inner or 4 * given.width
    try:
        if given.kind == "decoder":
            config = ModelConfig(
                architecture="llama", num_layers=given.layers, hidden_size=given.width,
                intermediate_size=inner,
                num_heads=given.heads, num_kv_heads=given.heads, head_dim=given.width // given.heads,
                vocab_size=vocab_size, max_positions=max(given.context, 2048), rms_eps=1e-5,
                rope_theta=10000.0,
            )  # fmt: skip
            whole = Whole(config, start(config), positions=given.context, mixed=device.type == "cuda")
            return whole.to_device(device)  # type: ignore[no-any-return]
        shape = Shape(
            vocab_size, given.width, given.heads, inner,
            encoder_layers=given.layers if given.kind == "encoder-decoder" else 0,
            decoder_layers=given.layers, max_positions=max(given.context, 512), dropout=given.dropout,
        )  # fmt: skip
        return Transformer2017(shape).to(device)
    except ValueError as error:
        raise UsageError(
            f"there is no such model: {error}", "Choose a width that the heads divide."
        ) from None


def start(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Random weights for the engine's names: normal, those that write to the residual stream smaller the
    more blocks there are (Radford et al. 2019)."""
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    residual = _INIT_STD / math.sqrt(2 * config.num_layers)
    made = {"embedding.weight": torch.randn(config.vocab_size, width) * _INIT_STD}
    for layer in range(config.num_layers):
        name = f"blocks.{layer}"
        made[f"{name}.attention.qkv.weight"] = torch.randn(heads + 2 * kv, width) * _INIT_STD
        made[f"{name}.attention.out.weight"] = torch.randn(width, heads) * residual
        made[f"{name}.feed_forward.gate_up.weight"] = torch.randn(2 * inner, width) * _INIT_STD
        made[f"{name}.feed_forward.down.weight"] = torch.randn(width, inner) * residual
        made[f"{name}.attention_norm.weight"] = torch.ones(width)
        made[f"{name}.feed_forward_norm.weight"] = torch.ones(width)
    return made | {"norm.weight": torch.ones(width)}


def _save(folder: Path, learner: Learner, tokenizer: Tokenizer, given: argparse.Namespace) -> None:
    end, pad = corpus.mark_id(tokenizer, corpus.END), corpus.mark_id(tokenizer, corpus.PAD)
    marks = {"bos_token": corpus.END, "eos_token": corpus.END, "pad_token": corpus.PAD}
    if isinstance(learner, Transformer2017):
        folders.save_2017(folder, learner.cpu().eval(), end=end, pad=pad)
        folders.save_tokenizer(folder, tokenizer, template="", marks=marks)
        return
    assert isinstance(learner, Whole)
    folders.save(
        folder,
        learner.config,
        learner.tensors(),
        dtype=torch.float32,
        marks={"bos": end, "eos": end, "pad": pad},
    )
    folders.save_tokenizer(folder, tokenizer, template=_TEMPLATE, marks=marks)


def _report(curve: Curve, text: corpus.Corpus, learner: Learner) -> dict[str, Any]:
    """Perplexity a token depends on the tokenizer; bits a byte can be compared between models."""
    found = curve.validations[-1]["text"]
    nats = found["loss"] * found["tokens"]
    return {
        "parameters": sum(parameter.numel() for parameter in learner.trained.parameters()),
        "steps": curve.validations[-1]["step"],
        "valid_loss": found["loss"],
        "perplexity": round(math.exp(found["loss"]), 3),
        "bits_per_byte": round(nats / math.log(2) / max(1, text.valid_bytes), 4),
        "tokens_judged": found["tokens"],
    }

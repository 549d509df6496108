"""Heads that say what kind of thing a request asks for, and what its words are.

    llmos tune heads --rows train.jsonl --valid valid.jsonl --model tiny --out ~/heads --max-steps 2000
    llmos tune heads --out ~/heads --try "copy a.txt to /srv"

Rows are those of `llmos tune data`. The backbone is frozen, or learns with --full. The report sets both heads
against a linear model of hashed words and rules for paths and numbers, on the rows kept aside.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from llmos.engine import store, weights
from llmos.errors import UsageError
from llmos.paths import tool_dirs
from llmos.toolbox import catalog
from llmos.tune import options as tune_options
from llmos.tune import plain_heads
from llmos.tune.data import foreign
from llmos.tune.echo import spans_of
from llmos.tune.heads import Heads, Learning, Sample, add_features, figures, judged, predict, samples
from llmos.tune.labelled import TAGS, Labelled, arguments, from_rows, planted
from llmos.tune.network import Network, Whole
from llmos.tune.prepare import read_rows
from llmos.tune.pretrain import say, shuffled
from llmos.tune.train import Run

_FILE, _CARD = "heads.safetensors", "heads.json"
_RAREST = 5  # requests of a kind that is worth a class of its own
_PLANTED_SHARE = 0.15  # sentences with secrets and hosts, beside the rows
_POSITIONS = 512


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tune_options.parser("heads", __doc__)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--valid", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the heads")
    parser.add_argument("--model", default="tiny", help="the backbone")
    parser.add_argument("--full", action="store_true", help="the backbone learns too")
    parser.add_argument("--try", dest="text", metavar="TEXT", help="say what the heads in --out make of it")
    tune_options.add_settings(
        parser, learning_rate=2e-3, batch_tokens=4096, accumulate=1, weight_decay=0.01, max_steps=1500
    )
    found = parser.parse_args(argv)
    if found.text is None and not (found.rows and found.valid):
        parser.error("give --rows and --valid, or --try")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    given = _options(argv)
    return _try(given) if given.text is not None else _learn(given)


def _learn(given: argparse.Namespace) -> int:
    settings = tune_options.settings(given)
    torch.manual_seed(settings.seed)
    device = tune_options.device()
    texts, held = _labelled(given.rows, settings.seed), _labelled(given.valid, settings.seed + 1)
    kinds = _kinds(texts)
    source = weights.open_source(store.resolve(given.model))
    train, valid = (samples(source.tokenizer, part, kinds) for part in (texts, held))
    whole = None
    tensors = weights.tensors(source, torch.float32 if given.full else tune_options.frozen(device))
    heads = Heads(source.config.hidden_size, len(kinds), len(TAGS))
    if given.full:
        whole = Whole(source.config, tensors, positions=_POSITIONS, mixed=device.type == "cuda").to_device(
            device
        )
    else:
        backbone = Network(source.config, tensors, positions=_POSITIONS).to_device(device)
        for part in (train, valid):
            say(f"features of {len(part)} sentences by the frozen backbone")
            add_features(backbone, part, device)
    _standardise(heads, train, whole, device)
    learning = Learning(heads, whole).to(device)
    run = Run(
        learning, shuffled(train, settings.seed), settings,
        device=device, folder=given.out / "state", validation={"sentences": valid}, on_progress=say,
    )  # fmt: skip
    curve = run.go()
    report = {
        "sentences": len(texts),
        "kept_aside": len(held),
        "num_kinds": len(kinds),
        "heads": judged(learning, held, valid, kinds, device),
        "words_and_rules": _plainly(texts, held, kinds),
    }
    _save(given, learning, kinds, store.show(given.model).card.sha256, report)
    curve.write(given.out)
    say(json.dumps(report))
    return 0


def _standardise(heads: Heads, train: Sequence[Sample], whole: Whole | None, device: torch.device) -> None:
    """By all the features where they are fixed, else by those of some sentences before anything is learnt."""
    some = list(train) if whole is None else [dataclasses.replace(sample) for sample in train[:256]]
    if whole is not None:
        add_features(whole, some, device)
    heads.standardise_by(
        torch.cat([sample.features for sample in some if sample.features is not None]).float()
    )


def _labelled(file: Path, seed: int) -> list[Labelled]:
    tools = catalog.load(tool_dirs()[:1])
    known = {name: tool.manifest.args for name, tool in tools.tools.items()}
    rows = from_rows(read_rows(file), arguments(foreign.beside(tools.specs), known))
    return [*rows, *planted(random.Random(seed), round(len(rows) * _PLANTED_SHARE))]  # noqa: S311 - seeded, for training


def _kinds(texts: Sequence[Labelled]) -> list[str]:
    """Rare ones are no class of their own; what is asked for there is not learnt."""
    counts: dict[str, int] = {}
    for text in texts:
        counts[text.kind] = counts.get(text.kind, 0) + 1
    return sorted(kind for kind, count in counts.items() if kind and count >= _RAREST)


def _plainly(texts: Sequence[Labelled], held: Sequence[Labelled], kinds: Sequence[str]) -> dict[str, float]:
    bag = plain_heads.learn_words(texts, kinds)
    said = plain_heads.words_say(bag, [text.text for text in held])
    return figures(
        [(text.kind, kinds[number]) for text, number in zip(held, said, strict=True) if text.kind],
        [(set(text.spans), plain_heads.rules_say(text.text)) for text in held],
    )


def _save(
    given: argparse.Namespace, learning: Learning, kinds: Sequence[str], sha256: str, report: dict[str, Any]
) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    tensors = {f"heads.{name}": t for name, t in learning.heads.state_dict().items()}
    if learning.whole is not None:
        tensors |= {f"whole.{name}": t for name, t in learning.whole.tensors().items()}
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, given.out / _FILE)
    card = {"model": given.model, "base_sha256": sha256, "kinds": list(kinds), "tags": list(TAGS), **report}
    (given.out / _CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def _try(given: argparse.Namespace) -> int:
    """What the heads make of one sentence, as JSON."""
    try:
        card = json.loads((given.out / _CARD).read_text())
        tensors = load_file(given.out / _FILE)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{given.out} holds no heads: {error}", "Make them with --rows and --valid first."
        ) from None
    source = weights.open_source(store.resolve(card["model"]))
    if store.show(card["model"]).card.sha256 != card["base_sha256"]:
        raise UsageError(
            f"the model {card['model']} is not the one that these heads were made for", "Make them again."
        )
    heads = Heads(source.config.hidden_size, len(card["kinds"]), len(card["tags"]))
    heads.load_state_dict({n.removeprefix("heads."): t for n, t in tensors.items() if n.startswith("heads.")})
    learnt = {n.removeprefix("whole."): t for n, t in tensors.items() if n.startswith("whole.")}
    device = torch.device("cpu")
    tensors = learnt or weights.tensors(source, tune_options.frozen(device))
    network = Network(source.config, tensors, positions=_POSITIONS)
    some = samples(source.tokenizer, [Labelled(given.text, "", ())], card["kinds"])
    add_features(network, some, device)
    ((number, chance, tags),) = predict(Learning(heads, None), some, device)
    spans = spans_of(some[0].read.offsets, tags, card["tags"])
    said = {
        "kind": card["kinds"][number],
        "chance": round(chance, 4),
        "spans": [{"text": given.text[span.start : span.end], "tag": span.tag} for span in spans],
    }
    say(json.dumps(said, ensure_ascii=False))
    return 0

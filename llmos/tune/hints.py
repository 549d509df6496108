"""Make `hints.json`: two linear heads over hashed words, measured against the rules on rows kept aside.

    llmos tune data --out train.jsonl --valid valid.jsonl --count 20000
    llmos tune hints --rows train.jsonl --valid valid.jsonl --out hints.json

`secret` learns from made-up secrets in the sentences of data/planted.txt, with all words of the rows and what
only looks alike (data/planted-none.txt) as none. It is judged on the sentences of data/planted-held.txt.
`change` learns from the rows whether their tools change something. Logistic regression, by PyTorch.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmos import hints
from llmos.cloud import detect
from llmos.guard import redaction
from llmos.paths import tool_dirs
from llmos.toolbox import catalog
from llmos.tune import options as tune_options
from llmos.tune.labelled import Labelled, planted
from llmos.tune.prepare import read_rows
from llmos.tune.pretrain import say

Known = list[tuple[list[int], bool]]
_BUCKETS = {"secret": 1 << 13, "change": 1 << 14}
_NAMES = ("bob", "alice", "web-01", "Nextcloud", "db2", "node7.lan", "postgres", "Carol")
_FILES = ("id_ed25519.pub", "server.key", "notes2024.txt", "Report_Q3-final.PDF", "a1.b2.log")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_WRITES = re.compile(
    r"(?:^|[|;&] ?)(?:rm|mv|cp|mkdir|touch|truncate|ln|chmod|gzip|sed -i|sort (?:-u )?-o|git (?:add|commit)) "
    r"| -delete\b|(?<![\d&])>(?!&| ?/dev/null)"
)
_FALSE_ALARMS = 0.0005  # of the words of training that are no secret


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tune_options.parser("hints", __doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sentences", type=int, default=12_000, help="made-up ones with secrets")
    parser.add_argument("--epochs", type=int, default=6)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    given = _options(argv)
    torch.manual_seed(given.seed)
    rng = random.Random(given.seed)  # noqa: S311 - seeded, for training
    rows, held = (
        [row for row in read_rows(file) if row["kind"] == "call"] for file in (given.rows, given.valid)
    )
    secret = learn(
        secret_examples(rng, rows, given.sentences), _BUCKETS["secret"], given.epochs, _FALSE_ALARMS
    )
    change = learn(change_examples(rows), _BUCKETS["change"], given.epochs, None)
    card: dict[str, Any] = {"heads": {"secret": secret, "change": change}}
    card["figures"] = figures(hints.read(card), held, given.seed + 1)
    given.out.write_text(json.dumps(card, indent=1) + "\n", encoding="ascii")
    say(json.dumps(card["figures"], indent=1))
    return 0


# --- examples ----------------------------------------------------------------------------------------


def secret_examples(rng: random.Random, rows: Sequence[dict[str, Any]], count: int) -> Known:
    known: Known = []
    alike = [Labelled(text, "", ()) for text in look_alikes(rng, count // 2)]
    for one in [*planted(rng, count), *alike]:
        known += _words(one)
    for row in rows:
        known += [(features, False) for _, features in hints.candidates(row["say"])]
    return known


def _words(one: Labelled) -> Known:
    secrets = [one.text[span.start : span.end] for span in one.spans if span.tag == "secret"]
    return [
        (features, any(secret in word for secret in secrets)) for word, features in hints.candidates(one.text)
    ]


def look_alikes(rng: random.Random, count: int) -> list[str]:
    """Sentences with what is random and no secret, or about passwords and without one."""

    def put(match: re.Match[str]) -> str:
        digits = f"{rng.getrandbits(160):040x}"
        day, second = rng.randrange(10, 29), rng.randrange(10, 60)
        release = f"{rng.randrange(9)}.{rng.randrange(40)}.{rng.randrange(9)}"
        ending = rng.choice(("", "+b1", "+deb12u3", "~bpo12+1", ".1", "ubuntu0.22.04.1"))
        return {
            "hash": digits[: rng.choice((7, 12, 40))],
            "uuid": f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}",
            "version": release,
            "date": f"2025-0{rng.randrange(1, 10)}-{day} 07:29:{second}",
            "debian": f"{rng.randrange(3)}:{release}-{rng.randrange(1, 20)}{ending}",
            "cert": f"{digits[:8]}.0",
            "finger": f"SHA256:{base64.b64encode(digits.encode()).decode()[:43]}",
            "address": f"10.{rng.randrange(255)}.3.{rng.randrange(255)}",
            "number": str(rng.randrange(1000, 99999)),
            "name": rng.choice(_NAMES),
            "file": rng.choice(_FILES),
        }[match[1]]

    some = resources.files("llmos.tune.data").joinpath("planted-none.txt").read_text("utf-8").splitlines()
    return [re.sub(r"\{(\w+)\}", put, rng.choice(some)) for _ in range(count)]


def change_examples(rows: Sequence[dict[str, Any]]) -> Known:
    """Rows about the product's own tools; of free shell text, what surely writes."""
    tools = catalog.load(tool_dirs()[:1]).tools
    known: Known = []
    for row in rows:
        names = [call["tool"] for call in row["calls"]]
        if any(_WRITES.search(_QUOTED.sub("''", call["args"].get("command", ""))) for call in row["calls"]):
            known.append((hints.of_sentence(row["say"]), True))
        elif all(name in tools and name not in ("shell.run", "ask", "answer") for name in names):
            changes = any(
                not tools[call["tool"]].manifest.read_only and not _only_looks(call) for call in row["calls"]
            )
            known.append((hints.of_sentence(row["say"]), changes))
    return known


def _only_looks(call: dict[str, Any]) -> bool:
    """Of tools that change something with some of their arguments."""
    writes = {"text.lines": {"in_place", "to"}, "file.permissions": {"mode", "owner", "group"}}
    if call["tool"] in writes:
        return not writes[call["tool"]] & call["args"].keys()
    return bool(call["args"].get("preview") or call["args"].get("action") == "list")


# --- learning ----------------------------------------------------------------------------------------


def learn(known: Known, buckets: int, epochs: int, false_alarms: float | None) -> dict[str, Any]:
    """The head as it is written, in 8 bits. `false_alarms` sets the threshold, else it is even odds."""
    bag = nn.EmbeddingBag(buckets, 1, mode="sum")
    nn.init.zeros_(bag.weight)
    bias = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([bag.weight, bias], lr=0.02, weight_decay=0.05)
    for _ in range(epochs):
        for some in torch.split(torch.randperm(len(known)), 1024):
            batch = [known[int(number)] for number in some]
            loss = nn.functional.binary_cross_entropy_with_logits(
                scores(bag, [features for features, _ in batch])[:, 0] + bias,
                torch.tensor([float(yes) for _, yes in batch]),
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    weights = bag.weight.detach()[:, 0]
    step = float(weights.abs().max()) / 127
    coarse = (weights / step).round().to(torch.int8)
    threshold = 0.0
    if false_alarms is not None:
        innocent = [features for features, yes in known if not yes]
        told = scores(bag, innocent)[:, 0].detach() + bias.detach()
        threshold = max(0.0, float(torch.quantile(told[:: 1 + len(told) // 1_000_000], 1 - false_alarms)))
    packed = base64.b64encode(bytes(coarse.numpy().tobytes())).decode()
    return {
        "weights": packed,
        "step": round(step, 6),
        "bias": round(float(bias.detach()), 4),
        "threshold": round(threshold, 4),
    }


def scores(bag: nn.EmbeddingBag, found: Sequence[list[int]]) -> torch.Tensor:
    """[len(found), width of the bag]: the sum of each one's features, taken modulo the buckets."""
    starts = torch.tensor([0, *map(len, found)]).cumsum(0)[:-1]
    summed: torch.Tensor = bag(
        torch.tensor([number % bag.num_embeddings for one in found for number in one]), starts
    )
    return summed


# --- figures -----------------------------------------------------------------------------------------


def figures(heads: dict[str, hints.Head], held: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Beside the rules. Recall is of secrets, a false alarm is a sentence with a word that is none."""
    rng = random.Random(seed)  # noqa: S311
    texts = planted(rng, 1000, "planted-held.txt")
    innocent = [*(row["say"] for row in held), *look_alikes(rng, 500)]

    def rules(text: str) -> set[str]:
        return {*redaction.secrets_in(text), *detect.secrets_in(text)}

    def head(text: str) -> set[str]:
        found = hints.candidates(text)
        return {
            word for word, features in found if heads["secret"].score(features) >= heads["secret"].threshold
        }

    known = change_examples(held)
    return {
        "secret": {
            name: {
                "recall": _share([_finds(one, find(one.text)) for one in texts]),
                "false_alarms": _share([bool(find(text)) for text in innocent]),
            }
            for name, find in (
                ("rules", rules),
                ("head", head),
                ("both", lambda text: rules(text) | head(text)),
            )
        },
        "change": {
            "rows": len(known),
            "head": _share([(heads["change"].score(features) > 0) == yes for features, yes in known]),
            "most_common": _share([not yes for _, yes in known]),
            "sure_it_looks": _sure(heads["change"], known),
        },
    }


def _finds(one: Labelled, found: set[str]) -> bool:
    secrets = [one.text[span.start : span.end] for span in one.spans if span.tag == "secret"]
    return all(any(secret in word or word in secret for word in found) for secret in secrets)


def _sure(head: hints.Head, known: Known) -> dict[str, float]:
    """Where it is sure that only a look is wanted: how often rightly, and how often of what is to change."""
    sure = [(head.score(features) < hints.SURELY_LOOKS, yes) for features, yes in known]
    return {
        "of_looks": _share([says for says, yes in sure if not yes]),
        "of_changes": _share([says for says, yes in sure if yes]),
    }


def _share(known: Sequence[bool]) -> float:
    return round(sum(known) / max(1, len(known)), 4)

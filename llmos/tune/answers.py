"""How well questions about commands are answered from manual pages, and whether learning helps.

    llmos tune answers

The questions are data/questions.txt, each with the pages that answer it. `first` is how often the first quote
is of such a page, `any` one of those shown. A linear ranker over the same features, learnt on four fifths of
the questions and judged on the last, stands beside the weights in use. Pages differ from machine to machine,
and so do the figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources

import torch

from llmos.explain import answers, questions
from llmos.explain.manual import Entry, Manual
from llmos.tune import options as tune_options
from llmos.tune.pretrain import say

_FOLDS, _STEPS = 5, 200
Asked = list[tuple[str, frozenset[str]]]  # a question, and the pages that answer it


def main(argv: Sequence[str] | None = None) -> int:
    tune_options.parser("answers", __doc__).parse_args(argv)
    asked = _questions()
    manual = Manual()
    ranked = _ranked([one for one in asked if not one[1] & {"-", "x"}], manual)
    report = {
        "questions": _in_use([one for one in asked if not one[1] & {"-", "x"}], manual),
        "in no page": _silent([text for text, pages in asked if "-" in pages], manual),
        "no question about commands": _left([text for text, pages in asked if "x" in pages]),
        "searched": {
            "questions": len(ranked),
            "first, weights in use": _first(ranked, [torch.tensor(answers.WEIGHTS)] * len(ranked)),
            "first, learnt": _first(ranked, _learnt(ranked)),
        },
    }
    say(json.dumps(report, indent=1))
    return 0


def _questions() -> Asked:
    lines = resources.files("llmos.tune.data").joinpath("questions.txt").read_text("utf-8").splitlines()
    parts = [line.split(" | ") for line in lines if line.strip() and not line.startswith("#")]
    return [(text, frozenset(pages.split())) for text, pages in parts]


def _in_use(asked: Asked, manual: Manual) -> dict[str, float]:
    found = []
    for text, pages in asked:
        quotes = answers.answer(text, lambda words: "", manual=manual) or ()
        names = [quote.source.partition("(")[0] for quote in quotes]
        found.append((bool(names), names[:1] != [] and names[0] in pages, bool(pages & set(names))))
    shares = [round(sum(one[column] for one in found) / len(found), 4) for column in range(3)]
    return {"count": len(found), **dict(zip(("answered", "first", "any"), shares, strict=True))}


def _silent(texts: Sequence[str], manual: Manual) -> str:
    silent = [not answers.answer(text, lambda words: "", manual=manual) for text in texts]
    return f"{sum(silent)} of {len(silent)} not answered"


def _left(texts: Sequence[str]) -> str:
    left = [questions.read(text, ("notes.txt", "report.csv", "config.yaml")) is None for text in texts]
    return f"{sum(left)} of {len(left)} left alone"


# --- a ranker that learns ----------------------------------------------------------------------------

Ranked = list[tuple[torch.Tensor, torch.Tensor]]  # features of each candidate, and which of them answer


def _ranked(asked: Asked, manual: Manual) -> Ranked:
    """Questions that are searched for in all pages, and have an answer among the candidates."""
    found: Ranked = []
    for text, pages in asked:
        question = questions.read(text)
        if question is None or question.program or question.command or question.others:
            continue
        weights, entries = answers.candidates(question.words, manual)
        right = torch.tensor([entry.name in pages for entry in entries])
        if right.any():
            found.append((_features(weights, entries), right))
    return found


def _features(weights: dict[str, float], entries: Sequence[Entry]) -> torch.Tensor:
    return torch.tensor([answers.features(weights, entry) for entry in entries])


def _learnt(ranked: Ranked) -> list[torch.Tensor]:
    """For each question the weights that were learnt without its fold."""
    folds = [
        _fit([one for number, one in enumerate(ranked) if number % _FOLDS != fold]) for fold in range(_FOLDS)
    ]
    return [folds[number % _FOLDS] for number in range(len(ranked))]


def _fit(ranked: Ranked) -> torch.Tensor:
    """Softmax over the candidates, all right ones together; drawn towards the weights in use."""
    start = torch.tensor(answers.WEIGHTS)
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=0.05)
    for _ in range(_STEPS):
        losses = [
            torch.logsumexp(10 * features @ weights, 0) - torch.logsumexp((10 * features @ weights)[right], 0)
            for features, right in ranked
        ]
        loss = torch.stack(losses).mean() + 0.1 * (weights - start).square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return weights.detach()


def _first(ranked: Ranked, weights: Sequence[torch.Tensor]) -> float:
    right = [bool(ok[(features @ own).argmax()]) for (features, ok), own in zip(ranked, weights, strict=True)]
    return round(sum(right) / max(1, len(right)), 4)

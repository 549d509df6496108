"""What the local model's confidence is worth: `python -m tests.bench.calibration [--rows FILE]`.

From sentences of tests.bench.understand, judged right or wrong, with the log-probability of the whole reply.
A logistic curve over the log of the surprise is fitted in ten folds, each told by the other nine. Printed: a
reliability curve (how sure it says it is, and how often it is right), and what each `min_confidence` keeps
here, with how much of that is right. The last line has the fit of all rows, which `planner.loop.probability`
uses.

Rows: confidences.csv, of the default model and its adapter on the three sets whose authors knew no tool (with
two sentences that stand in others, too, and were taken out of theirs later); or
FILE, JSON lines of `tests.bench.understand --confidences FILE`. Confidences are turned back into
log-probabilities.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmos.planner.loop import INTERCEPT, LEAST_SURPRISE, SLOPE
from tests.bench.report import report

ROWS = Path(__file__).with_name("understand") / "confidences.csv"
FOLDS, BINS = 10, 6
Floats = NDArray[np.float64]


def read(file: Path) -> tuple[Floats, Floats]:
    """(log-probability of the reply, 1 where it was right)"""
    if file.suffix == ".csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(file.read_text().splitlines()))
        return tuple(np.array([float(row[key]) for row in rows]) for key in ("logprob", "ok"))  # type: ignore[return-value]
    told = [row for row in map(json.loads, file.read_text().splitlines()) if row["confidence"] is not None]
    logits = [math.log(one / (1 - one)) for one in (min(max(r["confidence"], 1e-6), 1 - 1e-6) for r in told)]
    back = [LEAST_SURPRISE - math.exp((one - INTERCEPT) / SLOPE) for one in logits]
    return np.minimum(back, 0.0), np.array([float(row["ok"]) for row in told])


def fitted(x: Floats, y: Floats, rounds: int = 100) -> Floats:
    """(intercept, slope) of the logistic curve, by Newton's method with a trace of a ridge."""
    inputs, found = np.stack([np.ones_like(x), x], axis=1), np.zeros(2)
    for _ in range(rounds):
        p = told(found, x)
        slope = inputs.T @ (p - y) + 1e-3 * found
        found = found - np.linalg.solve(
            (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-3 * np.eye(2), slope
        )
    return found


def told(curve: Floats, x: Floats) -> Floats:
    return 1 / (1 + np.exp(-(curve[0] + curve[1] * x)))


def crossed(x: Floats, y: Floats) -> Floats:
    """For each row what the curve of the other folds says."""
    order, found = np.random.default_rng(0).permutation(len(x)), np.zeros(len(x))
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        rest = np.setdiff1d(order, held)
        found[held] = told(fitted(x[rest], y[rest]), x[held])
    return found


def discrimination(score: Floats, y: Floats) -> float:
    """Area under the ROC curve: how often a right reply has more of it than a wrong one."""
    right, wrong = score[y == 1][:, None], score[y == 0][None, :]
    return float(((right > wrong) + 0.5 * (right == wrong)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, default=ROWS)
    logprob, y = read(parser.parse_args().rows)
    x = np.log(LEAST_SURPRISE - logprob)
    p = crossed(x, y)
    rows: list[dict[str, Any]] = [
        {
            "of the replies": f"sixth {n}",
            "says": round(float(p[part].mean()), 3),
            "right": round(float(y[part].mean()), 3),
        }
        for n, part in enumerate(np.array_split(np.argsort(p), BINS), 1)
    ]
    for least in (0.5, 0.7, 0.8, 0.9, 0.95):
        kept = p >= least
        rows.append({
            "min_confidence": least,
            "kept": round(float(kept.mean()), 3), "of it right": round(float(y[kept].mean()), 3),
            "wrong ones kept": int((1 - y[kept]).sum()),
        })  # fmt: skip
    curve = fitted(x, y)
    summary = {
        "rows": len(y), "right": int(y.sum()),
        "auc": round(discrimination(logprob, y), 3), "brier": round(float(np.mean((p - y) ** 2)), 4),
        "intercept": round(float(curve[0]), 3), "slope": round(float(curve[1]), 3),
    }  # fmt: skip
    report("calibration", rows, summary)


if __name__ == "__main__":
    main()

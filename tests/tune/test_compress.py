"""Smaller models: what is left out, what is rounded, and that learning brings quality back."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llmos import cli
from llmos.engine import weights
from llmos.engine.engine import Engine
from llmos.engine.groups import rounded
from llmos.tune import corpus, pretrain
from llmos.tune.compress import Made, Student, block_influence
from llmos.tune.network import Network, collate


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four blocks that has learnt to finish sums."""
    folder = tmp_path_factory.mktemp("base")
    rng = random.Random(2)
    sums = ((a, b) for a, b in ((rng.randrange(9), rng.randrange(9)) for _ in range(3000)))
    (folder / "text").write_text("\n\n".join(f"{a} and {b} make {a + b}. so it is and was" for a, b in sums))
    shape = ["--layers", "4", "--width", "64", "--heads", "2", "--vocab-size", "300", "--context", "64"]
    steps = ["--max-steps", "90", "--batch-tokens", "1024", "--learning-rate", "4e-3", "--validations", "1"]
    out = folder / "model"
    assert pretrain.main(["--text", str(folder / "text"), "--out", str(out), *shape, *steps]) == 0
    return out


@pytest.fixture(scope="module")
def text(base: Path) -> Path:
    return base.parent / "text"


def _tuned(way: str, base: Path, text: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    given = ["tune", way, "--model", str(base), "--text", str(text), "--out", str(out), "--context", "64"]
    assert cli.main([*given, "--batch-tokens", "1024", "--blocks", "200", *more]) == 0
    table: list[dict[str, Any]] = json.loads((out / "report.json").read_text())["table"]
    return table


def _network(folder: Path) -> Network:
    source = weights.open_source(folder)
    return Network(source.config, weights.tensors(source, torch.float32), positions=64)


def test_pruning_leaves_out_what_does_least_and_learning_brings_it_back(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _tuned(
        "prune", base, text, tmp_path, "--drop", "1", "--max-steps", "30", "--learning-rate", "2e-3"
    )
    before, cut, after = (row["perplexity"] for row in table)
    assert before < after < cut
    assert after - before < 0.6 * (cut - before)
    samples = corpus.blocks(corpus.read_texts([text]).train, weights.open_source(base).tokenizer.hf, 64, 1)
    influence = block_influence(_network(base), samples[:16])
    least = influence.index(min(influence))
    assert f"blocks left out: {least}\n" in capsys.readouterr().out
    assert weights.open_source(tmp_path).config.num_layers == 3
    assert Engine.load(tmp_path, dtype="float32", threads=1, context_tokens=64).model is not None


def test_rounding_is_trained_through(base: Path, text: Path, tmp_path: Path) -> None:
    table = _tuned(
        "quantize", base, text, tmp_path, "--bits", "4", "--max-steps", "20", "--learning-rate", "5e-4"
    )
    before, coarse, after = table
    assert coarse["loss"] != before["loss"]  # a model as small as this one loses next to nothing
    assert after["loss"] < coarse["loss"]
    assert coarse["megabytes"] < 0.5 * before["megabytes"]
    matrix = weights.tensors(weights.open_source(tmp_path), torch.float32)[
        "blocks.1.feed_forward.down.weight"
    ]
    torch.testing.assert_close(rounded(matrix, 4).plain(), matrix, rtol=2e-2, atol=2e-3)


def test_a_child_learns_from_its_teacher(base: Path, text: Path, tmp_path: Path) -> None:
    more = ["--layers", "1", "--width", "32", "--heads", "2", "--max-steps", "60", "--learning-rate", "4e-3"]
    before, fresh, after = _tuned("distill", base, text, tmp_path, *more)
    assert before["perplexity"] < after["perplexity"] < 0.2 * fresh["perplexity"]
    assert after["parameters"] < 0.3 * before["parameters"]


def test_the_divergence_is_the_teachers_from_the_students(base: Path) -> None:
    teacher = _network(base)
    student = Student(Made(teacher.config, pretrain.start(teacher.config)), teacher, positions=64)
    sample = corpus.blocks([("3 and 4 make 7",)], weights.open_source(base).tokenizer.hf, 64, 1)[0]
    batch = collate([sample], torch.device("cpu"))
    with torch.no_grad():
        plain, _ = student.losses(batch)
    mixed, _ = student.losses(batch)
    said = [
        n.logits(n.hidden(batch.ids)[batch.rows, batch.columns]).log_softmax(-1) for n in (teacher, student)
    ]
    kl = (said[0].exp() * (said[0] - said[1])).sum(-1)
    torch.testing.assert_close(mixed, 0.3 * plain + 0.7 * kl, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(plain, F.nll_loss(said[1], batch.targets, reduction="none"))


def test_calls_are_learnt_from_requests_and_asked_for_as_they_were_learnt(text: Path, tmp_path: Path) -> None:
    base, rows, out, packed = (tmp_path / name for name in ("base", "rows.jsonl", "out", "packed"))
    shape = ["--layers", "2", "--width", "64", "--heads", "2", "--vocab-size", "288", "--context", "64"]
    assert pretrain.main(["--text", str(text), "--out", str(base), *shape, "--max-steps", "1"]) == 0
    row = {
        "kind": "call", "say": "list f3", "entries": None, "data_head": None, "source": "hand", "avoid": [],
        "calls": [{"tool": "file.list", "args": {"path": "f3"}}],
    }  # fmt: skip
    rows.write_text("".join(json.dumps(row | {"say": f"list f3 {n}"}) + "\n" for n in range(2)))
    given = ["tune", "prune", "--model", str(base), "--rows", str(rows), "--out", str(out), "--drop", "1"]
    assert cli.main(given) == 2  # --valid is missing
    learning = ["--max-steps", "6", "--batch-tokens", "2048", "--learning-rate", "1e-2", "--mixed"]
    assert cli.main([*given, "--valid", str(rows), *learning]) == 0
    _, cut, after = json.loads((out / "report.json").read_text())["table"]
    assert after["loss"] < cut["loss"] and 0 <= after["exact"] <= 1
    assert Engine.load(base, dtype="float32", threads=1, context_tokens=64).asked is None
    assert cli.main(["model", "quantize", str(out), "--out", str(packed)]) == 0
    for folder in (out, packed):
        asked = Engine.load(folder, dtype="auto", threads=1, context_tokens=64).asked
        assert asked is not None and asked.form == "signatures"


def test_what_cannot_be_made_is_said(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", str(base), "--text", str(text), "--out", str(tmp_path)]
    assert cli.main(["tune", "prune", *given, "--drop", "4"]) == 2
    assert cli.main(["model", "quantize", str(base), "--out", str(tmp_path / "packed")]) == 5
    assert "does not divide into blocks" in capsys.readouterr().err  # of 292 tokens
    assert cli.main(["tune", "distill", *given, "--layers", "1", "--width", "30", "--heads", "4"]) == 2

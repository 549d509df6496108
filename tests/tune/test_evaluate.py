"""Judging a model by rows kept aside: the figures, and a whole run on real weights of no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmos import cli
from llmos.tune import pretrain
from llmos.tune.evaluate import Judged, bins, calibration_error, summary

LIST = {"tool": "file.list", "args": {"path": "x"}}
DELETE = {"tool": "file.delete", "args": {"path": "x"}}
ASK = {"tool": "ask", "args": {"question": "which?"}}


def _one(
    wanted: dict[str, object], *said: dict[str, object], sure: float = 0.9, none: bool = False
) -> Judged:
    return Judged("a request", (wanted,), None if none else said, "file.list", sure, 0.5)


def test_the_figures() -> None:
    elsewhere = {"tool": "file.list", "args": {"path": "y"}}
    judged = [
        _one(LIST, LIST),
        _one(LIST, elsewhere),
        _one(LIST, DELETE),
        _one(DELETE, ASK),
        _one(DELETE, none=True, sure=0.0),
    ]
    found = summary(judged, {"file.list"})
    assert (found["exact"], found["tool"], found["valid"]) == (0.2, 0.4, 0.8)
    assert (found["asks"], found["wrong_action"], found["nearest_example_tool"]) == (0.2, 0.2, 0.6)
    assert found["by_tool"] == {"file.list": [1, 3], "file.delete": [0, 2]}
    assert found["confusions"] == {"file.list → file.delete": 1, "file.delete → ask": 1}


def test_calibration() -> None:
    known = [(0.95, True), (0.95, True), (0.95, False), (0.05, False)]
    assert bins(known) == [(0.05, 0.0, 1), (0.95, 0.6667, 3)]
    assert calibration_error(known) == pytest.approx((3 * (0.95 - 2 / 3) + 0.05) / 4, abs=1e-3)
    assert calibration_error([(1.0, True), (0.0, False)]) == 0


def test_a_model_is_judged_in_the_loop_that_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untrained weights say something, under the grammar; what they say is counted and shown."""
    monkeypatch.setenv("LLMOS_MODELS_DIR", str(tmp_path / "models"))  # prepared weights are kept there
    torch.set_num_threads(1)
    (tmp_path / "text").write_text(
        "\n\n".join(f"list the folder {n} and say what is in it" for n in range(40))
    )
    base = ["--text", str(tmp_path / "text"), "--out", str(tmp_path / "m"), "--layers", "1", "--width", "32"]
    more = [
        "--heads",
        "2",
        "--vocab-size",
        "2000",
        "--context",
        "32",
        "--max-steps",
        "1",
        "--validations",
        "1",
    ]
    assert pretrain.main([*base, *more]) == 0
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32768}))
    rows = [
        {"kind": "call", "say": f"list {n}", "entries": None, "data_head": None, "calls": [LIST]}
        for n in range(2)
    ] + [
        {
            "kind": "call",
            "say": "x",
            "entries": None,
            "data_head": None,
            "calls": [{"tool": "gone", "args": {}}],
        }
    ]
    (tmp_path / "rows").write_text("\n".join(map(json.dumps, rows)))
    capsys.readouterr()
    given = ["tune", "evaluate", "--rows", str(tmp_path / "rows"), "--model", str(tmp_path / "m")]
    saved = str(tmp_path / "said")
    more = ["--context", "32768", "--threads", "1", "--baselines", "--save", saved]
    assert cli.main([*given, "--untuned", "--failures", *more]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert (report["rows"], report["adapter"]) == (2, "")
    assert out.count("✗ list") == 2 - round(2 * report["exact"])
    assert 0 <= report["calibration_error"] <= 1
    assert report["beside"]["nearest example"]["valid"] == 1  # whatever it means, an example is a call
    assert "confidence   right" in out and "nearest example  " in out
    assert cli.main(["tune", "evaluate", "--browse", saved, "--tool", "file.list"]) == 0
    browsed = capsys.readouterr().out
    assert browsed.count("✗ list") == out.count("✗ list") and "of 2 are wrong with file.list" in browsed
    assert cli.main(["tune", "evaluate", "--browse", str(tmp_path / "none")]) == 2


def test_rows_about_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text(json.dumps({"kind": "translate", "say": "x", "command": "ls"}) + "\n")
    assert cli.main(["tune", "evaluate", "--rows", str(tmp_path / "rows")]) == 2

"""Perplexity, and models quantised for good: written, loaded, used, and refused where they are not whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from llmos import model_cli
from llmos.engine import store
from llmos.engine.engine import Engine
from llmos.engine.groups import GROUP, Kind, rounded, rounded_between
from llmos.engine.perplexity import perplexity
from llmos.errors import ModelError, UsageError


@pytest.fixture(scope="module")
def int4(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantised") / "tiny-int4"
    assert model_cli.run(["quantize", str(tiny_model), "--bits", "4", "--out", str(out)]) == 0
    return out


def test_four_bits_with_a_minimum_are_nearer_than_four_around_zero() -> None:
    torch.manual_seed(3)
    matrix = torch.randn(16, 96) + 0.7
    matrix[3, 32:64], matrix[4, :32] = 0.0, 2.5
    made = rounded_between(matrix)
    assert made.kind is Kind.BITS_4_MIN
    error, other = ((form.plain() - matrix).square().mean() for form in (made, rounded(matrix, 4)))
    assert error < 0.6 * other
    assert not made.plain()[3, 32:64].any()
    assert torch.allclose(made.plain()[4, :32], torch.tensor(2.5), atol=2e-3)
    assert made.values.shape == matrix.shape and made.scales.shape == (16, 96 // GROUP)


@pytest.mark.weights
def test_perplexity_is_that_of_one_pass_over_each_window(tiny_fp32: Engine, prose: str) -> None:
    ids = tiny_fp32.tokenizer.encode(prose)[:150]
    total = 0.0
    with torch.inference_mode():
        for window in (ids[:100], ids[100:]):
            model = tiny_fp32.model
            logits = model(torch.tensor([window[:-1]]), model.new_cache(1, 100), wanted=None)[0]
            total -= float(logits.log_softmax(-1)[range(len(window) - 1), window[1:]].sum())
    told: list[float] = []
    value = perplexity(tiny_fp32, ids, window=100, on_progress=told.append)
    assert value == pytest.approx(math.exp(total / 148), rel=1e-3)
    assert told == [0.5, 1.0]
    with pytest.raises(UsageError, match="too short"):
        perplexity(tiny_fp32, ids[:1])


@pytest.mark.weights
def test_bfloat16_and_float32_foretell_alike(tiny_fp32: Engine, tiny_bf16: Engine, prose: str) -> None:
    """Also over the many rows that are multiplied in float32 where a processor has no bfloat16 products."""
    ids = tiny_fp32.tokenizer.encode(prose)[:200]
    assert perplexity(tiny_bf16, ids) == pytest.approx(perplexity(tiny_fp32, ids), rel=0.02)


@pytest.mark.weights
def test_a_quantised_model_answers_from_its_own_folder(int4: Path, prose: str, tiny_fp32: Engine) -> None:
    assert store.resolve(str(int4)) == int4
    engine = Engine.load(int4, dtype="auto", context_tokens=512)
    ids = engine.tokenizer.encode("The capital of France is")
    assert engine.form == "packed" and "Paris" in engine.generate(ids, max_tokens=4).text
    told = engine.tokenizer.encode(prose)[:300]
    assert perplexity(engine, told) < 1.25 * perplexity(tiny_fp32, told)
    origin = json.loads((int4 / "quantised.json").read_text())
    assert origin["bits"] == 4 and origin["base"].startswith("SmolLM2") and origin["adapter_sha256"] is None


@pytest.mark.weights
def test_of_four_bits_attention_has_five_and_the_output_seven(int4: Path) -> None:
    with safe_open(int4 / "weights.safetensors", "pt") as file:
        kinds = {
            tuple(name.split(".weight.")[0].split(".")[-2:]): name.rsplit(".", 1)[1]
            for name in file.keys()  # noqa: SIM118 - a file is none
        }
    assert kinds["attention", "qkv"] == kinds["attention", "out"] == "BITS_5"
    assert kinds["feed_forward", "gate_up"] == kinds["feed_forward", "down"] == "BITS_4_MIN"
    assert kinds["head",] == "BITS_7"


@pytest.mark.weights
def test_a_quantised_model_is_smaller_than_bfloat16_and_is_not_overwritten(
    int4: Path, tiny_model: Path, tiny_bf16: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = Engine.load(int4, context_tokens=64, dtype="packed")
    assert engine.model.bytes_per_token < 0.45 * tiny_bf16.model.bytes_per_token
    capfd.readouterr()
    assert model_cli.run(["quantize", str(tiny_model), "--out", str(int4)]) == 2
    assert "is there already" in capfd.readouterr().err


@pytest.mark.weights
def test_what_does_not_fit_a_quantised_model_is_said(int4: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no bfloat16 form"):
        Engine.load(int4, dtype="bfloat16")
    broken = tmp_path / "broken-int4"
    broken.mkdir()
    for name in ("quantised.json", "model.json", "tokenizer.json"):
        (broken / name).write_bytes((int4 / name).read_bytes())
    with pytest.raises(ModelError, match="missing"):
        store.resolve(str(broken))
    (broken / "weights.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelError, match="damaged"):
        Engine.load(broken, dtype="auto")
    (broken / "quantised.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        Engine.load(broken, dtype="auto")


@pytest.mark.weights
def test_bench_and_perplexity_print_figures(
    tiny_model: Path, tmp_path: Path, prose: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(prose[:600])
    name = str(tiny_model)
    assert model_cli.run(["bench", name, "--prompt", "16", "--reply", "4", "--rounds", "1", "--json"]) == 0
    row = json.loads(capfd.readouterr().out)["rows"][0]
    assert row["numbers"] == "packed"
    assert row["prefill_tps"] > 0 and row["decode_gbps"] > 0 and row["memory_gbps"] > 0.1
    argv = ["perplexity", name, str(text), "--numbers", "bfloat16", "--numbers", "auto", "--json"]
    assert model_cli.run(argv) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert rows[0]["change"] == 0 and abs(rows[1]["change"]) < 0.05 and rows[0]["tokens"] > 50
    assert model_cli.run(["perplexity", name, str(tmp_path / "none.txt")]) == 2
    assert "UTF-8" in capfd.readouterr().err

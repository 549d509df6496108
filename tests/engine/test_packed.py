"""Weights in few bits: how they are rounded, adapted, kept and, where there are no kernels, done without."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmos.engine import native, prepared, weights
from llmos.engine.groups import GROUP, Kind, rounded


@pytest.mark.parametrize("bits", [7, 5, 4])
def test_rounding_is_to_the_nearest(bits: int) -> None:
    matrix = torch.randn(16, 96)
    matrix[3, 32:64] = 0.0
    made = rounded(matrix, bits)
    step = made.scales.float().abs().repeat_interleave(GROUP, dim=1)
    off = (made.plain() - matrix).abs()
    # The end that cannot be written (+zero) is off by a whole step at most; everything else by half of one.
    assert (off <= step * 1.01 + 1e-6).all()
    assert (off <= step * 0.52 + 1e-6).float().mean() > 0.97
    assert (made.plain()[3, 32:64] == 0).all()


@pytest.mark.weights
@pytest.mark.parametrize("numbers", [torch.bfloat16, torch.float32])
def test_a_change_reaches_the_one_matrix_it_names(tiny_model: Path, numbers: torch.dtype) -> None:
    name = "blocks.0.feed_forward.down.weight"
    change = weights.Change(frozenset({name}), lambda _, matrix: torch.zeros_like(matrix))
    changed = weights.tensors(weights.open_source(tiny_model), numbers, change=change)
    assert changed[name].dtype == numbers
    assert not changed[name].any()
    assert changed["blocks.1.feed_forward.down.weight"].any()


@pytest.mark.weights
def test_a_change_reaches_a_matrix_before_it_is_packed(tiny_model: Path) -> None:
    name = "blocks.0.feed_forward.down.weight"
    change = weights.Change(frozenset({name}), lambda _, matrix: torch.zeros_like(matrix))
    packed = weights.packed_tensors(weights.open_source(tiny_model), change=change)
    blocks = packed[f"{name}.0.{Kind.BITS_7.name}"].view(-1, Kind.BITS_7.block_bytes)
    assert not blocks[:, :16].any(), "every scale"
    assert not any(key.startswith("blocks.1.") and key.endswith("down.weight.0.BITS_7") for key in packed)


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.strip()


REPLY = """
import sys
from llmos.engine import native
from llmos.engine.engine import Engine
engine = Engine.load(sys.argv[1] if len(sys.argv) > 1 else FILE, dtype="auto", context_tokens=512)
ids = engine.tokenizer.encode("The capital of France is")
print(native.library() is None, engine.model.exact, engine.generate(ids, max_tokens=4).text)
"""


@pytest.mark.weights
def test_without_a_compiler_a_reply_comes_all_the_same(tiny_model: Path, tmp_path: Path) -> None:
    code = f"FILE = {str(tiny_model)!r}" + REPLY
    said = run(code, PATH="/nonexistent", LLMOS_MODELS_DIR=str(tmp_path))
    assert said.startswith("True False") and "Paris" in said


@pytest.mark.weights
def test_where_nothing_can_be_written_a_reply_comes_all_the_same(tiny_model: Path) -> None:
    said = run(f"FILE = {str(tiny_model)!r}" + REPLY, LLMOS_MODELS_DIR="/dev/null/models")
    assert said.startswith("True False") and "Paris" in said


def test_with_a_compiler_and_avx2_there_are_kernels() -> None:
    able = platform.machine() == "x86_64" and " avx2 " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert (native.library() is not None) == (able and shutil.which("cc") is not None)


@pytest.mark.weights
def test_forms_are_kept_side_by_side_until_the_file_changes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOS_MODELS_DIR", str(tmp_path / "models"))
    file = tmp_path / tiny_model.name
    shutil.copy(tiny_model, file)
    source = weights.open_source(file)
    tensors = {"norm.weight": torch.ones(1)}
    first, second = (prepared.place(file, form) for form in ("bfloat16", "packed"))
    for place in (first, second):
        prepared.save(place, source.config, tensors, source.tokenizer)
    assert prepared.load(first) and prepared.load(second)
    (second / "pieces.safetensors").unlink()  # as in a folder that was made before they were kept
    for place in (first, second):
        _, _, kept = prepared.load(place) or pytest.fail("it cannot be read")
        assert kept.pieces() == source.tokenizer.pieces()
    os.utime(file, (1, 1))
    later = prepared.place(file, "packed")
    prepared.save(later, source.config, tensors, source.tokenizer)
    assert os.listdir(later.parent) == [later.name], "those of the earlier file are gone"

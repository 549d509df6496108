"""Engines and their reference, loaded once: the same weights through llmos and through `transformers`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# As the planner's process: threads that wait sleep instead of spinning, which a busy machine feels.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from llmos.engine import native
from llmos.engine.engine import Engine

DATA = Path(__file__).parent / "data"
# Kernels are tested where they can be had; that one does without them elsewhere is test_packed.py's to show.
collect_ignore = [] if native.library() is not None else ["test_kernels.py", "test_quantised.py"]
Reference = Callable[[Path, torch.dtype], Any]


@pytest.fixture(scope="session")
def prose() -> str:
    """A few hundred words that no model has seen: English, Chinese, code."""
    return (DATA / "prose.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_fp32(tiny_model: Path) -> Engine:
    return Engine.load(tiny_model, dtype="float32", context_tokens=2048)


@pytest.fixture(scope="session")
def tiny_bf16(tiny_model: Path) -> Engine:
    return Engine.load(tiny_model, dtype="bfloat16", context_tokens=2048)


@cache
def _reference(file: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    if dtype is torch.float32:
        return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype).eval()
    exact = _reference(file, torch.float32)
    rounded = AutoModelForCausalLM.from_config(exact.config, dtype=dtype)
    rounded.load_state_dict(exact.state_dict())
    return rounded.eval()


@pytest.fixture(scope="session")
def reference() -> Reference:
    """`transformers`' model of a GGUF file, read by its own GGUF reader."""
    return _reference

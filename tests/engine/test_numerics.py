"""The transformer is right: against `transformers` on the same real weights, and against itself.

Relative error is max|ours - theirs| / max|theirs| over all logits of a text. In fp32 the two differ by the
order of additions alone (measured 2e-6 for SmolLM2, 3e-6 for Qwen2.5). In bf16 its eight bits set the bound:
from each other 0.027 and 0.018, from fp32 0.024 and 0.042, where the reference is 0.024 and 0.038 away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmos.engine.engine import Engine

pytestmark = pytest.mark.weights

FP32_BOUND = 2e-5
BF16_BOUND = 4e-2
BF16_FROM_FP32_BOUND = 6e-2
PERPLEXITY_BOUND = 0.005


def _ours(engine: Engine, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        cache = engine.model.new_cache(1, engine.context_tokens)
        return engine.model(torch.tensor([ids]), cache, wanted=None)[0].float()


def _theirs(model: Any, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([ids])).logits
        return logits[0].float()


def _relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _perplexity(logits: Tensor, ids: list[int]) -> float:
    nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
    return float(nll.exp())


def test_tiny_fp32_logits_and_perplexity(
    tiny_fp32: Engine, tiny_model: Path, reference: Any, prose: str
) -> None:
    ids = tiny_fp32.tokenizer.encode(prose)
    ours, theirs = _ours(tiny_fp32, ids), _theirs(reference(tiny_model, torch.float32), ids)
    assert ours.shape == theirs.shape
    assert _relative_error(ours, theirs) < FP32_BOUND
    assert _perplexity(ours, ids) == pytest.approx(_perplexity(theirs, ids), rel=PERPLEXITY_BOUND)


def test_tiny_bf16_is_no_further_from_fp32_than_the_reference(
    tiny_bf16: Engine, tiny_model: Path, reference: Any, prose: str
) -> None:
    ids = tiny_bf16.tokenizer.encode(prose)
    exact = _theirs(reference(tiny_model, torch.float32), ids)
    ours, theirs = _ours(tiny_bf16, ids), _theirs(reference(tiny_model, torch.bfloat16), ids)
    assert _relative_error(ours, theirs) < BF16_BOUND
    assert (ours - exact).square().mean() < 1.5 * (theirs - exact).square().mean()
    assert _perplexity(ours, ids) == pytest.approx(_perplexity(theirs, ids), rel=PERPLEXITY_BOUND)


def test_default_model_logits_and_perplexity(default_model: Path, reference: Any, prose: str) -> None:
    """Qwen2.5: biases, another rotary layout and K-quants. fp32 and bf16 against the fp32 reference."""
    exact = Engine.load(default_model, dtype="float32", context_tokens=2048)
    ids = exact.tokenizer.encode(prose)
    theirs = _theirs(reference(default_model, torch.float32), ids)
    ours = _ours(exact, ids)
    assert _relative_error(ours, theirs) < FP32_BOUND
    assert _perplexity(ours, ids) == pytest.approx(_perplexity(theirs, ids), rel=PERPLEXITY_BOUND)
    del exact, ours
    rounded = _ours(Engine.load(default_model, dtype="bfloat16", context_tokens=2048), ids)
    assert _relative_error(rounded, theirs) < BF16_FROM_FP32_BOUND
    assert _perplexity(rounded, ids) == pytest.approx(_perplexity(theirs, ids), rel=PERPLEXITY_BOUND)


@pytest.mark.parametrize("cut", [1, 7, 256, 300])
def test_cached_is_uncached(tiny_fp32: Engine, prose: str, cut: int) -> None:
    """Reading in two pieces, then token by token, gives what reading at once gives."""
    ids = tiny_fp32.tokenizer.encode(prose)[:320]
    whole = _ours(tiny_fp32, ids)
    model, cache = tiny_fp32.model, tiny_fp32.model.new_cache(1, 2048)
    with torch.inference_mode():
        pieces = [model(torch.tensor([ids[:cut]]), cache, wanted=None)[0]]
        pieces += [model(torch.tensor([ids[cut:310]]), cache, wanted=None)[0]]
        pieces += [model(torch.tensor([[token]]), cache)[0] for token in ids[310:]]
    assert _relative_error(torch.cat(pieces), whole) < FP32_BOUND


def test_truncated_cache_forgets(tiny_fp32: Engine) -> None:
    """After a cut the cache continues as if the rest had never been read, also where it has grown."""
    encode = tiny_fp32.tokenizer.encode
    start, wrong, right = encode("The capital of France is"), encode(" Rome." * 400), encode(" Paris")
    cache = tiny_fp32.model.new_cache(1, 2048)
    with torch.inference_mode():
        tiny_fp32.model(torch.tensor([start + wrong]), cache)
        cache.truncate(len(start))
        again = tiny_fp32.model(torch.tensor([right]), cache)[0]
    assert cache.length == len(start) + len(right)
    assert _relative_error(again[-1], _ours(tiny_fp32, start + right)[-1]) < FP32_BOUND


def test_batch_is_single(tiny_fp32: Engine) -> None:
    """Rows of different length, padded on the left, then one step further, are as each alone."""
    encode = tiny_fp32.tokenizer.encode
    rows = [
        encode("List files."),
        encode("What is the largest folder under /var?"),
        encode("港口比小镇醒得早。"),
    ]
    longest = max(map(len, rows))
    padding = torch.tensor([longest - len(row) for row in rows])
    batch = torch.tensor([[0] * int(pad) + row for pad, row in zip(padding, rows, strict=True)])
    following = torch.tensor([[11], [22], [33]])
    cache = tiny_fp32.model.new_cache(len(rows), 64)
    with torch.inference_mode():
        first = tiny_fp32.model(batch, cache, padding=padding, wanted=None)
        second = tiny_fp32.model(following, cache, padding=padding)
    for index, row in enumerate(rows):
        alone = _ours(tiny_fp32, [*row, int(following[index])])
        assert _relative_error(first[index, int(padding[index]) :], alone[:-1]) < FP32_BOUND
        assert _relative_error(second[index, -1], alone[-1]) < FP32_BOUND

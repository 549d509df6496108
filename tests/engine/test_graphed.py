"""Passes over one token as a GPU replays them: the same numbers; captured where there is a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from llmos import model_cli
from llmos.engine.graphed import FixedCache, GraphedTransformer
from llmos.engine.model import Transformer
from tests.engine.test_kernels import FAMILIES

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IDS = torch.randint(0, 80, (1, 40), generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=sorted(FAMILIES))
def both(request: pytest.FixtureRequest) -> tuple[Transformer, GraphedTransformer]:
    torch.manual_seed(5)
    usual, graphed = (
        kind(FAMILIES[request.param], positions=64) for kind in (Transformer, GraphedTransformer)
    )
    for parameter in usual.parameters():
        nn.init.normal_(parameter, std=0.2)
    graphed.load_state_dict(usual.state_dict())
    for model in (usual, graphed):
        model.eval().requires_grad_(False).move(DEVICE)
    return usual, graphed


@torch.inference_mode()
def test_one_token_after_the_other_gives_what_the_usual_way_gives(
    both: tuple[Transformer, GraphedTransformer],
) -> None:
    caches = [model.new_cache(1, 64) for model in both]
    assert isinstance(caches[1], FixedCache) and caches[1].capacity == 64
    for start, end in ((0, 7), *((n, n + 1) for n in range(7, 30)), (30, 33), (33, 34)):
        part = IDS[:, start:end]
        expected, found = (m.states(part, c, wanted=None) for m, c in zip(both, caches, strict=True))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert [cache.length for cache in caches] == [34, 34]


@torch.inference_mode()
def test_a_cache_that_is_cut_or_filled_goes_on_from_there(
    both: tuple[Transformer, GraphedTransformer],
) -> None:
    model = both[1]
    first = model.new_cache(1, 64)
    model.states(IDS[:, :20], first)
    later = [model.states(IDS[:, n : n + 1], first) for n in range(20, 25)]
    first.truncate(21)
    torch.testing.assert_close(model.states(IDS[:, 21:22], first), later[1], atol=1e-4, rtol=1e-4)
    second = model.new_cache(1, 64)
    second.restore(first.held(21))
    torch.testing.assert_close(model.states(IDS[:, 21:22], second), later[1], atol=1e-4, rtol=1e-4)


@pytest.mark.weights
@pytest.mark.parametrize(("built", "why"), [(None, "a build without CUDA"), ("13.0", "sees no GPU")])
def test_without_a_gpu_it_is_said_and_what_to_do(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    built: str | None,
    why: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    assert model_cli.run(["bench", str(tiny_model), "--device", "cuda"]) == 5
    said = capfd.readouterr().err
    assert why in said and "--device" in said

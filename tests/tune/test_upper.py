"""Training of the last blocks alone: the same numbers as all of them give, and only they learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmos.engine import weights
from llmos.errors import UsageError
from llmos.tune.lora import Trainee
from llmos.tune.network import Batch
from llmos.tune.upper import Upper

LEARNING = 4


@pytest.fixture(scope="module")
def both(tiny_model: Path) -> tuple[Trainee, Upper]:
    source = weights.open_source(tiny_model)
    tensors = weights.tensors(source, torch.float32)
    whole, upper = (
        kind(source.config, dict(tensors), rank=4, alpha=8, positions=256) for kind in (Trainee, Upper)
    )
    upper.lora.load_state_dict(whole.lora.state_dict())
    with pytest.raises(UsageError, match="30 blocks"):
        upper.stand_on(tiny_model, None, learning=30)
    upper.stand_on(tiny_model, None, learning=LEARNING)
    return whole, upper


@pytest.mark.weights
def test_the_blocks_below_are_the_engines_own(both: tuple[Trainee, Upper]) -> None:
    ids = torch.randint(0, 40_000, (2, 60), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, found = (network.hidden(ids).flatten(0, 1) for network in both)
    near = torch.cosine_similarity(expected, found, dim=-1)
    assert near.mean() > 0.98, near  # their weights and activations are rounded, as in use


@pytest.mark.weights
def test_only_the_last_blocks_learn_and_they_do(both: tuple[Trainee, Upper]) -> None:
    upper = both[1]
    before = {name: tensor.clone() for name, tensor in upper.lora.tensors().items()}
    ids = torch.randint(0, 40_000, (1, 40), generator=torch.Generator().manual_seed(5))
    places = torch.arange(20, 39)
    batch = Batch(ids, torch.zeros_like(places), places, ids[0, places + 1])
    optimizer = torch.optim.AdamW(upper.lora.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = upper.losses(batch)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0], losses
    changed = {
        int(name.split(".")[1])
        for name, tensor in upper.lora.tensors().items()
        if not tensor.equal(before[name])
    }
    assert changed == {26, 27, 28, 29}

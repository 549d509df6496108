"""The processes that train one model together: who they are, what they agree on, how weights are shared.

Without a launcher there is one process and nothing here talks to anybody. Each process has a copy of what
learns and gradients are averaged (DDP), or weights, gradients and the optimiser's state are spread over all
of them (FSDP2) and gathered block by block. State is kept whole, so that a run can go on with another number
of processes. Traffic between them is neither encrypted nor authenticated: keep it in a network you trust.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as whole_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from llmos.planner.confine import die_with_parent
from llmos.tune.network import Learner, Weights


@dataclass(frozen=True, slots=True)
class World:
    """`rank` 0 leads: it alone writes and speaks."""

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def agreed(self, number: float) -> float:
        """What the leader measured: clocks differ, and all must turn back at the same step."""
        return float(self.told(number)) if self.size > 1 else number

    def told(self, value: Any) -> Any:
        """The leader's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers


ALONE = World()


def launched() -> bool:
    """Whether a launcher (torchrun, Ray) started this process as one of several."""
    return dist.is_initialized() or {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


@contextlib.contextmanager
def joined(*, sharded: bool) -> Iterator[World]:
    """Meets the others, if a launcher started several, and parts from them at the end."""
    if not launched():
        yield ALONE
        return
    ours = not dist.is_initialized()
    if ours:
        _meet()
    try:
        yield World(dist.get_rank(), dist.get_world_size(), sharded)
    finally:
        if ours:
            dist.destroy_process_group()


def _meet() -> None:
    die_with_parent()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    elif "OMP_NUM_THREADS" not in os.environ:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")


# --- the model, shared


class _Losses(nn.Module):
    """A learner as a module of what learns alone: its frozen weights stay where they are."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.trained = learner.trained
        self._losses = learner.losses

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self._losses(batch)


def shared(learner: Learner, world: World, device: torch.device) -> nn.Module:
    """Gives a batch's losses; a backward pass through them leaves the mean of all gradients."""
    module = _Losses(learner)
    if world.sharded:
        mesh = init_device_mesh(device.type, (world.size,))
        for weights in [part for part in module.modules() if isinstance(part, Weights)]:
            for block in weights.blocks:
                fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module
    if world.size > 1:
        return DistributedDataParallel(module, forward_sync_buffers=False)
    return module


@contextlib.contextmanager
def exchanging(module: nn.Module, now: bool) -> Iterator[None]:
    """Gradients go to the others once a step: with its last batch."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(now)
    if isinstance(module, DistributedDataParallel) and not now:
        with module.no_sync():
            yield
    else:
        yield


# --- state, whole, whoever keeps which part of it


def _options(world: World, *, loading: bool = False) -> whole_state.StateDictOptions:
    return whole_state.StateDictOptions(
        full_state_dict=True,
        cpu_offload=world.size > 1 and not loading,
        broadcast_from_rank0=world.size > 1 and loading,
    )


def weights_of(trained: nn.Module, world: World) -> dict[str, Any]:
    """Of every process at once; empty for all but the leader."""
    return whole_state.get_model_state_dict(trained, options=_options(world))


def load_weights(trained: nn.Module, state: dict[str, Any], world: World) -> None:
    """By every process at once; the leader's `state` counts."""
    whole_state.set_model_state_dict(trained, state, options=_options(world, loading=True))


def optimizer_of(trained: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> dict[str, Any]:
    return dict(whole_state.get_optimizer_state_dict(trained, optimizer, options=_options(world)))


def load_optimizer(
    trained: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], world: World
) -> None:
    whole_state.set_optimizer_state_dict(trained, optimizer, state, options=_options(world, loading=True))

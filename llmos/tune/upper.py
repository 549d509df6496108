"""Fine-tuning of a model's last blocks alone, for a processor: the blocks below are the engine's own kernels.

Those read packed weights, with the adapter that training starts from beside them, and take no gradient, which
saves a third of a step's work. What is trained sees below it the very numbers that it will see in use. An
adapter made so has all matrices, those below as they were.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from llmos.engine import loading, native
from llmos.engine.adapter import Adapter
from llmos.engine.model import ModelConfig
from llmos.engine.packed import PackedTransformer
from llmos.errors import UsageError
from llmos.tune.lora import Trainee


class Upper(Trainee):
    """`stand_on` says which blocks learn, and must be called before anything is computed."""

    _below: PackedTransformer

    def __init__(
        self, config: ModelConfig, tensors: dict[str, Tensor], *, rank: int, alpha: float, positions: int
    ) -> None:
        super().__init__(config, tensors, rank=rank, alpha=alpha, positions=positions)
        self._first, self._positions = 0, positions

    def stand_on(self, path: Path, adapter: Adapter | None, *, learning: int) -> None:
        """The last `learning` blocks learn; the others are those of the model at `path`.

        Raises UsageError for a number of blocks that cannot be, ModelError without kernels.
        """
        num_layers = self.config.num_layers
        if not 0 < learning < num_layers:
            raise UsageError(f"the model has {num_layers} blocks", f"Name 1 to {num_layers - 1} of them.")
        below, _ = loading.load(path, "packed", self._positions, adapter=adapter)
        assert isinstance(below, PackedTransformer)
        native.start(torch.get_num_threads())
        self._first, self._below = num_layers - learning, below
        for name, low, high in zip(self.lora.names, self.lora.low, self.lora.high, strict=True):
            learns = self._learns(name)
            low.requires_grad_(learns)
            high.requires_grad_(learns)
        self._frozen = {name: tensor for name, tensor in self._frozen.items() if self._learns(name)}

    def _learns(self, name: str) -> bool:
        part, _, rest = name.partition(".")
        return part != "blocks" or int(rest.partition(".")[0]) >= self._first

    def hidden(self, ids: Tensor) -> Tensor:
        x = torch.stack([self._below.after(self._first, row.cpu()) for row in ids])
        x = x.to(ids.device, self.weight("norm.weight").dtype)
        rope = self._rope.at(torch.arange(ids.shape[1], device=ids.device).unsqueeze(0), x.dtype)
        for layer in range(self._first, self.config.num_layers):
            x = self._through(layer, x, rope)
        return self._norm(x, "norm")

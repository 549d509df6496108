"""The larger local models that are asked, in their order, where a smaller one is unsure.

Each has a planner of its own, which starts when it is first asked and ends when it has been idle. Whether its
weights are here and fit into memory is looked up for each request: both may change while the daemon runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmos.config import Settings
from llmos.daemon.thinking import Planner
from llmos.errors import ModelError
from llmos.messages import JsonObject
from llmos.planner.route import Larger

# What a planner takes that has thought, measured with `default` and `large`: of weights as they are on disk,
# and beside them. The very first load, which prepares the weights, takes about twice that for a minute.
BYTES_PER_WEIGHT_BYTE, BYTES_BESIDE = 1.2, 400 << 20


@dataclass(frozen=True, slots=True)
class Rung:
    name: str
    planner: Planner

    def facts(self) -> Larger:
        """Looks at the model store, so it may block."""
        from llmos.engine import store  # only where a larger model is named

        try:
            weights = store.resolve(self.name)
        except ModelError as error:
            return Larger(self.name, problem=f"{error} ({error.next_step})")
        needed = BYTES_PER_WEIGHT_BYTE * _num_bytes(weights) + BYTES_BESIDE
        return Larger(self.name, round(needed), loaded=self.planner.status()["pid"] is not None)

    def status(self) -> JsonObject:
        return {"name": self.name, **self.planner.status()}


def rungs(settings: Settings, argv: Sequence[str]) -> tuple[Rung, ...]:
    """One for each model that `[offload] larger` names."""
    return tuple(
        Rung(
            name,
            Planner(settings.model.for_model(name), worker_argv=(*argv, "--model", name)),
        )
        for name in settings.offload.larger
    )


def _num_bytes(weights: Path) -> int:
    files = weights.iterdir() if weights.is_dir() else (weights,)
    return sum(file.stat().st_size for file in files)

"""Training an adapter: causal language modelling of the replies, AdamW, warm-up and cosine by time or steps.

A run has a budget of seconds or steps and ends cleanly whatever the machine's speed: the learning rate
follows the share of the budget that is spent. State is written beside the result every so often, whole
or not at all, and a run that was killed goes on from it. The loss is the mean over a step's learnt tokens.

Several processes make the same step as one would: each composes all of a step's batches and learns from its
part of them, and a token weighs the same whoever read it.
"""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmos.errors import UsageError
from llmos.tune import world as worlds
from llmos.tune.chats import Sample
from llmos.tune.network import Learner, gathered
from llmos.tune.picture import picture
from llmos.tune.world import ALONE, World

_BUCKET_CHATS = 192  # sorted by length before they are cut into batches
_READY_BATCHES = 16
OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """`max_seconds` or `max_steps`, whichever ends first; 0 is no limit."""

    max_seconds: float = 0.0
    max_steps: int = 0
    learning_rate: float = 4e-4
    least_share: float = 0.03  # of the learning rate, at the end
    warmup_share: float = 0.04
    batch_tokens: int = 16384  # padded, in one forward pass
    accumulate: int = 2
    clip: float = 1.0
    weight_decay: float = 0.0
    validations: int = 6
    patience: int = 0  # end after so many validations without a better one, with the best one's weights
    keep_every_s: float = 120.0
    seed: int = 0


@dataclass
class Curve:
    """What a run leaves to look at."""

    settings: dict[str, Any]
    steps: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """As curve.json, and as a picture: the loss over the steps, and where it was judged."""
        (folder / "curve.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (folder / "curve.svg").write_text(self._svg())

    def _svg(self) -> str:
        judged = [
            (found["step"], part["loss"])
            for found in self.validations
            for part in found.values()
            if isinstance(part, dict)
        ]
        return picture([(line["step"], line["loss"]) for line in self.steps], judged)


def batches(samples: Iterator[Sample], batch_tokens: int, seed: int) -> Iterator[list[Sample]]:
    """Groups of chats of like length, at most `batch_tokens` when padded, in random order."""
    rng = np.random.default_rng(seed)
    while True:
        chats = sorted(islice(samples, _BUCKET_CHATS), key=lambda sample: len(sample.ids))
        if not chats:
            return
        groups: list[list[Sample]] = [[]]
        for chat in chats:
            if groups[-1] and (len(groups[-1]) + 1) * len(chat.ids) > batch_tokens:
                groups.append([])
            groups[-1].append(chat)
        for index in rng.permutation(len(groups)):
            yield groups[index]


class _Ahead:
    """Batches made on a thread of their own, a few ahead."""

    def __init__(self, groups: Iterator[list[Sample]]) -> None:
        self._queue: queue.Queue[list[Sample]] = queue.Queue(_READY_BATCHES)
        self._groups = groups
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        for group in self._groups:
            self._queue.put(group)

    def next(self) -> list[Sample]:
        return self._queue.get()


def rate_at(share: float, settings: Settings) -> float:
    """The learning rate when `share` of the budget is spent."""
    if share < settings.warmup_share:
        return settings.learning_rate * (share / settings.warmup_share + 1e-3)
    along = min(1.0, (share - settings.warmup_share) / (1 - settings.warmup_share))
    cosine = (1 + math.cos(math.pi * along)) / 2
    return settings.learning_rate * (settings.least_share + (1 - settings.least_share) * cosine)


class Run:
    """One training run; `go` returns its curve."""

    def __init__(
        self,
        trainee: Learner,
        samples: Iterator[Any],
        settings: Settings,
        *,
        device: torch.device,
        folder: Path,
        validation: Mapping[str, Sequence[Any]],
        on_progress: OnProgress = print,
        world: World = ALONE,
    ) -> None:
        assert settings.max_seconds or settings.max_steps
        check_shares(settings.accumulate, world.size)
        self.trainee, self.settings, self.device, self.folder = trainee, settings, device, folder
        self._validation, self._world = validation, world
        self._say = on_progress if world.leads else _nothing
        self._module = worlds.shared(trainee, world, device)
        self._optimizer = torch.optim.AdamW(
            trainee.trained.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=settings.weight_decay,
            fused=device.type == "cuda",
        )
        self.curve = Curve(asdict(settings))
        self.step, self._spent_s, self._tokens = 0, 0.0, 0
        self._best: tuple[float, float] | None = None  # share of replies right, and minus the loss
        self._best_weights: dict[str, Tensor] = {}
        self._worse = 0
        self._recent: list[tuple[Tensor, Tensor]] = []  # loss and norm of the steps since the last note
        self._resume()
        self._started, self._now = time.monotonic() - self._spent_s, self._spent_s
        groups = batches(samples, settings.batch_tokens, settings.seed)
        read = (
            self.step * settings.accumulate
        )  # composed once more, so that the run goes on as if never ended
        self._groups = _Ahead(islice(groups, read, None))

    # --- budget

    def _look_at_clock(self) -> None:
        """Between steps only, so that all processes decide by the same time."""
        self._now = self._world.agreed(time.monotonic() - self._started)

    @property
    def seconds(self) -> float:
        return self._now

    @property
    def share(self) -> float:
        """How much of the budget is spent, 0..1."""
        limits = self.settings
        by_time = self.seconds / limits.max_seconds if limits.max_seconds else 0.0
        by_steps = self.step / limits.max_steps if limits.max_steps else 0.0
        return max(by_time, by_steps)

    # --- the run

    def go(self) -> Curve:
        due = [n / self.settings.validations for n in range(self.settings.validations)]
        due = [share for share in due if share >= self.share]
        self._look_at_clock()
        kept_at = self.seconds
        while self.share < 1:
            if due and self.share >= due[0]:
                due = [share for share in due if share > self.share]
                self.validate()
                if 0 < self.settings.patience <= self._worse:
                    self._say(f"no better for {self._worse} validations: ends here")
                    break
            self._recent.append(self._one_step())
            self._look_at_clock()
            if self.step % 10 == 0 or len(self._recent) == self.settings.max_steps:
                self._note(self._recent)
                self._recent = []
            if self.seconds - kept_at > self.settings.keep_every_s:
                self._keep()
                kept_at = self.seconds
        else:
            self.validate()
        self._return_to_best()
        self._keep()
        return self.curve

    def _one_step(self) -> tuple[Tensor, Tensor]:
        """(mean loss, gradient norm) of one optimiser step."""
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate_at(self.share, self.settings)
        groups = [self._groups.next() for _ in range(self.settings.accumulate)]
        counts = [sum(int(sample.learnt.sum()) for sample in group) for group in groups]
        total = torch.zeros((), device=self.device)
        mine = groups[self._world.rank :: self._world.size]
        for number, group in enumerate(mine, start=1):
            with worlds.exchanging(self._module, number == len(mine)):
                losses, _ = self._module(self.trainee.collate(group, self.device))
                loss = losses.sum() / sum(counts)
                (loss * self._world.size).backward()  # the exchange divides by it
            total += loss.detach()
        self._tokens += sum(len(sample.ids) for group in groups for sample in group)
        norm = torch.nn.utils.clip_grad_norm_(self.trainee.trained.parameters(), self.settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return self._world.total(total), gathered(norm)

    def _note(self, recent: Sequence[tuple[Tensor, Tensor]]) -> None:
        if not recent:
            return
        loss = float(torch.stack([loss for loss, _ in recent]).mean())
        norm = float(torch.stack([norm for _, norm in recent]).mean())
        seconds, share = self.seconds, self.share
        line = {
            "step": self.step, "seconds": round(seconds, 1), "loss": round(loss, 4), "norm": round(norm, 3),
            "rate": rate_at(share, self.settings), "tokens": self._tokens,
        }  # fmt: skip
        self.curve.steps.append(line)
        left = seconds / share - seconds if share else 0
        self._say(
            f"step {self.step} loss {loss:.4f} norm {norm:.2f}"
            f" {self._tokens / seconds:.0f} tokens/s {left:.0f} s left"
        )

    # --- validation

    def validate(self) -> None:
        """Loss a token and replies that are right in every token, given what stands before, by group."""
        found: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds, 1)}
        for name, samples in self._validation.items():
            found[name] = self._judged(samples)
        self.curve.validations.append(found)
        self._say(f"validation {json.dumps(found)}")
        if self.settings.patience:
            self._compare([part for part in found.values() if isinstance(part, dict)])

    def _compare(self, parts: Sequence[dict[str, float]]) -> None:
        """By replies that are right; where as many are, by loss."""
        now = (sum(part["exact"] for part in parts), -sum(part["loss"] for part in parts))
        if self._best is not None and not now > self._best:  # a loss that is no number is not better
            self._worse += 1
            return
        self._best, self._worse = now, 0
        state = worlds.weights_of(self.trainee.trained, self._world)
        self._best_weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def _return_to_best(self) -> None:
        if self._worse:
            worlds.load_weights(self.trainee.trained, self._best_weights, self._world)
            self.validate()

    @torch.no_grad()
    def _judged(self, samples: Sequence[Any]) -> dict[str, float]:
        self.trainee.trained.eval()
        numbered = iter(sorted(samples, key=lambda sample: len(sample.ids)))
        groups = list(_in_turn(numbered, self.settings.batch_tokens))
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for start in range(0, len(groups), self._world.size):
            number = start + self._world.rank
            # Whoever has none left reads the last once more, uncounted: spread weights are gathered by all.
            counts = self._counts(groups[min(number, len(groups) - 1)])
            if number < len(groups):
                sums += counts
        self.trainee.trained.train()
        loss, right, replies, tokens = self._world.total(sums).tolist()
        return {
            "loss": round(loss / max(1, tokens), 4),
            "exact": round(right / max(1, replies), 4),
            "replies": int(replies),
            "tokens": int(tokens),
        }

    def _counts(self, group: Sequence[Any]) -> Tensor:
        """The sum of losses, replies that are right, replies, tokens."""
        losses, hits = self._module(self.trainee.collate(group, self.device))
        right: dict[tuple[int, int], bool] = defaultdict(lambda: True)
        keys = [(n, int(r)) for n, s in enumerate(group) for r in s.reply[s.learnt]]
        for key, hit in zip(keys, hits.tolist(), strict=True):
            right[key] &= hit
        numbers = [float(losses.sum()), sum(right.values()), len(right), len(losses)]
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)

    # --- state

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.pt"

    def _keep(self) -> None:
        trained = self.trainee.trained
        state = {
            "trained": worlds.weights_of(trained, self._world),
            "optimizer": worlds.optimizer_of(trained, self._optimizer, self._world),
            "step": self.step, "seconds": self.seconds, "tokens": self._tokens,
            "curve": asdict(self.curve), "recent": self._recent,
            "best": self._best, "best_weights": self._best_weights, "worse": self._worse,
        }  # fmt: skip
        if not self._world.leads:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self._state_file.with_suffix(".new")
        torch.save(state, new)
        new.replace(self._state_file)

    def _resume(self) -> None:
        """The leader reads; the others may be on machines without its files."""
        known = self._world.leads and self._state_file.exists()
        if not self._world.told(known):
            return
        state: dict[str, Any] = {}
        if known:
            state = torch.load(self._state_file, map_location="cpu", weights_only=True)
        trained, optimizer = self.trainee.trained, self._optimizer
        worlds.load_weights(trained, state.pop("trained", {}), self._world)
        worlds.load_optimizer(trained, optimizer, state.pop("optimizer", {}), self._world)
        self._best_weights = state.pop("best_weights", {})
        state = self._world.told(state)
        self.step, self._spent_s, self._tokens = state["step"], state["seconds"], state["tokens"]
        self._best, self._worse = state["best"], state["worse"]
        self.curve.steps, self.curve.validations = state["curve"]["steps"], state["curve"]["validations"]
        self._recent = [(loss.to(self.device), norm.to(self.device)) for loss, norm in state["recent"]]
        self._say(f"goes on at step {self.step}")


def check_shares(accumulate: int, processes: int) -> None:
    """Every process learns from as many of a step's batches."""
    if accumulate % processes:
        enough = processes * max(1, -(-accumulate // processes))
        raise UsageError(
            f"{processes} processes cannot share {accumulate} batches a step evenly",
            f"Give --accumulate {enough}, or another number of processes.",
        )


def _nothing(_line: str) -> None:
    pass


def _in_turn(samples: Iterator[Sample], batch_tokens: int) -> Iterator[list[Sample]]:
    """Groups of at most `batch_tokens` when padded, in the order given."""
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) + 1) * len(sample.ids) > batch_tokens:
            yield group
            group = []
        group.append(sample)
    if group:
        yield group

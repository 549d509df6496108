"""Training an adapter: causal language modelling of the replies, AdamW, warm-up and cosine by time or steps.

A run has a budget of seconds or steps and ends cleanly whatever the machine's speed: the learning rate
follows the share of the budget that is spent. State is written beside the result every so often, whole
or not at all, and a run that was killed goes on from it. The loss is the mean over a step's learnt tokens.
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

from llmos.tune.chats import Sample
from llmos.tune.network import Learner
from llmos.tune.picture import picture

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
    ) -> None:
        assert settings.max_seconds or settings.max_steps
        self.trainee, self.settings, self.device, self.folder = trainee, settings, device, folder
        self._validation, self._say = validation, on_progress
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
        self._resume()
        self._started = time.monotonic() - self._spent_s
        self._groups = _Ahead(batches(samples, settings.batch_tokens, settings.seed + self.step))

    # --- budget

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

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
        kept_at = self.seconds
        recent: list[tuple[Tensor, Tensor]] = []
        while self.share < 1:
            if due and self.share >= due[0]:
                due = [share for share in due if share > self.share]
                self.validate()
                if 0 < self.settings.patience <= self._worse:
                    self._say(f"no better for {self._worse} validations: ends here")
                    break
            recent.append(self._one_step())
            if self.step % 10 == 0 or len(recent) == self.settings.max_steps:
                self._note(recent)
                recent = []
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
        for group in groups:
            batch = self.trainee.collate(group, self.device)
            losses, _ = self.trainee.losses(batch)
            loss = losses.sum() / sum(counts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            self._tokens += sum(len(sample.ids) for sample in group)
        norm = torch.nn.utils.clip_grad_norm_(self.trainee.trained.parameters(), self.settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total, norm

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
        state = self.trainee.trained.state_dict()
        self._best_weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def _return_to_best(self) -> None:
        if self._worse:
            self.trainee.trained.load_state_dict(self._best_weights)
            self.validate()

    @torch.no_grad()
    def _judged(self, samples: Sequence[Any]) -> dict[str, float]:
        self.trainee.trained.eval()
        loss, tokens = 0.0, 0
        right: dict[tuple[int, int], bool] = defaultdict(lambda: True)
        numbered = iter(sorted(samples, key=lambda sample: len(sample.ids)))
        start = 0
        for group in _in_turn(numbered, self.settings.batch_tokens):
            losses, hits = self.trainee.losses(self.trainee.collate(group, self.device))
            loss, tokens = loss + float(losses.sum()), tokens + len(losses)
            keys = [(start + n, int(r)) for n, s in enumerate(group) for r in s.reply[s.learnt]]
            for key, hit in zip(keys, hits.tolist(), strict=True):
                right[key] &= hit
            start += len(group)
        self.trainee.trained.train()
        return {
            "loss": round(loss / max(1, tokens), 4),
            "exact": round(sum(right.values()) / max(1, len(right)), 4),
            "replies": len(right),
            "tokens": tokens,
        }

    # --- state

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.pt"

    def _keep(self) -> None:
        state = {
            "trained": self.trainee.trained.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step, "seconds": self.seconds, "tokens": self._tokens,
            "curve": asdict(self.curve),
            "best": self._best, "best_weights": self._best_weights, "worse": self._worse,
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self._state_file.with_suffix(".new")
        torch.save(state, new)
        new.replace(self._state_file)

    def _resume(self) -> None:
        if not self._state_file.exists():
            return
        state = torch.load(self._state_file, map_location=self.device, weights_only=True)
        self.trainee.trained.load_state_dict(state["trained"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._spent_s, self._tokens = state["step"], state["seconds"], state["tokens"]
        self._best, self._best_weights, self._worse = state["best"], state["best_weights"], state["worse"]
        self.curve.steps, self.curve.validations = state["curve"]["steps"], state["curve"]["validations"]
        self._say(f"goes on at step {self.step}")


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

"""Decoding: prompt in, tokens out, one at a time, under an optional constraint.

Tokens that the constraint leaves no choice about are not decoded: they join the next forward pass. So do a
few guessed ones (`lookup`): where the model would have chosen them, one pass gives several tokens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from llmos.engine.cache import KVCache, common_prefix
from llmos.engine.loading import AnyModel
from llmos.engine.lookup import Lookup
from llmos.engine.sampling import Ahead, Sampling
from llmos.engine.tokenizer import TextStream, Tokenizer

PREFILL_CHUNK = 256  # tokens between two looks at `cancel`
MAX_GUESS = 3  # tokens: each takes an eighth of a pass here, and further ones are right less often
StopReason = Literal["stop", "length", "cancelled", "grammar"]
OnText = Callable[[str], None]


class Constraint(Protocol):
    """What may come next. `accept` is told of every token that was taken, forced ones included."""

    def forced(self) -> list[int]:
        """Tokens that must come next; they are appended without being decoded."""

    def mask(self) -> Tensor:
        """bool [vocab], True where a token may come next."""

    def accept(self, ids: Sequence[int]) -> None: ...

    @property
    def finished(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """What came out. `logprobs` has one entry per token that was chosen (not forced, not the end mark),
    in natural logarithms, after the constraint and the temperature, before top-k, top-p and min-p."""

    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    stop_reason: StopReason
    prompt_tokens: int
    cached_tokens: int
    forced_tokens: int
    prefill_ms: float
    decode_ms: float
    passes: int = 0  # how often the model was run
    guessed_tokens: int = 0  # chosen or forced ones among `tokens` that had been guessed

    @property
    def generated_tokens(self) -> int:
        return len(self.tokens)


class Output:
    """The text so far, cut at the first stop string; passes on what can no longer be part of one."""

    def __init__(self, stream: TextStream, stop: tuple[str, ...], on_text: OnText | None) -> None:
        self._stream, self._stop, self._on_text = stream, stop, on_text
        self.text, self.stopped = "", False
        self._sent = 0

    def push(self, token_id: int) -> None:
        self._add(self._stream.push(token_id))

    def finish(self) -> str:
        self._add(self._stream.finish())
        self._send(len(self.text))
        return self.text

    def _add(self, new: str) -> None:
        if self.stopped or not new:
            return
        self.text += new
        places = [place for mark in self._stop if (place := self.text.find(mark)) >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True
        self._send(len(self.text) - (0 if self.stopped else self._unsure()))

    def _unsure(self) -> int:
        """The length of the longest ending that may become a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        lengths = range(min(longest, len(self.text)), 0, -1)
        return next((n for n in lengths if any(m.startswith(self.text[-n:]) for m in self._stop)), 0)

    def _send(self, end: int) -> None:
        if self._on_text is not None and end > self._sent:
            self._on_text(self.text[self._sent : end])
            self._sent = end


@dataclass(slots=True)
class Decoder:
    """One generation in progress. `cache` holds the beginning of the prompt already."""

    model: AnyModel
    tokenizer: Tokenizer
    cache: KVCache
    max_tokens: int
    sampling: Sampling
    constraint: Constraint | None
    cancel: threading.Event
    output: Output
    lookup: Lookup | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    num_forced: int = 0
    num_guessed: int = 0
    num_passes: int = 0
    reason: StopReason = "length"
    ended: bool = False  # by the model's own mark
    generator: torch.Generator | None = None

    def run(self, prompt: Sequence[int]) -> Generation:
        """Read the prompt, then decode until something ends it."""
        started = time.perf_counter()
        cached = self.cache.length
        if self.sampling.seed is not None:
            self.generator = torch.Generator().manual_seed(self.sampling.seed)
        pending = [*prompt[cached:], *self._take_forced()]
        prefill_s = 0.0
        while not self._over():
            guess = self._guess()
            ahead = self._forward(pending, guess)
            prefill_s = prefill_s or time.perf_counter() - started
            if ahead is None:
                break
            pending = self._take_chosen(ahead, guess)
        total_s = time.perf_counter() - started
        return self._result(len(prompt), cached, prefill_s or total_s, total_s)

    def _guess(self) -> list[int]:
        if self.lookup is None:
            return []
        return self.lookup.guess(min(MAX_GUESS, self.max_tokens - len(self.tokens) - 1))

    def _take_chosen(self, ahead: Ahead, guess: list[int]) -> list[int]:
        """Choose at one position after the other for as long as the guess was right.

        The cache has read the guess, and is cut to what was taken of it. Returns what was taken and is still
        to be read.
        """
        start, right = self.cache.length - len(guess), 0
        pending: list[int] = []
        while not pending and not self._over():
            mask = None if self.constraint is None else self.constraint.mask()
            token, logprob = ahead.choose(right, mask, self.sampling, self.generator)
            if token in self.tokenizer.eos_ids:
                self.reason, self.ended = "stop", True
                break
            self.logprobs.append(logprob)
            self._take([token])
            new = [token, *self._take_forced()]
            same = common_prefix(new, guess[right:])
            right, pending = right + same, new[same:]
        self.num_guessed += right
        self.cache.truncate(start + right)
        return pending

    def _result(self, prompt_tokens: int, cached: int, prefill_s: float, total_s: float) -> Generation:
        return Generation(
            tokens=tuple(self.tokens),
            text=self.output.finish(),
            logprobs=tuple(self.logprobs),
            stop_reason=self.reason,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            forced_tokens=self.num_forced,
            prefill_ms=prefill_s * 1e3,
            decode_ms=(total_s - prefill_s) * 1e3,
            passes=self.num_passes,
            guessed_tokens=self.num_guessed,
        )

    def _forward(self, pending: list[int], guess: list[int]) -> Ahead | None:
        """What may follow `pending` and each of the guess; None when cancelled."""
        for start in range(0, len(pending), PREFILL_CHUNK):
            if self.cancel.is_set():
                self.reason = "cancelled"
                return None
            last = start + PREFILL_CHUNK >= len(pending)
            chunk = [*pending[start : start + PREFILL_CHUNK], *(guess if last else ())]
            wanted = 1 + len(guess) if last else 1
            states = self.model.states(torch.tensor([chunk]), self.cache, wanted=wanted)
            self.num_passes += 1
        return Ahead(self.model, states[0])

    def _take_forced(self) -> list[int]:
        if self.constraint is None or self.constraint.finished:
            return []
        forced = self.constraint.forced()[: self.max_tokens - len(self.tokens)]
        self.num_forced += len(forced)
        self._take(forced)
        return forced

    def _take(self, ids: list[int]) -> None:
        if self.constraint is not None and ids:
            self.constraint.accept(ids)
        if self.lookup is not None:
            self.lookup.extend(ids)
        for token in ids:
            self.tokens.append(token)
            self.output.push(token)

    def _over(self) -> bool:
        if self.ended:
            return True
        if self.cancel.is_set():
            self.reason = "cancelled"
        elif self.constraint is not None and self.constraint.finished:
            self.reason = "grammar"
        elif self.output.stopped:
            self.reason = "stop"
        elif len(self.tokens) >= self.max_tokens:
            self.reason = "length"
        else:
            return False
        return True

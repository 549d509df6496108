"""Hard caps on money and tokens, and the ledger that they are counted in.

    reserve   before anything is sent: the most that the attempt can cost, on disk and synced
    settle    afterwards: what it did cost

An attempt that was never settled (a crash, a lost answer) counts as reserved, for ever: the sum can be too
high, never too low. Days are those of local time. The ledger is one JSON object a line, appended only;
a line cut off by a crash is passed over. One process, the broker, writes it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos import paths
from llmos.config import BudgetSettings
from llmos.errors import CallFailed, OverBudget, unwritten

DAY_S = 86_400
_ROUNDING = 1e-9  # three times 0.1 is a little more than 0.3
_NEXT = "Raise it in [budget] of config.toml, wait until tomorrow, or stay local: --local"


@dataclass(frozen=True, slots=True)
class Cost:
    usd: float
    tokens: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.usd + other.usd, self.tokens + other.tokens)


NOTHING = Cost(0.0, 0)


@dataclass(slots=True)
class Entry:
    """One attempt: what it was, and what it cost or can have cost."""

    number: int
    time: float
    uid: int
    request: str
    backend: str
    cost: Cost
    settled: bool = False
    prompt_tokens: int = 0
    reply_tokens: int = 0


class Ledger:
    """Safe for threads. What stands in the file is read once and then held."""

    def __init__(self, caps: BudgetSettings, file: Path | None = None) -> None:
        self._caps = caps
        self.file = file or paths.state_dir() / "usage.jsonl"
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] | None = None
        self._last = 0

    def reserve(self, *, uid: int, request: str, backend: str, most: Cost) -> int:
        """Take the most an attempt can cost off every cap; its number. Raises OverBudget, DiskFull."""
        with self._lock:
            entries = self._load()
            self._check(entries, uid, request, backend, most)
            entry = Entry(self._last + 1, time.time(), uid, request, backend, most)
            self._append(
                {"n": entry.number, "time": entry.time, "uid": uid, "request": request, "backend": backend,
                 "usd": most.usd, "tokens": most.tokens}
            )  # fmt: skip
            self._last += 1
            entries[entry.number] = entry
            return entry.number

    def settle(self, number: int, cost: Cost, *, prompt_tokens: int = 0, reply_tokens: int = 0) -> None:
        """What the attempt really cost. Raises DiskFull, CallFailed; the reservation then stands."""
        with self._lock:
            entry = self._load()[number]
            self._append(
                {"settles": number, "usd": cost.usd, "tokens": cost.tokens, "in": prompt_tokens,
                 "out": reply_tokens}
            )  # fmt: skip
            _settle(entry, cost, prompt_tokens, reply_tokens)

    def left(self, uid: int, request: str = "") -> dict[str, float]:
        """What is left under each cap for this person."""
        with self._lock:
            return {name: cap - used for name, cap, used in self._sums(self._load(), uid, request, NOTHING)}

    def refusal(self, uid: int, request: str, backend: str, most: Cost) -> str:
        """Why an attempt of that size would be refused; empty when it would not."""
        with self._lock:
            try:
                self._check(self._load(), uid, request, backend, most)
            except OverBudget as error:
                return str(error)
        return ""

    def used(self, uid: int | None, days: int) -> list[dict[str, Any]]:
        """Use by day and backend, oldest first; of everybody where `uid` is None."""
        since = _day_start(time.time()) - (days - 1) * DAY_S - 2 * 3600  # an hour is lost or won in spring
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        with self._lock:
            entries = [entry for entry in self._load().values() if uid in (None, entry.uid)]
        for entry in entries:
            if entry.time < since:
                continue
            day = time.strftime("%Y-%m-%d", time.localtime(entry.time))
            row = rows.setdefault((day, entry.backend), _row(day, entry.backend))
            row["attempts"] += 1
            row["unsettled"] += not entry.settled
            row["prompt_tokens"] += entry.prompt_tokens
            row["reply_tokens"] += entry.reply_tokens
            row["usd"] += entry.cost.usd
        return [rows[key] for key in sorted(rows)]

    # --- caps ---

    def _check(self, entries: dict[int, Entry], uid: int, request: str, backend: str, most: Cost) -> None:
        for name, cap, used in self._sums(entries, uid, request, most):
            if used > cap + _ROUNDING:
                unit = "tokens" if name.endswith("tokens") else "USD"
                raise OverBudget(
                    f"sending this to {backend} could cost up to {_say(most, unit)}, and {name} allows"
                    f" {cap:.6g} {unit} of which {max(0.0, cap - used + _part(most, unit)):.6g} are left",
                    _NEXT,
                )

    def _sums(
        self, entries: dict[int, Entry], uid: int, request: str, most: Cost
    ) -> Iterator[tuple[str, float, float]]:
        """(cap's name, cap, what would be used of it)."""
        today = _day_start(time.time())
        day = mine = one = most
        for entry in entries.values():
            if request and entry.request == request and entry.uid == uid:
                one += entry.cost
            if entry.time >= today:
                day += entry.cost
                mine += entry.cost if entry.uid == uid else NOTHING
        caps = self._caps
        yield "request_usd", caps.request_usd, one.usd
        yield "request_tokens", caps.request_tokens, one.tokens
        yield "user_day_usd", caps.user_day_usd, mine.usd
        yield "day_usd", caps.day_usd, day.usd
        yield "day_tokens", caps.day_tokens, day.tokens

    # --- the file ---

    def _load(self) -> dict[int, Entry]:
        if self._entries is None:
            self._entries = {}
            for line in self._lines():
                self._take(self._entries, line)
        return self._entries

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            text = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise CallFailed(
                f"the ledger {self.file} cannot be read ({error}), so nothing is sent", "Mend or remove it."
            ) from error
        for line in text.splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found

    def _take(self, entries: dict[int, Entry], line: dict[str, Any]) -> None:
        try:
            cost = Cost(float(line["usd"]), int(line["tokens"]))
            if "settles" in line:
                _settle(entries[line["settles"]], cost, int(line["in"]), int(line["out"]))
                return
            number = int(line["n"])
            entries[number] = Entry(
                number,
                float(line["time"]),
                int(line["uid"]),
                str(line["request"]),
                str(line["backend"]),
                cost,
            )
            self._last = max(self._last, number)
        except (KeyError, TypeError, ValueError):
            return  # a line of somebody else's making counts for nothing

    def _append(self, line: dict[str, Any]) -> None:
        try:
            paths.ensure_private(self.file.parent)
            fd = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(fd).st_size
                torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
                os.write(fd, b"\n" * torn + json.dumps(line, separators=(",", ":")).encode() + b"\n")
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise unwritten(
                error,
                f"the ledger {self.file} cannot be written ({error.strerror}), so nothing is sent",
                f"Make room and check the permissions of {self.file.parent}.",
            ) from error


def _settle(entry: Entry, cost: Cost, prompt_tokens: int, reply_tokens: int) -> None:
    entry.cost, entry.settled = cost, True
    entry.prompt_tokens, entry.reply_tokens = prompt_tokens, reply_tokens


def _row(day: str, backend: str) -> dict[str, Any]:
    counts = dict.fromkeys(("attempts", "unsettled", "prompt_tokens", "reply_tokens"), 0)
    return {"day": day, "backend": backend, **counts, "usd": 0.0}


def _part(cost: Cost, unit: str) -> float:
    return cost.tokens if unit == "tokens" else cost.usd


def _say(cost: Cost, unit: str) -> str:
    return f"{cost.tokens} tokens" if unit == "tokens" else f"{cost.usd:.6g} USD"


def _day_start(now: float) -> float:
    local = time.localtime(now)
    return time.mktime((local.tm_year, local.tm_mon, local.tm_mday, 0, 0, 0, 0, 0, -1))

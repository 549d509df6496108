"""How many tokens each user's requests cost the models of this machine today, and how many they may.

Counted when a thought has come, so the last one may go over; what was read out of the cache is not counted. A
restart forgets nothing: the counts of the day are kept in one small file, which whoever can write to the
daemon's state can change.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
from collections import Counter

from llmos import paths
from llmos.config import QuotasSettings
from llmos.errors import OverBudget
from llmos.guard.sharing import Quotas
from llmos.messages import Caller, Timing

log = logging.getLogger(__name__)


class Tokens:
    """Every method is called in the event loop's thread."""

    def __init__(self, settings: QuotasSettings) -> None:
        self._quotas = Quotas(settings)
        self._file = paths.state_dir() / "tokens.json"
        self._day, self._used = _today(), self._read()

    def configure(self, settings: QuotasSettings) -> None:
        self._quotas.configure(settings)

    def check(self, caller: Caller) -> None:
        """Raises OverBudget where this user's tokens of today are used up."""
        most, used = self._quotas.of(caller).day_tokens, self.used(caller.uid)
        if most and used >= most:
            raise OverBudget(
                f"your requests have used {used} tokens of this machine's model today, and {most} are yours",
                "Wait until tomorrow, type the command itself, or have day_tokens in [quota] raised.",
            )

    def used(self, uid: int) -> int:
        if self._day != _today():
            self._day, self._used = _today(), Counter()
        return self._used[uid]

    def spend(self, caller: Caller, timing: Timing) -> None:
        spent = max(0, timing.prompt_tokens - timing.cached_tokens) + timing.generated_tokens
        if not self._quotas.of(caller).day_tokens or not spent:
            return
        self._used[caller.uid] = self.used(caller.uid) + spent
        try:
            paths.ensure_private(self._file.parent)
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps({"day": self._day, "used": self._used}), encoding="ascii")
            fresh.replace(self._file)
        except OSError as error:
            log.warning("the tokens used today are not kept over a restart: %s", error)

    def _read(self) -> Counter[int]:
        used: Counter[int] = Counter()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found = json.loads(self._file.read_text(encoding="ascii"))
            if found["day"] == self._day:
                used.update({int(uid): int(number) for uid, number in found["used"].items()})
        return used


def _today() -> str:
    return datetime.datetime.now().astimezone().date().isoformat()

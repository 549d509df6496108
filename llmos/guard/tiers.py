"""Which policy holds for whom: the system's, tightened by the caller's own files and by the session's rules.

The daemon's own user's files are part of the policy it loaded (watchdog reloads them). For another caller
of a system service, their ~/.config/llmos/policies is read here, with their rights, whenever it changed. A
broken file keeps the caller's last good rules in force, and its error is told with each request; where
there never were good ones, the request is refused with that error.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from llmos import paths
from llmos.errors import ConfigError
from llmos.guard import rulefile
from llmos.guard.caller import as_caller
from llmos.guard.policy import Policy
from llmos.guard.rulefile import SETS, Tier
from llmos.messages import Caller

log = logging.getLogger(__name__)

MAX_SESSION_CHARS = 65_536
_BELOW_HOME = ".config/llmos/policies"


@dataclass(frozen=True, slots=True)
class _Known:
    """A caller's own rules as they were read: from which files, to what end."""

    signature: tuple[tuple[object, ...], ...]
    policy: Policy | None  # the last good one
    problem: ConfigError | None


class Tiers:
    """`own` holds for the daemon's own user; `others`, without that user's files, is where others start."""

    def __init__(self, own: Policy, others: Policy | None = None) -> None:
        self.own, self.others = own, others or own
        self._known: dict[int, _Known] = {}
        self._locks: dict[int, threading.Lock] = {}  # one for each caller: nobody waits for another's files

    def of(self, caller: Caller, home: str, session: str = "") -> Policy:
        """The rules in force for a request. Raises ConfigError."""
        policy = self.own if caller.uid == os.geteuid() else self._of_other(caller, home)
        if not session or session in SETS:
            return _with_session(policy, session) if session else policy
        with as_caller(caller):  # examples look at files: their outcome must not tell what lies elsewhere
            return _with_session(policy, session)

    def problem(self, caller: Caller) -> ConfigError | None:
        """What is wrong with the caller's own files, when older rules are in force for that."""
        known = self._known.get(caller.uid)
        return known.problem if known else None

    def _of_other(self, caller: Caller, home: str) -> Policy:
        folder = Path(home, _BELOW_HOME)
        with self._locks.setdefault(caller.uid, threading.Lock()):
            with as_caller(caller):
                signature = _signature(folder)
            known = self._known.get(caller.uid)
            if known is None or known.signature != signature:
                known = self._read(caller, folder, signature, known)
                self._known[caller.uid] = known
        if known.policy is None:
            assert known.problem is not None
            raise known.problem
        return known.policy

    def _read(
        self, caller: Caller, folder: Path, signature: tuple[tuple[object, ...], ...], old: _Known | None
    ) -> _Known:
        try:
            with as_caller(caller):
                sheet = rulefile.of_folder(folder, Tier.USER, caller.uid)
                return _Known(signature, self.others.tightened(sheet), None)
        except ConfigError as error:
            log.error("not in force for uid %d: %s %s", caller.uid, error, error.next_step)
            return _Known(signature, old.policy if old else None, error)


def _signature(folder: Path) -> tuple[tuple[object, ...], ...]:
    """What changes when one of the files does."""
    found: list[tuple[object, ...]] = []
    for file in rulefile.files(folder):
        try:
            stat = file.stat()
            found.append((file.name, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino))
        except OSError:
            found.append((file.name,))
    return tuple(found)


@functools.lru_cache(maxsize=32)
def _with_session(policy: Policy, session: str) -> Policy:
    """Rules that came with a request: the name of a shipped set, or the text of a policy file."""
    if len(session) > MAX_SESSION_CHARS:
        raise ConfigError(
            f"the rules of this request have more than {MAX_SESSION_CHARS} characters",
            "Put them into ~/.config/llmos/policies.",
        )
    if session not in SETS:
        return policy.tightened(rulefile.of_text(session, "the request's policy", Tier.SESSION))
    sheet = rulefile.named_set(session, paths.builtin_policy_dir(), Tier.SESSION)
    there = {rule.id for rule in policy.rules}  # the set may be in force already
    fresh = tuple(rule for rule in sheet.rules if rule.id not in there)
    return policy.tightened(rulefile.Sheet(fresh, sheet.hide, keep=sheet.keep))

"""Keeps the standing goals, in a thread of its own, as long as the daemon lives.

Without goals it looks once in two seconds whether there is a file, and nothing else. When the daemon stops,
what the goals had set is given back; a killed daemon leaves weights and quotas until the next one runs or
the processes end. Goals are files: the next daemon goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmos import paths
from llmos.errors import LlmosError
from llmos.messages import JsonObject

if TYPE_CHECKING:
    from llmos.toolbox.goalloop import GoalLoop

log = logging.getLogger(__name__)

TICK_S = 1.0
_IDLE_S = 2.0


class Goalkeeper:
    """`note` writes a goal's action into the journal."""

    def __init__(self, note: Callable[[str, JsonObject], object]) -> None:
        self._note = note
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loops: dict[str, GoalLoop] = {}
        self._seen = -1

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="goals", daemon=True)
        self._thread.start()

    def standing(self, uid: int) -> list[JsonObject]:
        """The goals of one user, or root's view of all, and how they stand."""
        loops = [loop for loop in tuple(self._loops.values()) if uid in (0, loop.goal.uid)]
        return [{"id": loop.goal.id, "goal": loop.goal.told, "told": loop.told} for loop in loops]

    def stop(self) -> None:
        """Blocks until everything is given back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10.0)

    def _run(self) -> None:
        while not self._stop.wait(TICK_S if self._loops else _IDLE_S):
            try:
                self._follow_files()
            except Exception:  # a file that cannot be read must not end the goals that are kept
                log.exception("the goals could not be looked up")
            for loop in tuple(self._loops.values()):
                self._tick(loop)
        for loop in self._loops.values():
            self._give_back(loop)

    def _tick(self, loop: GoalLoop) -> None:
        try:
            loop.tick()
        except Exception:  # a goal's trouble must not end the others'
            log.exception("a goal could not be kept")

    def _give_back(self, loop: GoalLoop) -> None:
        try:
            loop.give_back()
        except Exception:  # the others have limits to take off as well
            log.exception("what a goal had set could not be given back")

    def _follow_files(self) -> None:
        """Begin with new goals, give up those that were removed."""
        try:
            changed = (paths.state_dir() / "goals").stat().st_mtime_ns
        except OSError:
            changed = 0
        if changed == self._seen:
            return
        if changed or self._loops:
            self._follow()
        self._seen = changed  # not before: what failed is tried again

    def _follow(self) -> None:
        from llmos.toolbox import goals
        from llmos.toolbox.goalloop import GoalLoop

        there = goals.shelf().all()
        for gone in self._loops.keys() - there.keys():
            self._give_back(self._loops.pop(gone))
        for goal_id in there.keys() - self._loops.keys():
            self._loops[goal_id] = GoalLoop(there[goal_id], self._noted)

    def _noted(self, goal_id: str, facts: JsonObject) -> None:
        try:
            self._note(goal_id, facts)
        except LlmosError as error:
            log.error("an action of goal %s is not in the journal: %s", goal_id, error)

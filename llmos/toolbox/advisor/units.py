"""What systemd and its journal say of trouble: units that failed, and units that write errors."""

from __future__ import annotations

import time

from llmos.errors import LlmosError
from llmos.toolbox import journal, manager
from llmos.toolbox.advisor.facts import Complaints, Unit
from llmos.toolbox.values import shown

_COMPLAINING_S = 600.0


def complaints(uid: int) -> tuple[tuple[Complaints, ...], str]:
    """Units that write errors into the journal, and how many they wrote before."""
    now = time.time()
    try:
        since, late = journal.errors_by_unit(now - 2 * _COMPLAINING_S, now - _COMPLAINING_S, uid)
    except LlmosError as error:
        return (), "" if not manager.is_running() else f"the journal: {error}"
    return tuple(
        Complaints(shown(unit), scope, number, _COMPLAINING_S, last, since.get((unit, scope), ("", 0))[1])
        for (unit, scope), (last, number) in late.items()
    ), ""


def failed(uid: int) -> tuple[tuple[Unit, ...], tuple[str, ...]]:
    if not manager.is_running():
        return (), ("services: systemd does not run here",)
    from llmos.toolbox import services

    try:
        found = tuple(
            Unit(unit.name, whose, shown(unit.description), f"{unit.active} ({unit.sub})")
            for whose, unit in services.failing(uid)
        )
    except LlmosError as error:
        return (), (f"services: {error}",)
    return found, ()

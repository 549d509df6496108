"""The caller's trash: the one folder beyond the write roots that a plan may open, and only that one.

A plan of a shipped tool names it in `opens`; whatever else stands there opens nothing. It is made when it
is first needed, with the caller's rights, because what is not there can be no write root.
Not protected against: a caller who has made his own trash a link to elsewhere in his own home.
"""

from __future__ import annotations

import os
from contextlib import suppress

from llmos.errors import CallFailed
from llmos.guard import places
from llmos.guard.caller import as_caller
from llmos.guard.sandbox import is_within
from llmos.messages import Caller, Plan

_PLACE = ".local/share/Trash"


def opened(plan: Plan, home: str) -> tuple[str, ...]:
    """What of `plan.opens` is really opened: the trash in this home, when it lies in the home."""
    trash = f"{home}/{_PLACE}"
    if trash not in plan.opens or home == "/":
        return ()
    return (trash,) if is_within(places.real(trash), places.real(home)) else ()


def prepare(plan: Plan, caller: Caller) -> None:
    """Make the trash where a plan needs it and it is missing. Raises CallFailed where it cannot be made."""
    for trash in opened(plan, places.home_of(caller.uid)):
        try:
            with as_caller(caller):
                _make(trash)
        except OSError as error:
            raise CallFailed(
                f"there is no trash, and {trash} cannot be made: {error.strerror}",
                "Delete it without the trash: for_good=true.",
            ) from error


def _make(trash: str) -> None:
    home = trash.removesuffix(_PLACE)
    above = [f"{home}.local", f"{home}.local/share"]
    for folder in (*above, trash, f"{trash}/files", f"{trash}/info"):
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)

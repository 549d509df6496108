"""The user namespace that carries the ID mapping of a root caller's mounts (mount_setattr(2)).

Made once, when the launcher starts, so that no command waits for it; a refusal is kept too and reported
by each call that would have needed it. Standard library only, because the launcher runs without
site-packages.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from llmos.guard import kernel
from llmos.guard.layering import LayerError


class IdMap:
    """The mapping that turns root's files into the stand-in's."""

    def __init__(self, stand_in: int) -> None:
        self._error = ""
        try:
            self._fd = _mapped_user_namespace(stand_in)
        except OSError as error:
            self._error = str(error)

    def fd(self) -> int:
        if self._error:
            raise LayerError("user-namespace", self._error)
        return self._fd


def swap_map(stand_in: int) -> str:
    """On-disk 0 appears as `stand_in`; a file of the stand-in's own is nobody's; all others stay."""
    ranges = map(str.split, Path("/proc/self/uid_map").read_text().splitlines())
    last = max(int(inside) + int(length) for inside, _, length in ranges) - 1
    lines = [f"0 {stand_in} 1", f"1 1 {stand_in - 1}", f"{stand_in + 1} {stand_in + 1} {last - stand_in}"]
    return "\n".join(lines) + "\n"


def _mapped_user_namespace(stand_in: int) -> int:
    pid = kernel.clone(kernel.CLONE_NEWUSER)
    if pid == 0:
        while True:
            signal.pause()
    try:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(swap_map(stand_in))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

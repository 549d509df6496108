"""What the modules of the launcher share: the error that names a layer, and writing an ID map.

Standard library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import os


class LayerError(Exception):
    """A layer of the sandbox cannot be had; the names are those of `layers`."""

    def __init__(self, layer: str, error: str) -> None:
        super().__init__(f"{layer}: {error}")
        self.layer = layer
        self.error = error


class layer:
    """Within it an OSError is this layer's."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise LayerError(self._name, str(error)) from error


def count_kills(fd: int) -> int:
    """How many processes the kernel has ended for want of memory, by the open file that counts them."""
    for line in os.pread(fd, 4096, 0).splitlines():
        name, _, value = line.partition(b" ")
        if name == b"oom_kill":
            return int(value)
    return 0


def write_in(proc: int, name: str, text: str) -> None:
    """Write a file below /proc, of which `proc` is a descriptor."""
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def map_ids(proc: int, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    """Map one uid and one gid of the namespace this process has just entered (user_namespaces(7))."""
    write_in(proc, "self/setgroups", "deny")
    for name, there, here in zip(("uid_map", "gid_map"), inside, outside, strict=True):
        write_in(proc, f"self/{name}", f"{there} {here} 1")

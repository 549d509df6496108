"""What the modules of the launcher share: the error that names a layer, and writing an ID map.

Standard library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class LayerError(Exception):
    """A layer of the sandbox cannot be had; the names are those of `layers`."""

    def __init__(self, layer: str, error: str) -> None:
        super().__init__(f"{layer}: {error}")
        self.layer = layer
        self.error = error


@contextlib.contextmanager
def layer(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LayerError(name, str(error)) from error


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

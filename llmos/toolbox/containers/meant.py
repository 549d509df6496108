"""A container as the target of the tools for resources: found by its name or id, with the caller's rights.

`ready` is called before planning, as the daemon: importing the SDK with the caller's rights would want our
own files to be readable to everybody. It costs memory, so only where there is an engine to speak to.
"""

from __future__ import annotations

import os
from pathlib import Path

from llmos.toolbox.containers import engine, finding
from llmos.toolbox.context import ContainerInfo

_TIMEOUT_S = 10.0


def ready() -> None:
    """Import the SDK, where an engine may be asked."""
    if has_engine():
        engine.sdk()


def has_engine() -> bool:
    """Whether anybody's engine has a socket here."""
    return bool(os.environ.get("DOCKER_HOST")) or any(map(_is_there, (*engine.SYSTEM, *_somebodys())))


def _somebodys() -> list[str]:
    """Engines that people run for themselves."""
    folder = Path("/run/user")
    return [str(path) for name in ("docker.sock", "podman/podman.sock") for path in folder.glob(f"*/{name}")]


def _is_there(path: str) -> bool:
    return os.access(path, os.F_OK)


def container(name: str, uid: int) -> ContainerInfo:
    """Raises UsageError where there is none of this name, CallFailed and Denied where nobody can be asked."""
    engine.check_name("resource", "target", name)
    with engine.connected(engine.socket_of(uid), _TIMEOUT_S) as client:
        found = finding.container(client, name)
    return ContainerInfo(found["Id"], finding.title(found))

"""The Ray cluster that replicas run on: one of our own on this machine, or one that is there already.

Ray reads its environment once, when it is imported. So it is imported here inside functions, after that is
set, and whoever needs it at the top of a module is imported after `join`.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
from dataclasses import dataclass
from typing import Any

from llmos.errors import CallFailed

_OBJECT_STORE_BYTES = 100 << 20  # Ray's least is 75 MiB; what travels here is text


@dataclass(frozen=True)
class Cluster:
    own_folder: str = ""  # of a cluster of our own; empty where it was there before

    def leave(self) -> None:
        """A cluster of our own ends with this, and its folder goes."""
        import ray

        ray.shutdown()
        if self.own_folder:
            shutil.rmtree(self.own_folder, ignore_errors=True)


def join(address: str, own_processors: int) -> Cluster:
    """`address` is HOST:PORT or `auto`; empty: a cluster of our own. Raises CallFailed.

    A cluster of our own obeys nobody without its token, which only this user's processes have: Ray's ports
    can be reached by other users, and from other machines where no firewall stands before them.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    if not address:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray
    from ray.exceptions import RayError

    _check_answers(address)
    cluster = Cluster("" if address else tempfile.mkdtemp(prefix="llmos-ray-"))
    where = {"address": address} if address else _own(cluster.own_folder, own_processors)
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        cluster.leave()
        raise CallFailed(f"{_what(address)}: {first_line(error)}", _next_step(address)) from None
    return cluster


def _check_answers(address: str) -> None:
    """At once, where Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise CallFailed(f"{_what(address)}: {first_line(error)}", _next_step(address)) from None


def _own(folder: str, processors: int) -> dict[str, Any]:
    return {
        "address": "local",
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": f"{folder}/ray",  # which Ray opens to everybody; the folder around it stays ours
        "num_cpus": processors,
        "num_gpus": 0,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }


def _what(address: str) -> str:
    return f"no Ray cluster can be joined at {address}" if address else "Ray did not start"


def _next_step(address: str) -> str:
    if not address:
        return "Check the memory and disk that are free."
    return f"Make this machine one of its nodes: ray start --address={address}"


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""Names of machines as rules and remembered answers compare them: `HOST`, `HOST:PORT`, `[IPv6]:PORT`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_WITH_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")


def granted(target: str, hosts: Collection[str]) -> bool:
    """Whether a grant covers it: the machine with this port, or without one, which means all ports."""
    return target in hosts or (target != "*" and split_port(target)[0] in hosts)


def named(network: Iterable[str]) -> tuple[str, ...]:
    """The machines that a plan's network effects name; none when one of them is not known."""
    found = tuple(dict.fromkeys(network))
    return () if any("*" in target for target in found) else found


def split_port(target: str) -> tuple[str, int]:
    """(host, port); the port is 0 when none is said, the host in lower case without a final dot."""
    found = _WITH_PORT.fullmatch(target)
    host, port = (found["host"], int(found["port"])) if found else (target, 0)
    return host.strip("[]").rstrip(".").lower() or target, port

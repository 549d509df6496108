"""The kernel's own words on control groups (cgroups(7)), parsed: where they are mounted, who is in which.

Pure text in, plain data out, standard library alone: the sandbox's launcher reads this as well as the broker.
"""

from __future__ import annotations


def own_groups(text: str) -> list[tuple[str, str]]:
    """Controller (empty: version 2) and group of a process, out of /proc/PID/cgroup."""
    found = []
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        found += [(name, path) for name in names.split(",")]
    return found


def mounted(text: str) -> list[tuple[str, str, list[str]]]:
    """Mount point, type and options of the cgroup file systems that show their whole hierarchy."""
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2") and left.split(" ")[3] == "/":
            found.append((left.split(" ")[4], kind, options.split(",")))
    return found

"""Who holds something open: a port, a file or folder, or room on disk under no name any more.

As in `processfacts`, only the caller's own processes are looked into; root's are all. Ports are told to all.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.errors import UsageError
from llmos.messages import JsonObject
from llmos.toolbox.context import Args, Context, Draft, Pair
from llmos.toolbox.processfacts import MAX_LINES, may_see, observing, peer
from llmos.toolbox.values import human_size, shown, table


def plan_holders(args: Args, context: Context) -> Draft:
    given = [name for name in ("path", "port") if args[name] is not None]
    if len(given) + args["deleted"] != 1:
        raise UsageError(
            "process.holders: give one of `path`, `port` and `deleted`", 'For instance {"port": 80}'
        )
    if args["deleted"]:
        return observing("process.holders", context, "lsof +L1", deleted=True)
    if args["port"] is not None:
        return observing("process.holders", context, f"lsof -i :{args['port']}", port=args["port"])
    path = context.absolute(args["path"])
    return observing("process.holders", context, f"lsof {shown(path)}", path=path)


def holders(args: JsonObject) -> str:
    uid = int(args["uid"])
    if "port" in args:
        return _port_holders(int(args["port"]))
    rows = list(_deleted_rows(uid) if args.get("deleted") else _path_rows(str(args["path"]), uid))
    what = "deleted files" if args.get("deleted") else shown(str(args.get("path")))
    note = "" if uid == 0 else "Other users' processes are not looked into.\n"
    if not rows:
        return f"Nobody holds {what} open.\n{note}"
    header = ("PID", "USER", "COMMAND", "SIZE", "HOW", "WHAT")
    more = f"… {len(rows) - MAX_LINES} more.\n" if len(rows) > MAX_LINES else ""
    return table([header, *rows[:MAX_LINES]], frozenset({0, 3})) + more + note


def _port_holders(port: int) -> str:
    found = {
        (link.pid or 0, "tcp" if link.type == socket.SOCK_STREAM else "udp", peer(link))
        for link in psutil.net_connections(kind="inet")
        if link.laddr and link.laddr.port == port
    }
    if not found:
        return f"Nobody holds port {port}.\n"
    rows = [(str(pid or "-"), *_who(pid), kind, peer) for pid, kind, peer in sorted(found)]
    return table([("PID", "USER", "COMMAND", "KIND", "ADDRESS"), *rows], frozenset({0}))


def _who(pid: int) -> tuple[str, str]:
    try:
        process = psutil.Process(pid) if pid else None
        return (process.username(), shown(process.name())) if process else ("-", "-")
    except psutil.Error:
        return "-", "-"


def _seen(uid: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if may_see(process, uid):
                yield process


def _links(pid: int) -> Iterator[tuple[str, str, Path]]:
    """How, what and by which link a process holds something: descriptors, folder, root, program, mappings."""
    for name, how in (("cwd", "folder"), ("root", "root"), ("exe", "program")):
        with contextlib.suppress(OSError):
            place = Path(f"/proc/{pid}/{name}")
            yield how, str(place.readlink()), place
    for folder, how in (("fd", "open"), ("map_files", "mapped")):
        with contextlib.suppress(OSError):
            for place in Path(f"/proc/{pid}/{folder}").iterdir():
                with contextlib.suppress(OSError):
                    yield how, str(place.readlink()), place


_Row = tuple[str, str, str, str, str, str]


def _row(process: psutil.Process, size: str, how: str, what: str) -> _Row:
    return (str(process.pid), *_who(process.pid), size, how, shown(what))


def _path_rows(path: str, uid: int) -> Iterator[_Row]:
    """Who has it open, or something below it where it is a folder."""
    real = os.path.realpath(path)
    below = real.rstrip("/") + "/" if Path(real).is_dir() else None
    for process in _seen(uid):
        held = {
            (how, what)
            for how, what, _ in _links(process.pid)
            if what == real or (below and what.startswith(below) and how != "root")
        }
        opened = {what for how, what in held if how == "open"}
        for how, what in sorted(held):
            if how != "mapped" or what not in opened:
                yield _row(process, "", how, what)


def _deleted_rows(uid: int) -> Iterator[_Row]:
    """Files without a name that still take room, largest first."""
    found: dict[tuple[int, str], tuple[int, _Row]] = {}
    for process in _seen(uid):
        for how, what, place in _links(process.pid):
            if how == "open" and what.endswith(" (deleted)") and what.startswith("/"):
                size = _size(place)
                if what.startswith(("/memfd:", "/dev/shm/", "/dev/zero")):  # noqa: S108 - looked at, not used
                    continue
                row = _row(process, human_size(size), how, what.removesuffix(" (deleted)"))
                found[process.pid, what] = (size, row)
    yield from (row for _, row in sorted(found.values(), key=lambda pair: -pair[0]))


def _size(place: Path) -> int:
    try:
        return place.stat().st_blocks * 512
    except OSError:
        return 0


PAIRS = {"process.holders": Pair(plan_holders)}
OBSERVERS: dict[str, Callable[[JsonObject], str]] = {"process.holders": holders}

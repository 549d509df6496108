"""Looking at processes: as a tree, and one in detail.

Observers run in the broker, which may be root: each is told by the planner here who asks, and shows of files
and connections only what that user may see of their own processes. Command lines are shown to all, as by ps.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.errors import CallFailed, UsageError
from llmos.messages import JsonObject, Observe
from llmos.toolbox import targets
from llmos.toolbox.context import Args, Context, Draft, Pair, ProcessInfo
from llmos.toolbox.values import human_duration, human_size, shown, table

_COMMAND_CHARS = 100
MAX_LINES = 400
_SAMPLE_S = 0.2


# --- whom ----------------------------------------------------------------------------------------------


def one(tool: str, args: Args, context: Context) -> ProcessInfo | None:
    """The process that `pid` or `name` means; None when neither is given. Raises UsageError."""
    name = str(args["pid"]) if args["pid"] is not None else (args["name"] or "").strip()
    if not name:
        return None
    return targets.resolve(name, context, kind="process", tool=tool).roots[0]


def needed(tool: str, args: Args, context: Context) -> ProcessInfo:
    found = one(tool, args, context)
    if found is None:
        raise UsageError(f"{tool}: give `pid` or `name`", "Find it first: llmos call process.list")
    return found


def observing(observer: str, context: Context, command: str, **args: object) -> Draft:
    return Draft((Observe(observer=observer, args={**args, "uid": context.uid}),), command=command)


def gone(pid: int) -> CallFailed:
    return CallFailed(f"there is no process {pid}", "List the processes again: it may have ended.")


# --- tree ----------------------------------------------------------------------------------------------


def plan_tree(args: Args, context: Context) -> Draft:
    """Of a name any may be meant: a tree shows them all."""
    if args["pid"] is not None:
        pid = args["pid"]
        return observing("process.tree", context, f"pstree -p {pid}", pid=pid)
    name = (args["name"] or "").strip()
    return observing("process.tree", context, f"pstree -p {shown(name)}".strip(), name=name)


def tree(args: JsonObject) -> str:
    infos, children = _snapshot()
    pid, name = args.get("pid"), str(args.get("name") or "").casefold()
    if pid is not None:
        heads = [int(pid)]
    elif name:
        fits = {number for number, process in infos.items() if _is_called(process, name)}
        heads = sorted(number for number in fits if not fits & set(_above(number, infos)))
    else:
        heads = sorted(number for number, process in infos.items() if _parent(process) not in infos)
    if not heads or not set(heads) & set(infos):
        if name:
            return f"No process is called {shown(name)!r}.\n"
        raise gone(int(pid or 0))
    lines = [line for head in heads for line in _branch(head, infos, children, "", "")]
    more = f"… {len(lines) - MAX_LINES} more lines.\n" if len(lines) > MAX_LINES else ""
    return "\n".join(lines[:MAX_LINES]) + "\n" + more


def _snapshot() -> tuple[dict[int, psutil.Process], dict[int, list[int]]]:
    """Processes by pid, and the children of each; kernel threads are left out."""
    infos: dict[int, psutil.Process] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for process in psutil.process_iter():
        parent = _parent(process)
        if process.pid == 2 or parent == 2:
            continue
        infos[process.pid] = process
        children[parent].append(process.pid)
    return infos, children


def _parent(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:
        return -1


def _above(pid: int, infos: dict[int, psutil.Process]) -> Iterator[int]:
    seen = {pid}
    while (process := infos.get(pid)) is not None and (pid := _parent(process)) not in seen:
        seen.add(pid)
        yield pid


def _is_called(process: psutil.Process, name: str) -> bool:
    try:
        words = [Path(word).name for word in process.cmdline()[:2] if not word.startswith("-")]
        return any(name == word.casefold().rstrip("0123456789.") or name == word.casefold()
                   for word in (process.name(), *words))  # fmt: skip
    except psutil.Error:
        return False


def _branch(
    pid: int, infos: dict[int, psutil.Process], children: dict[int, list[int]], first: str, rest: str
) -> Iterator[str]:
    """Lines of one process and all below it, as pstree draws them; without recursion into what loops."""
    yield first + _tree_line(infos[pid]) if pid in infos else f"{first}{pid}"
    below = [child for child in sorted(children.get(pid, ())) if child != pid]
    for number, child in enumerate(below):
        last = number == len(below) - 1
        yield from _branch(
            child, infos, children, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")
        )


def _tree_line(process: psutil.Process) -> str:
    try:
        with process.oneshot():
            user, memory, state = process.username(), human_size(process.memory_info().rss), process.status()
            command = shown(" ".join(process.cmdline()) or f"[{process.name()}]")[:_COMMAND_CHARS]
    except psutil.Error:
        return f"{process.pid}  (has ended)"
    note = f", {state}" if state in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED) else ""
    return f"{process.pid} {command}  ({user}, {memory}{note})"


# --- details -------------------------------------------------------------------------------------------


def plan_details(args: Args, context: Context) -> Draft:
    pid = args["pid"]  # init and llmos may be looked at as well
    if pid is None:
        pid = needed("process.details", args, context).pid
    return observing("process.details", context, f"ps -p {pid} -f", pid=pid)


def details(args: JsonObject) -> str:
    pid, uid = int(args["pid"]), int(args["uid"])
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return table([*_public(process), *(_private(process) if may_see(process, uid) else ())])
    except psutil.NoSuchProcess:
        raise gone(pid) from None


def may_see(process: psutil.Process, uid: int) -> bool:
    return uid in (0, process.uids().real)


def _public(process: psutil.Process) -> Iterator[tuple[str, str]]:
    """What ps shows to everybody."""
    parent, times, memory = process.parent(), process.cpu_times(), process.memory_info()
    age = time.time() - process.create_time()
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.create_time()))
    yield "Process", f"{process.pid} {shown(process.name())}"
    yield "State", _state(process)
    yield "Command", shown(" ".join(process.cmdline()) or f"[{process.name()}]")
    yield "User", f"{process.username()} (uid {process.uids().real}, effective {process.uids().effective})"
    yield "Parent", f"{parent.pid} {shown(parent.name())}" if parent else "none"
    yield "Started", f"{when}, {human_duration(age)} ago"
    yield "CPU", f"{process.cpu_percent(_SAMPLE_S):.1f} % now, {times.user + times.system:.1f} s in all"
    yield "Memory", f"{human_size(memory.rss)} resident, {human_size(memory.vms)} virtual"
    yield "Threads", str(process.num_threads())
    yield "Priority", _priority(process)
    yield "Children", ", ".join(str(child.pid) for child in process.children()[:20]) or "none"
    yield "Control group", ", ".join(_groups(process.pid)) or "-"


def _state(process: psutil.Process) -> str:
    state = str(process.status())
    if state == psutil.STATUS_ZOMBIE:
        return f"zombie: it has ended and waits for its parent {process.ppid()} to notice"
    return "suspended" if state == psutil.STATUS_STOPPED else state


def _priority(process: psutil.Process) -> str:
    oom = Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip()
    io = process.ionice().ioclass.name.removeprefix("IOPRIO_CLASS_").lower()
    cpus = ",".join(map(str, process.cpu_affinity()[:32]))
    return f"nice {process.nice()}, I/O {io}, OOM {oom}, on CPU {cpus}"


def _groups(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        return list(dict.fromkeys(path for *_, path in (line.split(":", 2) for line in lines) if path != "/"))
    return []


def _private(process: psutil.Process) -> Iterator[tuple[str, str]]:
    """What its owner and root may see."""
    for name, look in _PRIVATE.items():
        try:
            yield name, look(process)
        except (psutil.Error, OSError):
            yield name, "not to be seen"


def _open_files(process: psutil.Process) -> str:
    found = [shown(file.path) for file in process.open_files()]
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    return f"{process.num_fds()} descriptors; files: {', '.join(found[:10]) or 'none'}{more}"


def _connections(process: psutil.Process) -> str:
    found = [peer(one) for one in process.net_connections("inet")]
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "") or "none"


def peer(link: object) -> str:
    here, there, state = getattr(link, "laddr"), getattr(link, "raddr"), getattr(link, "status")  # noqa: B009
    text = f"{here.ip}:{here.port}" if here else "?"
    return f"{text} → {there.ip}:{there.port}" if there else f"{text} {str(state).lower()}"


_PRIVATE: dict[str, Callable[[psutil.Process], str]] = {
    "Program": lambda process: shown(process.exe()),
    "Folder": lambda process: shown(process.cwd()),
    "Read, written": lambda process: " and ".join(
        human_size(amount) for amount in (process.io_counters().read_bytes, process.io_counters().write_bytes)
    ),
    "Open": _open_files,
    "Network": _connections,
}


PAIRS = {"process.tree": Pair(plan_tree), "process.details": Pair(plan_details)}
OBSERVERS: dict[str, Callable[[JsonObject], str]] = {"process.tree": tree, "process.details": details}

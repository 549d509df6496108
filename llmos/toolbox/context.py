"""What a tool's planner is given and what it gives back; and how words become steps.

Everything here is pure. A `Draft` becomes a `messages.Plan` in the catalogue, which adds the call.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from llmos.messages import Effects, Exec, Outcome, Pipeline, Pipelines, Run, Start, Step

Args = Mapping[str, Any]  # checked and converted by `arguments.check`
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GLOB = frozenset("*?")  # not `[`: browsers save `report[1].pdf`, and that is a name
_OPERATORS = "-(),!"  # a word that begins so is an option, or part of an expression of find(1)


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process as a planner may know it. `started` is psutil's create_time (seconds since the epoch)."""

    pid: int
    name: str
    command: str
    uid: int
    started: float


def _find_processes(name: str) -> list[ProcessInfo]:
    from llmos.toolbox import processes

    return processes.find(name)


def _find_unit(name: str, uid: int) -> Literal["system", "user"]:
    from llmos.toolbox import manager

    return manager.scope_of(name, uid) if manager.is_running() else "system"


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container of the Docker Engine: its whole id, and its name."""

    id: str
    name: str


def _find_container(name: str, uid: int) -> ContainerInfo:
    from llmos.toolbox.containers import meant

    return meant.container(name, uid)


@dataclass(frozen=True, slots=True)
class Machine:
    """How large this machine is: the CPUs that are switched on, and its memory."""

    cpus: frozenset[int]
    memory_bytes: int


def _machine() -> Machine:
    from llmos.toolbox import system

    return system.size()


def _has_match(folder: str, pattern: str) -> bool:
    """Looked up with the caller's rights; what he may not read has no match."""
    try:
        with os.scandir(folder) as entries:
            return any(fnmatch.fnmatchcase(entry.name, pattern) for entry in entries)
    except OSError:
        return False


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path raises for a name that is too long


@dataclass(frozen=True, slots=True)
class Context:
    """Where a call is made from. A planner's only looks: `find_processes(name or pid)`, `machine()`, and
    `find_unit(name, uid)`, which tells whose unit is meant or raises UsageError with the nearest names;
    `find_container(name or id, uid)`, which raises UsageError likewise, and CallFailed without an engine.
    """

    cwd: str
    home: str
    uid: int
    has_data: bool = False
    follows: bool = False  # a call before it changes something: what is not there yet may come to be
    find_processes: Callable[[str], list[ProcessInfo]] = _find_processes
    machine: Callable[[], Machine] = _machine
    find_unit: Callable[[str, int], Literal["system", "user"]] = _find_unit
    find_container: Callable[[str, int], ContainerInfo] = _find_container
    has_match: Callable[[str, str], bool] = _has_match
    is_folder: Callable[[str], bool] = _is_folder

    def depth(self, folder: str, pattern: str) -> tuple[str, ...]:
        """find(1)'s words that keep a pattern to the folder it names; none where only folders below match.

        "all .conf files" means those there are, and a shell's pattern would silently mean none.
        """
        here = self.has_match(self.absolute(folder), pattern.replace(r"\[", "[").replace("[", "[[]"))
        return ("-maxdepth", "1") if here else ()

    def absolute(self, path: str) -> str:
        """`path` from the root, `~` expanded, `..` folded; links are the gate's business."""
        if path == "~" or path.startswith("~/"):
            path = self.home + path[1:]
        return os.path.normpath("/" + str(PurePosixPath(self.cwd, path)).lstrip("/"))

    def word(self, path: str) -> str:
        """`path` as an argument: `~` expanded, and never to be mistaken for an option or an operator."""
        if path == "~" or path.startswith("~/"):
            path = self.home + path[1:]
        return f"./{path}" if path.startswith(tuple(_OPERATORS)) else path


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan without its call. `command` is derived from the steps where it is left empty.

    `read_only` is for a tool that changes something with some of its arguments and only looks with others.
    """

    steps: tuple[Step, ...] = ()
    effects: Effects = field(default_factory=Effects)
    command: str = ""
    reply: str | None = None
    whole: bool = False
    opens: tuple[str, ...] = ()
    read_only: bool = False


Planner = Callable[[Args, Context], Draft]
Reader = Callable[[Outcome, Args], Outcome]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Pair:
    """A built-in tool: what to run, and how to read what came of it."""

    plan: Planner
    read: Reader = lambda outcome, args: outcome
    prepare: Callable[[], None] = _nothing  # before planning, which is done with the caller's file rights


def program(name: str) -> str:
    """The absolute path of a standard program; one that is missing is named where it would stand."""
    return shutil.which(name, path=SYSTEM_PATH) or f"/usr/bin/{name}"


def programs(*argvs: Sequence[str]) -> tuple[str, ...]:
    """Absolute paths of the programs these argvs start, what find runs by -exec and xargs included."""
    started = [
        word
        for argv in argvs
        for before, word in zip(("-exec", *argv), argv, strict=False)
        if before == "-exec"
    ]
    started += [word for argv in argvs if argv[0] == "xargs" for word in _behind_options(argv)]
    return tuple(dict.fromkeys(map(program, started)))


def _behind_options(argv: Sequence[str]) -> Sequence[str]:
    """The first word that is no option, if any; for options without a value of their own."""
    return [word for word in argv[1:] if not word.startswith("-")][:1]


def pipeline(argvs: Sequence[Sequence[str]], **options: Any) -> Run | Pipelines:
    """One step of these programs joined by pipes."""
    if len(argvs) == 1:
        return Run(argv=tuple(argvs[0]), **options)
    piped = Pipeline(commands=tuple(Exec(argv=tuple(argv), program=program(argv[0])) for argv in argvs))
    return Pipelines(text=" | ".join(map(shlex.join, argvs)), pipelines=(piped,), **options)


def command_of(steps: Sequence[Step]) -> str:
    """The command line a person is shown; steps are joined as a shell would chain them."""
    return " && ".join(_command(step) for step in steps)


def _command(step: Step) -> str:
    match step.kind:
        case "run":
            return shlex.join(step.argv)
        case "shell" | "pipelines":
            return step.text
        case "observe":
            return " ".join([step.observer, *(f"{key}={value}" for key, value in step.args.items())])
        case "change":
            return step.shows
        case "signal":
            return f"kill -{step.signal} {step.pid}"
        case "start":
            return f"{shlex.join(step.argv)} &{_start_limits(step)}"


def _start_limits(step: Start) -> str:
    """A comment for the person, as a shell would take it."""
    found = [
        f"{step.cpus * 100:.0f} % of a CPU" if step.cpus else "",
        f"{step.memory_bytes >> 20} MiB of memory" if step.memory_bytes else "",
        f"{step.processes} processes" if step.processes else "",
    ]
    told = ", ".join(filter(None, found))
    return f"  # at most {told}" if told else ""


def expand(folder: str, pattern: str, context: Context, spared: Sequence[str] = ()) -> tuple[str, ...]:
    """find(1) with what a shell expands a pattern to: hidden names only where the pattern says so.

    `spared` are patterns of names that are left out, whatever their case: in doubt a file stays.
    """
    but = (word for name in spared for word in ("-not", "-iname", name))
    where = ("find", "-H", context.word(folder), "-mindepth", "1", "-maxdepth", "1")
    return (*where, *fitting(pattern), *but)


def fitting(pattern: str) -> tuple[str, ...]:
    """The tests of find(1) for what a shell expands a pattern to."""
    return ("-name", pattern, *(() if pattern.startswith(".") else ("-not", "-name", ".*")))


def is_glob(path: str) -> bool:
    return bool(_GLOB & set(path))

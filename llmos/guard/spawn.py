"""Carrying out a permit: each step of its plan in order, in the sandbox, until one fails.

The only place in llmos that has a command run, and it takes nothing but a `Permit`. What it grants
comes from the permit alone: no field of a request reaches the sandbox by another way.

What each step gets: Run, Shell and Pipelines a sandbox of their own that is gone, with everything in it, when
the step ends; Start one that stays; Signal a pidfd; Observe and Change a thread. The event loop never blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from llmos import paths
from llmos.config import QuotasSettings, SandboxSettings
from llmos.errors import CallFailed, LlmosError
from llmos.guard import hidden, jobs, layers, relay, sandbox, seccomp, signals, zygote
from llmos.guard.aside import apart, aside
from llmos.guard.caller import as_caller
from llmos.guard.identity import identity, stand_in_id
from llmos.guard.launcher import Launcher
from llmos.guard.permit import Permit
from llmos.guard.program import Ended, OnOutput, Program
from llmos.guard.quota import Quota
from llmos.guard.sandbox import Box, Command, Limits, Pipe
from llmos.guard.secretscan import Scanner
from llmos.guard.sharing import Quotas
from llmos.messages import (
    Caller,
    Change,
    Changed,
    Exec,
    JsonObject,
    Observe,
    Outcome,
    Pipeline,
    Pipelines,
    Plan,
    Run,
    Shell,
    Signal,
    Start,
    Step,
)

Observers = Mapping[str, Callable[[JsonObject], str]]
# Each looks for itself whether what it is to change is (still) the caller's: the broker may be root.
Changers = Mapping[str, Callable[[JsonObject, Caller], Changed]]

# A program that is going to fail at once is given this long to do it before we call it started.
_START_CHECK_S = 0.3
_CPUS = os.cpu_count() or 1
_T = TypeVar("_T")
# What `llmos doctor` runs: the only command without a permit, and it is this constant.
SELF_TEST = ("/bin/sh", "-c", "echo ran; echo x > inside; echo x > ../outside; cat /etc/shadow; exit 0")


def _unheard(stream: str, text: str) -> None:
    pass


def succeeded(plan: Plan, outcome: Outcome) -> bool:
    """Whether the plan was carried out: its last step's exit code is one the manifest calls good."""
    if outcome.timed_out or outcome.cancelled:
        return False
    last = plan.steps[-1] if plan.steps else None
    good = last.ok_codes if isinstance(last, Run | Pipelines) else (0,)
    return outcome.exit_code in good or (outcome.exit_code is None and not plan.steps)


@dataclass(frozen=True, slots=True)
class _Job:
    script: tuple[Pipe, ...]
    stdin: bytes | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class _Grants:
    """What of a permit shapes the sandbox."""

    caller: Caller
    cwd: str
    write_roots: tuple[str, ...]
    network: bool
    hidden: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    stage: str = ""
    touches: tuple[str, ...] = ()  # what the plan says it reads and changes


def _grants(permit: Permit) -> _Grants:
    effects = permit.plan.effects
    return _Grants(
        permit.caller,
        permit.cwd,
        permit.write_roots,
        permit.network,
        permit.hidden,
        permit.hosts,
        permit.stage,
        (*effects.reads, *effects.writes, *effects.deletes),
    )


class Spawner:
    """Runs permits. One per broker; `close` ends what still runs (started programs stay)."""

    def __init__(
        self,
        settings: SandboxSettings,
        observers: Observers | None = None,
        changers: Changers | None = None,
        quotas: QuotasSettings | None = None,
    ) -> None:
        self._settings = settings
        self._quotas = Quotas(quotas or QuotasSettings())
        self._observers = observers or {}
        self._changers = changers or {}
        self._launcher = Launcher(stand_in_id())
        self._scanner = Scanner()
        self._kept = contextlib.ExitStack()
        self._filters: dict[bool, int] = {}
        for folder in (paths.config_dir(), paths.state_dir()):
            # What is not there cannot be covered: a command whose write root is the home would make it.
            with contextlib.suppress(LlmosError):
                paths.ensure_private(folder)

    async def run(
        self,
        permit: Permit,
        *,
        on_output: OnOutput = lambda stream, text: None,
        cancel: asyncio.Event | None = None,
    ) -> Outcome:
        """Carry out `permit.plan` and return what came of it: output of all steps, exit code of the last run.

        `on_output(stream, text)` hears stdout and stderr as they come. Setting `cancel` kills the running
        step. Raises SandboxUnavailable when a layer of the sandbox cannot be had, UsageError for a
        folder that cannot be granted or entered, Denied or CallFailed from a signal step.
        """
        cancel = cancel or asyncio.Event()
        began = time.monotonic()
        outcomes: list[Outcome] = []
        for step in permit.plan.steps:
            try:
                outcomes.append(await self._step(step, permit, on_output, cancel))
            except LlmosError as error:
                if not any(outcome.reverse for outcome in outcomes):
                    raise
                outcomes.append(_failed(error, on_output))  # what was done before it can be taken back
            if not _went_well(step, outcomes[-1]):
                break
        return replace_duration(_joined(outcomes), (time.monotonic() - began) * 1000)

    def configure(self, settings: SandboxSettings, quotas: QuotasSettings) -> None:
        """Bounds of the calls that come; those that run keep theirs."""
        self._settings = settings
        self._quotas.configure(quotas)

    def close(self) -> None:
        self._launcher.close()
        self._kept.close()
        self._filters.clear()

    async def _step(self, step: Step, permit: Permit, tell: OnOutput, cancel: asyncio.Event) -> Outcome:
        match step:
            case Run() | Shell() | Pipelines():
                return _outcome(await self._run(_job(step, permit), _grants(permit), tell, cancel))
            case Observe():
                return await self._observe(step, permit.caller, tell, cancel)
            case Change():
                return await self._change(step, permit.caller, tell)
            case Signal():
                outcome = await signals.deliver(step, permit.caller)
                tell("stdout", outcome.stdout)
                return outcome
            case Start():
                return await self._start(step, permit, tell)

    async def self_test(self, folder: str, stage: str = "") -> Ended:
        """Run the one fixed command of `llmos doctor`, which may write in `folder` (a temporary one)."""
        caller = Caller(uid=os.geteuid(), gid=os.getegid())
        grants = _Grants(caller, folder, (folder,), network=False, stage=stage)
        return await self._run(_Job(_one(SELF_TEST), None, 10.0), grants, _unheard, asyncio.Event())

    async def _run(self, job: _Job, grants: _Grants, tell: OnOutput, cancel: asyncio.Event) -> Ended:
        async with self._quotas.place(grants.caller, cancel):
            return await self._run_now(job, grants, tell, cancel)

    async def _run_now(self, job: _Job, grants: _Grants, tell: OnOutput, cancel: asyncio.Event) -> Ended:
        box = await self._box(job.script, grants, cpu_s=int(job.timeout_s) * _CPUS + 1)
        reach = await relay.look_up(grants.hosts) if grants.network and grants.hosts else None
        if reach is not None:
            box = replace(box, routes=reach.routes, hosts_file=reach.hosts_file, name_servers=("", ""))
        with contextlib.ExitStack() as held:
            out_r, out_w = _pipe_ends(held)
            err_r, err_w = _pipe_ends(held)
            status = self._submit(box, held, _stdin(held, job.stdin), out_w, err_w)
            cap = self._settings.max_output_bytes
            program = Program(status, os.dup(out_r), os.dup(err_r), cap=cap, tell=tell)
        with contextlib.closing(program), self._quota(grants).watch(program):
            async with relay.carried(reach, program.status):
                return await program.wait(job.timeout_s, cancel)

    def _quota(self, grants: _Grants) -> Quota:
        bounds = self._settings
        return Quota(grants.stage, grants.write_roots, bounds.max_written_bytes, bounds.min_free_bytes)

    async def _start(self, step: Start, permit: Permit, tell: OnOutput) -> Outcome:
        box = await self._box(_one(step.argv), _grants(permit), cpu_s=None)
        box = replace(box, detached=True, limits=_tightened(box.limits, step))
        log = _log_file(step.name, permit.request_id)
        with contextlib.ExitStack() as held:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            held.callback(os.close, out)
            nothing_r, _ = _pipe_ends(held)
            status = self._submit(box, held, _stdin(held, None), out, out)
            program = Program(status, os.dup(nothing_r), os.dup(nothing_r), cap=1, tell=tell)
        try:
            if pid := await program.settle(_START_CHECK_S):
                tell("stdout", text := f"started {step.name} as process {pid}; its output goes to {log}\n")
                return Outcome(exit_code=0, stdout=text, reverse=signals.to_end(pid))
            code, told = program.ended_at_once(_tail(log))
            tell("stdout" if code == 0 else "stderr", told)
            return Outcome(exit_code=code, stdout=told if code == 0 else "", stderr=told if code else "")
        finally:
            program.release()

    async def _observe(self, step: Observe, caller: Caller, tell: OnOutput, cancel: asyncio.Event) -> Outcome:
        observer = self._observers.get(step.observer)
        if observer is None:
            raise CallFailed(
                f"no observer is called {step.observer!r}", "Correct the manifest: `llmos tools` lists them."
            )
        text = await aside(lambda: _as_wanted(caller, observer, step.args), cancel)
        if text is None:
            return Outcome(cancelled=True)
        tell("stdout", text)
        return Outcome(exit_code=0, stdout=text)

    async def _change(self, step: Change, caller: Caller, tell: OnOutput) -> Outcome:
        changer = self._changers.get(step.changer)
        if changer is None:
            raise CallFailed(
                f"no changer is called {step.changer!r}", "Correct the manifest: `llmos tools` lists them."
            )
        changed = await apart(lambda: _as_wanted(caller, changer, step.args, caller))
        tell("stdout", changed.text)
        return Outcome(exit_code=changed.exit_code, stdout=changed.text, reverse=changed.reverse)

    def _filter(self, network: bool) -> int:
        """An open file with the system call filter, the same for all calls of a kind; read by offset."""
        if network not in self._filters:
            self._filters[network] = _memory_file(self._kept, seccomp.program(network))
        return self._filters[network]

    async def _hidden(self, home: str, grants: _Grants) -> tuple[str, ...]:
        """What no command may read: known places, what a policy names, and what is found by looking."""
        tops = tuple(dict.fromkeys((grants.cwd, *grants.write_roots, *((home,) if home != "/" else ()))))
        if (found := self._scanner.remembered(tops)) is None:
            found = await asyncio.to_thread(self._scanner.scan, tops)
        return hidden.candidates(home, (grants.cwd, *grants.write_roots), more=(*grants.hidden, *found))

    async def _box(self, script: tuple[Pipe, ...], grants: _Grants, *, cpu_s: int | None) -> Box:
        who = identity(grants.caller)
        masked = await self._hidden(who.home, grants)
        return Box(
            script=script,
            cwd=grants.cwd,
            uid=grants.caller.uid,
            gid=grants.caller.gid,
            host_uid=who.host_uid,
            host_gid=who.host_gid,
            groups=who.groups,
            id_mapped=who.id_mapped,
            private=sandbox.private_folders(
                works_in=(grants.cwd, *grants.write_roots), touches=grants.touches
            ),
            write_roots=sandbox.check_write_roots(grants.write_roots, masked),
            hidden=masked,
            network=grants.network,
            name_servers=_name_servers() if grants.network else ("", ""),
            stage=grants.stage,
            seen=_seen((grants.cwd, *grants.write_roots)),
            env=sandbox.environment(
                uid=grants.caller.uid, user=who.user, home=who.home, shell=_shell(), language=_language()
            ),
            limits=self._limits(grants.caller, cpu_s),
        )

    def _limits(self, caller: Caller, cpu_s: int | None) -> Limits:
        return self._quotas.limited(
            Limits(
                processes=self._settings.max_processes,
                data_bytes=self._settings.max_memory_bytes,
                file_bytes=self._settings.max_file_bytes,
                cpu_s=cpu_s,
                memory_bytes=self._settings.max_memory_bytes,
                cpus=self._settings.max_cpus,
                need_group=self._settings.require_cgroup,
                # A file in memory is memory, also where no control group counts it.
                scratch_bytes=min(1 << 30, self._settings.max_memory_bytes),
            ),
            caller,
        )

    def _submit(self, box: Box, held: contextlib.ExitStack, stdin: int, out: int, err: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        held.enter_context(theirs)
        job = _memory_file(held, jobs.encoded(box))
        filter_fd = self._filter(box.network)
        try:
            self._launcher.submit(
                [job, stdin, out, err, theirs.fileno(), filter_fd], _flags(box), _group(box)
            )
        except OSError as error:
            ours.close()
            raise layers.explain("launcher", str(error)) from error
        return ours


def _tightened(limits: Limits, step: Start) -> Limits:
    """Both bounds hold. Processor time can be bounded by a control group alone, so then there must be one."""
    memory = min(step.memory_bytes or limits.memory_bytes, limits.memory_bytes)
    return replace(
        limits,
        processes=min(step.processes or limits.processes, limits.processes),
        memory_bytes=memory,
        data_bytes=min(memory, limits.data_bytes),
        scratch_bytes=min(memory, limits.scratch_bytes),
        cpus=min(step.cpus or limits.cpus or math.inf, limits.cpus or math.inf) if step.cpus else limits.cpus,
        need_group=limits.need_group or step.cpus > 0,
    )


def _group(box: Box) -> str:
    return box.limits.user.group if box.limits.user else ""


def _flags(box: Box) -> int:
    """What the launcher must know before it reads the job."""
    return box.hosts_network * zygote.NETWORK | box.detached * zygote.DETACHED | box.id_mapped * zygote.MAPPED


# --- what the init is to do ---------------------------------------------------------------------------


def _job(step: Run | Shell | Pipelines, permit: Permit) -> _Job:
    data = permit.data if step.stdin_data else None
    if isinstance(step, Pipelines):
        return _Job(tuple(map(_pipe_of, step.pipelines)), data, step.timeout_s)
    if isinstance(step, Shell):
        return _Job(_one(_shell_argv(step.text)), data, step.timeout_s)
    given = step.stdin_text.encode() if step.stdin_text is not None else None
    return _Job(_one(step.argv), data if step.stdin_data else given, step.timeout_s)


def _one(argv: tuple[str, ...]) -> tuple[Pipe, ...]:
    return (Pipe((Command(argv),)),)


def _pipe_of(pipeline: Pipeline) -> Pipe:
    return Pipe(tuple(map(_command_of, pipeline.commands)), pipeline.joiner, pipeline.cd)


def _command_of(one: Exec) -> Command:
    redirects = tuple((r.fd, r.op, r.target) for r in one.redirects)
    return Command(one.argv, one.program, redirects, one.env)


# --- descriptors -----------------------------------------------------------------------------------


def _pipe_ends(held: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        held.callback(os.close, fd)
    return ends


def _memory_file(held: contextlib.ExitStack, data: bytes) -> int:
    """An anonymous file with this content, open for reading only."""
    fd = os.memfd_create("llmos")
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
    held.callback(os.close, reader)
    return reader


def _stdin(held: contextlib.ExitStack, data: bytes | None) -> int:
    """Closed to questions: nobody answers, so a program that reads gets the data, then the end."""
    if data is not None:
        return _memory_file(held, data)
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    held.callback(os.close, fd)
    return fd


def _log_file(name: str, request_id: str) -> Path:
    folder = paths.ensure_private(paths.state_dir() / "started")
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:64]
    return folder / f"{safe}-{request_id}.log"


def _seen(folders: tuple[str, ...]) -> tuple[tuple[str, int, int], ...]:
    """These folders as they are known here, for the launcher to compare with what it knows."""
    found = []
    for path in dict.fromkeys(folders):
        with contextlib.suppress(OSError):
            here = os.stat(path)
            found.append((path, here.st_dev, here.st_ino))
    return tuple(found)


def _name_servers() -> tuple[str, str]:
    real = os.path.realpath("/etc/resolv.conf")
    with contextlib.suppress(OSError):
        return real, Path(real).read_text(errors="replace")
    return real, ""


def _as_wanted(caller: Caller, work: Callable[..., _T], *args: object) -> _T:
    """What has a `prepare` is done with the caller's file rights, once that was called: so speaks to the
    Docker Engine, whose socket says who may, while our own modules may be root's to read. In a thread.
    """
    prepare: Callable[[], None] | None = getattr(work, "prepare", None)
    if prepare is None:
        return work(*args)
    prepare()
    with as_caller(caller):
        return work(*args)


# --- small parts -----------------------------------------------------------------------------------


@functools.cache
def _shell() -> str:
    return shutil.which("bash", path=sandbox.PATH) or "/bin/sh"


def _shell_argv(text: str) -> tuple[str, ...]:
    shell = _shell()
    plain = ("--norc", "--noprofile") if shell.endswith("bash") else ()
    return (shell, *plain, "-c", text)


def _language() -> str:
    return os.environ.get("LC_ALL") or os.environ.get("LANG") or "C.UTF-8"


def _went_well(step: Step, outcome: Outcome) -> bool:
    good = step.ok_codes if isinstance(step, Run | Pipelines) else (0,)
    return outcome.exit_code in good and not outcome.timed_out and not outcome.cancelled


def _outcome(ended: Ended) -> Outcome:
    return Outcome(
        exit_code=ended.exit_code,
        stdout=ended.stdout,
        stderr=ended.stderr,
        truncated=ended.truncated,
        timed_out=ended.timed_out,
        cancelled=ended.cancelled,
    )


def _failed(error: LlmosError, tell: OnOutput) -> Outcome:
    tell("stderr", text := f"{error}. {error.next_step}".strip() + "\n")
    return Outcome(exit_code=1, stderr=text)


def _joined(outcomes: list[Outcome]) -> Outcome:
    if not outcomes:
        return Outcome()
    return Outcome(
        exit_code=outcomes[-1].exit_code,
        stdout="".join(outcome.stdout for outcome in outcomes),
        stderr="".join(outcome.stderr for outcome in outcomes),
        truncated=any(outcome.truncated for outcome in outcomes),
        timed_out=outcomes[-1].timed_out,
        cancelled=outcomes[-1].cancelled,
        reverse=tuple(step for outcome in reversed(outcomes) for step in outcome.reverse),
    )


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


def replace_duration(outcome: Outcome, duration_ms: float) -> Outcome:
    return outcome.model_copy(update={"duration_ms": duration_ms})

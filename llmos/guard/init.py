"""Process 1 of a sandbox, in Python: it starts the programs, wires their pipes, and tells how it ended.

The part of a shell that understood text needs, and no more: pipes, redirections, `cd`, `&&`, `||` and `;`,
with bash's exit codes. Nothing is expanded or interpreted here; execve(2) gets the words as they are. It
runs inside every layer of the sandbox: what it opens, the programs could have opened themselves.

The kernel delivers no signal to a namespace's first process from inside that it has not asked for, and it
is not dumpable, so programs can neither stop it nor look into it. Standard library only. The same in C:
native/init.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal

from llmos.guard import kernel

NOT_FOUND, NOT_EXECUTABLE, FAILED = 127, 126, 1
FIRST_CLOSED_FD = 3
_UNSAID = (signal.SIGPIPE, signal.SIGINT)  # of these a shell says nothing
_SHELL = "/bin/sh"  # what runs a script without `#!`, as in execvp(3)
_JOINERS, _REDIRECTS = ("", "&&", "||", ";"), ("<", ">", ">>", ">&")  # by number, as in `script`
_OPEN = {
    "<": os.O_RDONLY,
    ">": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    ">>": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}


class Command:
    """`sandbox.Command` as it arrives here: a plain class, of which a fork copies less."""

    def __init__(
        self, program: str, argv: list[str], redirects: list[tuple[int, str, str]], env: list[str]
    ) -> None:
        self.program, self.argv, self.redirects, self.env = program, argv, redirects, env


class _Reader:
    """Of the bytes of a script (`script`)."""

    def __init__(self, script: bytes) -> None:
        self._script, self._at = script, 0

    def number(self) -> int:
        self._at += 4
        return int.from_bytes(self._script[self._at - 4 : self._at], "little")

    def text(self) -> str:
        length = self.number()
        self._at += length + 1
        return os.fsdecode(self._script[self._at - length - 1 : self._at - 1])

    def texts(self) -> list[str]:
        return [self.text() for _ in range(self.number())]

    def command(self) -> Command:
        program, argv = self.text(), self.texts()
        redirects = [(self.number(), _REDIRECTS[self.number()], self.text()) for _ in range(self.number())]
        return Command(program, argv, redirects, self.texts())


def run(script: bytes) -> int:
    """Carry out the whole script and return its exit code; everything it started is dead then."""
    reader = _Reader(script)
    os.environ["PATH"] = reader.text()  # where a program without a path is looked for
    here, env = {"PWD": reader.text()}, _pairs(reader.texts())
    code = 0
    for _ in range(reader.number()):
        joiner = _JOINERS[reader.number()]
        skipped = (joiner == "&&" and code != 0) or (joiner == "||" and code == 0)
        if reader.number():
            target = reader.text()
            code = code if skipped else _change_folder(target, here)
        else:
            commands = [reader.command() for _ in range(reader.number())]
            code = code if skipped else _wait(_start(commands, env | here))
    _end_the_rest()
    return code


def _change_folder(target: str, here: dict[str, str]) -> int:
    """`cd`, which keeps the name it came by: `..` after a link leads back to where one was."""
    path = os.path.normpath(os.path.join(here["PWD"], target))
    try:
        os.chdir(path)
    except OSError as error:
        _say(f"cd: {target}: {error.strerror}")
        return FAILED
    here.update(PWD=path, OLDPWD=here["PWD"])
    return 0


def _start(commands: list[Command], env: dict[str, str]) -> list[int]:
    """Start all of them, each with its end of the pipe on either side; the same as `_start_one` of each."""
    started, source = [], 0
    for command in commands[:-1]:
        reader, writer = os.pipe()
        started.append(_start_one(command, env, source, writer))
        os.close(writer)
        if source:
            os.close(source)
        source = reader
    started.append(_start_one(commands[-1], env, source, 1))
    if source:
        os.close(source)
    return started


def _start_one(command: Command, env: dict[str, str], stdin: int, stdout: int) -> int:
    """A pid, or minus the exit code of what could not be started.

    With redirections it takes a process of its own to open them in, since opening may wait; without, the
    program is spawned, which copies nothing of us.
    """
    if not command.redirects:
        return _spawn(command, env | _pairs(command.env), stdin, stdout)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(_become(command, env, stdin, stdout))
        finally:  # whatever happens: the child is not a second init
            os._exit(NOT_EXECUTABLE)
    return pid


def _spawn(command: Command, env: dict[str, str], stdin: int, stdout: int) -> int:
    wires = ((stdin, 0), (stdout, 1))
    actions = [(os.POSIX_SPAWN_DUP2, here, there) for here, there in wires if here != there]
    program = command.program or command.argv[0]
    try:
        try:
            return os.posix_spawnp(program, command.argv, env, file_actions=actions)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            return os.posix_spawn(_SHELL, ("sh", program, *command.argv[1:]), env, file_actions=actions)
    except OSError as error:
        return -_cannot_start(command, error)


def _pairs(env: list[str]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in env)


def _become(command: Command, env: dict[str, str], stdin: int, stdout: int) -> int:
    """In the child: wire the streams, become the program; returns an exit code where that fails."""
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    kernel.close_from(FIRST_CLOSED_FD)  # or `>&7` would reach what the init itself holds open
    try:
        for redirect in command.redirects:
            _redirect(*redirect)
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
        return FAILED
    return _execute(command, env | _pairs(command.env))


def _redirect(fd: int, op: str, target: str) -> None:
    if op == ">&":
        os.dup2(int(target), fd)
        return
    opened = os.open(target, _OPEN[op] | os.O_CLOEXEC, 0o666)
    if opened == fd:
        os.set_inheritable(fd, True)
    else:
        os.dup2(opened, fd)
        os.close(opened)


def _execute(command: Command, env: dict[str, str]) -> int:
    program = command.program or command.argv[0]
    try:
        try:
            os.execvpe(program, command.argv, env)  # noqa: S606
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            os.execve(_SHELL, ("sh", program, *command.argv[1:]), env)  # noqa: S606
    except OSError as error:
        return _cannot_start(command, error)


def _cannot_start(command: Command, error: OSError) -> int:
    """Say why, as bash does; returns the exit code that stands for it."""
    name, missing = command.argv[0], error.errno in (errno.ENOENT, errno.ENOTDIR)
    if missing and "/" not in name:
        _say(f"{name}: command not found")
    elif os.path.isdir(command.program or name):
        _say(f"{name}: Is a directory")
    else:
        _say(f"{name}: {os.strerror(error.errno or 0)}")
    return NOT_FOUND if missing else NOT_EXECUTABLE


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="surrogateescape"))


def _wait(started: list[int]) -> int:
    """Until all of one pipeline have ended, whoever else ends meanwhile; the last one's exit code."""
    codes = {number: -number for number in started if number < 0}
    while len(codes) < len(set(started)):
        pid, status = os.waitpid(-1, 0)
        if pid in started:
            codes[pid] = os.waitstatus_to_exitcode(status)
    code = codes[started[-1]]
    if code < 0 and -code not in _UNSAID:
        _say(signal.strsignal(-code) or f"signal {-code}")
    return code if code >= 0 else 128 - code


def _end_the_rest() -> None:
    """Kill what was left in the background and wait until the last of it is gone."""
    with contextlib.suppress(ChildProcessError):
        while True:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            os.waitpid(-1, 0)

"""`llmos why`: why a command failed, from its exit code, its words and the facts of this machine. Offline.

Each finding names what it goes by. It is a table of the usual causes and a few looks at the file system, no
guess of a model: where nothing fits it says so. Error messages are data and are only matched.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import shlex
import signal
import stat
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MAX_STDERR = 20_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason or fact, what it goes by, and what may help."""

    what: str
    source: str
    step: str = ""


def findings(command: str, code: int, stderr: str) -> list[Finding]:
    """What is known of this failure, the likeliest first."""
    words = _words(command)
    found = [*_said(stderr[-MAX_STDERR:], words), *_code(code, words)]
    if code and not stderr and code not in (126, 127) and code < 128:
        found = [*_places(words[1:]), *found]
    if code == 0 and not found:
        return [Finding("it did not fail: its exit code is 0", "exit code 0")]
    return list(dict.fromkeys(found))


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


# --- exit codes --------------------------------------------------------------------------------------


def _code(code: int, words: Sequence[str]) -> Iterator[Finding]:
    source = f"exit code {code}"
    name = next((word for word in words if "=" not in word), "")
    if code == 127:
        yield Finding(f"the shell found no command {name!r}", source, *_nearest(name))
    elif code == 126:
        yield from _not_executable(name, source)
    elif code > 128 and code - 128 in {number.value for number in signal.Signals}:
        number = signal.Signals(code - 128)
        yield Finding(f"it was ended by {number.name}: {_SIGNALS.get(number.name, 'a signal')}", source)
    elif known := _CODES.get((name.rsplit("/", 1)[-1], code)):
        yield Finding(known, f"{source}, {name}'s manual")
    elif code == 2 and name:
        yield Finding(
            "usually: it was called in a wrong way", source, f"See its options: llmos explain -- {name} …"
        )


_SIGNALS = {
    "SIGKILL": "nothing can catch that; often the kernel, for want of memory (see: journalctl -k)",
    "SIGSEGV": "it touched memory that is not its own, a bug in it",
    "SIGABRT": "it gave up by itself, usually over a broken assumption",
    "SIGTERM": "somebody asked it to end",
    "SIGINT": "Ctrl-C",
    "SIGPIPE": "who read its output had gone, as with `| head`: usually harmless",
    "SIGHUP": "its terminal was closed",
    "SIGXCPU": "it used more CPU time than it may (ulimit -t)",
    "SIGXFSZ": "it wrote a larger file than it may (ulimit -f)",
    "SIGBUS": "memory behind a file had gone, perhaps a full disk",
}
_CODES = {
    ("grep", 1): "nothing matched; that is no error",
    ("rg", 1): "nothing matched; that is no error",
    ("diff", 1): "the files differ; that is no error",
    ("cmp", 1): "the files differ; that is no error",
    ("test", 1): "the condition does not hold",
    ("[", 1): "the condition does not hold",
    ("timeout", 124): "the time was over",
    ("curl", 6): "the host's name could not be resolved",
    ("curl", 7): "nobody answered at that address and port",
    ("curl", 22): "the server answered with an error",
    ("curl", 28): "the time was over",
    ("curl", 60): "the server's certificate could not be verified",
    ("ssh", 255): "ssh itself failed, not the command on the other side",
    ("git", 128): "git found something fatal; its last line says what",
    ("rsync", 23): "some files could not be transferred",
    ("systemctl", 3): "the unit is not active",
    ("systemctl", 4): "there is no such unit",
}


def _nearest(name: str) -> tuple[str]:
    import difflib

    known: set[str] = set()
    for folder in os.environ.get("PATH", "/usr/bin:/bin").split(":")[:20]:
        try:
            known.update(entry.name for entry in os.scandir(folder or "."))
        except OSError:
            continue
    near = sorted(other for other in known if sorted(other) == sorted(name))  # gti
    near = near[:3] or difflib.get_close_matches(name, known, 3, 0.75)
    return (f"Did you mean {', '.join(near)}?" if near else "Install it, or mind the spelling.",)


def _not_executable(name: str, source: str) -> Iterator[Finding]:
    path = Path(name)
    if path.is_dir():
        yield Finding(f"{name} is a folder, not a program", source, f"Go there: cd {shlex.quote(name)}")
    elif path.is_file() and not os.access(path, os.X_OK):
        yield Finding(
            f"{name} may not be executed (mode {_mode(path)})", source, f"chmod +x {shlex.quote(name)}"
        )
    else:
        yield Finding(
            "it was found but could not be executed", source, "Is it a program for this machine? See: file"
        )


def _places(words: Sequence[str]) -> Iterator[Finding]:
    """What unknown messages are likely about: places, spelt as such, that are missing or closed to you."""
    for word in words:
        path = Path(word)
        if not word.startswith(("/", "./", "../")):
            continue  # s/a/b/ is no place
        if not os.path.lexists(path) and not path.parent.is_dir():
            yield Finding(f"there is no folder {path.parent}", "the file system", "Mind the spelling.")
        elif not os.path.lexists(path):
            yield Finding(
                f"there is no {word} now", "the file system", f"See what is there: ls {path.parent}"
            )
        elif not os.access(path, os.R_OK):
            yield Finding(f"you may not read {word} (mode {_mode(path)})", "the file system")


# --- what it said ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Saying:
    pattern: re.Pattern[str]
    what: str
    step: str = ""


@cache
def _sayings() -> tuple[_Saying, ...]:
    """The table of sayings.toml, first match first."""
    text = Path(__file__).with_name("sayings.toml").read_text(encoding="utf-8")
    return tuple(
        _Saying(re.compile(entry["pattern"]), entry["what"], entry.get("step", ""))
        for entry in tomllib.loads(text)["saying"]
    )


_PATH_ERROR = re.compile(
    r"['\"‘`]?(?P<path>[^\s'\"’:]*[^\s'\"’:])['\"’]?: (?P<error>No such file or directory|Permission denied)"
)


def _said(stderr: str, words: Sequence[str]) -> Iterator[Finding]:
    for line in stderr.splitlines()[-20:]:
        if found := _PATH_ERROR.search(line):
            look = _missing if found["error"].startswith("No such") else _forbidden
            yield from look(found["path"], line)
            continue
        for saying in _sayings():
            if found := saying.pattern.search(line):
                groups = [group or "" for group in found.groups()] or [""]
                source = f"its message: {line.strip()[:160]}"
                yield Finding(saying.what.format(*groups), source, saying.step.format(*groups))
                break


def _missing(path: str, line: str) -> Iterator[Finding]:
    """The first part of the path that is not there, and names near it."""
    import difflib

    source = f"its message: {line.strip()[:160]}"
    target = Path(path).expanduser()
    whole = [*reversed(target.absolute().parents), target.absolute()]
    gone = next((part for part in whole if not os.path.lexists(part)), None)
    if gone is None:
        yield Finding(f"{path} is there now", "looked at just now", "Try again.")
        return
    names: list[str] = []
    try:
        names = [entry.name for entry in os.scandir(gone.parent)][:5000]
    except OSError:
        pass
    near = difflib.get_close_matches(gone.name, names, 3, 0.6)
    step = f"Near it: {', '.join(near)}" if near else f"See what is there: ls {shlex.quote(str(gone.parent))}"
    yield Finding(f"there is no {gone.name!r} in {gone.parent}", source, step)


def _forbidden(path: str, line: str) -> Iterator[Finding]:
    """Which part of the path keeps this user out, as its mode and owner say."""
    source = f"its message: {line.strip()[:160]}"
    target = Path(path).expanduser().absolute()
    for part in (*reversed(target.parents), target):
        try:
            found = part.lstat()
        except OSError as error:
            yield Finding(f"{part}: {os.strerror(error.errno or errno.EACCES)}", source, "")
            return
        if part != target and stat.S_ISDIR(found.st_mode) and not os.access(part, os.X_OK):
            yield Finding(f"you may not enter {part}: {_owned(part)}", source, "Ask its owner.")
            return
    if os.access(target, os.R_OK | os.W_OK):
        yield Finding(
            f"you may read and write {target}",
            f"{_owned(target)}",
            "Something else refused: a mount, SELinux, a lock?",
        )
        return
    yield Finding(f"you may not use {target} so: {_owned(target)}", source, "Ask its owner, or see: namei -l")


def _owned(path: Path) -> str:
    found = path.lstat()
    try:
        user = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        user = str(found.st_uid)
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return f"it belongs to {user}:{group}, mode {_mode(path)}; you are {_me()}"


def _mode(path: Path) -> str:
    return stat.filemode(path.lstat().st_mode)


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())

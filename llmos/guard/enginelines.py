"""What a shell command that speaks to a container engine asks for: the settings the policy speaks of.

    docker run -v /:/x --privileged busybox    →  mount:/, privileged
    docker -H tcp://10.0.0.1:2375 ps           →  engine=tcp://10.0.0.1:2375

The command as a whole stays opaque, and the sandbox gives it no socket of the engine's. This reads its words
as loosely as `commandline` reads paths, behind `sudo`, `env` and `sh -c` too, so that what the policy refuses
to the docker tools it refuses here by the same rules. Files that `cp`, `save` and their like read or write
here are noted in `found`. It only ever adds facts.
Not seen: what a compose file, a Dockerfile or a script says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llmos.guard.found import Found

_ENGINES = {"docker", "podman", "nerdctl", "docker-compose", "podman-remote", "ctr", "buildah"}
_STARTERS = {
    "sudo", "doas", "env", "nice", "ionice", "chrt", "taskset", "timeout", "nohup", "setsid", "xargs",
    "time", "stdbuf", "exec", "command", "eval", "sh", "bash", "dash", "zsh", "ash", "ksh", "busybox",
    "strace", "watch", "parallel", "systemd-run", "do", "then", "else", "if", "while", "!", "{", "runuser",
    "su", "su-exec", "gosu", "unshare", "nsenter", "chroot", "find",
}  # fmt: skip
_MAX_WORDS = 4000
_TOKEN = re.compile(r"[;&|()\n`]+|[^\s;&|()`]+")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)")
_HOST_VARIABLES = {
    "DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST", "CONTAINERD_ADDRESS", "CONTAINER_CONNECTION",
}  # fmt: skip
# Options without a value; any other that stands without `=` takes the next word, unless that is an option.
_FLAGS = {
    "privileged", "rm", "detach", "interactive", "tty", "init", "read-only", "no-healthcheck",
    "oom-kill-disable", "publish-all", "sig-proxy", "disable-content-trust", "quiet", "help", "replace",
    "no-cache", "force-rm", "tls", "squash", "debug", "tlsverify", "version", "all", "force", "archive",
    "follow-link", "net-host", "stream",
}  # fmt: skip
_SHORT_FLAGS = "ditPqDaL"
_LONG = {"v": "volume", "H": "host", "c": "context", "o": "opt", "f": "file", "t": "tag"}
_NAMESPACES = {"network": "network", "net": "network",
               **{name: name for name in ("pid", "ipc", "uts", "userns", "cgroupns")}}  # fmt: skip
_GROUPS = {"container", "image", "volume", "network", "system", "builder", "buildx", "compose", "pod"}
_RUNS = {"run", "create", "exec", "update", "up", "service", "play", "kube"}


def settings(text: str, found: Found) -> tuple[str, ...]:
    """The settings in every command of this text that goes to a container engine, in the policy's words."""
    plain = re.sub(r"[\\'\"]", "", text.replace("\\\n", " "))
    gathered: dict[str, None] = {}
    for words in _commands(_TOKEN.findall(plain)[:_MAX_WORDS]):
        gathered |= dict.fromkeys(_asked(words, found))
    return tuple(gathered)


def _commands(tokens: Sequence[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for token in (*tokens, ";"):
        if token[0] in ";&|()\n`":
            yield command
            command = []
        else:
            command.append(token)


def _asked(words: list[str], found: Found) -> Iterator[str]:
    """What one command asks for; nothing where no engine is started by it."""
    at = next((place for place, word in enumerate(words) if os.path.basename(word) in _ENGINES), None)
    if at is None:
        return
    before = [word for word in words[:at] if not _ASSIGNMENT.fullmatch(word)]
    if before and os.path.basename(before[0]) not in _STARTERS:
        return
    for word in words[:at]:
        match = _ASSIGNMENT.fullmatch(word)
        if match and match[1] in _HOST_VARIABLES:
            yield f"engine={match[2]}"
    yield from _of_engine(words[at + 1 :], found)


def _of_engine(words: list[str], found: Found) -> Iterator[str]:
    options, rest = _split(words)
    for name, value in options:
        if name in ("host", "context", "url", "connection", "address"):
            yield f"engine={value}"
    if rest and rest[0] in _GROUPS:
        group, (more, rest) = rest[0], _split(rest[1:])
        options = [*options, *more]
        if group == "volume" and rest[:1] == ["create"]:
            yield from _made_volume(rest[1:], found)
            return
    if not rest:
        return
    verb, (given, args) = rest[0], _split(rest[1:])
    if verb in ("service", "play", "kube") and args:
        given = [*given, *_split(args[1:])[0]]
    _note_files(verb, (*options, *given), args, found)
    if verb in _RUNS or verb == "build":
        for name, value in (*options, *given):
            yield from _setting(name, value, found)
    if verb == "build":
        yield from _context(args, found)
    elif verb == "context" and args and args[0] not in ("ls", "list", "show", "inspect", "export"):
        yield f"engine={args[1] if len(args) > 1 else '?'}"


def _split(words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Options up to the first word that is none, and the words from there on."""
    options: list[tuple[str, str]] = []
    at = 0
    while at < len(words) and words[at].startswith("-"):
        name, value, takes = _option(words[at])
        at += 1
        if takes and at < len(words) and not words[at].startswith("-"):
            value, at = words[at], at + 1
        options.append((name, value))
    return options, list(words[at:])


def _option(word: str) -> tuple[str, str, bool]:
    """Name, value, and whether the value is the next word. `-itv/:/x` is `volume` with `/:/x`."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        return name, value, not equals and name not in _FLAGS
    letters = word[1:].lstrip(_SHORT_FLAGS)
    if not letters:
        return word[1:], "", False
    value = letters[1:].removeprefix("=")
    return _LONG.get(letters[0], letters[0]), value, not value


# --- options of a container ----------------------------------------------------------------------------


def _setting(name: str, value: str, found: Found) -> Iterator[str]:
    if name == "privileged" and value.lower() not in ("false", "0", "f"):
        yield "privileged"
    elif name in _NAMESPACES and (value == "host" or value.startswith(("container:", "ns:"))):
        yield f"{_NAMESPACES[name]}={value}"
    elif name == "net-host":
        yield "network=host"
    elif name == "security-opt" and not value.startswith("no-new-privileges"):
        yield f"security:{value.replace(':', '=', 1)}"
    elif name == "volume":
        yield from _volume(value, found)
    elif name == "mount":
        yield from _mount(value, found)
    elif name in _PLAIN:
        yield f"{_PLAIN[name](value)}"


_PLAIN: dict[str, Callable[[str], str]] = {
    "cap-add": lambda value: f"cap:{value.upper().removeprefix('CAP_')}",
    "device": lambda value: f"device:{value.partition(':')[0]}",
    "device-cgroup-rule": lambda value: f"device:{value}",
    "gpus": lambda value: "device:gpu",
    "volumes-from": lambda value: f"volumes-from:{value}",
    "cgroup-parent": lambda value: f"cgroup-parent={value}",
    "sysctl": lambda value: f"sysctl:{value.partition('=')[0]}",
    "runtime": lambda value: f"runtime={value}",
}


def _volume(value: str, found: Found) -> Iterator[str]:
    source, _, rest = value.partition(":")
    if rest:
        yield from _place(source, found, read_only="ro" in rest.partition(":")[2].split(","))


def _mount(value: str, found: Found) -> Iterator[str]:
    """`type=bind,source=/,…`, and the options that make a volume a bind mount."""
    for one in value.split(","):
        key, _, rest = one.partition("=")
        if key in ("source", "src"):
            yield from _place(rest, found)
        if key == "volume-opt" and rest.startswith("device="):
            yield from _place(rest.removeprefix("device="), found)


def _made_volume(words: Sequence[str], found: Found) -> Iterator[str]:
    options, rest = _split(words)
    for name, value in (*options, *_split(rest[1:])[0]):
        if name == "opt" and value.startswith("device="):
            yield from _place(value.removeprefix("device="), found)


def _context(args: Sequence[str], found: Found) -> Iterator[str]:
    """The folder that a build sends to the engine."""
    for word in args:
        if word.startswith(("/", ".", "~", "$")) or Path(found.path(word)).is_dir():
            yield f"context:{_absolute(word, found)}"


def _note_files(verb: str, options: Sequence[tuple[str, str]], args: Sequence[str], found: Found) -> None:
    """Files of this machine that the client itself reads and writes."""
    for name, value in options:
        kind = _FILES.get(name) or _FILES_OF.get((verb, name))
        if kind and value:
            found.add(kind, _absolute(value, found))
    if verb == "cp" and len(args) == 2:
        for kind, word in zip(("read", "write"), args, strict=True):
            if ":" not in word and word != "-":
                found.add(kind, _absolute(word, found))


_FILES = {"cidfile": "write", "iidfile": "write", "env-file": "read", "label-file": "read"}
_FILES_OF = {("save", "opt"): "write", ("save", "output"): "write", ("export", "opt"): "write",
             ("export", "output"): "write", ("load", "input"): "read"}  # fmt: skip


def _place(source: str, found: Found, *, read_only: bool = False) -> Iterator[str]:
    """A place of this machine; a plain name is a volume's."""
    if source.startswith(("/", ".", "~", "$")):
        yield f"mount{'-ro' if read_only else ''}:{_absolute(source, found)}"


def _absolute(source: str, found: Found) -> str:
    for name, value in (("HOME", found.home), ("PWD", found.cwd)):
        source = source.replace(f"${{{name}}}", value).replace(f"${name}", value)
    if source == "~" or source.startswith("~/"):
        source = found.home + source[1:]
    return os.path.realpath(found.path(source))

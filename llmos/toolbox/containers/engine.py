"""The Docker engine: where it listens, speaking to it, and its errors as ours.

    socket_of(uid)   the engine of that caller: DOCKER_HOST of the daemon, the system's, the caller's own
    connected(path)  a client for the time of a block; the engine's refusals come out as LlmosError

The gate and the spawner call us with the caller's file rights, so the kernel decides at `connect` whether the
caller may speak to the engine at all: root's daemon lends nobody its own way in. Registry passwords are not
read. Only Unix sockets are spoken to: another machine's engine is that machine's business.
The SDK is imported when it is first needed, and then weighs as much as a third of an idle broker.
Not protected against: an engine that lies.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from llmos.errors import CallFailed, Denied, UsageError

if TYPE_CHECKING:
    from docker import APIClient

_P = ParamSpec("_P")
_T = TypeVar("_T")
TIMEOUT_S = 60.0
MAX_SAID_CHARS = 400  # of an error of the engine
_NOT_NEEDED = ("ssl", "_ssl", "charset_normalizer", "chardet", "paramiko")
SYSTEM = ("/run/docker.sock", "/var/run/docker.sock")
_INSTALL = "Install and start it (docker.io on Debian), or see: llmos doctor"
# https://github.com/moby/moby: names.RestrictedNameChars; an id, or the head of one, is such a name too.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_MIN_NAME_CHARS = 2
# A reference as the engine parses it, without `..`: it becomes part of a URL.
_IMAGE = re.compile(
    r"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def socket_of(uid: int) -> str:
    """The engine's socket for this caller; where none is, the one that most have. Raises CallFailed."""
    named = os.environ.get("DOCKER_HOST", "")
    if named:
        if not named.startswith("unix://"):
            raise CallFailed(
                f"DOCKER_HOST is {named[:80]!r}; only an engine on this machine is spoken to",
                "Set DOCKER_HOST=unix:///run/docker.sock for the daemon, or unset it.",
            )
        return named.removeprefix("unix://")
    own = (f"/run/user/{uid}/docker.sock", f"/run/user/{uid}/podman/podman.sock")
    there = [path for path in (*SYSTEM, *own) if _is_there(path)]
    usable = [path for path in there if os.access(path, os.W_OK, effective_ids=True)]
    return next(iter(usable or there), SYSTEM[0])


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:
        return False


@contextlib.contextmanager
def connected(path: str, timeout_s: float = TIMEOUT_S) -> Iterator[APIClient]:
    """A client of the engine at that socket. Raises CallFailed and Denied with the engine's reason."""
    docker = sdk()
    http = docker.api.client.requests.exceptions  # of the library that the SDK speaks with

    try:
        _knock(path)
        client = docker.APIClient(base_url=f"http+unix://{path}", version="auto", timeout=timeout_s)
        # What lies in ~/.docker/config.json would start the person's credential helpers.
        client._auth_configs, client._general_configs = docker.auth.AuthConfig({}), {}
        client._set_auth_headers = lambda headers: None
        try:
            yield client
        finally:
            client.close()
    except docker.errors.APIError as error:
        raise refused(error) from error
    except docker.errors.DockerException as error:
        raise CallFailed(f"the Docker engine at {path} does not answer: {_said(error)}", _INSTALL) from error
    except http.Timeout as error:
        raise CallFailed(f"the Docker engine did not answer within {timeout_s:g} s", "Try again.") from error
    except http.RequestException as error:
        raise CallFailed(f"the Docker engine at {path} broke off: {_said(error)}", _INSTALL) from error


class Work(Generic[_P, _T]):
    """What speaks to the engine: called with the caller's rights, after `prepare` with the daemon's own."""

    def __init__(self, call: Callable[_P, _T]) -> None:
        self._call = call

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._call(*args, **kwargs)

    @staticmethod
    def prepare() -> None:
        sdk()


def sdk() -> Any:
    """The docker package, without what a Unix socket has no use for: TLS and guesses at character sets."""
    left_out = [name for name in _NOT_NEEDED if name not in sys.modules]
    for name in left_out:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # requests misses the latter aloud
            import docker
            import docker.auth
            import docker.utils.build
            import docker.utils.socket
    finally:
        for name in left_out:
            del sys.modules[name]
    return docker


def unanswered() -> tuple[type[Exception], ...]:
    """What waiting for an answer ends with when none comes in time."""
    http = sdk().api.client.requests.exceptions
    return http.Timeout, http.ConnectionError


def _knock(path: str) -> None:
    """See that somebody listens and that we may speak: what the SDK would say of it is a page long."""
    import socket

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(5.0)
            probe.connect(path)
    except PermissionError as error:
        raise Denied(
            f"you may not use the Docker engine at {path}",
            "Ask for the group `docker`, which is as mighty as root, or run a rootless engine.",
        ) from error
    except FileNotFoundError as error:
        raise CallFailed(f"there is no Docker engine here: nothing at {path}", _INSTALL) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise CallFailed(f"no Docker engine answers at {path}: {reason}", _INSTALL) from error


def refused(error: Any) -> CallFailed:
    """An error of the engine's API, in its own words and with what may help."""
    said = _said(error.explanation or error)
    return CallFailed(f"the Docker engine says: {said}", _next_step(error.status_code or 0, said))


def _said(error: object) -> str:
    """The engine's words on one line: they may hold names that others chose."""
    text = " ".join(str(error).split())
    return "".join(char if char.isprintable() else "·" for char in text)[:MAX_SAID_CHARS]


_HELP = (
    ("already in use by container", "Choose another name, or remove that container: docker.container.remove"),
    (
        r"pull access denied|no such host|dial tcp|i/o timeout|manifest unknown",
        "Check the image's name and the network; a private image is pulled outside llmos: docker pull",
    ),
    ("No command specified", "Say what to run: `command`."),
    ("No such image", "Get it first: docker.image.pull. See what is there: docker.image.list"),
    ("is not running", "Start it first: docker.container.start"),
    ("port is already allocated|address already in use", "Choose another port: llmos call system.ports"),
    ("volume is in use", "Remove the containers that use it first: docker.container.remove"),
)


def _next_step(status: int, said: str) -> str:
    for pattern, advice in _HELP:
        if re.search(pattern, said):
            return advice
    if status == 404:
        return "See what is there: llmos call docker.container.list --args '{\"all\": true}'"
    return "Correct what it names and try again."


def check_name(tool: str, argument: str, name: str) -> str:
    """A container's, volume's or network's name or id. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{tool}: argument `{argument}`: {name[:80]!r} is no name Docker knows",
            "Names begin with a letter or a digit and go on with those, `_`, `.` and `-`.",
        )
    return name


def check_new_name(tool: str, name: str) -> str:
    """A name for what is to be made. Raises UsageError."""
    if len(name) < _MIN_NAME_CHARS:
        raise UsageError(f"{tool}: argument `name`: {name!r} is too short", "Give it two characters.")
    return check_name(tool, "name", name)


def check_image(tool: str, argument: str, name: str) -> str:
    """An image's reference, such as nginx, nginx:1.25 or ghcr.io/org/app:v2. Raises UsageError."""
    if len(name) > 400 or not _IMAGE.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{tool}: argument `{argument}`: {name[:80]!r} is no image name",
            "Write it like nginx, nginx:1.25 or ghcr.io/org/app:v2, in lower case.",
        )
    return name

"""D-Bus, as far as systemd and its like need it: connect, call a method, get the answer or a typed error.

The protocol is jeepney's, imported when a connection is made. A connection is made with the caller's ids
(`rights`), so that who listens judges the caller, and a link that a user put in the place of a socket leads
nowhere they could not go themselves. Signals are passed over: whoever waits for something asks again.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos import rights
from llmos.errors import CallFailed

if TYPE_CHECKING:
    from jeepney import Message

TIMEOUT_S = 25.0  # D-Bus' own default
PROPERTIES = "org.freedesktop.DBus.Properties"
_SYSTEM_BUS = ("/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket")


class BusError(Exception):
    """An error reply: its D-Bus name and sentence."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name

    @property
    def kind(self) -> str:
        """The last part of its name, such as `NoSuchUnit`."""
        return self.name.rpartition(".")[2]


class Link:
    """One open connection, to a bus or to a single peer. Use `connect`."""

    def __init__(self, sock: socket.socket, *, bus: bool) -> None:
        from jeepney.io.blocking import DBusConnection, DBusConnectionBase

        self._link: Any = DBusConnection(sock) if bus else DBusConnectionBase(sock)

    def close(self) -> None:
        self._link.close()

    def call(
        self, name: str, path: str, interface: str, member: str, signature: str = "", *args: Any
    ) -> tuple[Any, ...]:
        """Call a method and wait for its answer. Raises BusError, or CallFailed when nothing answers."""
        from jeepney import DBusAddress, new_method_call

        address = DBusAddress(path, bus_name=name, interface=interface)
        message = new_method_call(address, member, signature or None, args)
        try:
            return _unwrapped(self._reply(message))
        except (OSError, TimeoutError) as error:
            raise CallFailed(
                f"{name} does not answer: {error or type(error).__name__}", "See: systemctl is-system-running"
            ) from error

    def properties(self, name: str, path: str, interface: str) -> dict[str, Any]:
        """All properties of an object's interface, without their type marks."""
        found = self.call(name, path, PROPERTIES, "GetAll", "s", interface)[0]
        return {key: value for key, (_, value) in found.items()}

    def _reply(self, message: Message) -> Message:
        from jeepney import HeaderFields

        serial = next(self._link.outgoing_serial)
        self._link.sock.sendall(message.serialise(serial=serial))
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            found: Message = self._link._receive(deadline)
            if found.header.fields.get(HeaderFields.reply_serial, -1) == serial:
                return found


def _unwrapped(message: Message) -> tuple[Any, ...]:
    from jeepney import DBusErrorResponse
    from jeepney.wrappers import unwrap_msg

    try:
        return tuple(unwrap_msg(message))
    except DBusErrorResponse as error:
        text = error.data[0] if error.data and isinstance(error.data[0], str) else error.name
        raise BusError(error.name, text) from error


# --- connecting --------------------------------------------------------------------------------


@contextmanager
def system_bus(uid: int) -> Iterator[Link]:
    """The machine's bus, as `uid`. Raises CallFailed where there is none."""
    path = next((place for place in _SYSTEM_BUS if Path(place).exists()), _SYSTEM_BUS[0])
    with _open(path, uid, bus=True) as link:
        yield link


@contextmanager
def peer(path: str, uid: int) -> Iterator[Link]:
    """A program that listens for itself, without a bus, at `path`. Raises CallFailed."""
    with _open(path, uid, bus=False) as link:
        yield link


@contextmanager
def _open(path: str, uid: int, *, bus: bool) -> Iterator[Link]:
    from jeepney.io.blocking import prep_socket

    try:
        with rights.acting_as(uid):
            link = Link(prep_socket(path, timeout=TIMEOUT_S) if bus else _prep_peer(path), bus=bus)
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CallFailed(
            f"nothing answers on D-Bus at {path}: {reason}", "See what runs: systemctl status dbus"
        ) from error
    try:
        yield link
    finally:
        link.close()


def _prep_peer(path: str) -> socket.socket:
    """Authenticate on a private socket, all in one go as systemctl does (sasl in the D-Bus specification).

    sd-bus looks at what came after BEGIN in the same read only when more comes: a first message right behind
    it would wait for ever. Once OK is here, BEGIN has been read. The line is taken byte by byte: signals may
    follow it at once (a manager that reloads sends them), and they belong to the connection.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.settimeout(TIMEOUT_S)
    try:
        sock.connect(path)
        sock.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n")
        answer = b""
        while not answer.endswith(b"\n") and (more := sock.recv(1)):
            answer += more
        if not answer.startswith(b"OK "):
            raise PermissionError(errno.EACCES, "it refuses the connection")
    except BaseException:
        sock.close()
        raise
    sock.settimeout(None)
    return sock

"""In a sandbox with a network of its own: addresses of granted machines, and who listens at them, as steps.

The granted addresses are put on the loopback interface, and for each granted port a socket listens there.
The sockets go to the broker, which carries what comes to the real machine (`relay`); no other packet leaves
this network. Standard library only, because the launcher runs without site-packages. Sources: netdevice(7),
unix(7) for the message.

Not for UDP, nor for what is no TCP.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence

from llmos.guard.sandbox import Route
from llmos.guard.steps import STATUS, Data, Label, Register, Steps

_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_LOOPBACK = 1  # its index in every network namespace
_BACKLOG = 64
_CLOEXEC = socket.SOCK_CLOEXEC
_TOLD = b'{"listening": true}\n'


def listening(routes: Sequence[Route]) -> bytes:
    """Bring up the loopback interface, listen at each route, and hand the sockets to the broker."""
    s = Steps()
    with s.of("reach"):
        control = s.fd("socket", socket.AF_INET, socket.SOCK_DGRAM | _CLOEXEC, 0)
        up = s.pack("=16sh22x", b"lo", _IFF_UP)
        s.call("ioctl", control, _SIOCSIFFLAGS, up, what="loopback interface")
        for number, address in enumerate(dict.fromkeys(address for address, _ in routes)):
            _add(s, control, address, number)
        s.call("close", control)
        listeners = [_listener(s, route) for route in routes]
        _send(s, listeners)
        for listener in listeners:
            s.call("close", listener)
    return s.part()


def _add(s: Steps, control: Register, address: str, number: int) -> None:
    if ":" in address:
        packed, there = socket.inet_pton(socket.AF_INET6, address), Label()
        control6 = s.fd("socket", socket.AF_INET6, socket.SOCK_DGRAM | _CLOEXEC, 0)
        request = s.pack("=16sIi", packed, 128, _LOOPBACK)
        s.call(
            "ioctl", control6, _SIOCSIFADDR, request, what=address, ignore=(errno.EEXIST,), otherwise=there
        )
        s.place(there)
        s.call("close", control6)
    elif not address.startswith("127."):  # all of these are there already
        label = f"lo:{number}".encode()
        for what, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.255")):
            request = s.pack("=16sHH4s16x", label, socket.AF_INET, 0, socket.inet_aton(value))
            s.call("ioctl", control, what, request, what=address)


def _listener(s: Steps, route: Route) -> Register:
    address, port = route
    what = f"{address} port {port}"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = s.fd("socket", family, socket.SOCK_STREAM | _CLOEXEC, 0)
    yes = s.pack("=i", 1)
    s.call("setsockopt", sock, socket.SOL_SOCKET, socket.SO_REUSEADDR, yes, yes.length)
    if family == socket.AF_INET6:
        s.call("setsockopt", sock, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, yes, yes.length)
    place = _sockaddr(s, address, port)
    s.call("bind", sock, place, place.length, what=what)
    s.call("listen", sock, _BACKLOG, what=what)
    return sock


def _sockaddr(s: Steps, address: str, port: int) -> Data:
    """ip(7), ipv6(7): the family in native byte order, the port in the network's."""
    in_order = struct.pack("!H", port)
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        return s.pack("=H2sI16sI", socket.AF_INET6, in_order, 0, packed, 0)
    return s.pack("=H2s4s8x", socket.AF_INET, in_order, socket.inet_aton(address))


def _send(s: Steps, fds: Sequence[Register]) -> None:
    """One message with a line and the descriptors: SCM_RIGHTS."""
    text = s.constant(_TOLD)
    rights = s.space(
        16 + 4 * len(fds), struct.pack("=Qii", 16 + 4 * len(fds), socket.SOL_SOCKET, socket.SCM_RIGHTS)
    )
    for number, fd in enumerate(fds):
        s.store(fd, rights.at(16 + 4 * number, 4))
    vector = s.space(16, struct.pack("=QQ", 0, text.length))
    s.store(text, vector.at(0, 8))
    # name and its length, vector and how many, rights and their bytes, flags
    message = s.space(56, struct.pack("=7Q", 0, 0, 0, 1, 0, rights.length, 0))
    s.store(vector, message.at(16, 8))
    s.store(rights, message.at(32, 8))
    s.call("sendmsg", STATUS, message, 0)

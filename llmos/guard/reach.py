"""In a sandbox with a network of its own: addresses of granted machines, and who listens at them.

The granted addresses are put on the loopback interface, and for each granted port a socket listens there.
The sockets go to the broker, which carries what comes to the real machine (`relay`); no other packet leaves
this network. Standard library only, because the launcher runs without site-packages. Source: netdevice(7).

Not for UDP, nor for what is no TCP.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

Route = tuple[str, int]  # a numeric address and a TCP port

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_LOOPBACK = 1  # its index in every network namespace
_BACKLOG = 64


def listen(routes: Sequence[Route]) -> list[socket.socket]:
    """Bring up the loopback interface, and listen at each route. Needs CAP_NET_ADMIN here. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _up(control)
        for number, address in enumerate(dict.fromkeys(address for address, _ in routes)):
            _add(control, address, number)
    return [_listener(route) for route in routes]


def _up(control: socket.socket) -> None:
    request = struct.pack("16sh22x", b"lo", 0)
    (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
    fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _add(control: socket.socket, address: str, number: int) -> None:
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        with (
            contextlib.suppress(FileExistsError),
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control6,
        ):
            fcntl.ioctl(control6, _SIOCSIFADDR, struct.pack("16sIi", packed, 128, _LOOPBACK))
    elif not address.startswith("127."):  # all of these are there already
        label = f"lo:{number}".encode()
        for what, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.255")):
            request = struct.pack("16sHH4s16x", label, socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, what, request)


def _listener(route: Route) -> socket.socket:
    address, port = route
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(
            error.errno or errno.EADDRNOTAVAIL, f"{address} port {port}: {error.strerror}"
        ) from error
    return sock

"""Where the forks of the launcher come from: a process that does nothing else, and has little to copy.

It is the program of `native/`, in C, where that has been built (`forks`), and otherwise a process of this
module, started before the launcher has loaded the rest of its code. What is born there is a child of the
launcher (CLONE_PARENT), which hears of its end. The words between the two are the same for both:

    hello     of the C program alone: its version
    request   namespaces (u32), four bytes that say nothing, and the steps that a fork carries out before it
              has a job; by SCM_RIGHTS the socket on which it then waits for that
    answer    its pid, or minus the number of the error, in decimal

A job is one message on that socket: a byte for each of "memory kills are counted" and "files are mapped",
and by SCM_RIGHTS the steps (a file), the three streams, the status socket, and where there are such the
count of memory kills and the user namespace that maps a root caller's files. A fork that waits has no
descriptor of any call, and ends when its socket closes, or with the launcher.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct

from llmos.guard import kernel, mounts
from llmos.guard.layering import LayerError, layer, map_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

MAX_JOB_FDS, _MIN_JOB_FDS = 7, 5
HELLO = b"llmos forks 1"
_HELLO_S = 5.0
_MAX_REQUEST_BYTES = 1 << 14
_REQUEST = struct.Struct("=II")
# Python ignores or handles these, and an ignored signal stays ignored across exec.
_RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM)


class Nursery:
    """The launcher's end. `native`: it is the C program."""

    def __init__(self, sock: socket.socket, pid: int, *, native: bool) -> None:
        self._sock, self.pid, self.native = sock, pid, native

    def bear(self, namespaces: int, preparing: bytes) -> tuple[int, socket.socket]:
        """A fork that waits for its job: its pid, and the socket for the job. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                request = _REQUEST.pack(namespaces, 0) + preparing
                assert len(request) <= _MAX_REQUEST_BYTES
                socket.send_fds(self._sock, [request], [theirs.fileno()])
                answer = int(self._sock.recv(64) or b"-32")  # EPIPE
            if answer <= 0:
                raise OSError(-answer, f"clone: {os.strerror(-answer)}")
        except BaseException:
            ours.close()
            raise
        return answer, ours

    def close(self) -> None:
        """It ends; what was born there lives on."""
        self._sock.close()


def found(program: str) -> tuple[Nursery, LayerError | None]:
    """Make the mount namespace of the launcher and of all that it starts, and the nursery: `program`, or
    where that cannot be had one of ours. The error says why there is no such namespace, if there is
    none."""
    error, trusted = None, _trusted(program)  # while root is root: in a user namespace it is nobody
    try:
        _own_namespace()
    except LayerError as reason:
        error = reason
    os.chdir("/")
    return (_started(program) if trusted else None) or _of_ours(), error


def native(program: str) -> Nursery | None:
    """The C program, started; None where there is none, or none that can be trusted or started."""
    return _started(program) if _trusted(program) else None


def _trusted(program: str) -> bool:
    if not os.path.isfile(program):  # noqa: PTH113 - pathlib is what a nursery of ours does without
        return False  # and nothing is loaded that a nursery of ours would have to share
    from llmos.paths import refuse_unless_private

    try:
        refuse_unless_private(os.path.dirname(program))
        refuse_unless_private(program)
    except OSError:
        return False
    return True


def _started(program: str) -> Nursery | None:
    from llmos.paths import FORKS_NAME

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = os.pidfd_open(os.getpid())
    try:
        for fd in (theirs.fileno(), launcher):
            os.set_inheritable(fd, True)
        with contextlib.nullcontext() if os.geteuid() == 0 else kernel.kept_across_exec():
            pid = os.posix_spawn(program, (FORKS_NAME, str(theirs.fileno()), str(launcher)), {})
    except OSError:
        ours.close()
        return None
    finally:
        theirs.close()
        os.close(launcher)
    ours.settimeout(_HELLO_S)
    try:
        if ours.recv(64) == HELLO:
            ours.settimeout(None)
            return Nursery(ours, pid, native=True)
    except OSError:
        pass
    ours.close()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _of_ours() -> Nursery:
    """A fork of this process."""
    from llmos.guard import carry  # noqa: F401 - what the forks need, loaded before them

    launcher = os.pidfd_open(os.getpid())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.freeze()  # a collection in a fork would copy every page we share with it
    gc.disable()
    if (pid := kernel.clone(0)) == 0:
        ours.close()
        _serve(theirs, launcher)
    gc.unfreeze()
    gc.enable()
    theirs.close()
    os.close(launcher)
    return Nursery(ours, pid, native=False)


def _own_namespace() -> None:
    if os.geteuid() == 0:
        with layer("namespaces"):
            kernel.unshare(kernel.CLONE_NEWNS)
    else:
        uid, gid = os.geteuid(), os.getegid()
        with layer("user-namespace"):
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
            map_ids(os.open("/proc", os.O_PATH | os.O_CLOEXEC), (uid, gid), (uid, gid))
    with layer("mount-api"):
        mounts.follow_host()


# --- the nursery in Python ---------------------------------------------------------------------------


def _serve(sock: socket.socket, launcher: int) -> NoReturn:
    """In the nursery: fork for each request, until the launcher is gone."""
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    _die_with(launcher)
    _keep_only(sock.fileno(), launcher)
    while True:
        request, fds, _, _ = socket.recv_fds(sock, _MAX_REQUEST_BYTES, 1)
        if not fds:
            os._exit(0)
        namespaces, _ = _REQUEST.unpack_from(request)
        try:
            answer = kernel.clone(namespaces | kernel.CLONE_PARENT)
        except OSError as error:
            answer = -(error.errno or 1)
        if answer == 0:
            try:
                sock.close()
                _stand_by(fds[0], request[_REQUEST.size :], launcher)
            finally:  # whatever happens: the child is not a second nursery
                os._exit(125)
        os.close(fds[0])
        sock.send(b"%d" % answer)


def _die_with(launcher: int) -> None:
    """From here on the kernel sees to it; the launcher may have ended before."""
    kernel.die_with_parent()
    if select.select([launcher], [], [], 0)[0]:
        os._exit(125)


def _keep_only(*fds: int) -> None:
    """Of what the launcher has open; its standard streams are /dev/null."""
    for name in os.listdir("/proc/self/fd"):
        if (fd := int(name)) > 2 and fd not in fds:
            try:
                os.close(fd)
            except OSError:  # the one of the listing itself
                pass


def _stand_by(fd: int, preparing: bytes, launcher: int) -> NoReturn:
    """In the fork: get ready, wait for the job, and carry it out. What is amiss is told when there is
    somebody to tell."""
    from llmos.guard import carry, machine

    _die_with(launcher)
    registers = [-1] * machine.MAX_REGISTERS
    registers[machine.LAUNCHER] = launcher
    amiss: carry.Amiss | None = None
    try:
        carry.prepare(preparing, registers)
    except carry.Amiss as error:
        amiss = error
    data, fds = _job(fd)
    if len(data) != 2 or len(fds) != _MIN_JOB_FDS + data[0] + data[1]:
        os._exit(0)
    registers[machine.STDIN : machine.STATUS + 1] = fds[1:_MIN_JOB_FDS]
    if data[0]:
        registers[machine.KILLS] = fds[_MIN_JOB_FDS]
    if data[1]:
        registers[machine.USERNS] = fds[-1]
    try:
        if amiss:
            raise amiss
        code = carry.carry_out(os.pread(fds[0], os.fstat(fds[0]).st_size, 0), registers)
    except carry.Amiss as error:
        _tell(registers[machine.STATUS], error.line)
    except Exception as error:  # the fork must not fall back into the nursery's loop
        _tell(registers[machine.STATUS], carry.Amiss("launcher", type(error).__name__).line)
    else:
        carry.tell_the_end(code)
        os._exit(0)
    os._exit(125)


def _job(fd: int) -> tuple[bytes, list[int]]:
    """The message on the socket, which is closed then. Not `socket.recv_fds`: that is more to copy."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
    data, came, _, _ = sock.recvmsg(2, socket.CMSG_SPACE(MAX_JOB_FDS * 4))  # ints
    sock.close()
    return data, memoryview(came[0][2]).cast("i").tolist() if came else []


def _tell(fd: int, line: bytes) -> None:
    try:
        os.write(fd, line)
    except OSError:  # who has gone does not hear it
        pass

"""The broker's handle on the launcher: started when first needed, and again if it died.

What the process does, and what goes over the socketpair between the two, stands in `zygote`.
"""

from __future__ import annotations

import socket
import subprocess
import sys

from llmos.guard.zygote import JOB_FDS
from llmos.paths import PACKAGE_DIR

_BOOT = "import sys; sys.path.insert(0, sys.argv[3]); from llmos.guard.zygote import main; main()"


class Launcher:
    def __init__(self, stand_in: int) -> None:
        self._stand_in = stand_in
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None

    def submit(self, fds: list[int], flags: int) -> None:
        """Hand over one job: [job, stdin, stdout, stderr, status, filter], and its bits. Raises OSError."""
        assert len(fds) == JOB_FDS
        word = bytes([flags])
        try:
            socket.send_fds(self._ready(), [word], fds)
        except (BrokenPipeError, ConnectionError):
            self.close()
            socket.send_fds(self._ready(), [word], fds)

    def _ready(self) -> socket.socket:
        if self._sock is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(5)
            with theirs:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", "-c", _BOOT),
                        *(str(theirs.fileno()), str(self._stand_in), str(PACKAGE_DIR.parent)),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            self._sock = ours
        return self._sock

    def close(self) -> None:
        """End the launcher; commands that are not detached end with it."""
        if self._sock is not None and self._process is not None:
            self._sock.close()
            self._process.wait()
        self._sock = self._process = None

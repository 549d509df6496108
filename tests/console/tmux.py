"""A person at a terminal: tmux with one pane, keys in, screen out."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Terminal:
    """One detached tmux server of its own, on a socket in `folder`; use as a context manager."""

    def __init__(
        self, folder: Path, argv: Sequence[str], env: Mapping[str, str], cwd: Path, *, columns: int = 110
    ) -> None:
        self._server = ["tmux", "-f", "/dev/null", "-S", str(folder / "tmux")]
        settings = [f"{name}={value}" for name, value in env.items()]
        # The trap keeps the pane's own shell alive when Ctrl-C ends the program; children do not inherit it.
        command = "trap : INT; " + shlex.join(["env", *settings, *argv]) + "; echo exit:$?; sleep 600"
        size = ["-x", str(columns), "-y", "40"]
        self._tmux("new-session", "-d", *size, "-c", str(cwd), "/bin/sh", "-c", command)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def keys(self, *keys: str) -> None:
        """Press keys by tmux's names: Enter, C-c, Tab, …"""
        self._tmux("send-keys", *keys)

    def type(self, text: str, *, enter: bool = True) -> None:
        self._tmux("send-keys", "-l", text)
        if enter:
            self.keys("Enter")

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def paste(self, text: str) -> None:
        """As a terminal pastes: bracketed, where the program has asked for that."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p")

    def screen(self, *, styled: bool = False, joined: bool = True) -> str:
        """What stands there; `styled` with the sequences of its colours, `joined`: wrapped lines whole."""
        return self._tmux("capture-pane", "-p", *(["-e"] if styled else ["-J"] if joined else []))

    def wait_still(self, for_s: float = 0.5) -> None:
        """Until nothing has changed for so long."""
        before, since = "", time.monotonic()
        while time.monotonic() - since < for_s:
            if (shown := self.screen()) != before:
                before, since = shown, time.monotonic()
            time.sleep(0.05)

    def wait(self, text: str, timeout_s: float = 20.0) -> str:
        """The screen, once `text` stands on it; AssertionError with the last screen otherwise."""
        deadline = time.monotonic() + timeout_s
        while text not in (shown := self.screen()):
            assert time.monotonic() < deadline, f"{text!r} did not appear in\n{shown}"
            time.sleep(0.05)
        return shown

    def wait_gone(self, text: str, timeout_s: float = 20.0) -> str:
        deadline = time.monotonic() + timeout_s
        while text in (shown := self.screen()):
            assert time.monotonic() < deadline, f"{text!r} is still in\n{shown}"
            time.sleep(0.05)
        return shown

    def _tmux(self, *words: str) -> str:
        done = subprocess.run([*self._server, *words], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout

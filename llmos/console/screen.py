"""The two streams a request is shown on, and the status line that lives on the second.

stdout carries the answer alone, so that it can be piped; everything else goes to stderr. A stream that
is a terminal gets colours (unless NO_COLOR, https://no-color.org, or TERM=dumb) and harmless text.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import TextIO

from llmos.console import safetext
from llmos.console.look import Look
from llmos.console.words import told

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_APPEAR_S = 0.3  # quick answers need no status line


def look_of(stream: TextIO) -> Look:
    terminal = stream.isatty()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "") in ("", "dumb")
    return Look(terminal, terminal and not plain, width(stream) if terminal else 0)


def write(stream: TextIO, text: str) -> None:
    """Write all of `text` now; bytes that were not UTF-8 leave as the bytes they were.

    Raises BrokenPipeError when the reader has gone. (BufferedWriter may report a short write as success
    there, so the descriptor is written to directly.)
    """
    if not text:
        return
    stream.flush()
    raw = text.encode("utf-8", "surrogateescape" if not _has_other_surrogates(text) else "backslashreplace")
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a StringIO
        stream.write(text)
        return
    _write_all(descriptor, raw)


def say(text: str) -> None:
    """One dim line for the person, on stderr."""
    write(sys.stderr, said(text))


def said(text: str) -> str:
    """The line that `say` writes."""
    look = look_of(sys.stderr)
    return look.style("dim", f"llmos: {look.text(told(text))}") + "\n"


def _write_all(descriptor: int, raw: bytes) -> None:
    left = memoryview(raw)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # some other program made the terminal non-blocking
            select.select([], [descriptor], [])


def _has_other_surrogates(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" and not "\udc80" <= char <= "\udcff" for char in text)


def width(stream: TextIO) -> int:
    """Columns of the terminal behind `stream`; 0 (no limit) when it is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


class StatusLine:
    """`⠹ thinking 3.2 s`, redrawn in place on a terminal, gone afterwards; silent everywhere else."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self._look = look_of(self._stream)
        self._label = ""
        self._since = 0.0
        self._drawn = False

    def show(self, label: str) -> None:
        """Set what is going on; the clock starts anew when the label changes."""
        if label != self._label:
            self._label, self._since = label, time.monotonic()

    def tick(self) -> None:
        elapsed_s = time.monotonic() - self._since
        if not (self._live and self._label) or elapsed_s < _APPEAR_S:
            return
        frame = _FRAMES[int(elapsed_s * 10) % len(_FRAMES)]
        line = f"{frame} {safetext.one_line(self._label)} {elapsed_s:.1f} s"
        room = width(self._stream)
        self._put("\r" + self._look.style("dim", safetext.clip(line, room - 1) if room else line) + "\x1b[K")
        self._drawn = True

    def clear(self) -> None:
        """Take the line away, so that other text can be written; it comes back with the next tick."""
        if self._drawn:
            self._put("\r\x1b[K")
            self._drawn = False

    def stop(self) -> None:
        self.clear()
        self._label = ""

    def _put(self, text: str) -> None:
        write(self._stream, text)

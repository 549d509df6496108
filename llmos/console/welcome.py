"""The shell's first words and its prompt, on the screen before the line editor is there.

Importing prompt_toolkit takes longer than all else before the first prompt, so a prompt stands there first.
What is typed meanwhile waits in the terminal, unseen, until the editor draws its own prompt over this one and
reads it. The prompt itself is made here for both.
"""

from __future__ import annotations

import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from llmos import __version__
from llmos.console import safetext, screen
from llmos.console.words import tr

INTRO = (
    "llmos {version}: say what you want done here. Each step is judged by the policy, runs in a sandbox and "
    "is recorded. /help lists more, Tab completes, Ctrl-C cancels a request, Ctrl-D leaves."
)
MARK = "» "


def stream() -> TextIO:
    """Where the prompt is drawn."""
    return sys.stdout if sys.stdout.isatty() else sys.stderr


def folder() -> str:
    """The current folder as the prompt has it: its name alone where the line is needed for what is typed."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return "?"
    shown = safetext.one_line(tilde(str(here)))
    if safetext.columns(shown) * 2 > (screen.width(sys.stderr) or 80):
        shown = safetext.one_line(f"…/{here.name}")
    return shown


def tilde(path: str) -> str:
    home = str(Path.home())
    return "~" + path[len(home) :] if path == home or path.startswith(home + "/") else path


@contextmanager
def shown(terminal: int) -> Iterator[None]:
    """The first words and the prompt, until the block ends; `terminal` is where keys come from."""
    intro = safetext.wrap(tr(INTRO).format(version=__version__), screen.width(sys.stderr) or 100)
    screen.write(sys.stderr, "\n".join(intro) + "\n")
    look = screen.look_of(stream())
    with _unseen_keys(terminal):
        screen.write(stream(), f"{look.style('bold', folder())} {look.style('cyan', MARK)}")
        try:
            yield
        finally:
            screen.write(stream(), "\r\x1b[K" if look.terminal else "\n")


@contextmanager
def _unseen_keys(terminal: int) -> Iterator[None]:
    """Without echo: the editor shows what was typed once it reads it."""
    before = termios.tcgetattr(terminal)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)

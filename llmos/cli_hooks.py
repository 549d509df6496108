"""`llmos init SHELL`: llmos inside the person's own shell. `llmos man`: the manual. `llmos complete`: names.

`installed` is what a package puts beside the program: the manual and completion files for the three shells.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from llmos import cli_args, cli_requests
from llmos.console import screen
from llmos.errors import LlmosError
from llmos.hooks import completion

FOLDER = Path(completion.__file__).parent


def init(options: argparse.Namespace) -> int:
    """Print the hook: the shell's half from a file, the completion from the argument tables."""
    file = FOLDER / f"init.{options.shell}"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    text = text.replace("@LLMOS@", _command()).replace("@PYTHON@", shlex.quote(sys.executable))
    screen.write(sys.stdout, text + completions(options.shell))
    return 0


def completions(shell: str) -> str:
    """The completion for one shell, of every verb there is."""
    write = {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}[shell]
    shared = completion.command("", "", cli_args.parser("ask", "llmos"))
    commands = [
        completion.command(name, verb.summary, cli_args.parser(name, f"llmos {name}"))
        for name, verb in cli_args.VERBS.items()
        if not verb.hidden
    ]
    return write(commands, shared)


def installed() -> dict[str, str]:
    """The files below a prefix's `share/`, by their place there, with their text."""
    from llmos import cli_manual

    started = '__llmos() { command llmos "$@"; }\n'
    return {
        **cli_manual.pages(),
        "bash-completion/completions/llmos": started + completions("bash"),
        "zsh/site-functions/_llmos": f'#compdef llmos\n{started}{completions("zsh")}_llmos "$@"\n',
        "fish/vendor_completions.d/llmos.fish": completions("fish"),
    }


def man(_options: argparse.Namespace) -> int:
    from llmos import cli_manual
    from llmos.console import words

    screen.write(sys.stdout, cli_manual.page(words.told))
    return 0


def _command() -> str:
    """`llmos` as it was called, so that the hook means the same one wherever it runs."""
    started = Path(sys.argv[0])
    if started.name == "llmos" and os.access(started, os.X_OK):
        return shlex.quote(str(started.absolute()))
    return f"{shlex.quote(sys.executable)} -m llmos"


def complete(options: argparse.Namespace) -> int:
    """Names, one a line; nothing at all where the daemon does not answer: Tab starts no daemon."""
    try:
        with cli_requests.connected(start=False) as daemon:
            method, params, key, name = _SOURCES[options.kind]
            found = daemon.call(method, params, timeout_s=2.0).get(key) or ()
    except LlmosError:
        return 0
    names = dict.fromkeys(str(item[name]) for item in found if item.get(name))
    screen.write(sys.stdout, "".join(f"{word}\n" for word in names if word.isprintable()))
    return 0


_SOURCES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "tools": ("tools", {}, "tools", "name"),
    "inbox": ("inbox.list", {}, "waiting", "id"),
    "watch": ("trigger.list", {"kind": "watch"}, "triggers", "id"),
    "schedule": ("trigger.list", {"kind": "schedule"}, "triggers", "id"),
    "undo": ("history", {"limit": 50}, "entries", "undo_id"),
    "requests": ("history", {"limit": 50}, "entries", "id"),
}
VERBS = {"init": init, "man": man, "complete": complete}

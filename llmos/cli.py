"""The `llmos` command: find the verb, run it, turn its error into a sentence and an exit code.

Every verb lives in a module of its own that is imported when it is used, so that the client starts
quickly; this one imports the standard library alone.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from llmos import __version__
from llmos.errors import LlmosError

SIGPIPE_CODE = 141  # what a shell reports for a program ended by SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code of the contract (docstring of `llmos.errors`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()  # here, where a reader that has gone is expected, and not at exit
        return code
    except LlmosError as error:
        _report(error)
        return error.exit_code
    except BrokenPipeError:
        return _hush()
    except KeyboardInterrupt:
        print("\nllmos: stopped", file=sys.stderr)
        return 5
    except SystemExit as stop:  # argparse, after printing a verb's help
        return int(stop.code or 0)


def _run(words: list[str]) -> int:
    if words in (["--version"], ["-V"]):
        print(f"llmos {__version__}")
        return 0
    if words in (["--help"], ["-h"], ["help"]):
        from llmos import cli_args

        sys.stdout.write(cli_args.overview())
        return 0
    if not words and sys.stdin is not None and sys.stdin.isatty():
        from llmos.cli_shell import shell

        return shell()
    return _dispatch(words)


def _dispatch(words: list[str]) -> int:
    from llmos import cli_args

    verb, options = cli_args.parse(words)
    if module := cli_args.VERBS[verb].module:
        return int(importlib.import_module(f"llmos.{module}").VERBS[verb](options))
    from llmos import cli_requests

    if verb in cli_requests.VERBS:
        return cli_requests.VERBS[verb](options)
    from llmos import cli_service

    return cli_service.VERBS[verb](options)


def _report(error: LlmosError) -> None:
    """Say what happened and what to do next, on stderr."""
    from llmos.console import render, screen

    text = render.error(str(error), error.next_step, screen.look_of(sys.stderr))
    try:
        screen.write(sys.stderr, text)
    except BrokenPipeError:
        _hush()


def _hush() -> int:
    """The reader has gone: keep the interpreter from complaining at exit, and say what `head` causes."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(null, stream.fileno())
    return SIGPIPE_CODE

"""`llmos model …`: list, pull, use, rm and show, over `engine.store`; the others are `model_cli_measure`'s.

Runs in the client's process and needs no daemon. `run` gives the exit code of the contract; results go
to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from llmos import model_cli_measure
from llmos.engine import store
from llmos.engine.download import Progress
from llmos.errors import LlmosError, ModelError

_EXAMPLES = """\
examples:
  llmos model list
  llmos model pull default
  llmos model use tiny
  llmos model use ~/models/my-model.gguf
  llmos model show default --verify
  llmos model rm large
  llmos model bench default
  llmos model quantize default --bits 4
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="llmos model",
        description="The weights llmos thinks with: fetched once, verified by hash, kept in your cache.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    listed = _verb(verbs, "list", "what there is and what is here", "llmos model list --json")
    listed.add_argument("--json", action="store_true", help="print one JSON array")
    _verb(verbs, "pull", "fetch a model unless it is here", "llmos model pull default", "NAME")
    _verb(verbs, "use", "answer with this model from now on", "llmos model use tiny", "NAME|PATH")
    _verb(verbs, "rm", "delete a model's file", "llmos model rm large", "NAME")
    shown = _verb(
        verbs, "show", "what is known of one model", "llmos model show default --verify", "NAME|PATH"
    )
    shown.add_argument("--verify", action="store_true", help="hash the whole file again")
    shown.add_argument("--json", action="store_true", help="print one JSON object")
    model_cli_measure.add_verbs(partial(_verb, verbs))
    return top


def _verb(verbs: Any, name: str, summary: str, example: str, argument: str = "") -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(
        name, help=summary, description=summary, epilog=f"example: {example}"
    )
    if argument:
        made.add_argument("name", metavar=argument)
    return made


def run(argv: list[str]) -> int:
    """Carry out one verb; 0, or the error's exit code after a sentence and the next step on stderr."""
    try:
        options = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed help (0) or the usage (2)
        return int(stop.code or 0)
    try:
        _VERBS[options.verb](options)
    except LlmosError as error:
        print(f"llmos: {error}\n  {error.next_step}".rstrip(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        kept = "; a pull goes on from here the next time" if options.verb == "pull" else ""
        print(f"llmos: stopped{kept}", file=sys.stderr)
        return 5
    return 0


def _list(options: argparse.Namespace) -> None:
    used = store.current()
    names = [card.name for card in store.catalogue()]
    infos = [store.show(name) for name in names]
    try:
        infos += [] if used in names else [store.show(used)]
    except ModelError as error:
        print(f"llmos: the model in use cannot be had: {error}", file=sys.stderr)
    if options.json:
        print(json.dumps([_facts(info, used) for info in infos], ensure_ascii=False))
        return
    for info in infos:
        mark = "*" if info.card.name == used else " "
        size = f"{info.card.num_bytes / 1e6:.0f} MB"
        print(f"{mark} {info.card.name:8} {info.state:9} {size:>8}  {info.card.title}  {info.card.summary}")


def _pull(options: argparse.Namespace) -> None:
    with _progress_bar(options.name) as progress:
        path = store.pull(options.name, progress)
    print(path)


def _use(options: argparse.Namespace) -> None:
    print(f"llmos now uses {store.use(options.name)}")
    print("a daemon that is running goes on with the old one until: llmos daemon reload", file=sys.stderr)


def _rm(options: argparse.Namespace) -> None:
    print(f"freed {store.remove(options.name) / 1e6:.0f} MB")


def _show(options: argparse.Namespace) -> None:
    facts = _facts(store.show(options.name, verify=options.verify), store.current())
    if options.json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    for key, value in facts.items():
        print(f"{key + ':':15} {', '.join(value) if isinstance(value, list) else value}")


_VERBS = {"list": _list, "pull": _pull, "use": _use, "rm": _rm, "show": _show, **model_cli_measure.VERBS}


def _facts(info: store.Info, used: str) -> dict[str, object]:
    card = info.card
    return {
        "name": card.name,
        "title": card.title,
        "summary": card.summary,
        "license": card.license,
        "state": info.state,
        "in_use": card.name == used,
        "num_bytes": card.num_bytes,
        "partial_bytes": info.partial_bytes,
        "sha256": card.sha256,
        "path": str(info.path),
        "sources": [str(source) for source in card.sources],
    }


@contextmanager
def _progress_bar(name: str) -> Iterator[Progress]:
    """A bar at a terminal; elsewhere one line per step, so that logs stay readable."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(name)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(name, total=None)

        def progress(done: int, total: int, what: str) -> None:
            bars.update(task, completed=done, total=total, description=f"{name}: {what}")

        yield progress


class _Lines:
    """Progress as lines: one for each step, and for every tenth of the way."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: tuple[int, str] = (-1, "")

    def __call__(self, done: int, total: int, what: str) -> None:
        tenth = 10 * done // total if total else 0
        if what != self._last[1] or tenth > self._last[0]:
            self._last = (tenth, what)
            print(f"{self._name}: {10 * tenth}% {what}", file=sys.stderr, flush=True)

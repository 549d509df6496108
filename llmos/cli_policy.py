"""`llmos policy remembered|forget`: the person's own records, read where they lie.

They need no daemon: answers given for good are files of the person who asks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

from llmos.cli_requests import print_json
from llmos.console import listings, screen
from llmos.errors import UsageError


def remembered(options: argparse.Namespace) -> int:
    """List the answers given for good, each with the id that `forget` takes."""
    from llmos.guard.remembered import Remembered

    rules = [asdict(rule) for rule in Remembered().rules() if rule.uid == os.getuid()]
    if options.json:
        print_json({"remembered": rules})
    else:
        screen.write(sys.stdout, listings.remembered(rules, screen.width(sys.stdout)))
    return 0


def forget(options: argparse.Namespace) -> int:
    """Take back one of them; from then on it is asked again."""
    from llmos.guard.remembered import Remembered

    if len(options.words) != 1:
        raise UsageError("which one shall be forgotten?", "See their ids: llmos policy remembered")
    gone = Remembered().forget(options.words[0], os.getuid())
    if options.json:
        print_json({"forgotten": asdict(gone)})
    else:
        screen.say(f"forgotten; it will be asked again: {gone.command}")
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {"remembered": remembered, "forget": forget}

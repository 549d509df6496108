"""`llmos policy remembered|forget` and `llmos audit`: the person's own records, read where they lie.

They need no daemon: answers given for good and the journal are files of the person who asks. A system
service's journal is for who may read that file.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict

from llmos import paths
from llmos.cli_requests import print_json
from llmos.console import listings, screen
from llmos.errors import CallFailed, UsageError


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


def audit(options: argparse.Namespace) -> int:
    """`tail` prints the newest lines as they stand; `verify` walks the chain of hashes (exit 5: broken)."""
    from llmos.guard.audit import Audit

    journal = Audit(paths.audit_file())
    if options.action == "tail":
        for line in journal.tail(options.n):
            print_json(line)
        return 0
    found = journal.verify()
    if options.json:
        print_json({"ok": not found.problem, "lines": found.lines, "problem": found.problem})
        return 5 if found.problem else 0
    if found.problem:
        raise CallFailed(f"{journal.path}: {found.problem}", "Compare it with a backup; somebody changed it.")
    screen.write(sys.stdout, f"{found.lines} lines, each as it was written: {journal.path}\n")
    return 0

"""The verbs of `llmos policy`: ask the rules, try them before they go live, list and revoke answers.

`check`, `explain`, `list`, `remembered` and `forget` ask the daemon, whose policy is the one in force.
`test` and `replay` read the files and the journal where they lie: they are for rules not in force yet.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos import paths
from llmos.cli_input import call_args, current_folder, policy_text
from llmos.cli_requests import connected, print_json
from llmos.console import listings, render, rules, screen
from llmos.console.look import Look
from llmos.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from llmos.guard.policy import Policy
    from llmos.guard.rulefile import Sheet

JsonObject = dict[str, Any]

VERDICT_CODES = {"allow": 0, "ask": 4, "deny": 3}
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _show(text: str) -> None:
    screen.write(sys.stdout, text)


def _ask_daemon(method: str, params: JsonObject) -> JsonObject:
    with connected() as daemon:
        return daemon.call(method, params, timeout_s=30.0)


# --- check and explain --------------------------------------------------------------------------------


def check(options: argparse.Namespace) -> int:
    """The verdict on a command or a call, nothing runs; exit 0 allow, 4 ask, 3 deny."""
    return _verdict(options, "policy.check", render.verdict)


def explain(options: argparse.Namespace) -> int:
    """Each effect, the rules that matched it, by tier, and the facts they looked at; exit as `check`."""
    return _verdict(options, "policy.explain", rules.explained)


def _verdict(options: argparse.Namespace, method: str, shown: Callable[[JsonObject, Look], str]) -> int:
    found = _ask_daemon(method, {**_subject(options), **_circumstances(options)})
    if options.json:
        print_json(found)
    else:
        if notice := found.get("notice"):
            screen.write(sys.stderr, render.notice(str(notice), screen.look_of(sys.stderr)))
        _show(shown(found, screen.look_of(sys.stdout)))
    return VERDICT_CODES.get(str(found.get("verdict")), 5)


def _subject(options: argparse.Namespace) -> JsonObject:
    words: list[str] = options.words
    if options.call:
        if words:
            raise UsageError("a command and a call at once", "Give either --call TOOL JSON or a command.")
        return {"tool": options.call[0], "args": call_args(options.call[1])}
    if not words or not any(word.strip() for word in words):
        raise UsageError("no command to check", "Write it after --: llmos policy check -- rm -r build")
    return {"command": words[0] if len(words) == 1 else words}


def _circumstances(options: argparse.Namespace) -> JsonObject:
    params: JsonObject = {"cwd": current_folder()}
    if options.policy:
        params["policy"] = policy_text(options.policy)
    if options.unattended:
        params["unattended"] = True
    if options.write:
        params["write"] = [str(Path(path).expanduser().absolute()) for path in options.write]
    return params


# --- test ---------------------------------------------------------------------------------------------


def test(options: argparse.Namespace) -> int:
    """Run every example and report every failure; exit 2 for a file that is no policy, 5 for a wrong example.

    Without files: what is in force here, in all tiers. With files: these, beside the shipped rules.
    """
    problems = list(_problems([Path(word) for word in options.words]))
    broken = [problem for problem in problems if not _is_example(problem)]
    if options.json:
        print_json({"ok": not problems, "problems": [_as_json(problem) for problem in problems]})
    else:
        for problem in problems:
            screen.write(
                sys.stderr, render.error(str(problem), problem.next_step, screen.look_of(sys.stderr))
            )
        _show(
            f"{len(problems)} of the policy's files and examples are wrong\n" if problems else "all is well\n"
        )
    return 2 if broken else 5 if problems else 0


def _problems(files: list[Path]) -> Iterator[ConfigError]:
    """Every mistake: a file that cannot be read does not keep the others from being tried."""
    from llmos.guard import rulefile
    from llmos.guard.policy import Cedar, Policy, check_condition

    sheet = rulefile.Sheet()
    for set_name in rulefile.SETS[1:] if not files else ("default",):
        base = rulefile.shipped(set_name, paths.builtin_policy_dir())
        sheet += rulefile.Sheet(tuple(rule for rule in base.rules if rule not in sheet.rules))
    tested = () if files else sheet.rules
    for file, tier in _files_to_test(files):
        try:
            more = rulefile.of_file(file, tier, (0, os.geteuid()))
            sheet += more
        except ConfigError as error:
            yield error
            continue
        for rule in more.rules:
            try:
                check_condition(rule)
                tested = (*tested, rule)
            except ConfigError as error:
                yield error
    good = [rule for rule in sheet.rules if rule in tested or rule.tier is rulefile.Tier.BUILTIN]
    yield from Policy(rulefile.Sheet(tuple(good)), Cedar(good)).failures(tested)


def _files_to_test(files: list[Path]) -> list[tuple[Path, Any]]:
    from llmos.guard import rulefile

    if files:
        return [(file, rulefile.Tier.SYSTEM) for file in files]
    places = (
        (paths.system_policy_dir(), rulefile.Tier.SYSTEM),
        (paths.user_policy_dir(), rulefile.Tier.USER),
    )
    return [(file, tier) for folder, tier in places for file in rulefile.files(folder)]


def _is_example(problem: ConfigError) -> bool:
    return bool(re.search(r": (?:not_)?match\.\d+$", problem.where))


def _as_json(problem: ConfigError) -> JsonObject:
    return {"where": problem.where, "problem": str(problem), "next_step": problem.next_step}


# --- replay -------------------------------------------------------------------------------------------


def replay(options: argparse.Namespace) -> int:
    """Judge the journal's decisions again under a changed policy, and show what would differ; exit 0."""
    from llmos.guard import replay as replaying
    from llmos.guard.audit import Audit

    journal = Audit(Path(options.journal) if options.journal else paths.audit_file())
    lines = list(journal.lines())
    changes = list(replaying.replay(lines, _changed_policy(options), _moment(options.since)))
    differing = [change for change in changes if change.differs]
    if options.json:
        ways = Counter(f"{change.before} -> {change.after}" for change in differing)
        summary = {"judged": len(changes), "differ": len(differing), "changes": dict(ways)}
        print_json({**summary, "decisions": [asdict(change) for change in differing]})
    else:
        rows = [asdict(change) for change in differing]
        _show(rules.replayed(rows, len(changes), screen.width(sys.stdout)))
    return 0


def _changed_policy(options: argparse.Namespace) -> Policy:
    """The policy in force here, with the files, folder or set that are to be tried. Raises ConfigError."""
    from llmos import config
    from llmos.guard import rulefile
    from llmos.guard.policy import Policy

    user = Path(options.policy_dir) if options.policy_dir else paths.user_policy_dir()
    if options.policy_dir and not user.is_dir():
        raise UsageError(f"there is no folder {user}", "Name a folder of policy files.")
    dirs = (paths.builtin_policy_dir(), paths.system_policy_dir(), user)
    sheet: Sheet = rulefile.load(options.set or config.load().policy, dirs)
    for file in options.file:
        sheet += rulefile.of_file(Path(file), rulefile.Tier.SYSTEM, (0, os.geteuid()))
    return Policy.of(sheet)


def _moment(text: str) -> float:
    """`7d`, `2h`, or a date; raises UsageError."""
    if not text:
        return 0.0
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return time.time() - int(found[1]) * _UNITS_S[found[2]]
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"):
        try:
            return time.mktime(time.strptime(text, form))
        except ValueError:
            continue
    raise UsageError(f"{text!r} is no time", "Write it as 2h, 7d or 2026-01-31.")


# --- list ---------------------------------------------------------------------------------------------


def show_rules(options: argparse.Namespace) -> int:
    """The rules in force for you, by tier, with what is granted and hidden."""
    found = _ask_daemon("policy.list", {})
    if options.json:
        print_json(found)
    else:
        _show(rules.rules(found, screen.width(sys.stdout)))
    return 0


# --- answers given for good -----------------------------------------------------------------------------


def remembered(options: argparse.Namespace) -> int:
    """List the answers given for good, each with the id that `forget` takes."""
    found = _ask_daemon("policy.remembered", {})
    if options.json:
        print_json(found)
    else:
        _show(listings.remembered(found["remembered"], screen.width(sys.stdout)))
    return 0


def forget(options: argparse.Namespace) -> int:
    """Take back one of them; from then on it is asked again."""
    if len(options.words) != 1:
        raise UsageError("which one shall be forgotten?", "See their ids: llmos policy remembered")
    found = _ask_daemon("policy.forget", {"rule_id": options.words[0]})
    if options.json:
        print_json(found)
    else:
        screen.say(f"forgotten; it will be asked again: {found['forgotten']['command']}")
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": check,
    "explain": explain,
    "test": test,
    "replay": replay,
    "list": show_rules,
    "remembered": remembered,
    "forget": forget,
}

"""Answers given for good: "always" and "never" as narrow rules, kept in the person's own settings.

A rule speaks of one shape of call (the same programs, the same options, the same words that are not
paths, in the same order) in the same folders, for one user, and ends after 90 days. It turns `ask` into
`allow` or, for "never", into `deny`; the gate consults it for nothing else, so it never reaches a denial, nor
lets pass what a rule wants asked every time. What is not understood, signals and started programs are never
allowed so.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmos import paths
from llmos.errors import ConfigError, UsageError, unwritten
from llmos.guard import places, shelltext
from llmos.guard.characters import Opaque
from llmos.guard.sandbox import is_within
from llmos.guard.shelltext import Command
from llmos.messages import Pipelines, Plan, Shell, Start, new_id

DAYS = 90
_PATH = "<path>"


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    uid: int
    shape: str  # JSON: the call with its paths taken out
    prefix: str  # the folder that all of it lies in, to show
    reads_below: tuple[str, ...]  # what it reads lies in these folders
    writes_below: tuple[str, ...]  # what it writes lies in these, and is none of them
    exactly: tuple[str, ...]  # what it wrote or deleted: nothing else may be deleted
    network: tuple[str, ...]
    command: str  # as it was when the person said always
    expires: float  # seconds since the epoch
    targets: tuple[str, ...] = ()  # units and containers, by name
    never: bool = False  # the answer was "never": it is denied


class Remembered:
    """The rules of one file (default: remembered.json in the settings folder)."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or paths.config_dir() / "remembered.json"

    def find(self, plan: Plan, uid: int, cwd: str) -> Rule | None:
        """The rule that answers for this plan, if there is one; "never" before "always"."""
        rules = [rule for rule in self.rules() if rule.uid == uid]
        allowed = _may_be_remembered(plan)
        rules = [rule for rule in rules if rule.never or allowed]
        if not rules:
            return None
        wanted = shape(plan, cwd)
        found = [rule for rule in rules if rule.shape == wanted and _covers(rule, plan)]
        return max(found, key=lambda rule: rule.never, default=None)

    def add(self, plan: Plan, uid: int, cwd: str, *, never: bool = False) -> Rule:
        """Remember a plan. Raises UsageError for one that is asked about every time, DiskFull, CallFailed."""
        if not never and not _may_be_remembered(plan):
            raise UsageError("this is asked about every time", "Answer yes instead of always.")
        expires = time.time() + DAYS * 86400
        effects = plan.effects
        rule = Rule(
            id=new_id(),
            uid=uid,
            shape=shape(plan, cwd),
            prefix=os.path.commonpath(
                [cwd, *_folders((*effects.reads, *effects.writes, *effects.deletes), cwd)]
            ),
            reads_below=_folders(effects.reads, cwd),
            writes_below=_folders(effects.writes, cwd),
            exactly=(*effects.writes, *effects.deletes),
            network=effects.network,
            command=plan.command,
            expires=expires,
            targets=effects.targets,
            never=never,
        )
        self._save([*self.rules(), rule])
        return rule

    def rules(self) -> list[Rule]:
        """What is remembered and has not expired. Raises ConfigError for a file that was broken."""
        try:
            found = json.loads(self._text())
            rules = [_rule(entry) for entry in found]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"it cannot be read: {error}", "Mend the file, or remove it.", where=str(self.file)
            ) from error
        return [rule for rule in rules if rule.expires > time.time()]

    def _text(self) -> bytes:
        """What the file holds, unless somebody else could have written it. Raises ConfigError, OSError."""
        with self.file.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
                raise ConfigError(
                    "others could have written it, so no answer in it counts",
                    f"Look at it, then: chown {os.geteuid()} {self.file}; chmod 600 {self.file}",
                    where=str(self.file),
                )
            return file.read()

    def forget(self, rule_id: str, uid: int | None = None) -> Rule:
        """Revoke one. Raises UsageError when there is none of that id."""
        rules = self.rules()
        gone = next((rule for rule in rules if rule.id == rule_id and uid in (None, rule.uid)), None)
        if gone is None:
            raise UsageError(f"nothing is remembered as {rule_id}", "See: llmos policy remembered")
        self._save([rule for rule in rules if rule is not gone])
        return gone

    def _save(self, rules: list[Rule]) -> None:
        text = json.dumps([asdict(rule) for rule in rules], indent=1)
        try:
            folder = paths.ensure_private(self.file.parent)
            fd, name = tempfile.mkstemp(dir=folder, prefix=".remembered-")
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            Path(name).replace(self.file)
        except OSError as error:
            message = f"{self.file} cannot be written: {error.strerror}"
            step = f"Check the space and permissions of {self.file.parent}."
            raise unwritten(error, message, step) from error


def shape(plan: Plan, cwd: str) -> str:
    """What makes two calls the same question: everything but the paths the policy has judged."""
    judged = {*plan.effects.reads, *plan.effects.writes, *plan.effects.deletes}

    def blank(value: Any) -> Any:
        if isinstance(value, str):
            return _PATH if places.real(os.path.join(cwd, value)) in judged else value
        return [blank(item) for item in value] if isinstance(value, list | tuple) else value

    texts = [step.text for step in plan.steps if isinstance(step, Shell | Pipelines)]
    if len(texts) < max(1, len(plan.steps)):
        return json.dumps(
            [plan.call.tool, {key: blank(value) for key, value in sorted(plan.call.args.items())}]
        )
    try:
        parsed = [shelltext.parse(text, cwd=cwd, home="/") for text in texts]
    except Opaque:
        return json.dumps([plan.call.tool, cwd, plan.command])
    commands = [
        [pipeline.joiner, *(_command_shape(command, blank) for command in pipeline.commands)]
        for pipelines in parsed for pipeline in pipelines
    ]  # fmt: skip
    return json.dumps([plan.call.tool, commands])


def _command_shape(command: Command, blank: Any) -> list[Any]:
    """Repeated paths count as one: `rm a b c` asks what `rm a` asks."""
    program, *rest = command.argv
    words: list[Any] = []
    for word in rest:
        fresh = word if word.startswith("-") else blank(word)
        if fresh != _PATH or words[-1:] != [_PATH]:
            words.append(fresh)
    redirects = [[redirect.fd, redirect.op, blank(redirect.target.text)] for redirect in command.redirects]
    return [list(command.variables), program, words, redirects]


def _may_be_remembered(plan: Plan) -> bool:
    """Signals, limits and started programs are asked about each time: a pid is not a kind of call.

    So are packages and what weakens a container.

    Nor is what is not understood: the same words may do something else tomorrow.
    """
    starts = any(isinstance(step, Start) for step in plan.steps)
    effects = plan.effects
    each_time = (effects.signals, effects.resources, effects.settings, effects.packages, effects.opaque)
    return not any(each_time) and not starts


def _folders(found: tuple[str, ...], cwd: str) -> tuple[str, ...]:
    """The folder of each path; the folder of the request stands for itself."""
    return tuple(dict.fromkeys(path if path == cwd else os.path.dirname(path) for path in found))


def _covers(rule: Rule, plan: Plan) -> bool:
    """Whether all effects lie where those of the remembered call lay."""
    effects, home = plan.effects, places.home_of(rule.uid)

    def below(path: str, folders: tuple[str, ...]) -> bool:
        """A home, or what lies above it, is too wide to mean all below it: there only the names in it."""
        return any(
            os.path.dirname(path) == folder or path == folder
            if is_within(home, folder)
            else is_within(path, folder)
            for folder in folders
        )

    return (
        set(effects.network) <= set(rule.network)
        and set(effects.targets) <= set(rule.targets)
        and set(effects.deletes) <= set(rule.exactly)
        and all(below(path, rule.reads_below) for path in effects.reads)
        and all(
            path in rule.exactly or (below(path, rule.writes_below) and path not in rule.writes_below)
            for path in effects.writes
        )
    )


def _rule(entry: dict[str, Any]) -> Rule:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return Rule(**fields)

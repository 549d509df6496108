"""A plan as questions for the policy: one for each effect, with everything a rule may look at.

The names here are the rules' vocabulary (docs/policy.md); `SCHEMA` tells Cedar their types, so that a
misspelt fact is an error when the rule is loaded and not a rule that never matches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmos.guard import places, programs
from llmos.guard.sandbox import is_within
from llmos.messages import Effects, JsonObject, Plan, ProgramUse, Start

MAX_EFFECTS = 2000  # more than that is judged as unknown

SCHEMA = """
entity User; entity Path; entity Program; entity Host; entity Process; entity Tool;
type Facts = {
  tool: String, read_only: Bool, opaque: Bool, unattended: Bool, uid: Long,
  path: String, in_write_roots: Bool, owner: String, secret: Bool, device: Bool, kernel: Bool,
  own: Bool, foreign_home: Bool, boot: Bool,
  program: String, described: Bool, options: Set<String>, subcommand: String, host: String,
  own_process: Bool,
};
action read, write, delete appliesTo { principal: User, resource: Path, context: Facts };
action execute, start appliesTo { principal: User, resource: Program, context: Facts };
action connect appliesTo { principal: User, resource: Host, context: Facts };
action signal appliesTo { principal: User, resource: Process, context: Facts };
action run, reply appliesTo { principal: User, resource: Tool, context: Facts };
"""

_NOTHING: JsonObject = {
    "path": "", "in_write_roots": False, "owner": "nobody", "secret": False, "device": False, "kernel": False,
    "own": False, "foreign_home": False, "boot": False, "program": "", "described": False, "options": [],
    "subcommand": "", "host": "", "own_process": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """Who asks, from where, and what they may write."""

    uid: int
    home: str
    cwd: str
    write_roots: tuple[str, ...] = ()
    unattended: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """May this be done? `subject` is what a person is told it is about."""

    action: str
    subject: str
    context: JsonObject

    def request(self, uid: int) -> JsonObject:
        """The Cedar request (https://docs.cedarpolicy.com/auth/authorization.html)."""
        return {
            "principal": {"type": "User", "id": str(uid)},
            "action": {"type": "Action", "id": self.action},
            "resource": {"type": _RESOURCES.get(self.action, "Path"), "id": self.subject},
            "context": self.context,
        }


_RESOURCES = {
    "execute": "Program", "start": "Program", "connect": "Host", "signal": "Process", "run": "Tool",
    "reply": "Tool",
}  # fmt: skip


def questions(plan: Plan, facts: Facts) -> list[Question]:
    """All that is to be judged of a plan; the first is always about the plan as a whole."""
    effects = plan.effects
    total = sum(map(len, (effects.reads, effects.writes, effects.deletes, effects.programs)))
    opaque = bool(effects.opaque) or total > MAX_EFFECTS
    common = {
        **_NOTHING, "tool": plan.call.tool, "read_only": plan.read_only and not opaque, "opaque": opaque,
        "unattended": facts.unattended, "uid": facts.uid,
    }  # fmt: skip
    whole = Question("reply" if plan.reply is not None else "run", plan.call.tool, common)
    return [whole, *_effects(plan, facts, common)]


def _effects(plan: Plan, facts: Facts, common: JsonObject) -> Iterator[Question]:
    effects = plan.effects
    for action, found in (("read", effects.reads), ("write", effects.writes), ("delete", effects.deletes)):
        for path in found:
            yield Question(action, path, common | _path(path, facts))
    for use in _uses(effects):
        yield Question("execute", use.program, common | _program(use))
    for step in plan.steps:
        if isinstance(step, Start):
            use = ProgramUse(program=programs.locate(step.argv[0]))
            yield Question("start", use.program, common | _program(use))
    for host in effects.network:
        yield Question("connect", host, common | {"host": host})
    for pid in effects.signals:
        yield Question("signal", str(pid), common | {"own_process": _is_own_process(pid, facts.uid)})


def _path(path: str, facts: Facts) -> JsonObject:
    return {
        "path": path,
        "in_write_roots": is_stream(path) or any(is_within(path, root) for root in facts.write_roots),
        "owner": places.owner_of(path, facts.uid),
        "secret": places.is_secret(path, facts.home),
        "device": places.is_device(path),
        "kernel": places.is_kernel(path),
        "own": places.is_own(path),
        "foreign_home": places.is_foreign(path, facts.home),
        "boot": places.is_boot(path),
    }


def is_stream(path: str) -> bool:
    """/dev/null and its like take writes and keep nothing."""
    return path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/stdout", "/dev/stderr")


def _uses(effects: Effects) -> list[ProgramUse]:
    """Every use of a program, and the programs of which no use is known, for the name alone."""
    used = {use.program for use in effects.uses}
    bare = (ProgramUse(program=program) for program in effects.programs if program not in used)
    return [*dict.fromkeys(effects.uses), *bare]


def _program(use: ProgramUse) -> JsonObject:
    return {
        "program": use.program,
        "described": programs.is_described(use.program),
        "options": list(use.options),
        "subcommand": use.subcommand,
    }


def _is_own_process(pid: int, uid: int) -> bool:
    """The caller's, and neither init nor llmos itself. One that is gone is nobody's to protect."""
    if pid <= 2 or pid == os.getpid():
        return False
    try:
        return Path(f"/proc/{pid}").stat().st_uid == uid
    except OSError:
        return True

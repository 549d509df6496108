"""A plan as questions for the policy: one for each effect, with everything a rule may look at.

The names here are the rules' vocabulary (docs/policy.md); `SCHEMA` tells Cedar their types, so that a
misspelt fact is an error when the rule is loaded and not a rule that never matches.
"""

from __future__ import annotations

import datetime
import os
import pwd
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmos.guard import places, programs
from llmos.guard.hosts import granted, split_port
from llmos.guard.identity import stand_in_id
from llmos.guard.sandbox import is_within
from llmos.messages import Effects, JsonObject, Plan, ProgramUse, Start

MAX_EFFECTS = 2_000  # more than that is judged as unknown
MAX_JUDGED = 20_000  # more than that is refused: judging it would hold up everybody else

SCHEMA = """
entity User; entity Path; entity Program; entity Host; entity Process; entity Tool; entity Target;
type Facts = {
  tool: String, read_only: Bool, opaque: Bool,
  uid: Long, user: String, groups: Set<String>, session: String, unattended: Bool,
  cwd: String, hour: Long, weekday: String,
  effects: Long, reads: Long, writes: Long, deletes: Long, network_granted: Bool,
  path: String, in_write_roots: Bool, owner: String, secret: Bool, sensitive: Bool, device: Bool,
  kernel: Bool, own: Bool, foreign_home: Bool, boot: Bool, accounts: Bool, startup: Bool, control: Bool,
  holds_protected: Bool, dev: Bool, discards: Bool, too_many: Bool,
  program: String, described: Bool, options: Set<String>, subcommand: String,
  host: String, port: Long, own_process: Bool, target: String,
};
action read, write, delete appliesTo { principal: User, resource: Path, context: Facts };
action execute, start appliesTo { principal: User, resource: Program, context: Facts };
action connect appliesTo { principal: User, resource: Host, context: Facts };
action signal appliesTo { principal: User, resource: Process, context: Facts };
action resource, unit, container, setting, package appliesTo {
  principal: User, resource: Target, context: Facts
};
action run, reply appliesTo { principal: User, resource: Tool, context: Facts };
"""

_NOTHING: JsonObject = {
    "path": "", "in_write_roots": False, "owner": "nobody", "secret": False, "sensitive": False,
    "device": False, "kernel": False, "own": False, "foreign_home": False, "boot": False,
    "accounts": False, "startup": False, "control": False, "holds_protected": False, "dev": False,
    "discards": False, "too_many": False, "program": "",
    "described": False, "options": [], "subcommand": "", "host": "", "port": 0, "own_process": False,
    "target": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """Who asks, from where, when, and what they may write. `hide` and `hosts` come from the policy."""

    uid: int
    home: str
    cwd: str
    write_roots: tuple[str, ...] = ()
    unattended: bool = False
    user: str = ""
    groups: tuple[str, ...] = ()
    session: str = ""
    now: datetime.datetime = field(default_factory=datetime.datetime.now)  # local time
    hide: tuple[re.Pattern[str], ...] = ()
    hosts: frozenset[str] = frozenset()  # granted by the system's policy
    processes: frozenset[str] = frozenset()  # users whose processes it grants to root


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
            "resource": {"type": _RESOURCES.get(self.action, "Path"), "id": _text(self.subject)},
            "context": self.context,
        }


_RESOURCES = {
    "execute": "Program", "start": "Program", "connect": "Host", "signal": "Process", "run": "Tool",
    "reply": "Tool", "resource": "Target", "unit": "Target", "container": "Target", "setting": "Target",
    "package": "Target",
}  # fmt: skip


def questions(plan: Plan, facts: Facts) -> list[Question]:
    """All that is to be judged of a plan; the first is always about the plan as a whole."""
    common = _common(plan, facts)
    if common["effects"] > MAX_JUDGED:
        return [Question("run", plan.call.tool, common | {"too_many": True})]
    whole = Question("reply" if plan.reply is not None else "run", plan.call.tool, common)
    return [whole, *_effects(plan, facts, common)]


def _common(plan: Plan, facts: Facts) -> JsonObject:
    effects = plan.effects
    kinds = (effects.reads, effects.writes, effects.deletes, effects.programs, effects.targets)
    total = sum(map(len, kinds))
    opaque = bool(effects.opaque) or total > MAX_EFFECTS
    return {
        **_NOTHING, "tool": plan.call.tool, "read_only": plan.read_only and not opaque, "opaque": opaque,
        "uid": facts.uid, "user": facts.user, "groups": list(facts.groups), "session": facts.session,
        "unattended": facts.unattended, "cwd": _text(facts.cwd), "hour": facts.now.hour,
        "weekday": WEEKDAYS[facts.now.weekday()], "effects": total, "reads": len(effects.reads),
        "writes": len(effects.writes), "deletes": len(effects.deletes),
        "network_granted": not opaque and _only_granted_network(plan, facts),
    }  # fmt: skip


WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _only_granted_network(plan: Plan, facts: Facts) -> bool:
    """Whether reaching hosts that the system's policy grants is all that it changes."""
    effects = plan.effects
    changes = effects.writes or effects.deletes or effects.signals or effects.targets
    starts = any(isinstance(step, Start) for step in plan.steps)
    if changes or starts or not effects.network:
        return False
    return all(granted(target, facts.hosts) for target in effects.network)


def _effects(plan: Plan, facts: Facts, common: JsonObject) -> Iterator[Question]:
    effects = plan.effects
    for action, found in (("read", effects.reads), ("write", effects.writes), ("delete", effects.deletes)):
        for path in found:
            context = common | _path(path, facts)
            if action == "delete":
                context["holds_protected"] = places.holds_protected(path, facts.home)
            yield Question(action, path, context)
    for use in _uses(effects):
        yield Question("execute", use.program, common | _program(use))
    for step in plan.steps:
        if isinstance(step, Start):
            use = ProgramUse(program=programs.locate(step.argv[0]))
            yield Question("start", use.program, common | _program(use))
    for target in effects.network:
        host, port = split_port(target)
        yield Question(
            "connect",
            target,
            common | {"host": host, "port": port, "network_granted": granted(target, facts.hosts)},
        )
    for pid in effects.signals:
        yield Question("signal", str(pid), common | {"own_process": _is_own_process(pid, facts)})
    for action, targets in (("resource", effects.resources), ("unit", effects.units),
                            ("container", effects.containers), ("setting", effects.settings),
                            ("package", effects.packages)):  # fmt: skip
        for target in targets:
            yield Question(action, target, common | {"target": _text(target), **_target(target, facts)})


def _path(path: str, facts: Facts) -> JsonObject:
    kind = places.kind_of(path, facts.home, facts.hide)
    return {
        "path": _text(path),
        "in_write_roots": is_stream(path) or any(is_within(path, root) for root in facts.write_roots),
        "owner": places.owner_of(path, facts.uid),
        "dev": is_within(path, "/dev"),
        "discards": path == "/dev/null",
        **{name: getattr(kind, name) for name in _KINDS},
    }


_KINDS = ("secret", "sensitive", "device", "kernel", "own", "foreign_home", "boot", "accounts", "startup",
          "control")  # fmt: skip


def _text(path: str) -> str:
    """As Unicode: bytes of a name that are no UTF-8 become U+FFFD, for rules that look at the text."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


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
        "program": _text(use.program),
        "described": programs.is_described(use.program),
        "options": list(use.options),
        "subcommand": use.subcommand,
    }


def _target(target: str, facts: Facts) -> JsonObject:
    """`own_process` of what names a process; facts of a place that is opened to a container."""
    kind, _, name = target.partition(":")
    if kind == "pid":
        return {"own_process": name.isdecimal() and _is_own_process(int(name), facts)}
    if kind in _PLACES and name.startswith("/"):
        return _opened(name, facts)
    return {}


_PLACES = ("mount", "mount-ro", "context", "device")


def _opened(path: str, facts: Facts) -> JsonObject:
    """A place that a container gets: all below it counts, and a socket is as good read-only."""
    found = _path(path, facts)
    holds = places.holds_protected(path, facts.home) or places.holds_control(path, facts.home)
    return {**found, "holds_protected": holds, "control": found["control"] or places.is_socket(path)}


def _is_own_process(pid: int, facts: Facts) -> bool:
    """The caller's, and neither init's, the kernel's nor llmos' own. One that is gone needs no protection."""
    if pid <= 2 or pid == os.getpid():
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return True
    ours = b"python" in words[0] and any(_OURS.search(word) for word in words[1:5])
    return _is_owners(owner, facts) and not ours and not _is_kernels(pid, words)


def _is_owners(owner: int, facts: Facts) -> bool:
    """Whether a caller's processes run as that: what root starts through llmos runs as nobody."""
    if facts.uid != 0 or owner == 0:
        return owner == facts.uid
    granted_to_root = facts.processes
    return owner == stand_in_id() or "*" in granted_to_root or _name_of(owner) in granted_to_root


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _is_kernels(pid: int, words: list[bytes]) -> bool:
    """A kernel thread: no command line, and the kernel's own thread starter for a parent."""
    if words[0]:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1] == b"2"
    except (OSError, IndexError):
        return False


_OURS = re.compile(rb"\bllmos[./](?:planner|guard|daemon|__main__)")

"""Policy files: TOML read into rules, loud about every mistake, and a rule written as Cedar.

    extends = "default"          (shipped sets only) the rules of that set come first
    hide = ["**/*.kdbx"]         places that are secrets
    keep = ["/srv/hr"]           places of which nothing leaves for a cloud backend
    [grants]                     (files of /etc/llmos/policies only)
    write = ["/srv/www"]         network = ["deb.debian.org"]         processes = ["www-data"]
    [[rule]]
    id = "files.change"          decision = "allow" | "ask" | "deny" (never left out)
    every_time = true            (optional) "always" is no answer to it; so it is in every later tier
    why = "It changes files."    when = 'action == Action::"write" && context.in_write_roots'
    match = ["touch a", {writes = ["a"]}]        not_match = ["ls"]

A later tier can only make things stricter: an `allow`, or a grant outside /etc, is an error in the file.
A file that others could have written is not read at all.
"""

from __future__ import annotations

import enum
import errno
import itertools
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from llmos.errors import ConfigError
from llmos.guard import hiding
from llmos.messages import Decision, Message, ProgramUse

SETS = ("builtin", "default", "readonly", "unattended")
# What a file may hold, so that no caller's file holds the others up, or brings down a parser. A request's own
# rules are read while the request waits, so they are few.
MAX_BYTES = 1 << 18
MAX_LINE = 2500  # tomllib takes the square of a dotted key's length
MAX_NESTING = 64  # of brackets in a condition: Cedar's parser uses the stack for each
MAX_RULES = {"builtin": 512, "system": 512, "user": 256, "session": 32}
MAX_EXAMPLES = 4  # for each of that many rules, on the average


class Tier(enum.IntEnum):
    """Where a rule comes from; a later tier can only tighten."""

    BUILTIN = 0
    SYSTEM = 1
    USER = 2
    SESSION = 3

    @property
    def word(self) -> str:
        return self.name.lower()


class Example(Message):
    """Effects written out, for what is no shell command, and the circumstances a rule may look at."""

    tool: str = "example"
    command: str = ""  # shell text: then its own effects count
    read_only: bool = False
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    uses: tuple[ProgramUse, ...] = ()
    network: tuple[str, ...] = ()
    signals: tuple[int, ...] = ()
    resources: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    opaque: str = ""
    reply: str | None = None
    unattended: bool = False
    user: str = "person"
    groups: tuple[str, ...] = ("person",)
    session: str = ""
    hour: int = Field(default=12, ge=0, le=23)
    weekday: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] = "monday"
    granted_hosts: tuple[str, ...] = ()
    too_many: bool = False  # as many files as are never judged


class _RuleText(Message):
    id: str = Field(pattern=r"^[a-z][a-z0-9_.-]{1,60}$")
    decision: Literal["allow", "ask", "deny"]
    why: str = Field(min_length=5, max_length=300)
    when: str = Field(min_length=1, max_length=2000)
    match: tuple[str | Example, ...] = Field(min_length=1)
    not_match: tuple[str | Example, ...] = ()
    every_time: bool = False  # no answer is remembered for it


class _Grants(Message):
    write: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()


class _File(Message):
    extends: Literal["default"] | None = None
    hide: tuple[str, ...] = Field(default=(), max_length=256)
    keep: tuple[str, ...] = Field(default=(), max_length=256)
    grants: _Grants = _Grants()
    rule: tuple[_RuleText, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    decision: Decision
    why: str
    when: str
    match: tuple[str | Example, ...]
    not_match: tuple[str | Example, ...]
    tier: Tier
    where: str  # FILE:LINE
    every_time: bool = False  # asked each time, whatever was answered before


@dataclass(frozen=True, slots=True)
class Sheet:
    """What one file, or several, say."""

    rules: tuple[Rule, ...] = ()
    hide: tuple[str, ...] = ()
    write: tuple[str, ...] = ()  # write roots granted
    network: tuple[str, ...] = ()  # hosts granted
    processes: tuple[str, ...] = ()  # users whose processes root may signal and limit
    keep: tuple[str, ...] = ()  # patterns, as in `hide`

    def __add__(self, other: Sheet) -> Sheet:
        """Both; raises ConfigError for an id that is given twice."""
        seen = {rule.id: rule.where for rule in self.rules}
        for rule in other.rules:
            if rule.id in seen:
                message = f"the rule {rule.id} also stands in {seen[rule.id]}"
                raise ConfigError(message, "Rename one.", where=rule.where)
            seen[rule.id] = rule.where
        return Sheet(
            (*self.rules, *other.rules),
            tuple(dict.fromkeys((*self.hide, *other.hide))),
            (*self.write, *other.write),
            (*self.network, *other.network),
            (*self.processes, *other.processes),
            tuple(dict.fromkeys((*self.keep, *other.keep))),
        )


# --- which files --------------------------------------------------------------------------------------


def load(set_name: str, dirs: Sequence[Path]) -> Sheet:
    """Everything in `dirs`: the shipped folder (of which one set is read), then the system's, the user's.

    Raises ConfigError, also for an id given twice.
    """
    sheet = shipped(set_name, dirs[0])
    for folder, tier in zip(dirs[1:], (Tier.SYSTEM, Tier.USER), strict=False):
        sheet += of_folder(folder, tier)
    return sheet


def shipped(set_name: str, folder: Path) -> Sheet:
    if set_name not in SETS[1:]:
        raise ConfigError(f"there is no policy set {set_name!r}", f"Use one of: {', '.join(SETS[1:])}.")
    return of_file(folder / "builtin.toml", Tier.BUILTIN) + of_file(folder / f"{set_name}.toml", Tier.BUILTIN)


def named_set(set_name: str, folder: Path, tier: Tier) -> Sheet:
    """What a shipped set adds to the default, as rules of a later tier (`--policy readonly`)."""
    if set_name not in SETS[2:]:
        raise ConfigError(
            f"there is no policy set {set_name!r}", f"Use one of {', '.join(SETS[2:])}, or a file."
        )
    file = folder / f"{set_name}.toml"
    return of_text(_text(file, None), str(file), tier, extends=False)


def files(folder: Path) -> tuple[Path, ...]:
    try:
        return tuple(sorted(file for file in folder.iterdir() if file.suffix == ".toml"))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise ConfigError(str(error), f"Make {folder} readable.", where=str(folder)) from error


def of_folder(folder: Path, tier: Tier, owner: int | None = None) -> Sheet:
    """Every .toml file of a folder that only root and `owner` (default: who runs this) can write."""
    owners = (0, os.geteuid() if owner is None else owner)
    found = files(folder)
    if found:
        _check_trust(folder.stat(), str(folder), owners)
    sheet = Sheet()
    for file in found:
        sheet += of_file(file, tier, owners)
    return sheet


def of_file(file: Path, tier: Tier, owners: tuple[int, ...] | None = None) -> Sheet:
    """One file; `owners` are who may have written it (None: it came with llmos)."""
    return of_text(_text(file, owners), str(file), tier)


def _text(file: Path, owners: tuple[int, ...] | None) -> str:
    try:
        with open(file, "rb", opener=_without_waiting) as opened:
            status = os.fstat(opened.fileno())
            if owners is not None:
                _check_trust(status, str(file), owners)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            return _whole(opened.read(MAX_BYTES + 1), file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(error), "Make it a readable UTF-8 file.", where=f"{file}:1") from error


def _without_waiting(path: str, flags: int) -> int:
    """A FIFO of that name would hold up whoever reads it, for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _whole(data: bytes, file: Path) -> str:
    if len(data) > MAX_BYTES:  # half a policy would be another policy
        raise ConfigError(f"it is longer than {MAX_BYTES} bytes", "Make it shorter.", where=str(file))
    return data.decode("utf-8")


def _check_trust(found: os.stat_result, place: str, owners: tuple[int, ...]) -> None:
    """A policy that somebody else could write is somebody else's policy."""
    if found.st_uid not in owners:
        people = " or ".join(f"uid {uid}" for uid in dict.fromkeys(owners))
        raise ConfigError(
            f"it belongs to uid {found.st_uid}, and only {people} may give rules here",
            f"Make it theirs: sudo chown {owners[-1]} {place}",
            where=place,
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            "others can write it, so its rules are not trusted", f"Run: chmod go-w {place}", where=place
        )


# --- one file -------------------------------------------------------------------------------------------


def of_text(text: str, name: str, tier: Tier, *, extends: bool = True) -> Sheet:
    """The text of a policy file called `name`. Raises ConfigError naming line and key."""
    parsed = _parse(text, name)
    _check_size(parsed, name, tier)
    base = Sheet()
    if parsed.extends and extends:
        if tier is not Tier.BUILTIN:
            raise ConfigError("only shipped sets extend one", "Remove that key.", where=f"{name}: extends")
        base = of_file(Path(name).with_name(f"{parsed.extends}.toml"), Tier.BUILTIN)
    for pattern in (*parsed.hide, *parsed.keep):
        hiding.check(pattern, name)
    _check_grants(parsed.grants, name, tier)
    rules = tuple(_rules(parsed, text, name, tier))
    given = parsed.grants
    return base + Sheet(rules, parsed.hide, given.write, given.network, given.processes, parsed.keep)


def _rules(parsed: _File, text: str, name: str, tier: Tier) -> Iterator[Rule]:
    for number, found in enumerate(parsed.rule):
        where = f"{name}:{_line(text, number)}"
        if tier is not Tier.BUILTIN and found.decision == "allow":
            raise ConfigError(
                "a rule of your own can only make things stricter: ask or deny",
                "To stop being asked, answer `always` when you are; to open a folder, use --write.",
                where=f"{where}: rule.{number}.decision",
            )
        decision = Decision[found.decision.upper()]
        every_time = found.every_time or tier is not Tier.BUILTIN
        yield Rule(
            found.id, decision, found.why, found.when, found.match, found.not_match, tier, where, every_time
        )


def _check_grants(grants: _Grants, name: str, tier: Tier) -> None:
    if (grants.write or grants.network or grants.processes) and tier is not Tier.SYSTEM:
        raise ConfigError(
            "only the system's policy grants anything",
            "Let root write it to a file in /etc/llmos/policies, or open a folder with --write.",
            where=f"{name}: grants",
        )
    for root in grants.write:
        if not root.startswith("/") or root != os.path.normpath(root) or root == "/":
            raise ConfigError(
                f"{root!r} is no folder to grant", "Give it from /.", where=f"{name}: grants.write"
            )
    for user in grants.processes:
        if not re.fullmatch(r"[a-z_][a-z0-9_.-]{0,31}\$?|\*", user):
            raise ConfigError(
                f"{user!r} is no user whose processes to grant",
                'Name accounts, or "*" for everybody\'s.',
                where=f"{name}: grants.processes",
            )
    for host in grants.network:
        if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]{1,255}", host):
            message = f"{host!r} is not the name of one machine"
            raise ConfigError(message, "Write HOST or HOST:PORT.", where=f"{name}: grants.network")


def _check_size(parsed: _File, name: str, tier: Tier) -> None:
    """Every example is judged by every rule: their product is what a file costs."""
    most = MAX_RULES[tier.word]
    examples = sum(len(rule.match) + len(rule.not_match) for rule in parsed.rule)
    if len(parsed.rule) > most or examples > most * MAX_EXAMPLES:
        message = f"it has {len(parsed.rule)} rules with {examples} examples, which takes too long to check"
        raise ConfigError(message, f"At most {most} and {most * MAX_EXAMPLES} are read.", where=name)
    for number, rule in enumerate(parsed.rule):
        depths = itertools.accumulate((char in "([{") - (char in ")]}") for char in rule.when)
        if max(depths, default=0) > MAX_NESTING:
            where = f"{name}: rule.{number}.when"
            raise ConfigError(
                f"it has more than {MAX_NESTING} brackets in brackets", "Unfold it.", where=where
            )


def _parse(text: str, name: str) -> _File:
    if max(map(len, text.splitlines()), default=0) > MAX_LINE:
        raise ConfigError(f"a line has more than {MAX_LINE} characters", "Break it.", where=name)
    try:
        return _File.model_validate(tomllib.loads(text))
    except RecursionError as error:
        raise ConfigError("it is nested too deeply", f"Mend {name}.", where=name) from error
    except tomllib.TOMLDecodeError as error:
        line = found[1] if (found := re.search(r"at line (\d+)", str(error))) else "1"
        raise ConfigError(str(error), f"Mend the TOML syntax of {name}.", where=f"{name}:{line}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key: tuple[Any, ...] = first["loc"]
        number = key[1] if len(key) > 1 and isinstance(key[1], int) else 0
        where = f"{name}:{_line(text, number)}: {'.'.join(map(str, key))}"
        known = ", ".join(_RuleText.model_fields)
        raise ConfigError(first["msg"], f"Keys of a rule: {known}.", where=where) from error


def _line(text: str, number: int) -> int:
    """The line of the rule with this number: TOML's parser keeps none."""
    headers = [at for at, line in enumerate(text.splitlines(), 1) if line.strip() == "[[rule]]"]
    return headers[number] if number < len(headers) else 1


def to_cedar(rule: Rule) -> str:
    """A permit with the rule's id: which permits determine the answer tells which rules match."""
    return f"@id({json.dumps(rule.id)})\npermit (principal, action, resource) when {{ {rule.when}\n}};"

"""Debian packages, read: what is installed, whose a file is, what could be updated. By dpkg and apt.

The programs run in the sandbox as the caller and change nothing. How old the lists of available packages are
is told, because an old list hides updates.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Run
from llmos.toolbox.context import Args, Context, Draft, Pair, program, programs
from llmos.toolbox.values import human_duration, human_size, table

NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{0,99}(:[a-z0-9-]{1,20})?")
_FIELDS = ("Package", "db:Status-Status", "Version", "Architecture", "Installed-Size", "binary:Summary")
_FORMAT = "\\t".join(f"${{{field}}}" for field in _FIELDS) + "\\n"
_SIMILAR = 8
_LISTS = Path("/var/lib/apt/lists")
_STALE_S = 7 * 86400
_UPDATE = re.compile(r"(\S+?)/(\S+) (\S+) (\S+) \[upgradable from: (\S+)\]")


def checked(tool: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of packages, as Debian's policy spells them. Raises UsageError."""
    found = tuple(dict.fromkeys(name.strip().lower() for name in names))
    for name in found:
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{tool}: {name[:80]!r} is not the name of a package", "Names are like `nginx` or `libssl3`."
            )
    return found


def manager(name: str) -> str:
    """The program of this name; raises UsageError on a machine without Debian's package manager."""
    found = program(name)
    if not Path(found).exists():
        raise UsageError(
            f"this machine has no {name}: its packages are not Debian's",
            'Use its own program, as in: llmos "!rpm -q NAME"',
        )
    return found


def _draft(argv: tuple[str, ...], ok_codes: tuple[int, ...] = (0,)) -> Draft:
    return Draft((Run(argv=argv, ok_codes=ok_codes),), Effects(programs=programs(argv)))


# --- installed -----------------------------------------------------------------------------------


def plan_installed(args: Args, context: Context) -> Draft:
    (name,) = checked("package.installed", [args["name"]])
    manager("dpkg-query")
    stem = name.partition(":")[0]
    return _draft(("dpkg-query", "-W", f"-f={_FORMAT}", name, f"*{stem}*"), (0, 1))


def read_installed(outcome: Outcome, args: Args) -> Outcome:
    """The package itself, else those that are installed with the name in theirs."""
    name = str(args["name"]).strip().lower().partition(":")[0]
    lines = [line.split("\t") for line in outcome.stdout.splitlines()]
    rows = {tuple(line): None for line in lines if len(line) == 6 and line[1] == "installed"}
    if exact := [row for row in rows if row[0] == name]:
        return _told(outcome, "".join(_sentence(row) for row in exact))
    if leftover := [line for line in lines if line[0] == name and line[1] == "config-files"]:
        return _told(
            outcome, f"{name} is not installed; its configuration ({leftover[0][2]}) is still there.\n"
        )
    text = f"{name} is not installed.\n"
    if similar := [row for row in rows if name in row[0]][:_SIMILAR]:
        text += "Installed with that in their names:\n" + table([(row[0], row[2], row[5]) for row in similar])
    return _told(outcome, text)


def _sentence(row: Sequence[str]) -> str:
    name, _, version, arch, kilobytes, summary = row
    size = f", {human_size(int(kilobytes) * 1024)}" if kilobytes.isdecimal() else ""
    return f"{name} {version} is installed ({arch}{size}): {summary}\n"


def _told(outcome: Outcome, text: str) -> Outcome:
    """dpkg's complaint about a pattern that matched nothing is answered by the text."""
    return outcome.model_copy(update={"stdout": text, "stderr": "", "exit_code": 0})


# --- provides ------------------------------------------------------------------------------------


def plan_provides(args: Args, context: Context) -> Draft:
    manager("dpkg-query")
    return _draft(("dpkg-query", "-S", *_patterns(args["path"], context)), (0, 1))


def _patterns(path: str, context: Context) -> tuple[str, ...]:
    """A command's places, or a file's: where /bin is a link to /usr/bin, dpkg may know it by either name."""
    if not path.strip() or path.startswith("-"):
        raise UsageError(
            f"package.provides: {path!r} is no file or command", "Give a command, or a file's path."
        )
    if "/" not in path:
        return tuple(f"{place}/{_literal(path)}" for place in ("*bin", "*games"))
    whole = context.absolute(path)
    short = whole.removeprefix("/usr")
    return tuple(dict.fromkeys(map(_literal, (whole, short, f"/usr{short}"))))


def _literal(text: str) -> str:
    """For dpkg-query(1), whose patterns are the shell's."""
    return re.sub(r"([*?\[\\])", r"\\\1", text)


def read_provides(outcome: Outcome, args: Args) -> Outcome:
    rows = list(dict.fromkeys(_owners(outcome.stdout)))
    if rows:
        return _told(outcome, table([("PACKAGE", "FILE"), *rows]))
    text = (
        f"No installed package contains {args['path']}.\n"
        f"Among those that are not installed: apt-file search {args['path']}\n"
    )
    return _told(outcome, text)


def _owners(text: str) -> Iterator[tuple[str, str]]:
    """`a, b: /path`; lines about diversions name no owner."""
    for line in text.splitlines():
        packages, found, path = line.partition(": ")
        if found and not packages.startswith("diversion by "):
            yield from ((package.strip(), path) for package in packages.split(","))


# --- updates -------------------------------------------------------------------------------------


def plan_updates(args: Args, context: Context) -> Draft:
    manager("apt")
    return _draft(("apt", "list", "--upgradable"))


def read_updates(outcome: Outcome, args: Args) -> Outcome:
    if outcome.exit_code != 0:
        return outcome
    found = [match.groups() for match in map(_UPDATE.match, outcome.stdout.splitlines()) if match]
    rows = [
        (name, old, new, "security" if "security" in suites else "")
        for name, suites, new, _, old in found
        if not args["security"] or "security" in suites
    ]
    kind = "security update" if args["security"] else "update"
    text = table([("PACKAGE", "NOW", "AVAILABLE", ""), *rows]) if rows else ""
    count = f"{len(rows)} {kind}{'' if len(rows) == 1 else 's'} available.\n"
    return _told(outcome, text + count + _age())


def _age() -> str:
    """A warning where the lists are old, or were never fetched."""
    try:
        fetched = max(file.stat().st_mtime for file in _LISTS.glob("*Release"))
    except (OSError, ValueError):
        return "The lists of available packages were never fetched: sudo apt-get update\n"
    age_s = time.time() - fetched
    return f"The lists are {human_duration(age_s)} old: sudo apt-get update\n" if age_s > _STALE_S else ""


PAIRS = {
    "package.installed": Pair(plan_installed, read_installed),
    "package.provides": Pair(plan_provides, read_provides),
    "package.updates": Pair(plan_updates, read_updates),
}

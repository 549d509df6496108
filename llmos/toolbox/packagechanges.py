"""Debian packages, changed: installed and removed by apt-get, as root, through a transient unit of systemd.

What was approved is what is done: installing removes nothing, and removing takes away no package that was
not named, which a dry run right before finds out. Only root may; the maintainers' scripts run as root, as
always with packages, outside of any sandbox of ours. Without systemd there is no way to do it, and that is
said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llmos.errors import CallFailed
from llmos.messages import Caller, Change, Changed, Effects, JsonObject
from llmos.toolbox import packages, transient
from llmos.toolbox.context import Args, Context, Draft, Pair

_STATUS = Path("/var/lib/dpkg/status")
_TIMEOUT_S = 1800.0  # a slow mirror, a large package
_DRY_RUN_TIMEOUT_S = 120.0
_REMOVED = re.compile(r"^(?:Remv|Purg) (\S+)", re.MULTILINE)
_QUIET = ("-q", "-y", "-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Use-Pty=0")


def plan_install(args: Args, context: Context) -> Draft:
    return _draft("install", args["names"])


def plan_remove(args: Args, context: Context) -> Draft:
    return _draft("purge" if args["purge"] else "remove", args["names"])


def _draft(verb: str, given: Sequence[str]) -> Draft:
    names = packages.checked(f"package.{'install' if verb == 'install' else 'remove'}", given)
    packages.manager("apt-get")
    network = ("*",) if verb == "install" else ()
    return Draft((_step(verb, names),), Effects(packages=names, network=network))


def _step(verb: str, names: Sequence[str]) -> Change:
    shows = f"apt-get {verb} {' '.join(names)}"
    return Change(changer="package", args={"verb": verb, "names": list(names)}, shows=shows)


def change(args: JsonObject, caller: Caller) -> Changed:
    """Install, remove or purge. Raises Denied, CallFailed; apt-get checks everything before it changes
    anything."""
    verb, names = str(args["verb"]), [str(name) for name in args["names"]]
    before = _installed()
    return _install(names, before, caller) if verb == "install" else _remove(verb, names, before, caller)


def _install(names: list[str], before: dict[str, str], caller: Caller) -> Changed:
    _apt(["--no-remove", "install"], names, caller)
    after = _installed()
    if missing := [name for name in names if _bare(name) not in after]:
        raise CallFailed(
            f"apt-get ended well, but {', '.join(missing)} is not there", "See: apt-cache policy"
        )
    fresh = sorted(after.keys() - before.keys())
    updated = sorted(name for name in after if name in before and after[name] != before[name])
    told = [f"installed {name} {after[name]}\n" for name in fresh]
    told += [f"updated {name} {before[name]} -> {after[name]}\n" for name in updated]
    # What was only updated stays: the old version may not be had any more.
    reverse = (_step("remove", fresh),) if fresh else ()
    return Changed(text="".join(told) or f"{', '.join(names)} is installed already\n", reverse=reverse)


def _remove(verb: str, names: list[str], before: dict[str, str], caller: Caller) -> Changed:
    present = [name for name in names if _bare(name) in before]
    if not present and verb == "remove":
        return Changed(text=f"{', '.join(names)} is not installed\n")
    _check_nothing_else(verb, names, caller)
    _apt(["--no-auto-remove", verb], names, caller)
    gone = sorted(before.keys() - _installed().keys())
    if left := [name for name in present if _bare(name) not in gone]:
        raise CallFailed(f"apt-get ended well, but {', '.join(left)} is still there", "See: apt-cache policy")
    # A purge took the configuration along, which no installing brings back.
    reverse = (_step("install", gone),) if gone and verb == "remove" else ()
    return Changed(text="".join(f"removed {name} {before[name]}\n" for name in gone) or "nothing was left\n",
                   reverse=reverse)  # fmt: skip


def _check_nothing_else(verb: str, names: list[str], caller: Caller) -> None:
    dry = _apt(["-s", "--no-auto-remove", verb], names, caller, timeout_s=_DRY_RUN_TIMEOUT_S)
    named = set(map(_bare, names))
    if more := sorted(set(map(_bare, _REMOVED.findall(dry))) - named):
        raise CallFailed(
            f"others need {', '.join(names)} and would go too: {', '.join(more[:20])}",
            "Nothing was removed. Name them as well, if they are to go.",
        )


def _apt(words: list[str], names: list[str], caller: Caller, timeout_s: float = _TIMEOUT_S) -> str:
    argv = [packages.manager("apt-get"), *_QUIET, *words, "--", *names]
    ended = transient.run(argv, caller.uid, timeout_s=timeout_s)
    if ended.exit_code != 0:
        errors = [line[3:] for line in ended.output.splitlines() if line.startswith("E: ")]
        raise CallFailed(
            f"apt-get failed: {'; '.join(errors) or ended.output[-300:].strip() or ended.exit_code}",
            "Look for its name, or fetch the lists first: sudo apt-get update",
        )
    return ended.output


def _bare(name: str) -> str:
    return name.partition(":")[0]


def _installed() -> dict[str, str]:
    """Installed packages and their versions, from dpkg's own record (deb822, RFC 822 with paragraphs)."""
    found = {}
    for paragraph in _STATUS.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " "
        )
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields.get("Version", "?")
    return found


PAIRS = {"package.install": Pair(plan_install), "package.remove": Pair(plan_remove)}
CHANGERS = {"package": change}

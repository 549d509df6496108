"""Pins: what a call depended on when a person read it, and what is no longer so when it is to run again.

    manifest, policy     hashes of what is in force for this caller
    programs             hashes of the program files it starts
    effects              what it reads, writes and deletes; pids are left out, they are new each time
    places               what stands there: file, folder, link, nothing; `any` where an earlier step decides
    content              hashes of files named as preconditions

Looking happens with the caller's rights. What it does not protect against: a change between this look and the
run. The gate and the sandbox hold then as for any call; nothing here grants anything.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmos.daemon.hands import Hands, Judged
from llmos.daemon.request import Job
from llmos.guard.caller import as_caller
from llmos.messages import Effects, JsonObject, Pin, Pinned

MAX_HASHED_BYTES = 1 << 30
ANY = "any"
_PATHS = ("reads", "writes", "deletes")


def pin(judged: Judged, hands: Hands, job: Job, unchanged: Sequence[str] = ()) -> Pinned:
    """A judged call with all it depends on. Reads files, so it may block."""
    plan, effects = judged.plan, judged.plan.effects
    paths = dict.fromkeys(path for name in _PATHS for path in getattr(effects, name))
    with as_caller(job.caller):
        places = {path: kind(path) for path in paths}
        content = {path: hashed(str(Path(job.cwd, path))) for path in unchanged}
        programs = {path: hashed(path) for path in effects.programs}
    return Pinned(
        tool=plan.call.tool,
        args=plan.call.args,
        pin=Pin(
            command=plan.command,
            verdict=judged.verdict.decision.word,
            rule=judged.verdict.rule,
            reason=judged.verdict.reason,
            effects=effects.model_copy(update={"signals": ()}),
            places=places,
            content=content,
            programs=programs,
            manifest=_digest(hands.catalog.get(plan.call.tool).manifest.model_dump(mode="json")),
            policy=_digest([hands.gate.settings.policy, hands.rules(job.caller), job.rules]),
        ),
    )


def drift(old: Pin, new: Pin, *, repeatable: bool) -> Iterator[str]:
    """What is no longer as it was pinned, one sentence each."""
    if old.command != new.command:
        yield f"the command was {old.command!r} and is {new.command!r}"
    if old.manifest != new.manifest:
        yield "the tool's manifest was changed"
    if old.policy != new.policy:
        yield "the policy was changed"
    for name in sorted(old.programs.keys() | new.programs.keys()):
        if old.programs.get(name) != new.programs.get(name):
            yield f"the program {name} {_became(old.programs.get(name), new.programs.get(name))}"
    yield from _other_effects(old.effects, new.effects)
    for path, before in old.places.items():
        after = new.places.get(path, before)
        if ANY not in (before, after) and before != after and not (repeatable and before == "nothing"):
            yield f"{path} was {before} and is {after}"
    for path, digest in old.content.items():
        if new.content.get(path) != digest:
            yield f"the content of {path} was changed"
    if old.verdict != new.verdict and old.policy == new.policy:
        yield f"the verdict was {old.verdict} and is {new.verdict}"


def _became(before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return "is started now" if before is None else "is not started any more"
    return "is not there any more" if not after else "was changed"


def _other_effects(old: Effects, new: Effects) -> Iterator[str]:
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if name == "programs" or before == after:
            continue  # those are told of above
        gone, come = _difference(before, after)
        yield f"what it {_VERBS.get(name, name)} is not the same:{gone}{come}"


_VERBS = {"uses": "uses of its programs", "network": "connects to", "opaque": "hides"}


def _difference(before: Any, after: Any) -> tuple[str, str]:
    if not isinstance(before, tuple) or not isinstance(after, tuple):
        return f" was {before!r}", f" is {after!r}"
    gone = [_shown(item) for item in before if item not in after]
    come = [_shown(item) for item in after if item not in before]
    return (f" no longer {', '.join(gone[:5])}" if gone else ""), (
        f" now {', '.join(come[:5])}" if come else ""
    )


def _shown(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item.model_dump(mode="json"), ensure_ascii=False)


# --- looking -----------------------------------------------------------------------------------------


def kind(path: str) -> str:
    """What stands at a path, not followed; `nothing` also where it cannot be seen."""
    try:
        mode = Path(path).lstat().st_mode
    except OSError:
        return "nothing"
    for test, word in ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link")):
        if test(mode):
            return word
    return "something else"


def hashed(path: str) -> str:
    """SHA-256 of a regular file's content; empty when it cannot be read or is no file."""
    try:
        found = Path(path).stat()
    except OSError:
        return ""
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_HASHED_BYTES:
        return ""
    return _file_digest(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=256)
def _file_digest(path: str, *_identity: int) -> str:
    """Remembered by what changes when the file does (ctime cannot be set back)."""
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return ""


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def as_json(pinned: Sequence[Pinned]) -> list[JsonObject]:
    return [item.model_dump(mode="json") for item in pinned]

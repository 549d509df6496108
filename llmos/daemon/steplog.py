"""The steps of a request on disk, so that it can go on where a daemon was killed over it.

    running/PID.START/UID.ID.steps   the request, then each call before it runs, and after it what came of it
    cut-off/UID.ID.steps             of daemons that ended, until their owners take them up or a week is over

One JSON object a line, each on disk before the work goes on; a line that a crash cut off is passed over. A
call that began and has no outcome may have taken effect: it is told as such, and is not run again by itself.
The files hold what the request and its programs said, so nobody but the daemon may read them, and a request
that has come to its end leaves none.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmos import paths
from llmos.daemon.request import Job
from llmos.errors import UsageError, unwritten
from llmos.messages import JsonObject, Plan, ToolCall

log = logging.getLogger(__name__)
KEPT_S = 7 * 86_400


@dataclass(slots=True)
class Step:
    """One call that began. `outcome` is as the model is told it; None: nobody knows how it ended."""

    call: ToolCall
    command: str
    places: tuple[str, ...]  # that it read or wrote, as planned
    read_only: bool
    thought: int  # the how-manieth answer of the model proposed it
    outcome: str | None = None


@dataclass(slots=True)
class Story:
    """A request as far as it came."""

    file: Path
    uid: int
    id: str
    time: float
    route: str  # cloud:NAME, who had said that it wants to see outcomes
    request: JsonObject  # fields of methods.RequestParams, and `text`
    steps: list[Step] = field(default_factory=list)

    def told(self) -> JsonObject:
        """What `llmos resume --list` shows."""
        steps = [
            {"command": step.command, "outcome": "unknown" if step.outcome is None else "known"}
            for step in self.steps
        ]
        return {
            "id": self.id,
            "text": self.request["text"],
            "cwd": self.request["cwd"],
            "time": self.time,
            "steps": steps,
        }


class StepLog:
    """Of one running request. Its methods block for one write to disk."""

    def __init__(self, story: Story) -> None:
        self.story = story

    @classmethod
    def begin(cls, job: Job, file: Path, route: str) -> StepLog:
        """Raises DiskFull, CallFailed: what cannot be kept is not begun."""
        made = cls(Story(file, job.caller.uid, job.id, time.time(), route, _request(job)))
        head = {"uid": job.caller.uid, "id": job.id, "time": made.story.time, "route": route}
        made._append({**head, "request": made.story.request})
        return made

    def began(self, plan: Plan, thought: int) -> None:
        places = (*plan.effects.reads, *plan.effects.writes)
        step = Step(plan.call, plan.command, places, plan.read_only, thought)
        told = {"call": plan.call.model_dump(mode="json"), "command": step.command, "places": places}
        self._append({**told, "read_only": step.read_only, "thought": thought})
        self.story.steps.append(step)

    def ended(self, outcome: str) -> None:
        """What came of the call that began last."""
        self._append({"outcome": outcome})
        self.story.steps[-1].outcome = outcome

    def close(self) -> None:
        """The request has come to its end."""
        self.story.file.unlink(missing_ok=True)

    def put_by(self) -> None:
        """It ends here and may go on later."""
        with contextlib.suppress(OSError):
            _put_by(self.story.file)

    def _append(self, line: JsonObject) -> None:
        file = self.story.file
        try:
            number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(number, json.dumps(line).encode() + b"\n")
                os.fsync(number)
            finally:
                os.close(number)
        except OSError as error:
            message = f"{file} cannot be written: {error.strerror}"
            raise unwritten(error, message, "Mend that and try again.") from error


def _request(job: Job) -> JsonObject:
    return {
        "text": job.text,
        "cwd": job.cwd,
        "data_b64": None if job.data is None else base64.b64encode(job.data).decode("ascii"),
        "write": list(job.write_roots),
        "session": job.session,
        "policy": job.rules,
        "route": job.route,
        "backend": job.backend,
    }


# --- of daemons that ended -----------------------------------------------------------------------


def rescue(folder: Path) -> int:
    """Put by what a dead daemon's folder holds; how many. What is too old goes."""
    for file in _shelf().glob("*.steps"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > KEPT_S:
                file.unlink()
    count = 0
    for file in folder.glob("*.steps"):
        with contextlib.suppress(OSError):
            _put_by(file)
            count += 1
    return count


def _put_by(file: Path) -> None:
    paths.ensure_private(_shelf())
    file.rename(_shelf() / file.name)


def waiting(uid: int) -> list[Story]:
    """What this user may take up, oldest first."""
    found = [story for file in _shelf().glob(f"{uid}.*.steps") if (story := _read(file)) is not None]
    return sorted(found, key=lambda one: one.time)


def find(uid: int, request_id: str) -> Story:
    """The one of that id, the newest where it is empty. Raises UsageError."""
    found = [one for one in waiting(uid) if request_id in ("", one.id)]
    if not found:
        what = f"the request {request_id}" if request_id else "any request of yours"
        raise UsageError(f"no steps of {what} are kept to go on from", "See: llmos resume --list")
    return found[-1]


def take_up(story: Story, file: Path) -> StepLog:
    """Go on with it as `file`; one request alone can. Raises UsageError."""
    try:
        story.file.rename(file)
    except OSError as error:
        raise UsageError(f"{story.id} is being gone on with already", "See: llmos resume --list") from error
    story.file = file
    return StepLog(story)


def forget(story: Story) -> None:
    story.file.unlink(missing_ok=True)


def _shelf() -> Path:
    return paths.state_dir() / "cut-off"


def _read(file: Path) -> Story | None:
    """None for one that does not say what was asked, or is gone by now."""
    try:
        head, *lines = _lines(file)
        story = Story(file, head["uid"], head["id"], head["time"], head["route"], head["request"])
        for line in lines:
            if "outcome" in line:
                story.steps[-1].outcome = line["outcome"]
            else:
                story.steps.append(
                    Step(
                        ToolCall.model_validate(line["call"]), line["command"], tuple(line["places"]),
                        line["read_only"], line["thought"],
                    )
                )  # fmt: skip
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        log.warning("%s is left out", file)
        return None
    return story


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the last one, cut off by a crash: what it would have told did not begin
            return

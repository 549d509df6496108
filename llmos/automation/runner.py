"""One run of a script: step after step, groups at once, each a request like any other.

What a request is allowed to do is the daemon's to judge; nothing here approves, retries what was denied, or
goes on after a denial unless the script says so. A step that succeeded is not done again by a resumed run.

What it does not protect against: a script that means harm. It can ask for whatever its caller can ask for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.automation import values
from llmos.automation.record import Record
from llmos.automation.steps import Script, Step
from llmos.errors import CallFailed, LlmosError

JsonObject = dict[str, Any]
RETRY_WAIT_S = 1.0  # doubled each time
OK = "done"
SKIPPED = "skipped"
SHELL_TOOL = "shell.run"


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a step, ready to be sent."""

    step: Step
    id: str
    method: str
    params: JsonObject
    timeout_s: float
    alone: bool  # no other step runs beside it, so a person can be asked


@dataclass(frozen=True, slots=True)
class Done:
    """How a step ended: the contract's object, and its exit code."""

    result: JsonObject
    exit_code: int

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


Do = Callable[[Request], Done]
Tell = Callable[[Step, JsonObject], None]


class Stopped(Exception):
    """The run ends here, with this exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Runner:
    """Carries out one script. `do` makes a request, `tell` shows what came of a step."""

    def __init__(
        self,
        script: Script,
        inputs: JsonObject,
        cwd: Path,
        *,
        do: Do,
        tell: Tell,
        record: Record | None = None,
        plan_only: bool = False,
        keep_going: bool = False,
        found_done: Callable[[str], bool] = lambda request_id: False,
        locked: Mapping[str, Sequence[JsonObject]] | None = None,
    ) -> None:
        self._script, self._cwd = script, cwd
        self._do, self._tell = do, tell
        self._record = record
        self._plan_only, self._keep_going = plan_only, keep_going
        self._found_done, self._locked = found_done, locked
        self._run_id = record.run_id if record else os.urandom(4).hex()
        self._known: dict[str, Any] = {"inputs": inputs, "steps": {}}
        self._known["vars"] = values.fill(dict(script.vars), self._known, f"{script.name}: vars")
        self._lock = threading.Lock()
        self._exit_code = 0
        self._sequence = 0
        self._deadline = time.monotonic() + script.timeout_s if script.timeout_s else None

    def run(self) -> int:
        """The exit code: 0, or that of the first step that failed and was not to be ignored."""
        try:
            for step in self._script.steps:
                self._step(step)
        except Stopped as stopped:
            return stopped.exit_code
        if self._record is not None and not self._exit_code:
            self._record.add({"ended": True})
        return self._exit_code

    # --- one step ---

    def _step(self, step: Step, *, alone: bool = True) -> None:
        if (done := self._one(step, alone=alone)) is None or done.ok:
            return
        for inner in step.otherwise:
            self._step(inner, alone=alone)
        if step.on_failure == "ignore" or self._plan_only:
            self._exit_code = self._exit_code or (done.exit_code if self._plan_only else 0)
            return
        self._exit_code = self._exit_code or done.exit_code
        if step.on_failure == "stop" and not self._keep_going:
            raise Stopped(self._exit_code)

    def _one(self, step: Step, *, alone: bool) -> Done | None:
        """What became of it; None when its condition kept it from running."""
        if not self._applies(step):
            self._note(
                step, Done({"status": SKIPPED, "reason": f"not so: {values.bare(step.when).strip()}"}, 0)
            )
            return None
        if step.kind == "parallel":
            return self._group(step)
        if (earlier := self._earlier(step)) is not None:
            with self._lock:
                self._keep(step, earlier)
            return None
        done = self._tried(step, alone=alone)
        self._note(step, done)
        return done

    def _earlier(self, step: Step) -> JsonObject | None:
        """What a run that is resumed had made of this step already, as far as that is known."""
        if self._record is None:
            return None
        if step.id in self._record.done:
            return self._record.done[step.id]
        begun = self._record.begun.get(step.id, "")
        return {"status": OK, "id": begun} if begun and self._found_done(begun) else None

    def _applies(self, step: Step) -> bool:
        if not step.when or (self._plan_only and values.uses_outcomes("${{" + values.bare(step.when) + "}}")):
            return True
        return values.holds(step.when, self._known, f"{self._script.name}: {step.id}.when")

    def _group(self, step: Step) -> Done:
        """All of them at once; the group fails with the first of its steps, in the order of the file."""
        with ThreadPoolExecutor(len(step.group)) as pool:
            ended = list(pool.map(self._member, step.group))
        codes = [code for code in ended if code]
        done = Done({"status": "failed" if codes else OK, "steps": [inner.id for inner in step.group]}, 0)
        return Done(done.result, codes[0] if codes else 0)

    def _member(self, step: Step) -> int:
        done = self._one(step, alone=False)
        if done is None or done.ok:
            return 0
        for inner in step.otherwise:
            self._one(inner, alone=False)
        return 0 if step.on_failure == "ignore" else done.exit_code

    def _tried(self, step: Step, *, alone: bool) -> Done:
        """Once, and again while it fails by itself: neither denials nor questions are tried again."""
        wait_s = RETRY_WAIT_S
        for left in range(step.retries, -1, -1):
            done = self._sent(step, alone=alone)
            if done.ok or not left or done.exit_code not in (5, 7) or self._plan_only:
                return done
            time.sleep(wait_s)
            wait_s *= 2
        raise AssertionError("unreachable: the last try returns")

    def _sent(self, step: Step, *, alone: bool) -> Done:
        try:
            if self._plan_only and (why := self._unknown(step)):
                return Done({"status": "unknown", "reason": why}, 0)
            request = self.request(step, alone=alone)
            if self._record is not None:
                with self._lock:
                    self._record.add({"begun": step.id, "id": request.id})
            return self._do(request)
        except LlmosError as error:
            return Done(failed(error), error.exit_code)

    def _unknown(self, step: Step) -> str:
        """Why a plan cannot say what this step would do; empty when it can."""
        if values.uses_outcomes([step.text, step.args, step.cwd, list(step.write), step.data]):
            return "it depends on what an earlier step gives"
        return ""

    def request(self, step: Step, *, alone: bool = True) -> Request:
        """What a step asks for, its expressions filled in. Raises ConfigError, CallFailed."""
        where = f"{self._script.name}: {step.id}"

        def filled(value: Any, *, quoting: bool = False) -> Any:
            return values.fill(value, self._known, where, quoting=quoting)

        params: JsonObject = {"cwd": str(self._folder(str(filled(step.cwd))))}
        if self._locked is not None:
            method, params["calls"] = "replay", list(self._locked[step.id])
        elif step.kind == "ask":
            method, params["text"] = "ask", str(filled(step.text))
        elif step.kind == "call":
            method, params["tool"], params["args"] = "call", str(filled(step.tool)), filled(step.args)
        else:
            command = str(filled(step.text, quoting=True))
            method, params["tool"], params["args"] = "call", SHELL_TOOL, {"command": command}
        if step.write:
            params["write"] = [str(self._folder(str(path))) for path in filled(step.write)]
        if step.data:
            text = str(filled(step.data))
            params["data"] = text if text.endswith("\n") else text + "\n"  # `outcome` took it off
        self._sequence += 1
        request_id = f"run-{self._run_id}-{self._sequence}-{os.urandom(2).hex()}"
        return Request(step, request_id, method, params, self._timeout(step), alone)

    def _folder(self, path: str) -> Path:
        return (self._cwd / Path(path).expanduser()).absolute()

    def _timeout(self, step: Step) -> float:
        left = self._left()
        if left is None:
            return step.timeout_s
        return min(left, step.timeout_s) if step.timeout_s else left

    def _left(self) -> float | None:
        """Seconds left of the whole run, None when it has no limit; raises CallFailed when there are none."""
        if self._deadline is None:
            return None
        if (left := self._deadline - time.monotonic()) <= 0:
            raise CallFailed(
                f"the run took longer than its {self._script.timeout_s:g} s", "Raise timeout_s in the script."
            )
        return left

    # --- outcomes ---

    def _note(self, step: Step, done: Done) -> None:
        with self._lock:
            self._keep(step, done.result)
            if self._record is not None and done.ok and done.result.get("status") == OK:
                self._record.add({"step": step.id, "result": done.result})
            self._tell(step, {**done.result, "exit_code": done.exit_code})

    def _keep(self, step: Step, result: JsonObject) -> None:
        self._known["steps"][step.id] = outcome(result)


def outcome(result: Mapping[str, Any]) -> JsonObject:
    """What later steps can ask of this one: `steps.ID.status`, `.ok`, `.stdout`, …"""
    status = str(result.get("status"))
    calls: Sequence[JsonObject] = result.get("calls") or ()
    if status == SKIPPED:
        return {"status": status, "ok": False}
    return {
        "status": status,
        "ok": status == OK,
        "answer": result.get("answer") or "",
        "stdout": "".join(str(call.get("stdout") or "") for call in calls).rstrip("\n"),
        "stderr": "".join(str(call.get("stderr") or "") for call in calls).rstrip("\n"),
        "exit_code": next((call.get("exit_code") for call in reversed(calls)), None),
        "undo_id": next((call.get("undo_id") for call in reversed(calls) if call.get("undo_id")), None),
    }


def failed(error: LlmosError) -> JsonObject:
    """The object of a step that never became a request."""
    answer = " ".join(f"{text.rstrip('. ')}." for text in (str(error), error.next_step) if text)
    return {"status": "failed", "calls": [], "answer": answer}

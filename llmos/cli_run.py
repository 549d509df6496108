"""`llmos run FILE`: a script of requests, one after the other, with a result for each.

The file is read and checked whole before its first request is made. Results are shown as those of single
requests, or with --json as JSON lines, one a step; the exit code is that of the first step that failed.
"""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path
from typing import Any

from llmos import cli_input, cli_requests
from llmos.automation import lock, record, runner
from llmos.automation import script as scripts
from llmos.automation.runner import Done, Request
from llmos.automation.steps import Script, Step
from llmos.console import consent, render, safetext, screen
from llmos.console.interrupts import Interrupts
from llmos.console.turn import Turn
from llmos.errors import Cancelled, Denied, LlmosError, UsageError

JsonObject = dict[str, Any]


def run(options: argparse.Namespace) -> int:
    """Read, check, then run or only plan; returns the exit code. Raises LlmosError."""
    name, content = read_file(options.file)
    script = scripts.read(name, content)
    locked = None
    if options.locked:
        where = lock_file(options)
        locked = lock.read(str(where), _text_of(where), cli_input.current_folder())
        given = options.input or [(key, str(value)) for key, value in locked.inputs.items()]
        inputs = scripts.bind(script, given)
        lock.check(locked, script, inputs)
    else:
        inputs = scripts.bind(script, options.input)
    kept = None
    if not options.plan and name != "-":
        start = record.resume if options.resume else record.begin
        kept = start(Path(name).absolute(), script.sha256, inputs)
    return Performance(options, kept).run(script, inputs, locked)


def lock_file(options: argparse.Namespace) -> Path:
    return Path(options.lock or f"{options.file}.lock")


def _text_of(where: Path) -> str:
    return read_file(str(where))[1].decode("utf-8", "replace")


def compile_(options: argparse.Namespace) -> int:
    """`llmos compile FILE`: the exact calls of every step, with effects and hashes, into FILE.lock."""
    name, content = read_file(options.file)
    script = scripts.read(name, content)
    inputs = scripts.bind(script, options.input)
    folder = cli_input.current_folder()
    pinner = Pinner(options, runner.Runner(script, inputs, Path(folder), do=_never, tell=_never))
    pinned = {step.id: pinner.pin(step) for step in script.flat()}
    where = lock_file(options)
    try:
        where.write_text(lock.text(script, inputs, folder, pinned), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{where} cannot be written: {error.strerror}", "Name another: --lock FILE"
        ) from error
    screen.say(f"{where}: {sum(map(len, pinned.values()))} calls. Review it, then: llmos run --locked {name}")
    return 0


def _never(*_: Any) -> Any:
    raise AssertionError("nothing is run while pinning")


class Pinner:
    """Asks the daemon for the pinned calls of each step."""

    def __init__(self, options: argparse.Namespace, steps: runner.Runner) -> None:
        self._options, self._steps = options, steps

    def pin(self, step: Step) -> tuple[JsonObject, ...]:
        """The calls of one step; raises LlmosError for one that cannot be pinned or is denied."""
        if why := lock.why_not(step):
            raise UsageError(f"{step.id} cannot be pinned: {why}", "Name what it works on, or leave it out.")
        params = self._params(step)
        with Interrupts() as interrupts, cli_requests.connected() as daemon:
            turn = Turn(None, quiet=True)
            try:
                found = cli_requests.with_model(
                    daemon,
                    None,
                    interrupts,
                    needed=step.kind == "ask",
                    run=lambda: daemon.request("pin", params, turn, interrupts, timeout_s=step.timeout_s),
                )
            finally:
                turn.stop()
        return tuple(self._checked(step, call) for call in found["calls"])

    def _params(self, step: Step) -> JsonObject:
        made = self._steps.request(step)
        given = dict(made.params)
        given.pop("data", None)
        params: JsonObject = {"id": made.id, "cwd": given["cwd"], "unchanged": list(step.unchanged)}
        params["write"] = written_too(self._options, given)
        if step.kind == "ask":
            params["text"] = given["text"]
        else:
            params["calls"] = [{"tool": given["tool"], "args": given["args"]}]
        if step.data:
            params["data_b64"] = ""  # that there is data decides how some tools are planned
        if self._options.policy:
            params["policy"] = cli_input.policy_text(self._options.policy)
        return params

    def _checked(self, step: Step, call: JsonObject) -> JsonObject:
        pin = call["pin"]
        if pin["verdict"] == "deny":
            raise Denied(f"{step.id}: {pin['command']} is denied: {pin['reason']}", "Change that step.")
        look = screen.look_of(sys.stderr)
        line = safetext.one_line(f"{step.id}: {pin['command']}", 160)
        screen.write(sys.stderr, f"{pin['verdict']:<5} {look.text(line)}\n")
        return {**call, "pin": {**pin, "repeatable": step.repeatable}}


def written_too(options: argparse.Namespace, given: JsonObject) -> list[str]:
    """Write roots of the command line, and of the step."""
    here = [str(Path(path).expanduser().absolute()) for path in options.write]
    return [*here, *given.get("write", ())]


def read_file(name: str) -> tuple[str, bytes]:
    """(name, content); `-` is stdin. Raises UsageError."""
    try:
        if name == "-":
            return name, sys.stdin.buffer.read(scripts.MAX_BYTES + 1)
        with Path(name).open("rb") as handle:
            return name, handle.read(scripts.MAX_BYTES + 1)
    except OSError as error:
        step = f'Name a file of requests. If it was meant in plain words: llmos "run {name}"'
        raise UsageError(f"{name} cannot be read: {error.strerror}", step) from error


class Performance:
    """Makes a script's requests and shows what came of them."""

    def __init__(self, options: argparse.Namespace, kept: record.Record | None) -> None:
        self._options, self._record = options, kept
        self._terminal = consent.open_terminal()
        self._interrupts = Interrupts()
        self._look = screen.look_of(sys.stderr)
        self._shown: set[str] = set()  # steps whose result stands on the screen already
        self._count = {"done": 0, "skipped": 0, "other": 0}

    def run(self, script: Script, inputs: JsonObject, locked: lock.Lock | None = None) -> int:
        with self._interrupts:
            code = runner.Runner(
                script,
                inputs,
                Path(cli_input.current_folder()),
                do=self._do,
                tell=self._tell,
                record=self._record,
                plan_only=self._options.plan,
                keep_going=self._options.keep_going,
                found_done=self._found_done,
                locked=locked.calls if locked else None,
            ).run()
        self._sum_up(code)
        return code

    # --- one request ---

    def _do(self, request: Request) -> Done:
        if self._interrupts.count:
            raise Cancelled("stopped by Ctrl-C", "Go on with: llmos run --resume FILE")
        interactive = request.alone and self._terminal is not None and not self._options.yes
        asker = consent.Asker(self._terminal) if interactive and self._terminal is not None else None
        turn = Turn(asker, quiet=self._options.json or not request.alone)
        try:
            with cli_requests.connected() as daemon, self._interrupts.follower(request.alone) as interrupts:
                result = cli_requests.with_model(
                    daemon,
                    asker,
                    interrupts,
                    needed=request.method == "ask",
                    run=lambda: daemon.request(
                        *self._wire(request, interactive), turn, interrupts, timeout_s=request.timeout_s
                    ),
                )
        except LlmosError as error:
            return Done({**cli_requests.error_result(error), "id": request.id}, error.exit_code)
        finally:
            turn.stop()
        if not self._options.json and request.alone and not self._options.plan:
            turn.show(result)
            self._shown.add(request.step.id)
        return Done(result, cli_requests.EXIT_CODES.get(str(result.get("status")), 5))

    def _wire(self, request: Request, interactive: bool) -> tuple[str, JsonObject]:
        """Method and parameters as the daemon takes them."""
        given = dict(request.params)
        data = given.pop("data", None)
        wanted = (
            "yes"
            if self._options.yes
            else "interactive"
            if interactive and not self._options.plan
            else "none"
        )
        params = {"id": request.id, "consent": wanted, **given}
        params["write"] = written_too(self._options, given)
        if self._options.policy:
            params["policy"] = cli_input.policy_text(self._options.policy)
        if data is not None:
            params["data_b64"] = base64.b64encode(data.encode("utf-8", "surrogateescape")).decode("ascii")
        if self._options.plan:
            params["mode"] = "plan"
        return request.method, params

    def _found_done(self, request_id: str) -> bool:
        """Whether a request that a killed run had begun was carried out; the daemon's journal knows."""
        with cli_requests.connected() as daemon:
            entries = daemon.call("history", {"limit": 1000}).get("entries") or ()
        ends = [entry.get("status") for entry in entries if entry.get("id") == request_id]
        return bool(ends) and all(status == "done" for status in ends)

    # --- showing ---

    def _tell(self, step: Step, result: JsonObject) -> None:
        status = str(result.get("status"))
        self._count[status if status in self._count else "other"] += 1
        if self._options.json:
            head = {"step": step.id} | ({"line": step.line} if step.line else {})
            cli_requests.print_json({**head, **result})
            return
        what = safetext.one_line(f"{step.id}: {step.sentence}", 160)
        style = {"done": "green", "skipped": "dim"}.get(status, "yellow" if status == "unknown" else "red")
        line = f"{self._look.style(style, status)}  {self._look.text(what)}"
        screen.write(sys.stderr, line + (f"  ({result['reason']})" if result.get("reason") else "") + "\n")
        if self._options.plan and result.get("calls"):
            screen.write(sys.stdout, render.plan(result, screen.look_of(sys.stdout)))
        elif step.id not in self._shown and result.get("calls"):
            shown = render.result(result, screen.look_of(sys.stdout), self._look)
            screen.write(sys.stdout, shown.out)
            screen.write(sys.stderr, shown.err)
        elif step.id not in self._shown and result.get("answer"):
            screen.write(sys.stderr, self._look.style("red", self._look.text(str(result["answer"]))) + "\n")

    def _sum_up(self, code: int) -> None:
        if self._options.json:
            return
        count = self._count
        text = f"{count['done']} done, {count['skipped']} skipped, {count['other']} not done"
        if code and self._record is not None:
            text += f"; after mending: llmos run --resume {self._options.file}"
        screen.write(sys.stderr, self._look.style("dim", text) + "\n")


VERBS = {"run": run, "compile": compile_}

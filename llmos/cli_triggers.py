"""`llmos watch`, `llmos schedule` and `llmos inbox`: requests that are made with nobody there, and their
questions.

What a trigger may do unattended is the policy's to say; here it is set up, listed, paused and removed, and
what waits for a person is shown and answered.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from llmos import cli_input, cli_requests
from llmos.automation import calendar, systemctl
from llmos.console import client, listings, render, safetext, screen
from llmos.errors import LlmosError, UsageError

JsonObject = dict[str, Any]
ACTIONS = ("list", "pause", "resume", "remove", "run")
SHELL_TOOL = "shell.run"


# --- watch and schedule ------------------------------------------------------------------------------


def watch(options: argparse.Namespace) -> int:
    if (code := _action("watch", options)) is not None:
        return code
    path, text = _two(options, 'llmos watch ~/Downloads "list the newest file"')
    if not os.path.lexists(os.path.expanduser(path)):  # noqa: PTH111 - never raises
        step = f'Name a file or a folder. If it was meant in plain words: llmos "watch {path} {text}"'
        raise UsageError(f"there is no {path}", step)
    params = {
        **_request(options, text),
        "kind": "watch",
        "path": os.path.expanduser(path),  # noqa: PTH111
        "recursive": options.recursive,
        "quiet_s": options.quiet,
        "per_hour": options.per_hour,
    }
    return _added(options, _ask("trigger.add", params)["trigger"], "")


def schedule(options: argparse.Namespace) -> int:
    if (code := _action("schedule", options)) is not None:
        return code
    when, text = _two(options, 'llmos schedule "every weekday at 2 am" "compress the old logs"')
    found = systemctl.manager()
    expression, following = systemctl.checked_calendar(when, calendar.expression(when))
    trigger = _ask("trigger.add", {**_request(options, text), "kind": "schedule", "calendar": expression})[
        "trigger"
    ]
    try:
        systemctl.install(found, trigger["id"], expression, text)
    except LlmosError:
        _ask("trigger.remove", {"id": trigger["id"]})
        raise
    return _added(options, trigger, f"next: {following}")


def _two(options: argparse.Namespace, example: str) -> tuple[str, str]:
    words = options.words
    if len(words) != 2 or not words[1].strip():
        raise UsageError("two arguments are needed, and the request in quotes", f"For instance: {example}")
    return words[0], words[1]


def _request(options: argparse.Namespace, text: str) -> JsonObject:
    """What is to be done: a sentence, or `!COMMAND` for a plain command."""
    params: JsonObject = {"cwd": cli_input.current_folder(), "said": text}
    if text.startswith("!"):
        params["calls"] = [{"tool": SHELL_TOOL, "args": {"command": text[1:].strip()}}]
    else:
        params["text"] = cli_input.checked_text(text)
    if options.write:
        params["write"] = [os.path.abspath(os.path.expanduser(path)) for path in options.write]  # noqa: PTH100, PTH111
    if options.policy:
        params["policy"] = cli_input.policy_text(options.policy)
    return params


def _added(options: argparse.Namespace, trigger: JsonObject, more: str) -> int:
    if options.json:
        cli_requests.print_json(trigger)
    else:
        screen.write(sys.stdout, _line(trigger) + "\n")
        if more:
            screen.say(more)
        screen.say("Unattended, only what is allowed without asking is done; the rest waits in llmos inbox.")
    return 0


def _action(kind: str, options: argparse.Namespace) -> int | None:
    """list, pause, resume, remove, run; None when the words set up something new."""
    words = options.words or ["list"]
    if words[0] not in ACTIONS or (words[0] != "list" and len(words) != 2) or len(words) > 2:
        return None
    if words[0] == "list":
        return _list(kind, options)
    if words[0] == "run":
        result = _ask("trigger.run", {"id": words[1]}, timeout_s=3600.0)
        return _shown(options, result)
    return _changed(kind, words[0], words[1], options)


def _changed(kind: str, action: str, trigger_id: str, options: argparse.Namespace) -> int:
    if action == "remove":
        trigger = _ask("trigger.remove", {"id": trigger_id})["trigger"]
    else:
        trigger = _ask("trigger.pause", {"id": trigger_id, "paused": action == "pause"})["trigger"]
    if trigger["kind"] == "schedule":
        found = systemctl.manager()
        if action == "remove":
            systemctl.uninstall(found, trigger_id)
        else:
            systemctl.pause(found, trigger_id, paused=action == "pause")
    if options.json:
        cli_requests.print_json(trigger)
    else:
        screen.write(sys.stdout, ("removed  " if action == "remove" else "") + _line(trigger) + "\n")
    return 0


def _list(kind: str, options: argparse.Namespace) -> int:
    found = _ask("trigger.list", {"kind": kind})["triggers"]
    if options.json:
        cli_requests.print_json({"triggers": found})
        return 0
    text = "".join(_line(trigger) + "\n" for trigger in found)
    screen.write(sys.stdout, text or f"nothing is set up; see: llmos {kind} --help\n")
    return 0


def _line(trigger: JsonObject) -> str:
    what = trigger["path"] if trigger["kind"] == "watch" else trigger["calendar"]
    state = f"paused ({trigger['paused']})" if trigger["paused"] else "waits"
    if trigger["runs"]:
        state += (
            f", {trigger['runs']} runs, last {listings.moment(trigger['last_run'])}: {trigger['last_status']}"
        )
    return safetext.one_line(f"{trigger['id']}  {what}  {trigger['said']!r}  {state}")


# --- the inbox ---------------------------------------------------------------------------------------


def inbox(options: argparse.Namespace) -> int:
    words = options.words or ["list"]
    action, given = words[0], words[1:]
    if action not in ("list", "show", "approve", "reject") or (action == "list") == bool(given):
        raise UsageError(
            "list, or show, approve, reject with an ID", "For instance: llmos inbox approve 1f2e3d4c"
        )
    waiting = _ask("inbox.list", {})["waiting"]
    if action == "list":
        return _show_inbox(waiting, options)
    chosen = [item["id"] for item in waiting] if given == ["all"] else given
    code = 0
    for item_id in chosen:
        item = next((item for item in waiting if item["id"] == item_id), None)
        if item is None:
            raise UsageError(f"nothing called {item_id} waits in the inbox", "See: llmos inbox")
        code = code or _ITEM_ACTIONS[action](item, options)
    return code


def _show_inbox(waiting: list[JsonObject], options: argparse.Namespace) -> int:
    if options.json:
        cli_requests.print_json({"waiting": waiting})
        return 0
    text = "".join(
        safetext.one_line(
            f"{item['id']}  {listings.moment(item['created'])}  {item['origin']}  "
            f"{'; '.join(call['pin']['command'] for call in item['calls'])}"
        )
        + "\n"
        for item in waiting
    )
    screen.write(sys.stdout, text or "nothing waits for you\n")
    return 0


def _show_item(item: JsonObject, options: argparse.Namespace) -> int:
    if options.json:
        cli_requests.print_json(item)
        return 0
    look = screen.look_of(sys.stdout)
    head = f"{item['id']}  {item['origin']}  in {item['cwd']}\n  {item['said']!r}"
    screen.write(sys.stdout, safetext.exact(head) + "\n")
    calls = [{"tool": call["tool"], "args": call["args"], **call["pin"]} for call in item["calls"]]
    screen.write(sys.stdout, render.plan({"calls": calls}, look))
    return 0


def _approve(item: JsonObject, options: argparse.Namespace) -> int:
    """Run it with the person's word: shown and asked about anew, or with --yes as it was listed."""
    given = argparse.Namespace(json=options.json, yes=options.yes, plan=options.plan, timeout=0.0)
    params = {"id": client.new_id(), "item": item["id"], "consent": cli_input.consent_of(given)}
    params |= {"mode": "plan"} if options.plan else {}
    show = cli_requests.show_plan if options.plan else None
    return cli_requests.guarded(
        given, lambda: cli_requests.perform("inbox.approve", params, given, show=show)
    )


def _reject(item: JsonObject, options: argparse.Namespace) -> int:
    found = _ask("inbox.reject", {"id": item["id"]})
    if options.json:
        cli_requests.print_json(found)
    else:
        screen.write(sys.stdout, safetext.one_line(f"rejected  {item['id']}  {item['said']!r}") + "\n")
    return 0


_ITEM_ACTIONS = {"show": _show_item, "approve": _approve, "reject": _reject}


def _shown(options: argparse.Namespace, result: JsonObject) -> int:
    if options.json:
        cli_requests.print_json(result)
    else:
        shown = render.result(result, screen.look_of(sys.stdout), screen.look_of(sys.stderr))
        screen.write(sys.stdout, shown.out)
        screen.write(sys.stderr, shown.err)
    return cli_requests.EXIT_CODES.get(str(result.get("status")), 5)


def _ask(method: str, params: JsonObject, *, timeout_s: float = 30.0) -> JsonObject:
    with cli_requests.connected() as daemon:
        return daemon.call(method, params, timeout_s=timeout_s)


VERBS = {"watch": watch, "schedule": schedule, "inbox": inbox}

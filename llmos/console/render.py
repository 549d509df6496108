"""Results, plans, verdicts and approvals as text. Pure: data in, strings out; nothing is printed here.

What belongs on stdout (the answer itself) and what on stderr (how it came about) is kept apart in
`Shown`. Text of commands and models passes through `safetext` when it is meant for a terminal.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from llmos.console import changes, safetext, words
from llmos.console.look import Look
from llmos.console.words import tr

JsonObject = dict[str, Any]

TARGETS = ("settings", "containers", "units", "packages", "resources")
EFFECT_NAMES = ("reads", "writes", "deletes", "programs", "network", "signals", *TARGETS, "opaque")
# Where the tools that tell facts of this machine have them from.
MEASURED = {
    "system.memory": "/proc/meminfo",
    "system.load": "/proc/loadavg, /proc/stat, /proc/pressure",
    "system.disk": "statvfs(2), /proc/self/mounts",
    "system.ports": "/proc/net/tcp, /proc/net/udp",
    "system.info": "uname(2), /etc/os-release, /proc",
    "net.connections": "/proc/net",
    "process.list": "/proc/PID",
    "process.find": "/proc/PID",
    "process.details": "/proc/PID",
    "process.tree": "/proc/PID",
    "service.status": "systemd (D-Bus)",
    "service.failed": "systemd (D-Bus)",
    "service.timers": "systemd (D-Bus)",
    "docker.container.list": "the Docker Engine's API",
    "docker.container.stats": "the Docker Engine's API",
    "docker.image.list": "the Docker Engine's API",
    "docker.disk": "the Docker Engine's API",
}
# As the broker says it.
SAID_NO = ("You said no, so it was not run.", "You said no, so nothing was taken back.")
EVERYTHING = 100_000  # lines
_MAX_SHOWN = 12  # paths of one effect in a prompt; the rest is counted, and `x` shows all
_VERDICT_STYLE = {"allow": "green", "ask": "yellow", "deny": "red"}


class Shown(NamedTuple):
    """Text for stdout and for stderr, each empty or ending with a newline."""

    out: str = ""
    err: str = ""


def _lines(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


# --- effects and approvals ---------------------------------------------------------------------


def effect_lines(effects: JsonObject, *, limit: int = 0) -> list[str]:
    """One line per thing touched, in the order a person worries: `deletes   /home/me/a.log`."""
    lines = []
    for name in ("deletes", "writes", "network", "signals", *TARGETS, "programs", "reads"):
        values = [str(value) for value in effects.get(name) or ()]
        shown = values[:limit] if limit else values
        head = safetext.pad(tr(name), 9)
        lines += [f"{head} {safetext.one_line(value)}" for value in shown]
        if len(values) > len(shown):
            lines.append(f"{head} {tr('… and {count} more').format(count=len(values) - len(shown))}")
    if effects.get("opaque"):
        lines.append(f"{safetext.pad(tr('unknown'), 9)} {safetext.one_line(str(effects['opaque']))}")
    return lines


def _indent(lines: Iterable[str], by: int = 4) -> str:
    return "".join(" " * by + line + "\n" for line in lines)


def approval(data: JsonObject, look: Look) -> str:
    """What is asked: the exact command, what it changes, and the rule that wants a person's word."""
    call = data.get("call") or {}
    tool = str(call.get("tool", data.get("tool", "a tool")))
    command = safetext.exact(str(data.get("command") or invocation(tool, call.get("args") or {})))
    text = look.style("bold", tr("{tool} wants to run:").format(tool=safetext.one_line(tool))) + "\n"
    text += _indent(look.style("cyan", line) for line in command.split("\n"))
    text += _indent(found_out(data, look), 2)
    return text + _indent((look.style("dim", line) for line in look.folded(because(data), by=2)), 2)


def found_out(data: JsonObject, look: Look) -> list[str]:
    """The exact changes, where the call was tried; else its effects as far as they are known."""
    effects = dict(data.get("effects") or {})
    told = data.get("changes") or effects.get("changes")
    if told is None:
        lines = effect_lines(effects, limit=_MAX_SHOWN)
        why = data.get("no_preview") or effects.get("no_preview")
        return (
            [*lines, look.style("yellow", f"{tr('not tried')}  {safetext.one_line(words.told(str(why)))}")]
            if why
            else lines
        )
    beside = {name: effects.get(name) for name in ("network", "signals", *TARGETS, "opaque")}
    return effect_lines(beside, limit=_MAX_SHOWN) + changes.lines(told, look) + _tried(data, look)


def _tried(data: JsonObject, look: Look) -> list[str]:
    """How the trial ended, when not well."""
    ran = data.get("rehearsal") or {}
    if ran.get("exit_code") in (0, None):
        return []
    said = safetext.exact(str(ran.get("stderr") or "").strip()).split("\n")[-3:]
    head = look.style("red", tr("it ended with exit code {code}:").format(code=ran["exit_code"]))
    return [head, *(f"  {line}" for line in said if line)]


def because(judged: JsonObject) -> str:
    """`rule confirm-delete: deleting is final` of anything that carries a rule and a reason."""
    rule, reason = str(judged.get("rule") or "?"), str(judged.get("reason") or "")
    named = tr("rule {rule}").format(rule=rule)
    return safetext.one_line(f"{named}: {words.told(reason)}" if reason else named)


def explanation(data: JsonObject, look: Look) -> str:
    """Everything known of a call that waits for approval: all effects, the rule, why it is asked."""
    lines = effect_lines(data.get("effects") or {}) or [tr("no effect on files, processes or network")]
    if told := data.get("changes"):
        lines += changes.lines(told, look, limit=EVERYTHING)
    call = data.get("call") or {}
    called = safetext.one_line(invocation(str(call.get("tool", "?")), call.get("args") or {}))
    facts = [f"{safetext.pad(tr('call'), 9)} {called}"]
    why = [
        *look.folded(f"{safetext.pad(tr('asked by'), 9)} {because(data)}", by=4, hang=10),
        *look.folded(tr("allowing it runs exactly this command in the sandbox, once"), by=4),
    ]
    return _indent(facts + lines) + _indent(look.style("dim", line) for line in why)


CHOICES = (
    ("y", "yes, run exactly this"),
    ("n", "no, leave it"),
    ("e", "edit it first; what you write is judged anew"),
    ("x", "explain: every effect, the rule, why it is asked"),
    ("a", "always: yes, and remember it for this exact kind of call (llmos policy remembered)"),
    ("v", "never: no, and remember that for this exact kind of call"),
    ("?", "this help"),
)


def choices(look: Look, *, only_yes_or_no: bool = False) -> str:
    if only_yes_or_no:
        return look.style("bold", tr("[y]es  [n]o  e[x]plain  [?] "))
    asked = tr("[y]es  [n]o  [e]dit  e[x]plain  [a]lways  ne[v]er  [?] ")
    return look.style("bold", "\n".join(look.folded(asked.rstrip())) + " ")


def choices_help(columns: int = 0) -> str:
    return hanging([(f"    {key}  ", tr(meaning)) for key, meaning in CHOICES], columns)


def hanging(rows: Iterable[tuple[str, str]], columns: int) -> str:
    """Heads and what stands beside them, wrapped below itself in `columns` (0: not wrapped)."""
    text = ""
    for head, about in rows:
        indent = safetext.columns(head)
        lines = safetext.wrap(about, max(16, columns - indent)) if columns else [about]
        text += head + f"\n{' ' * indent}".join(lines) + "\n"
    return text


def invocation(tool: str, args: JsonObject) -> str:
    """A call as the command line that repeats it: `llmos call file.list --args '{"path":"."}'`."""
    given = json.dumps(args, ensure_ascii=False, separators=(", ", ": "))
    return f"{tool} {given}" if args else tool


# --- results -------------------------------------------------------------------------------------


def call_line(data: JsonObject, look: Look) -> str:
    """One dim line when a call goes ahead: `file.list: ls -la /tmp`."""
    command = str(data.get("command") or data.get("tool") or "")
    line = f"{data.get('tool') or '?'}: {command}"
    return look.style("dim", safetext.one_line(line, 160))


def _verdict(word: str, look: Look) -> str:
    return look.style(_VERDICT_STYLE.get(word, "bold"), word)


def result(
    result: JsonObject, out: Look, err: Look, *, streamed: frozenset[int] = frozenset(), said: str = ""
) -> Shown:
    """A finished request. `streamed`: indexes of calls whose output was printed while they ran; `said`:
    what was already printed of the answer.
    """
    shown_out, shown_err = "", ""
    for index, call in enumerate(result.get("calls") or ()):
        shown_out += "" if index in streamed else _lines(out.text(str(call.get("stdout") or "")))
        shown_err += "" if index in streamed else _lines(err.text(str(call.get("stderr") or "")))
        shown_err += call_trouble(call, err) + changed_line(call, err)
    answer = str(result.get("answer") or "")
    if answer in SAID_NO and len(result.get("calls") or ()) == 1:
        shown_err = ""  # what it was stands above, in the question
    calls = result.get("calls") or ()
    if result.get("status") not in ("done", "needs_input") or any(
        call.get("tool") == "undo" for call in calls
    ):
        answer = words.told(answer)  # none of a model's
    if result.get("status") in ("done", "needs_input"):
        shown_out += "" if answer.strip() == said.strip() else _lines(out.text(answer))
    elif answer not in shown_err:  # a denial's reason may stand there already
        shown_err += _lines(err.style("red", err.text(answer.rstrip("\n"))))
    return Shown(shown_out, shown_err + status_note(result, err) + footer(result, err))


def changed_line(call: JsonObject, look: Look) -> str:
    """One dim line for a call that changed something: how much, and how to take it back."""
    told = (call.get("effects") or {}).get("changes")
    if not told or not call.get("undo_id") or call.get("tool") == "undo":  # whose answer says it
        return ""
    line = f"{changes.totals(told)} · {tr('to take it back:')} llmos undo {call['undo_id']}"
    return look.style("dim", safetext.one_line(line)) + "\n"


def call_trouble(call: JsonObject, look: Look) -> str:
    """Why a call was not run, with rule, reason and next step; empty when it was.

    Its exit code is not judged here: 1 of grep is no failure, and the daemon says in `answer` what is.
    """
    verdict, code = call.get("verdict"), call.get("exit_code")
    what = safetext.one_line(invocation(str(call.get("tool")), call.get("args") or {}), 160)
    if verdict == "deny":
        text = look.style("red", f"{tr('denied')}: {what}") + f"\n  {because(call)}\n"
        return text + f"  {denial_step(call)}\n"
    if verdict == "ask" and code is None:
        return look.style("yellow", f"{tr('not run')}: {what}") + f"\n  {because(call)}\n"
    return ""


def denial_step(call: JsonObject) -> str:
    """What the person can do about a denial; `--yes` is never it."""
    if "root" in str(call.get("rule", "")) and (paths := (call.get("effects") or {}).get("writes")):
        step = tr("To allow writing there, add: --write {path}")
        return step.format(path=safetext.one_line(shlex.quote(str(paths[0]))))
    return tr("See why: llmos policy check -- COMMAND.  --yes does not lift a denial.")


NOTES = {
    "needs_approval": "It needs your approval: re-run it with --yes, or at a terminal.",
    "not_understood": "No tool call could be made of that. Say it in other words, or see: llmos tools",
    "needs_input": "Ask again with what is missing.",
}


def status_note(result: JsonObject, look: Look) -> str:
    if result.get("answer") in SAID_NO:
        return ""  # by a person, who need not be told how to say yes
    if result.get("status") == "not_understood" and result.get("answer"):
        return ""  # which says so, and what to do
    note = NOTES.get(str(result.get("status")), "")
    return look.style("yellow", tr(note)) + "\n" if note else ""


def footer(result: JsonObject, look: Look) -> str:
    """The dim line that always names the route, and where facts are from: `local · 0.8 s`."""
    total_s = float((result.get("timing") or {}).get("total_ms") or 0.0) / 1000
    route = safetext.one_line(str(result.get("route", "local")))
    done = [str(call.get("tool")) for call in result.get("calls") or () if call.get("exit_code") == 0]
    measured = ", ".join(dict.fromkeys(MEASURED[tool] for tool in done if tool in MEASURED))
    source = f" · {tr('measured from {source}').format(source=measured)}" if measured else ""
    return look.style("dim", f"{route} · {total_s:.1f} s{source}") + "\n"


def plan(result: JsonObject, look: Look) -> str:
    """What would be done, call by call, with verdict and effects; nothing has run."""
    text = ""
    calls = result.get("calls") or ()
    for number, call in enumerate(calls, 1):
        line = safetext.exact(invocation(str(call.get("tool")), call.get("args") or {}))
        text += f"{number}. {line}\n     {_verdict(str(call.get('verdict')), look)}  {because(call)}\n"
        text += _indent(found_out(call, look), 5)
    if not calls:
        text += _lines(look.text(str(result.get("answer") or "no call")))
    return text


def verdict(found: JsonObject, look: Look) -> str:
    """What the policy says to a command: the word, the rule and its reason, the effects."""
    text = f"{_verdict(str(found.get('verdict')), look)}  {because(found)}\n"
    return text + _indent(effect_lines(found.get("effects") or {}), 2)


def notice(text: str, look: Look) -> str:
    """Something to know beside what was asked for."""
    return look.style("yellow", look.text(words.told(text))) + "\n"


def error(message: str, next_step: str, look: Look) -> str:
    text = look.style("red", "llmos: ") + _lines(look.text(words.told(message)))
    return text + (f"  {_lines(look.text(words.told(next_step)))}" if next_step else "")


# --- listings --------------------------------------------------------------------------------------


def table(rows: list[list[str]], *, clip_last: int = 0) -> str:
    """Rows in aligned columns, the last one cut so that a row keeps within `clip_last` columns."""
    if not rows:
        return ""
    widths = [max(safetext.columns(row[i]) for row in rows) for i in range(len(rows[0]))]
    pad: Callable[[str, int], str] = safetext.pad
    lines = []
    for row in rows:
        head = "  ".join(pad(cell, width) for cell, width in zip(row[:-1], widths, strict=False))
        room = max(20, clip_last - safetext.columns(head) - 2) if clip_last else 0
        lines.append(f"{head}  {safetext.clip(row[-1], room) if room else row[-1]}".rstrip())
    return "\n".join(lines) + "\n"

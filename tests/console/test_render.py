"""What the person sees of results, plans, denials and questions."""

from __future__ import annotations

from typing import Any

from llmos.console import listings, render
from llmos.console.look import Look

PIPE, TERMINAL, COLOUR = Look(), Look(terminal=True), Look(terminal=True, colour=True)


def call(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"tool": "file.delete", "args": {"path": "/tmp/a"}, "verdict": "allow"}
    made |= {"rule": "own-files", "reason": "it is yours", "exit_code": 0, "stdout": "", "stderr": ""}
    return {**made, "effects": {"deletes": ["/tmp/a"], "programs": ["/usr/bin/rm"]}, **changes}


def finished(*calls: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = {"id": "r", "status": "done", "route": "local", "calls": list(calls), "answer": None}
    return {**made, "timing": {"total_ms": 812.0}, **changes}


# --- results -------------------------------------------------------------------------------------


def test_output_goes_to_stdout_as_it_is_and_the_route_to_stderr() -> None:
    shown = render.result(finished(call(stdout="a\x1b[31mb")), PIPE, PIPE)
    assert shown.out == "a\x1b[31mb\n"
    assert shown.err == "local · 0.8 s\n"


def test_on_a_terminal_escape_sequences_are_made_visible() -> None:
    shown = render.result(finished(call(stdout="a\x1b[31mb\n", stderr="\x07")), TERMINAL, TERMINAL)
    assert shown.out == "a^[[31mb\n"
    assert shown.err.startswith("^G\n")


def test_an_answer_is_output() -> None:
    assert render.result(finished(answer="Paris."), PIPE, PIPE).out == "Paris.\n"


def test_a_streamed_call_is_not_shown_twice() -> None:
    shown = render.result(finished(call(stdout="x"), call(stdout="y")), PIPE, PIPE, streamed=frozenset({0}))
    assert shown.out == "y\n"


def test_a_denial_names_rule_reason_and_what_to_do() -> None:
    denied = call(verdict="deny", rule="no-etc", reason="/etc is the system's", exit_code=None)
    shown = render.result(finished(denied, status="denied", answer="/etc is the system's"), PIPE, PIPE)
    assert shown.out == ""
    assert shown.err.splitlines() == [
        'denied: file.delete {"path": "/tmp/a"}',
        "  rule no-etc: /etc is the system's",
        "  See why: llmos policy check -- COMMAND.  --yes does not lift a denial.",
        "local · 0.8 s",
    ]


def test_a_denied_write_says_how_to_widen() -> None:
    denied = call(verdict="deny", rule="write-roots", effects={"writes": ["/srv/my data"]}, exit_code=None)
    assert "--write '/srv/my data'" in render.result(finished(denied, status="denied"), PIPE, PIPE).err


def test_needs_approval_says_how_to_approve() -> None:
    asked = call(verdict="ask", rule="delete", reason="deleting is final", exit_code=None)
    shown = render.result(finished(asked, status="needs_approval"), PIPE, PIPE)
    assert "not run: file.delete" in shown.err and "deleting is final" in shown.err
    assert "--yes" in shown.err


def test_a_failure_is_said_in_the_daemons_words_and_an_exit_code_alone_is_none() -> None:
    failed = finished(call(exit_code=2, stderr="no such file"), status="failed", answer="file.delete failed.")
    assert render.result(failed, PIPE, PIPE).err == "no such file\nfile.delete failed.\nlocal · 0.8 s\n"
    nothing_found = finished(call(tool="text.search", exit_code=1))
    assert render.result(nothing_found, PIPE, PIPE) == render.Shown("", "local · 0.8 s\n")


def test_colour_only_where_the_look_says_so() -> None:
    assert "\x1b[" not in render.result(finished(call()), TERMINAL, TERMINAL).err
    assert "\x1b[2mlocal" in render.result(finished(call()), COLOUR, COLOUR).err


# --- approvals -----------------------------------------------------------------------------------


def question(**changes: Any) -> dict[str, Any]:
    made = {
        "index": 0,
        "call": {"tool": "file.delete", "args": {"path": "/tmp/a"}},
        "command": "rm -- /tmp/a",
    }
    effects = {
        "reads": [],
        "deletes": ["/tmp/a"],
        "programs": ["/usr/bin/rm"],
        "network": ["*"],
        "signals": [7],
    }
    return {**made, "effects": effects, "rule": "delete", "reason": "deleting is final", **changes}


def test_the_question_has_command_effects_and_rule() -> None:
    assert render.approval(question(), PIPE).splitlines() == [
        "file.delete wants to run:",
        "    rm -- /tmp/a",
        "  deletes   /tmp/a",
        "  network   *",
        "  signals   7",
        "  programs  /usr/bin/rm",
        "  rule delete: deleting is final",
    ]


def test_a_command_cannot_hide_behind_escapes_or_bidi() -> None:
    text = render.approval(question(command="rm a\x1b[1A\x1b[2Kls\u202e", reason="\x1b[8mhidden"), TERMINAL)
    assert "rm a^[[1A^[[2Kls\\u202e" in text
    assert "\x1b" not in text and "\u202e" not in text


def test_every_line_of_a_command_is_shown_and_indented() -> None:
    text = render.approval(question(command="ls\nrm x"), PIPE)
    assert "    ls\n    rm x\n" in text


def test_many_paths_are_counted_in_the_question_and_listed_in_the_explanation() -> None:
    many = question(effects={"deletes": [f"/tmp/{number}" for number in range(40)]})
    assert "… and 28 more" in render.approval(many, PIPE)
    assert render.explanation(many, PIPE).count("deletes   /tmp/") == 40


def test_unknown_effects_are_said() -> None:
    assert "unknown   it evaluates text" in render.approval(
        question(effects={"opaque": "it evaluates text"}), PIPE
    )


# --- plans and listings ----------------------------------------------------------------------------


def test_a_plan_numbers_calls_with_verdict_and_effects() -> None:
    text = render.plan(finished(call(), call(verdict="ask", reason="deleting is final")), PIPE)
    assert '1. file.delete {"path": "/tmp/a"}\n     allow  rule own-files: it is yours' in text
    assert "2. file.delete" in text and "ask  rule own-files: deleting is final" in text
    assert text.count("deletes   /tmp/a") == 2


def test_tables_align_wide_characters() -> None:
    assert render.table([["日本", "a"], ["b", "c"]]) == "日本  a\nb     c\n"


def test_tools_and_history_listings() -> None:
    spec = {
        "name": "file.find",
        "summary": "find files",
        "parameters": {
            "properties": {"path": {"type": "string", "description": "where"}},
            "required": ["path"],
        },
        "examples": [{"say": "find logs", "args": {"path": "/var"}}],
    }
    assert listings.tools([spec], 80) == "file.find  find files\n"
    assert "path  string  required  where" in listings.tool(spec)
    assert '"find logs"  →  {"path": "/var"}' in listings.tool(spec)
    assert listings.history({"entries": []}, PIPE, 80) == "nothing has been done yet\n"


def test_findings_show_how_to_mend_only_what_is_not_well() -> None:
    found = [
        {"name": "kernel", "state": "ok", "detail": "6.1", "mend": "x"},
        {"name": "filter", "state": "fail", "detail": "missing", "mend": "apt install libseccomp2"},
    ]
    assert listings.checks(found, PIPE).splitlines() == [
        "ok    kernel  6.1",
        "FAIL  filter  missing",
        "              mend it: apt install libseccomp2",
    ]


def test_facts_say_where_they_were_measured() -> None:
    call = {"tool": "system.memory", "args": {}, "verdict": "allow", "exit_code": 0, "stdout": "Memory 8G\n"}
    assert "measured from /proc/meminfo" in render.result(finished(call), PIPE, PIPE).err
    assert "measured" not in render.result(finished({**call, "exit_code": None}), PIPE, PIPE).err
    assert "measured" not in render.result(finished({**call, "tool": "shell.run"}), PIPE, PIPE).err


def test_who_said_no_is_not_told_how_to_say_yes() -> None:
    call = {"tool": "shell.run", "args": {"command": "rm x"}, "verdict": "ask", "exit_code": None}
    result = finished(call, status="needs_approval", answer=render.SAID_NO[0])
    assert "--yes" not in render.result(result, PIPE, PIPE).err


def test_the_daemons_status_is_told_for_a_person() -> None:
    counts = {"ended": {"done": 3}, "judged": {"ask": 1}, "seconds": 5.0, "within": [[0.05, 2]]}
    found = {"pid": 7, "uptime_s": 3700.2, "resident_bytes": 62_914_560, "error": None, "max_queued": 64}
    shown = listings.status({**found, "counts": counts, "planner": {"state": "ready", "load_ms": 12.5}}, PIPE)
    assert "up:       1h 1m\n" in shown and "resident: 60.0M\n" in shown and "    done: 3\n" in shown
    assert not any(word in shown for word in ("within", "seconds", "error", "max_queued"))

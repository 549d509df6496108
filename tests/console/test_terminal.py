"""The console at a real terminal (tmux): questions, Ctrl-C, the status line, the shell.

The daemon is a scripted one, so that each question and delay is exactly known.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmos.errors import UsageError
from tests.console.server import JsonObject, Peer, methods, result, serving
from tests.console.tmux import Terminal

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux. Run: apt install tmux")

Open = Callable[..., Terminal]
TOOLS = [
    {"name": "shell.run", "summary": "run a command", "raw": "command", "parameters": {"properties": {}}},
    {"name": "file.find", "summary": "find files", "raw": None, "parameters": {"properties": {}}},
]
STATUS = {"pid": 1, "policy": "default", "planner": {"model": "tiny", "state": "ready"}}


@pytest.fixture
def open_terminal(isolated_home: Path, short_dir: Path, tmp_path: Path) -> Iterator[Open]:
    weights = tmp_path / "models"
    weights.mkdir()
    (weights / "stand-in.gguf").touch()
    work = tmp_path / "work"
    work.mkdir()
    (work / "notes.txt").touch()
    opened: list[Terminal] = []
    names = ("HOME", "PATH", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")
    env = {name: os.environ[name] for name in names} | {"LC_ALL": "C.UTF-8", "LLMOS_AUTOSTART": "0"}
    env |= {"LLMOS_SOCKET": str(short_dir / "s"), "LLMOS_MODELS_DIR": str(weights)}

    def start(*words: str, argv: tuple[str, ...] = (), **extra: str) -> Terminal:
        command = argv or (sys.executable, "-m", "llmos", *words)
        opened.append(Terminal(short_dir, command, env | extra, work))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.__exit__()


def question(peer: Peer, frame: JsonObject, **changes: object) -> JsonObject:
    """Ask for approval and return the client's answer, acknowledged."""
    effects = {"deletes": ["/tmp/old.log"], "programs": ["/usr/bin/rm"]}
    data = {"index": 0, "tool": "shell.run", "command": "rm -- /tmp/old.log", "effects": effects}
    data |= {"call": {"tool": "shell.run", "args": {"command": "rm -- /tmp/old.log"}}}
    data |= {"verdict": "ask", "rule": "delete", "reason": "deleting is final", **changes}
    peer.event(frame["params"]["id"], "approval", **data)
    answer = peer.receive()
    assert answer is not None
    return answer


def asks(peer: Peer, frame: JsonObject) -> None:
    answer = question(peer, frame)
    peer.reply(answer, {"ok": True})
    peer.reply(frame, result(frame, calls=[], answer=f"decision {answer['params']['decision']}"))


def waits(peer: Peer, frame: JsonObject) -> None:
    """Think until cancelled."""
    peer.event(frame["params"]["id"], "thinking")
    cancel = peer.receive()
    assert cancel is not None and cancel["method"] == "cancel"
    peer.reply(cancel, {"ok": True})
    peer.reply(frame, result(frame, status="failed", calls=[], answer="Cancelled."))


# --- one request -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "decision"), [("y", "yes"), ("n", "no"), ("a", "always"), ("v", "never"), ("C-d", "no")]
)
def test_the_question_and_its_answers(open_terminal: Open, short_dir: Path, key: str, decision: str) -> None:
    with serving(short_dir / "s", methods(ask=asks)) as peers:
        terminal = open_terminal("delete the old log")
        shown = terminal.wait("[y]es  [n]o")
        assert "rm -- /tmp/old.log" in shown and "deletes   /tmp/old.log" in shown
        assert "rule delete: deleting is final" in shown
        terminal.keys(key)
        assert "exit:0" in terminal.wait(f"decision {decision}") or terminal.wait("exit:0")
    assert peers[0].received[0]["params"]["consent"] == "interactive"


def test_a_person_is_asked_in_chinese(open_terminal: Open, short_dir: Path) -> None:
    with serving(short_dir / "s", methods(ask=asks)):
        terminal = open_terminal("删除旧日志", LC_ALL="zh_CN.UTF-8")
        shown = terminal.wait("[v]永不")
        assert "shell.run 想要执行：" in shown and "删除      /tmp/old.log" in shown
        terminal.keys("v")
        terminal.wait("decision never")


def test_explain_and_help_come_before_the_answer(open_terminal: Open, short_dir: Path) -> None:
    with serving(short_dir / "s", methods(ask=asks)):
        terminal = open_terminal("delete the old log")
        terminal.wait("[y]es")
        terminal.keys("x")
        assert "programs  /usr/bin/rm" in terminal.wait("exactly this command in the sandbox")
        terminal.keys("?")
        terminal.wait("what you write is judged anew")
        terminal.keys("q")
        time.sleep(1.0)  # what is typed while somebody types is let pass
        terminal.keys("y")
        terminal.wait("decision yes")


def test_edit_is_pre_filled_and_refusals_are_asked_again(open_terminal: Open, short_dir: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        edit = question(peer, frame)
        assert edit["params"]["call"] == {"tool": "shell.run", "args": {"command": "rm -- /tmp/old.log.1"}}
        peer.refuse(edit, UsageError("that is no valid call", "Name a file.").to_rpc())
        second = peer.receive()
        assert second is not None
        peer.reply(second, {"ok": True})
        peer.reply(frame, result(frame, calls=[], answer=f"decision {second['params']['decision']}"))

    with serving(short_dir / "s", methods(ask=ask)):
        terminal = open_terminal("delete the old log")
        terminal.wait("[y]es")
        terminal.keys("e")
        terminal.wait("shell.run rm -- /tmp/old.log")
        terminal.type(".1")
        terminal.wait("that is no valid call")
        terminal.keys("n")
        terminal.wait("decision no")


def test_keys_typed_before_the_question_approve_nothing(open_terminal: Open, short_dir: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        peer.event(frame["params"]["id"], "thinking")
        time.sleep(1.5)
        asks(peer, frame)

    with serving(short_dir / "s", methods(ask=ask)):
        terminal = open_terminal("delete the old log")
        terminal.wait("thinking")
        terminal.keys("y", "y")
        terminal.wait("[y]es")
        time.sleep(0.5)
        assert "decision" not in terminal.screen()
        terminal.keys("n")
        terminal.wait("decision no")


def test_a_hostile_command_is_shown_for_what_it_is(open_terminal: Open, short_dir: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        answer = question(peer, frame, command="rm -rf ~\x1b[2K\x1b[1Gls\u202e")
        peer.reply(frame, result(frame, calls=[], answer=str(answer["params"]["decision"])))

    with serving(short_dir / "s", methods(ask=ask)):
        terminal = open_terminal("delete the old log")
        assert "rm -rf ~^[[2K^[[1Gls\\u202e" in terminal.wait("[y]es")
        terminal.keys("n")
        terminal.wait("exit:")


def test_the_status_line_comes_and_goes_and_ctrl_c_cancels(open_terminal: Open, short_dir: Path) -> None:
    with serving(short_dir / "s", methods(ask=waits)):
        terminal = open_terminal("think about it")
        terminal.wait("thinking 0.")
        terminal.wait("thinking 1.")
        terminal.keys("C-c")
        shown = terminal.wait("exit:5")
    assert "Cancelled." in shown and "thinking" not in shown


def test_the_answer_is_streamed_and_stands_there_once(open_terminal: Open, short_dir: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        for word in ("The capital ", "is ", "Paris\x07."):
            peer.event(frame["params"]["id"], "text", text=word)
            time.sleep(0.4)
        peer.reply(frame, result(frame, calls=[], answer="The capital is Paris\x07."))

    with serving(short_dir / "s", methods(ask=ask)):
        terminal = open_terminal("what is the capital of France")
        terminal.wait("The capital is")
        shown = terminal.wait("exit:0")
    assert shown.count("The capital is Paris^G.") == 1


def test_a_commands_output_is_streamed_and_stands_there_once(open_terminal: Open, short_dir: Path) -> None:
    call = {"tool": "shell.run", "args": {"command": "make"}, "verdict": "allow", "exit_code": 0}

    def run(peer: Peer, frame: JsonObject) -> None:
        request_id = frame["params"]["id"]
        peer.event(request_id, "call", index=0, tool="shell.run", command="make", verdict="allow")
        peer.event(request_id, "output", index=0, stream="stdout", text="compiling\n")
        time.sleep(1.0)
        peer.event(request_id, "output", index=0, stream="stderr", text="a warning\n")
        peer.reply(frame, result(frame, calls=[{**call, "stdout": "compiling\n", "stderr": "a warning\n"}]))

    with serving(short_dir / "s", methods(ask=run)):
        terminal = open_terminal("build it please")
        assert "exit:" not in terminal.wait("compiling")
        shown = terminal.wait("exit:0")
    assert shown.count("compiling") == shown.count("a warning") == 1


def test_ctrl_c_at_the_question_cancels_the_request(open_terminal: Open, short_dir: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        answer = question(peer, frame)
        assert answer["method"] == "cancel"
        peer.reply(frame, result(frame, status="failed", calls=[], answer="Cancelled."))

    with serving(short_dir / "s", methods(ask=ask)):
        terminal = open_terminal("delete the old log")
        terminal.wait("[y]es")
        terminal.keys("C-c")
        assert "Cancelled." in terminal.wait("exit:5")


def test_piped_data_leaves_the_terminal_for_the_answer(open_terminal: Open, short_dir: Path) -> None:
    with serving(short_dir / "s", methods(ask=asks)) as peers:
        pipe = f"echo some data | {sys.executable} -m llmos delete what this says"
        terminal = open_terminal(argv=("/bin/sh", "-c", pipe))
        terminal.wait("[y]es")
        terminal.keys("y")
        terminal.wait("decision yes")
    assert peers[0].received[0]["params"]["data_b64"] == "c29tZSBkYXRhCg=="


# --- the shell ---------------------------------------------------------------------------------------


def shell_methods(**more: object) -> Callable[[Peer, JsonObject], None]:
    return methods(
        tools=lambda peer, frame: peer.reply(frame, {"tools": TOOLS}),
        status=lambda peer, frame: peer.reply(frame, STATUS),
        **more,  # type: ignore[arg-type]
    )


def echo(peer: Peer, frame: JsonObject) -> None:
    """Answer with what was asked, and where."""
    params = frame["params"]
    what = params.get("text") or f"{params['tool']} {params['args']}"
    peer.reply(frame, result(frame, calls=[], answer=f"<{what}> in {Path(params['cwd']).name}"))


def test_a_session_in_the_shell(open_terminal: Open, short_dir: Path, isolated_home: Path) -> None:
    with serving(short_dir / "s", shell_methods(ask=echo, call=echo, plan=echo)):
        terminal = open_terminal()
        shown = terminal.wait("model tiny · policy default")
        assert "say what you want done here" in shown
        terminal.type("list the files")
        terminal.wait("<list the files> in work")
        terminal.type("!ls -l | wc")
        terminal.wait("<shell.run {'command': 'ls -l | wc'}> in work")
        terminal.type("cd ..")
        terminal.type("where am I")
        terminal.wait("<where am I> in test_a_session_in_the_shell0")
        terminal.type("/nonsense")
        terminal.wait("there is no /nonsense")
        terminal.type("/tools")
        terminal.wait("file.find  find files")
        terminal.keys("C-d")
        terminal.wait("exit:0")
    history = isolated_home / ".local/state/llmos/shell_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "+list the files" in history.read_text()


def test_completion_history_and_paste_in_the_shell(open_terminal: Open, short_dir: Path) -> None:
    with serving(short_dir / "s", shell_methods(ask=echo)):
        terminal = open_terminal()
        terminal.wait("model tiny")
        terminal.type("count lines in not", enter=False)
        terminal.keys("Tab")
        terminal.wait("count lines in notes.txt")
        terminal.keys("Enter")
        terminal.wait("<count lines in notes.txt> in work")
        terminal.paste("first line\nsecond line")
        time.sleep(0.5)
        assert "<first line" not in terminal.screen()
        terminal.keys("Enter")
        terminal.wait("<first line\nsecond line> in work")
        terminal.keys("C-r")
        terminal.type("count", enter=False)
        terminal.wait("count lines in notes.txt")
        terminal.keys("Enter", "Enter")
        terminal.keys("C-d")


def test_ctrl_c_ends_the_request_and_not_the_shell(open_terminal: Open, short_dir: Path) -> None:
    with serving(short_dir / "s", shell_methods(ask=waits, call=echo)):
        terminal = open_terminal()
        terminal.wait("model tiny")
        terminal.type("think for ever")
        terminal.wait("thinking 0.")
        terminal.keys("C-c")
        terminal.wait("Cancelled.")
        terminal.type("a line given up", enter=False)
        terminal.keys("C-c")
        terminal.type("!pwd")
        terminal.wait("<shell.run {'command': 'pwd'}> in work")
        terminal.keys("C-d")
        terminal.wait("exit:0")


def test_the_shell_outlives_a_daemon_that_is_away(open_terminal: Open, short_dir: Path) -> None:
    terminal = open_terminal()
    terminal.wait("no llmos daemon answers")
    terminal.wait_still()  # it is told above a prompt that stands there already
    terminal.type("list the files")
    terminal.wait("» list the files")
    with serving(short_dir / "s", shell_methods(ask=echo)):
        terminal.type("now list them")
        terminal.wait("<now list them> in work")
    terminal.keys("C-d")
    terminal.wait("exit:0")


def in_the_background(peer: Peer, frame: JsonObject) -> None:
    """What has "remove" in it needs a word; the rest takes half a second."""
    said = frame["params"].get("text") or str(frame["params"]["args"]["command"])
    time.sleep(0.5)
    waits = {"id": "0badcafe"} if "remove" in said else None
    peer.reply(frame, {"result": result(frame, calls=[], answer=f"<{said}>"), "item": waits})


def test_background_variables_undo_and_names_in_a_narrow_shell(open_terminal: Open, short_dir: Path) -> None:
    answers = shell_methods(
        call=echo,
        inbox_ask=in_the_background,
        inbox_approve=lambda peer, frame: peer.reply(
            frame, result(frame, calls=[], answer=f"approved {frame['params']['item']}")
        ),
        undo=lambda peer, frame: peer.reply(frame, result(frame, calls=[], answer="<taken back>")),
    )
    with serving(short_dir / "s", answers):
        terminal = open_terminal()
        terminal.resize(40, 30)
        terminal.wait("model tiny")
        terminal.type("list the files &")
        terminal.wait("[1] list the files")
        terminal.type("remove the logs &")
        terminal.wait("[2] remove the logs")
        time.sleep(1.0)
        terminal.keys("Enter")
        shown = terminal.wait("It needs your word: /approve 0badcafe")
        assert "[1] done: list the files" in shown and "<list the files>" in shown
        terminal.type("/approve 0badcafe")
        terminal.wait("approved 0badcafe")
        terminal.type("export GREETING='good day'")
        terminal.type("!printenv GREETING")
        terminal.wait("\"export GREETING='good day'; printenv GREETING")
        terminal.type("!sleep 1 &")
        terminal.wait("<export GREETING='good day'; sleep 1>")
        terminal.type("unset GREETING")
        terminal.type("!printenv")
        terminal.wait("<shell.run {'command': 'printenv'}>")
        terminal.keys("M-u")
        terminal.wait("<taken back>")
        terminal.type("slow the process tes", enter=False)
        with subprocess.Popen([sys.executable, "-c", NAMED], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline()
            terminal.keys("Tab")
            terminal.wait("test-a-name")
            process.kill()
        terminal.keys("C-u")
        terminal.type("/help")
        assert "                     commands after !" in terminal.wait("(unset NAME)")
        terminal.keys("C-d")
        terminal.wait("exit:0")


NAMED = """
import time
open("/proc/self/comm", "w").write("test-a-name")
print(flush=True)
time.sleep(60)
"""


def test_ctrl_z_puts_the_shell_aside_as_it_does_any_program(open_terminal: Open, short_dir: Path) -> None:
    with serving(short_dir / "s", shell_methods(call=echo)):
        terminal = open_terminal(argv=("bash", "--norc"))
        terminal.type(f"{sys.executable} -m llmos")
        terminal.wait("model tiny")
        terminal.type("!first", enter=False)
        terminal.keys("C-z")
        terminal.wait("Stopped")
        terminal.type("fg")
        time.sleep(0.5)
        terminal.keys("Enter")
        terminal.wait("<shell.run {'command': 'first'}>")


def test_a_sentence_typed_or_pasted_at_a_question_answers_nothing(
    open_terminal: Open, short_dir: Path
) -> None:
    """`!cat x` has an `a` in it, which would be always."""
    with serving(short_dir / "s", methods(ask=asks)):
        terminal = open_terminal("delete the old log")
        terminal.wait("[y]es")
        terminal.type("!cat x", enter=False)
        for key in ("m", "a", "y"):
            terminal.keys(key)
            time.sleep(0.2)
        terminal.type("yes, always\nyes")
        time.sleep(1.5)
        assert "decision" not in terminal.screen()
        terminal.type("y")
        terminal.wait("decision yes")

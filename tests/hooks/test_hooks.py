"""The hook of `llmos init` in a real bash and a real zsh, at a real terminal (tmux)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmos import cli_args, cli_hooks, cli_manual
from tests.console.tmux import Terminal
from tests.daemon import support

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux. Run: apt install tmux")
SCRIPT = {
    "count the text files": {"command": "ls *.txt | wc -l"},
    "show me the greeting": {"calls": [{"tool": "answer", "args": {"text": "Good day."}}]},
    "*": {"calls": []},
}
STARTS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
}


@pytest.fixture(scope="module")
def env(make_home: Callable[[], dict[str, str]]) -> Iterator[dict[str, str]]:
    made = make_home()
    runtime = Path(made["XDG_RUNTIME_DIR"])
    (runtime / "models").mkdir()
    (runtime / "models/stand-in.gguf").touch()
    daemon = support.start(runtime, SCRIPT, env=made)
    names = ("HOME", "PATH", "PYTHONPATH", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
    found = {name: made[name] for name in names if name in made}
    found |= {
        "LLMOS_SOCKET": str(daemon.path),
        "LLMOS_MODELS_DIR": str(runtime / "models"),
        "LC_ALL": "C.UTF-8",
    }
    yield found
    daemon.stop()


@pytest.fixture(params=sorted(STARTS))
def terminal(
    request: pytest.FixtureRequest, env: dict[str, str], tmp_path: Path, short_dir: Path
) -> Iterator[Terminal]:
    """A shell with the hook in it, in a folder with two text files."""
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param}. Run: apt install {request.param}")
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).touch()
    if request.param == "zsh":
        (tmp_path / "init").write_text("autoload -Uz compinit; compinit -u -D\n")
    hook = subprocess.run(
        [sys.executable, "-m", "llmos", "init", request.param],
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    assert hook.returncode == 0, hook.stderr
    with (tmp_path / "init").open("a") as file:
        file.write("PS1='ready> '; PROMPT='ready> '\n" + hook.stdout)
        file.write(f'\nllmos() {{ {sys.executable} -m llmos "$@"; }}\n')
    with Terminal(short_dir, STARTS[request.param], env, tmp_path) as opened:
        opened.type(". ./init; clear")
        opened.wait("ready> ")
        yield opened


def test_the_key_writes_the_command_and_the_person_runs_it(terminal: Terminal) -> None:
    terminal.type("count the text files", enter=False)
    terminal.keys("M-i")
    terminal.wait("ready> ls *.txt | wc -l")
    terminal.keys("M-i")
    terminal.wait("ready> count the text files")
    terminal.keys("M-i")
    terminal.wait("ready> ls *.txt | wc -l")
    terminal.keys("Enter")
    terminal.wait("\n2\n")


def test_a_sentence_that_is_no_command_is_a_request_and_a_typing_error_is_not(terminal: Terminal) -> None:
    terminal.type("show me the greeting")
    terminal.wait("Good day.")
    terminal.type("gti status; echo code:$?")
    terminal.wait("code:127")
    terminal.type("cat reprot.txt")
    terminal.wait("No such file")
    terminal.type("why")
    terminal.wait("there is no 'reprot.txt'")


def test_completion_of_verbs_options_and_tools(terminal: Terminal) -> None:
    terminal.type("llmos comp", enter=False)
    terminal.keys("Tab")
    terminal.wait("llmos compile")
    terminal.keys("C-u")
    terminal.type("llmos run --keep", enter=False)
    terminal.keys("Tab")
    terminal.wait("llmos run --keep-going")
    terminal.keys("C-u")
    terminal.type("llmos tools file.fin", enter=False)
    terminal.keys("Tab")
    terminal.wait("llmos tools file.find")
    terminal.keys("C-u")


# --- what is generated ------------------------------------------------------------------------------


def shown_verbs() -> list[str]:
    return [name for name, verb in cli_args.VERBS.items() if not verb.hidden]


def test_the_manual_has_every_section_verb_and_option_in_chinese_as_well() -> None:
    """What is left in English are usages, examples, and terms."""
    english, chinese = (
        re.sub(r"\.nf\n.*?\.fi", "", page, flags=re.DOTALL) for page in cli_manual.pages().values()
    )
    assert [line.split()[0] for line in english.split("\n") if line[:1] == "."] == [
        line.split()[0] for line in chinese.split("\n") if line[:1] == "."
    ]
    prose = {line for line in english.split("\n") if re.match(r"[A-Za-z0-9:]+ [a-z]+ [a-z]+", line)}
    assert len(prose) > 100
    assert prose & set(chinese.split("\n")) == set()


def test_every_verb_and_option_of_help_is_in_the_manual() -> None:
    page = cli_manual.page().replace("\\-", "-")
    for name in shown_verbs():
        assert f'.SS "llmos {name}"' in page
        for action in cli_args.parser(name, f"llmos {name}")._actions:
            assert all(option in page for option in action.option_strings)
    requests = [line for line in page.split("\n") if line.startswith(".")]
    assert {line.split()[0] for line in requests} == {
        ".TH",
        ".SH",
        ".SS",
        ".TP",
        ".B",
        ".BR",
        ".PP",
        ".br",
        ".nf",
        ".fi",
        ".RS",
        ".RE",
    }
    assert page.isascii() and all(f".B {code}" in page for code in (0, *range(2, 10)))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_is_completed(shell: str) -> None:
    text = cli_hooks.completions(shell)
    marks = {"bash": "    {})", "zsh": "        {}) _arguments", "fish": " -a {} -d "}
    assert [name for name in shown_verbs() if marks[shell].format(name) not in text] == []


def test_what_a_package_installs_is_whole_and_parses() -> None:
    files = cli_hooks.installed()
    assert set(map(os.path.dirname, files)) == {
        "man/man1", "man/zh_CN/man1",
        "bash-completion/completions", "zsh/site-functions", "fish/vendor_completions.d",
    }  # fmt: skip
    bash = files["bash-completion/completions/llmos"]
    done = subprocess.run(["bash", "-n"], input=bash, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    asked = f"{bash}\nCOMP_WORDS=(llmos adv) COMP_CWORD=1; _llmos; echo ${{COMPREPLY[*]}}"
    assert subprocess.run(["bash", "-c", asked], text=True, capture_output=True).stdout == "advise\n"

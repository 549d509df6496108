"""The pages of the documentation, executed: commands in a shell, settings by what reads settings.

Every line of a block of commands is run as it stands there (in the workspace of the benchmarks, with a
scripted planner, nobody at a terminal), or with smaller numbers where it takes hours (`SMALLER`), or it is in
`NOT_RUN` with the reason; its words are then parsed by the program's own parser. Blocks of TOML are loaded as
the settings, rules, tools or tables of programs that they are. docs/protocol.md is run by
tests/daemon/test_protocol_doc.py, and docs/tools.md is written from the manifests.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from llmos import cli_args, config, paths
from llmos.guard import grammar, rulefile
from llmos.guard.policy import Policy
from llmos.toolbox import catalog
from tests.bench.understand import workspace
from tests.daemon import support

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```|(?<=\n\n)((?:^    [^\n]*\n)+)", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:\$ )?((?:llmos|git|printf|python -m|sudo|pip|\./|bash|\.venv/)\b.*|\./.*)")
_VARYING = re.compile(r"\d[\d.]* s\b|\d{4}-\d\d-\d\d[ T][\d:]+|\d+ bytes|(?<=undo )\w+")

INSTALLS = "it installs: .ci/run runs the installer on a clean machine"
CI = "it is what CI does itself"
SERVICE = "it needs systemd: tests/booted does it on a machine that is booted for that"
TRAINS = "it trains for long: tests/tune trains with fewer steps"
ABROAD = "it needs another machine: tests/tune/test_launch.py has processes of this one"
NOT_RUN = {
    './install.sh "what are the three largest files in this folder?"': INSTALLS,
    "./install.sh --for-tests": INSTALLS,
    "pip install 'llmos[ray]'": INSTALLS,
    "./test.sh tests/engine -k store": CI,
    ".venv/bin/ruff format . && .venv/bin/ruff check . && .venv/bin/mypy": CI,
    "bash .ci/run": CI,
    'sudo "$(command -v llmos)" service install': SERVICE,
    'sudo usermod -aG llmos "$USER"': SERVICE,
    "llmos service status": SERVICE,
    "python -m tests.bench.program_tables --programs wdiff": "it needs strace and the program asked about",
    "python -m tests.bench.policy_strings --list": "long: tests/redteam/test_strings.py asks the same",
    "llmos serve --model tiny": "test_the_model_is_served_as_its_page_says has it, beside the client below",
    "llmos serve --host 0.0.0.0 --keys /etc/llmos/serve.keys --tls-cert cert.pem --tls-key key.pem "
    "--per-minute 60": "it opens the machine: tests/serve serves with keys and TLS on this machine alone",
    "llmos model use ~/models/mine": "there is no such model until one was trained",
}
# By how a line begins, for those of which a page has several.
NOT_RUN_BEGINNINGS = {
    "llmos serve --ray": "it needs a Ray cluster: tests/serve has one on this machine",
    "llmos tune train … --launch": ABROAD,
    "llmos tune train --rows train.jsonl --valid valid.jsonl --out ~/adapters/mine --max-steps": ABROAD,
    **dict.fromkeys((f"llmos tune {verb} " for verb in ("train", "evaluate", "pretrain", "heads")), TRAINS),
    **dict.fromkeys((f"llmos tune {verb} " for verb in ("hints", "prune", "quantize", "distill")), TRAINS),
    "llmos tune answers": "it reads every manual page of the machine: tests/tune/test_answers.py has a few",
}
SMALLER = {"--count 140000": "--count 40", "--count 20000": "--count 40", "--inputs 20000": "--inputs 200"}

# What does not end with 0 where nobody is at a terminal, no engine runs and no backend is at its address.
EXITS = {
    'llmos --cloud "…"': 5,
    'llmos --backend lab "…"': 5,
    'llmos "rename util.py to tools.py"': 4,
    "llmos undo": 2,  # nothing was changed yet
    'llmos "keep make from slowing nginx down"': 4,
    "llmos": 2,
    'llmos "run redis in a container with 256 MB"': 5,
    "llmos call docker.container.list --args '{\"all\": true}'": 5,
    "llmos policy check -- git push --force": 4,
    'llmos policy check --call file.delete \'{"path": "build"}\'': 4,
    "llmos policy explain -- 'cat ~/.ssh/id_rsa'": 3,
    "llmos policy forget ID": 2,
    "llmos resume": 2,  # nothing was cut off
    "llmos resume ID --forget": 2,
}

LARGEST = {"calls": [{"tool": "file.find", "args": {"sort": "size", "limit": 3}}]}
RENAME = {"calls": [{"tool": "file.move", "args": {"path": "util.py", "to": "tools.py"}}]}
LINES = {"calls": [{"tool": "text.count", "args": {"what": "lines"}}]}
SCRIPT = {
    "what are the three largest files in this folder?": LARGEST,
    "rename util.py to tools.py": RENAME,
    "how many lines is this": LINES,
    "how many lines has access.log": {
        "calls": [{"tool": "text.count", "args": {"what": "lines", "path": "access.log"}}]
    },
    "count the python files under src": {"command": "find src -name '*.py' | wc -l"},
    "keep make from slowing nginx down": {
        "calls": [{"tool": "goal.add", "args": {"protect": "nginx", "against": "make"}}]
    },
    "run redis in a container with 256 MB": {
        "calls": [{"tool": "docker.container.run", "args": {"image": "redis", "memory": "256M"}}]
    },
    "show me the first 3 lines of notes.txt": {
        "calls": [{"tool": "file.read", "args": {"path": "notes.txt", "first": 3}}]
    },
    "find the ERROR lines in error.log": {
        "calls": [{"tool": "text.search", "args": {"pattern": "ERROR", "path": "error.log"}}]
    },
    "delete old.log": {"calls": [{"tool": "file.delete", "args": {"path": "old.log"}}]},
    "how much memory is free?": {"calls": [{"tool": "system.memory", "args": {}}]},
    "查找所有 py 文件": {"calls": [{"tool": "file.find", "args": {"name": "*.py"}}]},
    "*": {"calls": [{"tool": "answer", "args": {"text": "Done."}}]},
}


class Block(NamedTuple):
    page: str
    language: str  # `console` for one that is only indented
    text: str


class Line(NamedTuple):
    command: str
    output: str  # what the page shows below it
    code: int | None = None  # what the page shows for `echo $?`


def blocks(page: Path) -> Iterator[Block]:
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if found[1]:
            yield Block(page.name, found[1], found[2])
        else:
            yield Block(page.name, "console", re.sub("^    ", "", found[3], flags=re.MULTILINE))


def toml_blocks() -> list[Block]:
    """Settings, rules, tools and tables of programs, fenced or not."""
    found = [block for page in PAGES for block in blocks(page)]
    return [block for block in found if block.language == "toml" or re.match(r"\[\w+\]\n", block.text)]


def lines(page: Path) -> list[Line]:
    """The commands of a page in their order."""
    found: list[Line] = []
    for block in blocks(page):
        if block.language not in ("sh", "console") or page.name == "protocol.md":
            continue
        shown: list[str] = []
        for text in [*block.text.splitlines(), "$ echo"]:
            if text == "$ echo $?":
                found[-1] = found[-1]._replace(output="\n".join(shown), code=-1)
            elif found and found[-1].code == -1:
                found[-1] = found[-1]._replace(code=int(text) if text.isdigit() else None)
            elif match := _COMMAND.match(text):
                found.append(Line(uncommented(match[1]), ""))
                shown = []
            else:
                shown.append(text)
    return found


def uncommented(line: str) -> str:
    return re.sub(r"\s{2,}# .*$|\s# and log in again$", "", line).strip()


def why_not(command: str) -> str:
    """The reason why a command is not run; empty for one that is."""
    if command in NOT_RUN:
        return NOT_RUN[command]
    return next((why for head, why in NOT_RUN_BEGINNINGS.items() if command.startswith(head)), "")


ALL = [(page, line) for page in PAGES for line in lines(page)]


def test_every_reason_is_of_a_line_that_is_there() -> None:
    commands = [line.command for _, line in ALL]
    assert len(commands) > 70
    assert [known for known in (*NOT_RUN, *EXITS) if known not in commands] == []
    heads = (*NOT_RUN_BEGINNINGS, *SMALLER)
    assert [head for head in heads if not any(head in command for command in commands)] == []


def test_what_is_not_run_is_a_command_all_the_same() -> None:
    for _, line in ALL:
        words = shlex.split(line.command.replace("train …", "train --rows a --out b"), comments=True)
        if why_not(line.command) and words[0] == "llmos":
            cli_args.parse(words[1:])
        elif line.command.startswith("python -m "):
            assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file()
        elif words[0].startswith("./"):
            assert os.access(ROOT / words[0], os.X_OK)


# --- commands --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shell(make_home: Callable[[], dict[str, str]]) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Runs one line in the workspace; what it ended with, and all that it said."""
    env = make_home()
    home, run = Path(env["HOME"]), Path(env["XDG_RUNTIME_DIR"])
    work, programs = home / "work", run / "bin"
    work.mkdir()
    programs.mkdir()
    workspace.build(work)
    prepare(work, Path(env["XDG_CONFIG_HOME"]) / "llmos")
    for name, argv in {"llmos": "-m llmos", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {argv} "$@"\n')
        (programs / name).chmod(0o755)
    (run / "models").mkdir()
    (run / "models/stand-in.gguf").touch()
    settings = {"backend": [{"name": "lab", "url": "http://127.0.0.1:9/v1", "model": "none"}]}
    daemon = support.start(run, SCRIPT, settings, env=env)
    env |= {"LLMOS_SOCKET": str(daemon.path), "LLMOS_MODELS_DIR": str(run / "models"), "NO_COLOR": "1"}
    env |= {"PATH": f"{programs}:{env['PATH']}", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}

    def say(line: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", line], cwd=work, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=120,
        )  # fmt: skip
        return done.returncode, (done.stdout + done.stderr).replace(str(home), "~")

    yield say
    daemon.stop()


def prepare(work: Path, settings: Path) -> None:
    """What the pages take for granted: a repository, a policy file that is being written."""
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    rules = [block.text for block in toml_blocks() if block.page == "policy.md" and "[[rule]]" in block.text]
    (work / "stricter.toml").write_text(rules[0])
    (work / "docs").mkdir(exist_ok=True)
    settings.mkdir(parents=True, exist_ok=True)


@pytest.mark.sandbox
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_do_what_it_says(shell: Callable[[str], tuple[int, str]], page: Path) -> None:
    wrong = []
    for line in lines(page):
        if why_not(line.command):
            continue
        command = line.command
        for long, short in SMALLER.items():
            command = command.replace(long, short)
        code, said = shell(command)
        expected = EXITS.get(line.command, 0) if line.code is None else line.code
        if code != expected:
            wrong.append(f"{command}\n  ended with {code}, not {expected}:\n{said[-800:]}")
        elif line.code is not None and masked(line.output) != masked(said):
            wrong.append(f"{command}\n--- the page\n{line.output}\n--- here\n{said}")
    assert not wrong, "\n\n".join(wrong)


def masked(output: str) -> str:
    """Without times, dates, sizes and ids, and of JSON the names alone: a machine's memory is its own."""
    if output.startswith("{"):
        return " ".join(re.findall(r'"(\w+)":', output))
    return _VARYING.sub("-", re.sub(" +", " ", output)).strip()


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=f"{block.page}-{at}") for at, block in enumerate(toml_blocks())]
)
def test_what_a_page_says_to_write_into_a_file_is_taken_there(block: Block, tmp_path: Path) -> None:
    """By what reads the file in the daemon; a rule's examples are tried as well."""
    keys = set(tomllib.loads(block.text))
    file = tmp_path / "page.toml"
    file.write_text(block.text)
    if keys <= set(config.Settings.model_fields):
        assert config.load((file,)).model_fields_set >= keys
    elif keys <= {"rule", "hide", "keep", "grants"}:
        tier = rulefile.Tier.SYSTEM if "grants" in keys else rulefile.Tier.USER
        sheet = rulefile.of_text(block.text, str(file), tier)
        assert sheet != rulefile.Sheet()
        Policy.load("default", [paths.builtin_policy_dir()]).tightened(sheet).prove()
    elif "run" in keys:
        tools = catalog.load((paths.tool_dirs()[0], tmp_path)).tools
        assert not tools[tomllib.loads(block.text)["name"]].shipped
    else:
        assert set(grammar.grammars(tmp_path)) == keys


# --- the model, served -----------------------------------------------------------------------------


@pytest.mark.weights
def test_the_model_is_served_as_its_page_says(tiny_model: Path, tmp_path: Path) -> None:
    """Its first command, at a port that is free, and its client in Python."""
    page = ROOT / "docs/serve.md"
    command = next(line.command for line in lines(page) if line.command == "llmos serve --model tiny")
    client = next(block.text for block in blocks(page) if block.language == "python")
    argv = [sys.executable, "-m", *shlex.split(command), "--port", "0"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            assert server.stderr is not None
            address = re.search(r"https?://\S+/v1", server.stderr.readline())
            assert address, server.stderr.read()
            program = client.replace("http://127.0.0.1:8080/v1", address[0])
            assert program != client
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
            )
            assert "ChatCompletion(" in done.stdout, done.stderr
        finally:
            server.terminate()

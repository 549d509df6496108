"""The tables of programs: how they are read, what they say of options, and that the programs agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from llmos import paths
from llmos.errors import ConfigError
from llmos.guard import places
from llmos.guard.commandline import analyse
from llmos.guard.grammar import grammars
from llmos.messages import ProgramUse

HOME = "/home/person"
TABLES = paths.builtin_policy_dir() / "programs"


def uses(text: str) -> tuple[ProgramUse, ...]:
    return analyse(text, cwd="/w", home=HOME).effects.uses


def test_how_programs_are_started_is_told_exactly() -> None:
    ls, wc = uses("ls -la --sort=size | wc -l")
    assert (Path(ls.program).name, ls.options, ls.subcommand) == ("ls", ("-l", "-a", "--sort"), "")
    assert wc.options == ("-l",)
    assert uses("git -C src stash show -p")[0].subcommand == "stash show"
    assert uses("docker image ls -q")[0].subcommand == "image ls"
    assert uses("find . -name x -delete")[0].options == ("-name", "-delete")
    assert [Path(use.program).name for use in uses("timeout 5 nice grep -r x src")] == [
        "grep",
        "nice",
        "timeout",
    ]


@pytest.mark.parametrize(
    ("text", "deletes"), [("sudo -u x rm -r f", "/w/f"), ("sudo nice rm f", "/w/f"), ("doas rm f", "/w/f")]
)
def test_what_runs_as_another_user_is_named_and_never_understood(text: str, deletes: str) -> None:
    found = analyse(text, cwd="/w", home=HOME)
    assert "another user" in found.opaque and found.effects.deletes == (deletes,)


@pytest.mark.parametrize(
    "text",
    [
        "busybox rm -r /etc", "command rm -r /etc", "exec nice rm -r /etc",
        "/lib64/ld-linux-x86-64.so.2 --argv0 x /bin/rm -r /etc",
    ],
)  # fmt: skip
def test_what_another_program_starts_is_followed_and_never_understood(text: str) -> None:
    found = analyse(text, cwd="/w", home=HOME)
    assert found.opaque and found.effects.deletes == ("/etc",)


def test_a_pager_is_not_started_and_a_signal_is_an_effect() -> None:
    assert analyse("less -R f", cwd="/w", home=HOME).normalised == "cat -- f"
    assert analyse("kill -9 4194305", cwd="/w", home=HOME).effects.signals == (4194305,)
    assert "more than one" in analyse("kill -9 -- -1", cwd="/w", home=HOME).opaque


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[x]\nflgs = 'a'\n", "x.flgs"),
        ("[x]\nsub.y = { long = 1 }\n", "x.sub.y.long"),
        ("[x\n", "t.toml"),
        ("[x]\nalias = ['y']\n[y]\n", "described twice"),
    ],
)
def test_a_wrong_table_names_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        grammars(tmp_path)
    assert says in str(caught.value) and "t.toml" in str(caught.value)


PLAIN = ["ls", "cat", "head", "tail", "wc", "stat", "du", "df", "sort", "uniq", "cut", "tr", "paste", "comm",
         "join", "cp", "mv", "ln", "rm", "mkdir", "touch", "chmod", "date", "seq", "nl", "grep", "diff",
         "cmp", "shuf", "base64", "tee", "truncate", "realpath", "readlink", "uname", "numfmt"]  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_the_program_itself_knows_the_options_of_its_table(name: str) -> None:
    """A misspelt option in a table would be one that the program takes for something else."""
    assert shutil.which(name), name
    said = subprocess.run([name, "--help"], capture_output=True, text=True, timeout=20).stdout
    known = set(re.findall(r"--([a-z0-9][a-z0-9-]*)", said)) | {
        "help",
        "version",
        "time",
        "colour",
        "verbose",
    }
    grammar = grammars()[name]
    wanted = {option for option in (*grammar.long, *grammar.optional, *grammar.values) if len(option) > 1}
    assert wanted - known - _UNLISTED.get(name, set()) == set()


# Options that work and that --help does not mention, or that newer releases have.
_UNLISTED = {"wc": {"total"}}


@pytest.mark.parametrize(
    "text",
    [
        "find . -maxdepth 1 -exec git status \\;", "find . -exec rg x {} \\;", "find . -exec man ls \\;",
        "xz -l -d a.xz", "bzip2 -td a.bz2", "zstd -l -d a.zst", "openssl", "fd -x rm", "sleep infinity",
        "find . | xargs -P0 ls", "seq 1 1e15", "sort -S 900G f", "printf '\\033]52;c;eA==\\a'",
        "jq -rn '\"\\u001b]0;x\"'", "git log --format=%x1b]0;x",
    ],
)  # fmt: skip
def test_what_looks_harmless_and_is_not_known_to_be(text: str) -> None:
    assert analyse(text, cwd="/w", home=HOME).opaque


@pytest.mark.parametrize(
    ("text", "reads"),
    [("xxd -ps f", "/w/f"), ("od -e f", "/w/f"), ("hexdump -n 3 f", "/w/f"), ("grep -r x", "/w"),
     ("rg x", "/w"), ("openssl x509 -noout -in f", "/w/f")],
)  # fmt: skip
def test_what_is_read_is_told_whatever_the_options_before_it(text: str, reads: str) -> None:
    found = analyse(text, cwd="/w", home=HOME)
    assert not found.opaque and reads in found.effects.reads


def test_a_search_of_everything_below_home_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    for text in ("grep -r x", "rg x", "git grep x", "grep -r x ."):
        assert "secrets lie" in analyse(text, cwd=str(tmp_path), home=str(tmp_path)).opaque
    for text in ("ps aux | rg x", "ps aux | grep x", "grep x f"):
        assert not analyse(text, cwd=str(tmp_path), home=str(tmp_path)).opaque


def test_judging_never_takes_long() -> None:
    """Patterns that backtrack would let one line hold the broker for hours."""
    for text in ("ps -o " + "a" * 60 + "!", "cat secret" + "-a" * 60 + "!", "cat " + "secret-" * 1300 + "!",
                 "echo " + "[" * 4000, "sed '" + " " * 1900 + "'", "ls " + "*a" * 300):  # fmt: skip
        began = time.process_time()
        analyse(text, cwd="/w", home=HOME)
        places.kind_of(f"/w/{text[4:]}", HOME)
        assert time.process_time() - began < 1, text

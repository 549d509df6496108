"""Shell text: what is understood, what is opaque and why, and that what is run is what was judged."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.guard import scripts, shelltext
from llmos.guard.characters import Opaque
from llmos.guard.commandline import analyse

HOME = "/home/person"


def normal(text: str, cwd: str = "/w") -> str:
    return shelltext.render(shelltext.parse(text, cwd=cwd, home=HOME))


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("ls -la 2>&1 | head -3 > f", "ls -la 2>&1 | head -3 > f"),
        ("a && b || c; d\ne", "a && b || c; d; e"),
        ("cmd > f 2>/dev/null x", "cmd x > f 2> /dev/null"),
        ("echo \"a \\$b $HOME\"'c d' e\\ f", "echo 'a $b /home/personc d' 'e f'"),
        ("echo ~ ~/x $PWD", "echo /home/person /home/person/x /w"),
        ("r''m x", "rm x"),
        ("LC_ALL=C sort f # why", "LC_ALL=C sort f"),
        ("ls &> f", "ls > f 2>&1"),
        ('echo "" {}', "echo '' '{}'"),
    ],
)
def test_plain_words_are_written_anew(text: str, run: str) -> None:
    assert normal(text) == run
    assert normal(run) == run


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo $(x)", "expansion"),
        ("echo `x`", "`"),
        ('echo "$(x)"', "expansion"),
        ("echo $x", "variable $x"),
        ("ls {a,b}", "brace"),
        ("ls &", "background"),
        ("echo 'x", "complete"),
        ("cat ~root/x", "another user's home"),
        ("PATH=. ls", "variable"),
        ("ls\u00a0-l", "U+00A0"),
        ("ls \u202ex", "U+202E"),
        ("ls \u200b", "U+200B"),
        ("ls\rx", "U+000D"),
        ("ｒｍ x", "look-alike"),
        ("ls s\u0443b", "scripts"),
        ("(ls)", "subshell"),
        ("x() { ls; }", "function"),
        ("", "no command"),
        ("a;" * 100, "more than 64"),
        ("a" * 20_000, "longer"),
        ("if a; then b; fi", "if statement"),
    ],
)
def test_everything_else_is_opaque_and_says_why(text: str, reason: str) -> None:
    with pytest.raises(Opaque, match=reason.replace("$", r"\$").replace("+", r"\+")):
        shelltext.parse(text, cwd="/w", home=HOME)


@given(st.text(alphabet="ab \t'\"\\$`*?[]{}<>|&;()!#~=-\n", max_size=30))
@settings(max_examples=400, deadline=None)
def test_the_text_we_write_means_the_same_words_again(text: str) -> None:
    """Whatever is understood is a fixed point: reading our own text gives the same argv and redirections."""
    try:
        first = shelltext.parse(text, cwd="/w", home=HOME)
    except Opaque:
        return
    again = shelltext.parse(shelltext.render(first), cwd="/w", home=HOME)
    assert [[c.argv for c in p.commands] for p in again] == [[c.argv for c in p.commands] for p in first]
    assert [p.joiner for p in again] == [p.joiner for p in first]
    redirects = [[[(r.fd, r.op, r.target.text) for r in c.redirects] for c in p.commands] for p in again]
    assert redirects == [
        [[(r.fd, r.op, r.target.text) for r in c.redirects] for c in p.commands] for p in first
    ]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_reads_our_text_as_the_words_we_judged(tmp_path: Path) -> None:
    """`printf '%s\\0'` tells which words bash really passes."""
    words = ["a b", "it's", '"', "$HOME", "`x`", "*", "\\", "~", "{a,b}", "#x", "a;b", "é", "", "-n", "!x"]
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    text = normal(f"printf '%s\\0' {quoted}")
    done = subprocess.run(["bash", "-c", text], capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def test_effects_name_what_is_read_written_and_deleted(tmp_path: Path) -> None:
    cwd = str(tmp_path)
    (tmp_path / "folder").mkdir()
    found = analyse("cp a b folder && mv c d; rm -rf e > log < in", cwd=cwd, home=HOME)
    assert found.opaque == ""
    assert found.effects.reads == (f"{cwd}/a", f"{cwd}/b", f"{cwd}/in")
    assert found.effects.writes == (f"{cwd}/folder/a", f"{cwd}/folder/b", f"{cwd}/d", f"{cwd}/log")
    assert found.effects.deletes == (f"{cwd}/c", f"{cwd}/e")
    assert {Path(program).name for program in found.effects.programs} == {"cp", "mv", "rm"}
    assert not found.read_only


def test_globs_become_the_names_they_match_and_never_options(tmp_path: Path) -> None:
    for name in ("a.log", "b.log", "-rf"):
        (tmp_path / name).touch()
    assert analyse("rm *.log", cwd=str(tmp_path), home=HOME).normalised == "rm a.log b.log"
    assert analyse("ls *", cwd=str(tmp_path), home=HOME).normalised == "ls ./-rf a.log b.log"
    assert analyse("ls *.none", cwd=str(tmp_path), home=HOME).normalised == "ls '*.none'"


def test_a_name_that_hides_something_is_not_expanded(tmp_path: Path) -> None:
    (tmp_path / "a\nb").touch()
    assert "cannot be seen" in analyse("ls a*", cwd=str(tmp_path), home=HOME).opaque


def test_cd_is_followed_only_where_the_rest_cannot_run_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cwd = str(tmp_path)
    assert analyse("cd in && touch x", cwd=cwd, home=HOME).effects.writes == (f"{cwd}/in/x",)
    assert analyse("cd in; touch x", cwd=cwd, home=HOME).effects.writes == (f"{cwd}/in/x",)
    assert analyse("cd missing; touch x", cwd=cwd, home=HOME).opaque
    assert analyse("cd in || touch x", cwd=cwd, home=HOME).opaque
    assert analyse("ls | cd in", cwd=cwd, home=HOME).opaque


def test_options_are_exact() -> None:
    assert analyse("sort --output x y", cwd="/w", home=HOME).effects.writes == ("/w/x",)
    assert analyse("sort -ox y", cwd="/w", home=HOME).effects.writes == ("/w/x",)
    assert "--outp" in analyse("sort --outp=x y", cwd="/w", home=HOME).opaque
    assert analyse("rm -- -x", cwd="/w", home=HOME).effects.deletes == ("/w/-x",)
    assert "--recurs" in analyse("ls --recurs", cwd="/w", home=HOME).opaque


def test_wrappers_are_followed() -> None:
    found = analyse("nice -n 5 timeout -k 1 5 rm x", cwd="/w", home=HOME)
    assert found.effects.deletes == ("/w/x",)
    assert analyse("find a b -exec rm {} \\;", cwd="/w", home=HOME).effects.deletes == ("/w/a", "/w/b")
    assert analyse("find . | xargs wc -l", cwd="/w", home=HOME).opaque == ""
    assert "xargs" in analyse("find . | xargs rm", cwd="/w", home=HOME).opaque
    assert "xargs" in analyse("echo x | xargs cat", cwd="/w", home=HOME).opaque


def test_git_runs_without_what_a_repository_could_make_it_start() -> None:
    run = analyse("git diff", cwd="/w", home=HOME).normalised
    assert run.startswith("git --no-pager --no-optional-locks -c protocol.allow=never")
    assert "-c core.fsmonitor=false -c core.hooksPath=/dev/null" in run
    assert run.endswith("diff --no-ext-diff --no-textconv --ignore-submodules=dirty")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_accepts_the_options_we_insert(tmp_path: Path) -> None:
    def run(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True)

    run("git init -q . && echo a > f && git add f && git -c user.name=a -c user.email=a@b commit -qm x")
    trap = tmp_path / "trap.sh"
    trap.write_text("#!/bin/sh\ntouch sprung\n")
    trap.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external", "core.pager", "gpg.program"):
        run(f"git config {key} {trap}")
    (tmp_path / "f").write_text("b\n")
    for command in ("status", "diff", "log -p", "show", "blame f", "branch -a", "log --pretty=%G?"):
        analysis = analyse(f"git {command}", cwd=str(tmp_path), home=HOME)
        assert not analysis.opaque
        done = run(analysis.normalised)
        assert done.returncode == 0, (command, done.stderr)
    assert not (tmp_path / "sprung").exists()


def test_what_an_opaque_command_plainly_names_is_noted() -> None:
    found = analyse("x $(y) > '/dev/sda' $HOME/.ssh/id_rsa", cwd="/w", home=HOME)
    assert found.opaque
    assert found.effects.writes == ("/dev/sda",)
    assert found.effects.reads == (f"{HOME}/.ssh/id_rsa",)


@pytest.mark.parametrize(
    "script", ["1,5p", "s/a/b/g", "$!N;P;D", "s|a|b|", "/re/{p;q}", "1!G;h;$!d", "2,4s/x//p"]
)
def test_sed_scripts_that_only_print(script: str) -> None:
    scripts.check_sed(script)


@pytest.mark.parametrize(
    "script",
    ["1e id", "s/a/b/w x", "s/a/b/e", "w x", "r f", "e", "p;w x", "s/a/b/;e id", "/x/W f", "a", "R f"],
)
def test_other_sed_scripts_are_opaque(script: str) -> None:
    with pytest.raises(Opaque):
        scripts.check_sed(script)


@pytest.mark.parametrize(
    "script", ["{print $1}", "$3 > 5", "{if ($1 > 3) print}", "{s+=$1} END {print s}", "a || b"]
)
def test_awk_scripts_that_only_print(script: str) -> None:
    scripts.check_awk(script)


@pytest.mark.parametrize(
    "script",
    ['{print > "f"}', '{system("x")}', '{print | "sh"}', '/"/ {print > $1} /"/', "{print (1) > x}",
     "$1>3{print>x}",
     "{getline < x}", "@load", "{ARGV[1]=x}"],
)  # fmt: skip
def test_other_awk_scripts_are_opaque(script: str) -> None:
    with pytest.raises(Opaque):
        scripts.check_awk(script)


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_text_makes_the_analysis_fail(text: str) -> None:
    found = analyse(text, cwd="/w", home=HOME)
    assert found.opaque or found.normalised

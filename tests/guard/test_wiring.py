"""Understood text as data: absolute programs, redirections in order, and no shell left in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.guard import programs, wiring
from llmos.guard.characters import Opaque
from llmos.guard.commandline import analyse
from llmos.messages import Exec, Pipeline, Redirect

HOME = "/home/person"


def wired(text: str, cwd: str = "/w") -> tuple[Pipeline, ...]:
    found = analyse(text, cwd=cwd, home=HOME)
    assert found.opaque == ""
    return found.pipelines


def test_a_line_becomes_pipelines_of_programs(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    first, second, third = wired("LC_ALL=C sort f 2>&1 > g | wc -l; cd src && ls", str(tmp_path))
    redirects = (Redirect(fd=2, op=">&", target="1"), Redirect(fd=1, op=">", target="g"))
    assert first.commands[0] == Exec(
        argv=("sort", "f"), program=programs.locate("sort"), redirects=redirects, env=("LC_ALL=C",)
    )
    assert first.commands[1].argv == ("wc", "-l")
    assert second == Pipeline(joiner=";", cd=f"{tmp_path}/src")
    assert (third.joiner, third.commands[0].argv) == ("&&", ("ls",))


def test_every_program_is_absolute_and_one_in_the_folder_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "ls").symlink_to("/bin/ls")
    (tmp_path / "bin").symlink_to("/usr/bin")
    assert wired("/bin/ls")[0].commands[0].program == "/usr/bin/ls"
    assert wired("bin/ls", str(tmp_path))[0].commands[0].program == "/usr/bin/ls"
    found = analyse("./ls", cwd=str(tmp_path), home=HOME)
    assert found.opaque and found.effects.programs == (f"{tmp_path}/ls",)


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        ((":",), ["true"]),
        (("command", "-v", "git"), ["which", "git"]),
        (("type", "-a", "git"), ["which", "-a", "git"]),
        (("echo", "x"), ["echo", "x"]),
    ],
)
def test_the_shells_own_commands_become_programs(words: tuple[str, ...], argv: list[str]) -> None:
    assert wiring.without_shell(words) == argv


@pytest.mark.parametrize(
    "words", [("command", "-p", "rm"), ("type", "cd"), ("type",), ("command", "-pv", "x")]
)
def test_what_only_a_shell_can_answer_is_opaque(words: tuple[str, ...]) -> None:
    with pytest.raises(Opaque):
        wiring.without_shell(words)

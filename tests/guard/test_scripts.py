"""sed, awk and jq scripts: what is taken can only print, and sed itself agrees."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator

import pytest

from llmos.guard import scripts
from llmos.guard.characters import Opaque

# Where readers of sed disagree: brackets that hold the delimiter, backslashes in them, classes.
_PIECES = (
    "a", "[/]", "[^/]", "[]]", "[]/]", "[^]/]", "[]", "[^]", "[[]", "[[/]", "[[:alpha:]/]", "[\\/]", "[\\]/]",
    "[a", "]", "\\[", "\\]", "[[.a.]/]", "[[=a=]]", "\\/", "\\n", "[", "^", "w x", "e", "{", "}", ";", "[;]",
)  # fmt: skip
_FLAGS = ("", "g", "p", "I", "2", "w x", "e")
_COMMANDS = (
    "w x",
    "e id",
    "r f",
    "p",
    "a t",
    "1i\\x",
    "a\\",
    "c x;w y",
    ":a",
    "$!ba",
    "a }",
    "}",
    "{",
    "R f",
)


def sed_scripts(seed: int) -> Iterator[str]:
    # Reproducible on purpose; nothing here is a secret.
    rng = random.Random(seed)

    def text() -> str:
        return "".join(rng.choice(_PIECES) for _ in range(rng.randint(0, 3)))

    while True:
        yield rng.choice((";", "\n", " ")).join(
            rng.choice((
                f"s/{text()}/{text()}/{rng.choice(_FLAGS)}", f"s|{text()}|{text()}|{rng.choice(_FLAGS)}",
                f"/{text()}/{rng.choice(_COMMANDS)}", f"y/{text()}/{text()}/", rng.choice(_COMMANDS),
            ))
            for _ in range(rng.randint(1, 3))
        )  # fmt: skip


def taken(script: str) -> bool:
    try:
        scripts.check_sed(script)
    except Opaque:
        return False
    return True


def test_sed_finds_nothing_but_editing_in_what_is_taken() -> None:
    """`--sandbox` makes sed refuse every script that could write, read or start anything."""
    found = [script for script, _ in zip(sed_scripts(3), range(12_000), strict=False) if taken(script)]
    assert len(found) > 200
    for script in found[:200]:
        said = subprocess.run(["sed", "--sandbox", "-n", script], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False).stderr  # fmt: skip
        assert "sandbox" not in said, script


@pytest.mark.parametrize(
    "script",
    ["s/[/]/g;s/w out/x/", "s/[]/]/w x", "s/[^]/]/w x", "s/a/[/;w x", "s/[\\]/]/w x", "a\\\nx", "a", ":a;ba",
     ":a;$!ba", ":a;N;ba", "p" + " " * 3000],
)  # fmt: skip
def test_sed_scripts_that_are_read_in_two_ways_or_do_not_end(script: str) -> None:
    assert not taken(script)


@pytest.mark.parametrize(
    "script",
    [
        "s/[^/]*$//",
        "s/[\\/]/_/g",
        "1i\\header",
        "/x/a more",
        "$!N;p",
        ":a;N;$!ba;s/\\n/ /g",
        "s/[][]//g",
        "{ p }",
    ],
)
def test_sed_scripts_of_every_day(script: str) -> None:
    assert taken(script)


def test_no_script_takes_long_to_read() -> None:
    for script in (" " * 1999, "p" + " " * 1990 + "x", "s/" + "[" * 1990, "/" * 1999, "1," * 999):
        assert not taken(script)


@pytest.mark.parametrize(
    ("check", "script"),
    [
        (scripts.check_awk, "BEGIN{while(1)print}"), (scripts.check_awk, "BEGIN{for(;;);}"),
        (scripts.check_awk, "function f(){f()} BEGIN{f()}"), (scripts.check_awk, "BEGIN{do{}while(1)}"),
        (scripts.check_awk, "{for(i=1;1;i++)print}"),
        (scripts.check_jq, "repeat(1)"),
        (scripts.check_jq, "def f: f; f"), (scripts.check_jq, "[range(1e12)]"),
        (scripts.check_jq, "env.HOME"), (scripts.check_jq, "$ENV.HOME"),
    ],
)  # fmt: skip
def test_scripts_that_do_not_end_or_show_the_environment(check: object, script: str) -> None:
    assert callable(check)
    with pytest.raises(Opaque):
        check(script)


def test_loops_of_every_day() -> None:
    scripts.check_awk("{for(i=1;i<=NF;i++) n[$i]++} END{for(w in n) print n[w], w}")
    scripts.check_jq(".env | .[] | select(.a)")

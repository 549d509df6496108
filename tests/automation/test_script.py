"""Scripts as they are read: what a file means, and what is wrong with one that means nothing."""

from __future__ import annotations

import pytest

from llmos.automation import script, values
from llmos.errors import ConfigError


def test_a_line_is_what_one_types_in_the_shell() -> None:
    text = b'# tidy\n\nlist the files\n!ls -l \\\n  /tmp\ncd sub\n/call file.list {"path": "."}\n'
    steps = script.read("night.txt", text).steps
    assert [(step.kind, step.line, step.cwd) for step in steps] == [
        ("ask", 3, ""),
        ("command", 4, ""),
        ("call", 7, "sub"),
    ]
    assert steps[1].text == "ls -l /tmp" and steps[2].args == {"path": "."}


WRONG = [
    ("night.txt", b"# nothing\n", "no steps"),
    ("night.txt", b"ls\n!\n", "night.txt:2"),
    ("night.txt", b"/call file.list {", "night.txt:1"),
    ("night.txt", b"\xff", "UTF-8"),
    ("n.toml", b'[[step]]\nask = "x"\ntimout_s = 3', "timeout_s"),
    ("n.toml", b'[[step]]\nask = "x"\ncommand = "y"', "exactly one"),
    ("n.toml", b'[[step]]\nid = "a"\nask = "x"\n[[step]]\nid = "a"\nask = "y"', "two steps"),
    ("n.toml", b'[[step]]\nask = "x"\non_failure = "explode"', "on_failure"),
    ("n.toml", b'[[step]]\nask = "x ${{ input.y }}"', "there is no input"),
    ("n.toml", b'[[step]]\nask = "x ${{ inputs. }}"', "step"),
    ("n.toml", b'[[step]]\nask = "x"\nretries = 99', "retries"),
    ("n.json", b'{"step": [', "n.json"),
]


@pytest.mark.parametrize(("name", "content", "said"), WRONG)
def test_what_is_wrong_is_said_with_its_place(name: str, content: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        script.read(name, content)
    assert said in f"{caught.value} {caught.value.next_step}" and name in str(caught.value)


def test_what_a_step_printed_cannot_become_a_sentence() -> None:
    text = b'[[step]]\nid = "web"\ncommand = "cat page"\n[[step]]\nask = "do ${{ steps.web.stdout }}"'
    with pytest.raises(ConfigError, match="is data"):
        script.read("n.toml", text)


def test_inputs_are_typed_and_bounded() -> None:
    text = b'[inputs]\nn = 3\nmode = {choices = ["a", "b"]}\nquick = false\n[[step]]\nask = "x"'
    read = script.read("n.toml", text)
    assert script.bind(read, [("n", "5"), ("mode", "b"), ("quick", "yes")]) == {
        "n": 5,
        "mode": "b",
        "quick": True,
    }
    for given in ([("n", "five"), ("mode", "a")], [("mode", "c")], [], [("other", "1"), ("mode", "a")]):
        with pytest.raises(ConfigError):
            script.bind(read, given)


def test_values_keep_their_type_and_are_one_shell_word_each() -> None:
    known = {"inputs": {"n": 3, "name": "a b; rm -rf ~"}, "vars": {}, "steps": {"s": {"stdout": "x\ny z"}}}
    assert values.fill("${{ inputs.n }}", known, "") == 3
    assert values.fill({"a": ["${{ inputs.n + 1 }}", "n=${{ inputs.n }}"]}, known, "") == {"a": [4, "n=3"]}
    assert values.fill("cat ${{ inputs.name }}", known, "", quoting=True) == "cat 'a b; rm -rf ~'"
    assert values.fill("wc ${{ steps.s.stdout.splitlines() }}", known, "", quoting=True) == "wc x 'y z'"
    assert values.fill("docker ps --format '{{.Names}}' ${HOME} {# x #}", known, "") == (
        "docker ps --format '{{.Names}}' ${HOME} {# x #}"
    )


@pytest.mark.parametrize("text", ["${{ inputs.missing }}", "${{ steps.no.stdout }}", "${{ inputs.n / 0 }}"])
def test_a_name_without_a_value_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        values.fill(text, {"inputs": {"n": 1}, "vars": {}, "steps": {}}, "n.toml: x")


def test_expressions_reach_nothing_outside() -> None:
    known = {"inputs": {"x": "y"}, "vars": {}, "steps": {}}
    for text in ("${{ inputs.__class__.__mro__ }}", "${{ inputs.x.__init__.__globals__ }}"):
        with pytest.raises(ConfigError):
            values.fill(text, known, "n.toml: x")
    with pytest.raises(ConfigError, match="there is no cycler"):
        values.check("${{ cycler.__init__ }}", "n.toml: x")

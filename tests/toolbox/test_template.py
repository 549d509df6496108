"""argv templates: a value is one word, and never an option."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.errors import UsageError
from llmos.toolbox import template
from llmos.toolbox.context import Context, pipeline
from llmos.toolbox.manifest import Arg
from tests.toolbox import wires

HERE = Context(cwd="/work", home="/home/a", uid=1)
TYPES = {
    "path": Arg(type="path"),
    "text": Arg(type="string"),
    "flag": Arg(type="boolean"),
    "paths": Arg(type="list-of-path"),
}
VALUE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


@given(path=VALUE, text=VALUE)
def test_a_value_is_one_word_and_no_option(path: str, text: str) -> None:
    argv = ("prog", "{path}", "--x={text}", "{path}.bak", "--", "{text}")
    words = template.fill(argv, {"path": path, "text": text}, TYPES, HERE)
    assert len(words) == len(argv)
    assert not words[1].startswith("-") and not words[3].startswith("-")
    assert words[2] == f"--x={text}" and words[5] == text


@given(text=VALUE)
def test_text_that_would_be_an_option_is_refused(text: str) -> None:
    if text.startswith("-"):
        with pytest.raises(UsageError, match="option"):
            template.fill(("prog", "{text}"), {"text": text}, TYPES, HERE)
    else:
        assert template.fill(("prog", "{text}"), {"text": text}, TYPES, HERE) == ("prog", text)


@given(paths=st.lists(VALUE, min_size=1, max_size=5))
def test_a_list_is_a_word_for_each_item(paths: list[str]) -> None:
    words = template.fill(("prog", "{paths}"), {"paths": paths}, TYPES, HERE)
    assert len(words) == 1 + len(paths) and not any(word.startswith("-") for word in words)


@settings(max_examples=25, deadline=None)
@given(words=st.lists(VALUE, min_size=1, max_size=4))
def test_a_pipeline_hands_the_words_on_as_they_are(words: list[str]) -> None:
    run = pipeline([("printf", r"%s\0", *words), ("cat",)])
    out, _, code = wires.run(run, feed=b"", env={"PATH": "/usr/bin:/bin"})
    assert out.decode().split("\0")[:-1] == words and code == 0


def test_groups_are_dropped_with_their_argument() -> None:
    argv = ("ls", ("?flag", "-A"), ("--sort", "{text}"), "{path}", "{{x}}")
    args = {"path": "~/a", "text": None, "flag": False, "paths": None}
    assert template.fill(argv, args, TYPES, HERE) == ("ls", "/home/a/a", "{x}")
    full = template.fill(argv, args | {"text": "size", "flag": True}, TYPES, HERE)
    assert shlex.join(full[:4]) == "ls -A --sort size"


def test_effects_are_absolute_and_absent_ones_dropped() -> None:
    args = {"path": "a/../b", "paths": ["~", "/x//y"], "text": None, "flag": None}
    found = template.effects(("{path}", "{paths}", "{text}"), args, TYPES, HERE, paths=True)
    assert found == ("/work/b", "/home/a", "/x/y")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ((), "program"),
        (("{path}",), "program"),
        (("ls", "{nope}"), "no argument `nope`"),
        (("ls", "{path}"), "may be absent"),
        (("ls", ["?nope", "-A"]), "no argument `nope`"),
        (("ls", ["{path"]), "stray brace"),
        (("ls", ["a{paths}"]), "a word of its own"),
    ],
)
def test_a_wrong_template_is_explained(argv: tuple[template.Element, ...], problem: str) -> None:
    assert any(problem in text for text in template.problems(argv, TYPES, frozenset()))

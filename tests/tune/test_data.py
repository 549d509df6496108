"""The generator of training data: same rows for a seed, writable targets, nothing of the evaluation."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from llmos.engine.grammar import parse_calls, render_call
from llmos.paths import tool_dirs
from llmos.toolbox import catalog
from llmos.toolbox.arguments import check
from llmos.tune.data import __main__ as data
from llmos.tune.data import bash, foreign, generate, overlap, phrases, public
from llmos.tune.data.agreement import agree
from llmos.tune.data.check import Checker, parses
from llmos.tune.data.names import Filler
from tests.bench.understand.__main__ import CASES_FILES as HELD

TOOLS = catalog.load(tool_dirs()[:1])
SPECS = foreign.beside(TOOLS.specs)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    out = tmp_path_factory.mktemp("data") / "train.jsonl"
    held = [word for file in HELD for word in ("--held", str(file))]
    data.main(["--out", str(out), *held, "--seed", "3", "--count", "1500"])
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_seed_gives_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    def make(name: str, seed: int) -> str:
        data.main(["--out", str(tmp_path / name), "--seed", str(seed), "--count", "120"])
        return (tmp_path / name).read_text()

    assert make("a", 1) == make("b", 1)
    assert make("c", 2) != make("a", 1)


def test_every_target_can_be_written_and_read_back(rows: list[dict]) -> None:
    specs = {spec.name: spec for spec in SPECS}
    for row in rows:
        if row["kind"] == "translate":
            assert parses(row["command"])
            continue
        text = "\n".join(render_call(specs[call["tool"]], call["args"]) for call in row["calls"])
        read = parse_calls(text, SPECS)
        assert [(call.tool, call.args) for call in read] == [
            (call["tool"], call["args"]) for call in row["calls"]
        ]


def test_every_call_of_ours_passes_the_check_of_its_arguments(rows: list[dict]) -> None:
    calls = [call for row in rows for call in row.get("calls", ()) if call["tool"] in TOOLS.tools]
    assert len(calls) > 1000
    for call in calls:
        check(TOOLS.get(call["tool"]).manifest, call["args"])


def test_every_tool_of_ours_and_every_foreign_one_is_spoken_of() -> None:
    said = {tool for each in data.templates().values() for t in each for tool in t.tools}
    assert {spec.name for spec in SPECS} <= said


def test_nothing_of_the_evaluation_is_in_it(rows: list[dict]) -> None:
    sayings = [say for file in HELD for say in overlap.cases(file)]
    held = overlap.Held.of(sayings)
    assert all(held.too_near(say) for say in sayings)
    assert not any(held.too_near(row["say"]) for row in rows)
    assert not held.too_near("which of my recipes needs no butter at all?")


def test_training_and_validation_share_no_template(tmp_path: Path) -> None:
    train, valid = tmp_path / "train", tmp_path / "valid"
    data.main(["--out", str(train), "--valid", str(valid), "--count", "1500", "--valid-count", "80"])
    ids = [
        {part for line in file.read_text().splitlines() for part in json.loads(line)["template"].split("+")}
        for file in (train, valid)
    ]
    assert ids[1] and not ids[0] & ids[1]


def test_no_phrase_makes_what_the_grammar_refuses() -> None:
    checker, rng = Checker(SPECS), random.Random(1)
    filler, wrong = Filler(rng), []
    for template in [*phrases.load(), *phrases.load("hand"), *foreign.templates()]:
        said = phrases.fill(template, filler, rng)
        command = bash.command(said.calls, said.say)
        if checker.problem([checker.plain(call) for call in said.calls]) or (command and not parses(command)):
            wrong.append((template.id, said.say, command))
    assert wrong == []


def test_calls_as_bash() -> None:
    def line(tool: str, say: str = "", **args: object) -> str | None:
        return bash.command([{"tool": tool, "args": args}], say)

    assert (
        line("file.find", name="*.log", older_than="7d", path="/var/log")
        == "find /var/log -name '*.log' -mtime +7"
    )
    assert line("file.find", "how many go files?", name="*.go") == "find . -name '*.go' | wc -l"
    assert line("file.delete", path="my notes.txt") == "rm 'my notes.txt'"
    assert line("text.replace", path="a.ini", find="1.5/x", replace="2") == r"sed -i 's|1\.5/x|2|g' a.ini"
    assert line("file.archive", action="create", archive="a.tar.xz", path="src") == "tar cJf a.tar.xz src"
    assert line("file.permissions", path="my site", mode="755", recursive=True) == "chmod -R 755 'my site'"
    assert line("file.permissions", path="a", mode="755", group="www") is None  # no form has just these
    assert line("file.rename", path="*.jpeg", find=".jpeg", replace=".jpg") == (
        'for f in *.jpeg; do mv -- "$f" "${f%.jpeg}.jpg"; done'
    )
    assert line("file.checksum", path="a.iso", algorithm="blake2") == "b2sum a.iso"
    assert line("text.compare", a="old", b="new") == "diff -r old new"
    assert line("file.archive", action="create", path="src") is None
    assert line("answer", text="no") is None


def test_public_pairs_that_disagree_are_dropped() -> None:
    assert agree("Find files bigger than 10 MB", "find . -size +10M")
    assert not agree("Find files bigger than 10 MB", "find . -size 10M")
    assert not agree("List all *.c files", "find . ! -name '*.c'")
    assert not agree('Search "main.c" for x', "grep x main.h")


def test_public_pairs_are_filled_and_parsed(tmp_path: Path) -> None:
    import gzip

    page = {"nl": "Compress a file", "cmd": "gzip {{path/to/file}}", "src": "tldr/common/gzip"}
    other = {"nl": "Show a registry key", "cmd": "reg query {{key}}", "src": "tldr/windows/reg"}
    with gzip.open(tmp_path / "tldr.jsonl.gz", "wt") as file:
        file.write(json.dumps(page) + "\n" + json.dumps(other) + "\n")
    pairs = list(public.load(tmp_path, random.Random(1)))
    assert pairs and all(pair.id.startswith("tldr:gzip") for pair in pairs)
    for pair in pairs:
        name = pair.command.removeprefix("gzip ")
        assert name in pair.say and "path/to" not in name


def test_several_steps_and_languages_have_their_share(rows: list[dict]) -> None:
    calls = [row for row in rows if row["kind"] == "call"]
    assert sum(len(row["calls"]) > 1 for row in calls) > 0.04 * len(calls)
    languages = Counter(row["lang"] for row in rows)
    assert languages["zh"] > 0.1 * len(rows)
    assert {"de", "es", "fr"} <= set(languages)
    assert generate.is_valid("x") in (True, False)

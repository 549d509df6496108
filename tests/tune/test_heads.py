"""Classification and labelling: labels out of rows, words and characters, and heads that learn."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer

from llmos import cli
from llmos.engine import weights
from llmos.engine.tokenizer import Tokenizer
from llmos.toolbox.manifest import Arg
from llmos.tune import corpus, heads, plain_heads, pretrain
from llmos.tune.echo import read, spans_of, tags_of
from llmos.tune.labelled import TAGS, Labelled, Span, from_rows, kind, planted
from llmos.tune.network import Network, Whole

ARGS = {
    "file.copy": {"path": Arg(type="path"), "to": Arg(type="path"), "deep": Arg(type="boolean")},
    "process.stop": {"name": Arg(type="string"), "pid": Arg(type="integer")},
}
CPU = torch.device("cpu")


def _row(say: str, tool: str, **args: object) -> dict[str, object]:
    return {"kind": "call", "say": say, "calls": [{"tool": tool, "args": args}]}


def _found(row: dict[str, object]) -> list[tuple[str, str]]:
    (labelled,) = from_rows([row], ARGS)
    return [(labelled.text[span.start : span.end], span.tag) for span in labelled.spans]


# --- labels ---------------------------------------------------------------------------------------------


def test_arguments_are_found_where_they_stand() -> None:
    assert _found(_row("copy a.txt to /srv/b", "file.copy", path="a.txt", to="/srv/b", deep=True)) == [
        ("a.txt", "path"),
        ("/srv/b", "path"),
    ]
    assert _found(_row("停止进程 79690", "process.stop", pid=79690)) == [("79690", "number")]
    assert _found(_row("stop nginx and nginx2", "process.stop", name="nginx")) == [("nginx", "name")]
    assert _found(_row("stop number 12 of 120", "process.stop", pid=12)) == [("12", "number")]
    assert _found(_row("stop the web server", "process.stop", name="nginx")) == []


def test_a_commands_words_are_found_too() -> None:
    row = _row("lines of Main.txt with foo", "shell.run", command="grep -c 'foo' Main.txt | head -n 3")
    assert _found(row) == [("Main.txt", "path"), ("foo", "name")]
    assert _found(_row("an open quote", "shell.run", command="echo 'open")) == []


def test_kinds() -> None:
    call = {"tool": "docker.container.list", "args": {}}
    assert kind([call]) == "docker"
    assert kind([call, call]) == "several"
    assert from_rows([{"kind": "translate", "say": "x", "command": "ls"}], ARGS) == []


def test_planted_secrets_and_hosts_stand_where_they_are_said_to() -> None:
    made = planted(random.Random(4), 200)
    assert {span.tag for one in made for span in one.spans} == {"secret", "host"}
    assert all("{" not in one.text for one in made)
    assert all(one.text[span.start : span.end].strip() for one in made for span in one.spans)
    assert made == planted(random.Random(4), 200)


# --- tokens and characters ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has read some requests."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "text").write_text("\n\n".join(text for text, _ in _requests(400)))
    torch.set_num_threads(1)
    given = ["--text", str(folder / "text"), "--out", str(folder / "model"), "--layers", "2", "--width", "64"]
    more = [
        "--heads",
        "4",
        "--vocab-size",
        "500",
        "--context",
        "64",
        "--max-steps",
        "40",
        "--validations",
        "1",
    ]
    assert pretrain.main([*given, *more]) == 0
    return folder / "model"


def _requests(count: int) -> list[tuple[str, dict[str, object]]]:
    rng = random.Random(1)
    made = []
    for _ in range(count):
        name = rng.choice("abcdefgh") + rng.choice("xyz") + rng.choice((".txt", ".log", ""))
        pid = rng.randrange(2, 30000)
        made.append(
            rng.choice(
                (
                    (f"copy {name} away", _row(f"copy {name} away", "file.copy", path=name)),
                    (f"end number {pid} now", _row(f"end number {pid} now", "process.stop", pid=pid)),
                )
            )
        )
    return made


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Tokenizer:
    return weights.open_source(base).tokenizer


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_every_token_is_a_piece_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    found = read(tokenizer, text)
    assert len(found.places) == len(found.offsets)
    assert all(0 <= start <= end <= len(text) for start, end in found.offsets)
    assert found.places[-1] <= len(found.ids) - 1


def test_spans_survive_the_way_through_tags(tokenizer: Tokenizer) -> None:
    text = "copy 报告.txt to /srv/b and 12"
    wanted = (Span(5, 11, "path"), Span(15, 21, "path"), Span(26, 28, "number"))
    found = read(tokenizer, text)
    tags = tags_of(found.offsets, wanted, TAGS)
    assert spans_of(found.offsets, tags.tolist(), TAGS) == wanted
    assert {int(tag) for tag in tags} == {0, 1, 2, 5, 6} - ({6} if 6 not in tags else set())


# --- heads ----------------------------------------------------------------------------------------------


def _sentences(base: Path, count: int, seed: int) -> tuple[list[Labelled], Tokenizer]:
    texts = from_rows([row for _, row in _requests(count + seed)][seed:], ARGS)
    return texts, weights.open_source(base).tokenizer


def test_a_frozen_backbone_is_read_once_and_says_what_it_says(base: Path) -> None:
    texts, tokenizer = _sentences(base, 30, 0)
    source = weights.open_source(base)
    network = Network(source.config, weights.tensors(source, torch.float32), positions=128)
    some = heads.samples(tokenizer, texts, ["file", "process"])
    heads.add_features(network, some, CPU)
    alone = network.hidden(torch.from_numpy(some[7].ids)[None])[0, torch.from_numpy(some[7].read.places)]
    assert some[7].features is not None
    torch.testing.assert_close(some[7].features.float(), alone, rtol=2e-2, atol=2e-2)


def test_losses_come_in_the_order_of_the_samples(base: Path) -> None:
    texts, tokenizer = _sentences(base, 3, 0)
    some = heads.samples(tokenizer, [*texts[:2], Labelled("no kind", "", ())], ["file", "process"])
    source = weights.open_source(base)
    whole = Whole(source.config, weights.tensors(source, torch.float32), positions=128)
    learning = heads.Learning(heads.Heads(64, 2, len(TAGS)), whole)
    losses, _ = learning.losses(learning.collate(some, CPU))
    one_by_one = [learning.losses(learning.collate([sample], CPU))[0] for sample in some]
    torch.testing.assert_close(losses, torch.cat(one_by_one), rtol=1e-3, atol=1e-4)
    assert len(losses) == sum(int(sample.learnt.sum()) for sample in some)


@pytest.mark.parametrize("full", [False, True])
def test_heads_learn_and_are_tried(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], full: bool
) -> None:
    for name, (start, end) in {"train": (0, 300), "valid": (300, 400)}.items():
        rows = [row for _, row in _requests(400)][start:end]
        lines = (json.dumps({**row, "entries": None}) for row in rows)
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    given = ["tune", "heads", "--rows", str(tmp_path / "train"), "--valid", str(tmp_path / "valid")]
    steps = [
        "--model",
        str(base),
        "--out",
        str(tmp_path / "heads"),
        "--max-steps",
        "120",
        "--validations",
        "1",
    ]
    more = ["--full"] if full else ["--learning-rate", "3e-2"]
    assert cli.main([*given, *steps, "--batch-tokens", "1024", *more]) == 0
    card = json.loads((tmp_path / "heads" / "heads.json").read_text())
    assert card["heads"]["kind_accuracy"] > 0.97
    assert card["heads"]["span_f1"] > (0.5 if full else 0.35), card
    capsys.readouterr()
    assert cli.main(["tune", "heads", "--out", str(tmp_path / "heads"), "--try", "end number 4711 now"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == "process"
    assert said["spans"] == [{"text": "4711", "tag": "number"}]


def test_what_they_are_compared_with_learns_too() -> None:
    texts = from_rows([row for _, row in _requests(200)], ARGS)
    bag = plain_heads.learn_words(texts, ["file", "process"], epochs=3)
    assert plain_heads.words_say(bag, ["copy zz away", "end number 5 now"]) == [0, 1]
    said = plain_heads.rules_say("copy /srv/a.txt 3 times to b.log")
    assert said == {Span(5, 15, "path"), Span(16, 17, "number"), Span(27, 32, "path")}


def test_no_heads_is_said(tmp_path: Path) -> None:
    assert cli.main(["tune", "heads", "--out", str(tmp_path), "--try", "x"]) == 2


def test_the_tokenizer_of_a_model_from_scratch_is_a_file(base: Path) -> None:
    assert HfTokenizer.from_file(str(base / "tokenizer.json")).token_to_id(corpus.END) is not None

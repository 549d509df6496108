"""The shipped heads: what they find beside the rules, what they leave alone, and how they are made."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from llmos import cli, hints
from llmos.cloud import detect
from llmos.cloud.redact import Redactor
from llmos.guard import redaction
from llmos.tune.labelled import planted

RULES = (redaction.secrets_in, detect.secrets_in)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("log in to the router with the password Tiger!Boat77", "Tiger!Boat77"),
        ("我的密码是 Sommer%Haus2041", "Sommer%Haus2041"),
        ("the wifi password for the guests is kP9vXw2Lq8Zr4TnB7s", "kP9vXw2Lq8Zr4TnB7s"),
    ],
)
def test_a_secret_that_no_rule_knows_does_not_leave(text: str, secret: str) -> None:
    assert secret in Redactor(RULES).hide(text)
    redactor = Redactor((*RULES, hints.secrets_in))
    hidden = redactor.hide(text)
    assert secret not in hidden and redactor.restore(hidden) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "change the password of bob",
            "show the commit 50bc621180ef1bcdd654460c219f409cca2e5d41",
            "restart nginx",
        ),
        *("delete backup-2.4.11.tar.gz", "2025-03-14 07:29:05 install libc6:amd64 <none> 2.36-9+deb12u3"),
        *("copy Report_Q3-final.PDF to /srv/share", "把 notes.txt 改名为 old.txt", "ps -ef | grep -v root"),
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert list(hints.secrets_in(text)) == []


def test_the_union_finds_what_the_rules_find_and_more() -> None:
    """The figures of `hints.json`, on a sample: sentences that the head has not learnt from."""
    texts = planted(random.Random(5), 150, "planted-held.txt")
    secrets = [
        [one.text[span.start : span.end] for span in one.spans if span.tag == "secret"] for one in texts
    ]

    def share(*finders: object) -> float:
        hidden = [Redactor(finders).hide(one.text) for one in texts]  # type: ignore[arg-type]
        return sum(
            all(s not in text for s in some) for text, some in zip(hidden, secrets, strict=True)
        ) / len(texts)

    assert share(*RULES) < 0.7 < 0.85 < share(*RULES, hints.secrets_in)


def test_looking_and_changing() -> None:
    assert hints.only_looks("which processes use the most memory?")
    assert hints.wants_change("delete the folder build and all in it") > 0.9
    assert not hints.only_looks("rename a.txt to b.txt")


def test_heads_are_made_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "kind": "call",
            "say": say.format(n),
            "entries": None,
            "data_head": None,
            "calls": [{"tool": t, "args": {}}],
        }
        for say, t in (("show folder {}", "file.list"), ("delete file {}", "file.delete"))
        for n in range(8)
    ]
    file = tmp_path / "rows"
    file.write_text("\n".join(map(json.dumps, rows)))
    given = ["tune", "hints", "--rows", str(file), "--valid", str(file), "--out", str(tmp_path / "h.json")]
    assert cli.main([*given, "--sentences", "300", "--epochs", "2"]) == 0
    card = json.loads((tmp_path / "h.json").read_text())
    assert json.loads(capsys.readouterr().out) == card["figures"]
    assert card["figures"]["change"]["rows"] == 16
    assert set(hints.read(card)) == {"secret", "change"}


@pytest.mark.parametrize(
    "say",
    ["delete all files in logs_old that are older than 30 days", "which of these? delete them", "删除旧日志"],
)
def test_a_word_of_change_is_no_look(say: str) -> None:
    assert not hints.only_looks(say)

"""Secrets are left out, and everything that only looks a little like one stays."""

from __future__ import annotations

import json
import random
import re
import string
import time
from pathlib import Path

import pytest

from llmos.guard import redaction
from llmos.guard.redaction import HIDDEN, MAX_TEXT, redact, redact_text

DATA = Path(__file__).parent / "data"
HEX = "0123456789abcdef"
CHARSETS = {
    "a": string.ascii_letters + string.digits,
    "l": string.ascii_lowercase + string.digits,
    "U": string.ascii_uppercase + "234567",
    "h": HEX,
    "d": string.digits,
    "w": string.ascii_letters + string.digits + "_-",
    "b": string.ascii_letters + string.digits + "+/",
}


def lines(name: str) -> list[str]:
    text = (DATA / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("# ")]


PLANTED = [line.partition(" :: ")[::2] for line in lines("secrets.txt") if " :: " in line]
INNOCENT = lines("innocent.txt")


def _drawn(spec: str, dice: random.Random) -> str:
    """`sk_live_~a:24`: literal parts and random ones."""
    made = ""
    for part in spec.split("~"):
        charset, _, count = part.partition(":")
        if charset in CHARSETS and count.isdigit():
            # The ends are letters or digits: a token that ends in a dash is cut there by any reader.
            middle = "".join(dice.choice(CHARSETS[charset]) for _ in range(int(count)))
            made += re.sub(r"^\W|\W$|^_|_$", "7", middle)
        else:
            made += part or "~"
    return made


def plant(template: str, dice: random.Random) -> tuple[str, list[str]]:
    """The text with its secrets drawn, and the secrets."""
    secrets: list[str] = []

    def draw(match: re.Match[str]) -> str:
        secrets.append(_drawn(match[1], dice))
        return secrets[-1]

    return re.sub("«([^»]*)»", draw, template.replace("\\n", "\n")), secrets


@pytest.mark.parametrize(("kind", "template"), PLANTED, ids=[kind for kind, _ in PLANTED])
def test_a_planted_secret_is_left_out(kind: str, template: str) -> None:
    for seed in range(20):
        text, secrets = plant(template, random.Random(f"{kind} {seed}"))
        left = redact_text(text)
        for secret in secrets:
            assert secret not in left, (text, left)
        assert HIDDEN in left
        assert redact_text(left).count(HIDDEN) >= 1  # and stays readable when it is redacted again


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


def test_every_kind_of_the_table_is_planted_somewhere() -> None:
    """So that no pattern is dead, and at least 60 kinds are tried."""
    texts = [plant(template, random.Random(3))[0] for _, template in PLANTED]
    unused = [
        kind.id
        for kind in redaction.kinds()
        if not any(
            any(word in text.lower() for word in kind.keywords) and re.search(kind.pattern, text)
            for text in texts
        )
    ]
    assert not unused
    assert len(redaction.kinds()) >= 60


def test_the_context_around_a_secret_stays() -> None:
    assert redact_text("mysql -u root -phunter2 db") == f"mysql -u root -p{HIDDEN} db"
    assert redact_text("curl -u bob:hunter2 https://x") == f"curl -u bob:{HIDDEN} https://x"
    assert redact_text("psql postgres://me:pw@db/x") == f"psql postgres://me:{HIDDEN}@db/x"


def test_words_of_an_argv_are_read_together() -> None:
    assert redact(["tool", "--password", "hunter2", "x"]) == ["tool", "--password", HIDDEN, "x"]
    assert redact({"argv": ("mysql", "-phunter2", "db")}) == {"argv": ["mysql", f"-p{HIDDEN}", "db"]}


def test_a_telling_key_hides_its_value() -> None:
    assert redact({"db_password": "x", "apiKey": "y", "path": "z", "token": ""}) == {
        "db_password": HIDDEN, "apiKey": HIDDEN, "path": "z", "token": "",
    }  # fmt: skip
    assert redact({"n": 5, "flag": True, "none": None}) == {"n": 5, "flag": True, "none": None}


@pytest.mark.parametrize("num_chars", [MAX_TEXT - 10, MAX_TEXT, MAX_TEXT + 1, 16_000, 16_010, 200_000])
def test_long_texts_are_cut_and_nothing_shows_at_the_edge(num_chars: int) -> None:
    dice = random.Random(num_chars)
    token = _drawn("ghp_~a:36", dice)
    text = "x " * (num_chars // 2) + token
    kept = redact({"text": text})["text"]
    assert len(kept) <= MAX_TEXT + 40 and token[:20] not in kept
    many = (token + " ") * (num_chars // len(token) + 1)  # shrinks below the limit
    assert not re.search(r"ghp_\w{8}", json.dumps(redact([many])))


PIECES = ("a", "a_", "a-", "a.b-c_d", "://a:", "-p ", "curl ", "mysql -u", "x=", "$6$", "password: ",
          "--pass-", " echo a|", "A1+/", "key:", "4111 ")  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_no_text_takes_long(piece: str) -> None:
    """Patterns are linear, or bounded: a second for the worst 16,000 characters is far from it."""
    began = time.process_time()
    redact_text((piece * 16_000)[:16_000])
    assert time.process_time() - began < 1.0

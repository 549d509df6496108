"""What leaves holds no secret and nothing personal, and comes back as it was."""

from __future__ import annotations

import random
import time

import pytest

from llmos.cloud import detect
from llmos.cloud.redact import Redactor
from llmos.guard import redaction
from tests.guard.test_redaction import PLANTED, plant

FINDERS = (redaction.secrets_in, detect.secrets_in)


def test_there_are_at_least_sixty_kinds() -> None:
    assert len({kind for kind, _ in PLANTED}) >= 60


@pytest.mark.parametrize(("kind", "template"), PLANTED, ids=[kind for kind, _ in PLANTED])
def test_a_planted_secret_is_replaced_and_put_back(kind: str, template: str) -> None:
    for seed in range(5):
        text, secrets = plant(template, random.Random(f"{kind} {seed}"))
        redactor = Redactor(FINDERS)
        hidden = redactor.hide(f"please look at this: {text}\nthanks")
        for secret in secrets:
            assert secret not in hidden, (text, hidden)
        assert hidden.startswith("please look at this")
        assert redactor.restore(hidden) == f"please look at this: {text}\nthanks"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("mail bob@example.com", "mail EMAIL_1"),
        ("bob@example.com, ann@example.com and bob@example.com", "EMAIL_1, EMAIL_2 and EMAIL_1"),
        ("call +49 89 1234 5678 now", "call PHONE_1 now"),
        ("call (555) 123-4567", "call PHONE_1"),
        ("ls /home/alice/src", "ls /home/USER_1/src"),
        ("chown alice: /home/alice/x", "chown USER_1: /home/USER_1/x"),
        ("ping db1.corp.internal", "ping HOST_1"),
        ("ssh 192.168.7.20", "ssh ADDRESS_1"),
        ("log in to workhorse", "log in to HOST_1"),
        ("cat /srv/people/alice/x", "cat /HOME_1/x"),
    ],
)
def test_what_is_personal_is_replaced(text: str, hidden: str) -> None:
    known = (("HOST", "workhorse"), ("HOME", "/srv/people/alice"))
    redactor = Redactor(FINDERS, known)
    assert redactor.hide(text) == hidden
    assert redactor.restore({"x": [hidden]}) == {"x": [text]}


@pytest.mark.parametrize(
    "text",
    [
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "files older than 2026-01-31 or 1,234,567 bytes",
        "the algebra of alsatians",  # al is a user here
        "listen on 127.0.0.1:8080 and 8.8.8.8",
        "version 10.2.3 of /usr/lib/x",
        "du -sh /root /var/log; id root",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
    ],
)
def test_what_tells_nothing_stays(text: str) -> None:
    assert Redactor(FINDERS, (("USER", "root"), ("USER", "als"))).hide(text) == text


def test_words_that_look_like_placeholders_are_not_confused() -> None:
    redactor = Redactor(FINDERS)
    text = "rename EMAIL_1 to bob@example.com"
    hidden = redactor.hide(text)
    assert hidden == "rename EMAIL_1 to EMAIL_2"
    assert redactor.restore(hidden) == text


def test_one_redactor_says_the_same_in_every_text() -> None:
    redactor = Redactor(FINDERS)
    assert redactor.hide("to bob@example.com") == "to EMAIL_1"
    assert redactor.hide("from bob@example.com, ann@example.com") == "from EMAIL_1, EMAIL_2"
    assert redactor.counts() == {"email": 2}


def test_unknown_placeholders_of_an_answer_stay_as_they_are() -> None:
    assert Redactor(FINDERS).restore("SECRET_7") == "SECRET_7"


def test_four_kilobytes_are_quick() -> None:
    lines = [f"line {n}: some words, a path /usr/lib/x{n} and a number {n * 37}" for n in range(70)]
    text = "\n".join(lines)
    assert len(text) > 3500
    Redactor(FINDERS).hide(text)  # compiles the patterns
    best = min(_time(text + str(n)) for n in range(5))
    assert best < 0.06  # a bound for a busy machine; `python -m tests.bench.offload` measures


def _time(text: str) -> float:
    start = time.perf_counter()
    Redactor(FINDERS).hide(text)
    return time.perf_counter() - start

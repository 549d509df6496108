"""A setting's key becomes the one that the file has, where only one is like it."""

from __future__ import annotations

import pytest

from llmos.messages import ToolCall
from llmos.planner.keys import as_named

HEADS = ("Settings of config.yaml: port, host, debug, log.level", "Columns of a.csv: name, port")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("debugging", "debug"),
        ("Port", "port"),
        ("level", "log.level"),
        ("server.port", "port"),
        ("levels", "log.level"),
        ("logging.levels", "logging.levels"),
        ("min_port", "min_port"),
        ("port2", "port2"),
        ("timeout", "timeout"),
        ("debug", "debug"),
    ],
)
def test_a_key_is_what_the_file_calls_it(key: str, meant: str) -> None:
    call = ToolCall(tool="text.set", args={"path": "config.yaml", "key": key, "value": "1"})
    assert as_named((call,), HEADS)[0].args["key"] == meant
    assert as_named((call,), ())[0].args["key"] == key


def test_of_two_that_are_alike_none_is_taken() -> None:
    call = ToolCall(tool="text.set", args={"path": "a.ini", "key": "port", "value": "1"})
    heads = ("Settings of a.ini: web.port, mail.port",)
    assert as_named((call,), heads)[0].args["key"] == "port"


def test_a_file_may_have_more_keys_than_are_told() -> None:
    heads = ("Settings of a.ini: debug, " + ", ".join(f"key{n}" for n in range(13)),)
    call = ToolCall(tool="text.set", args={"path": "a.ini", "key": "debugging", "value": "1"})
    assert as_named((call,), heads) == (call,)

"""Tables that were to be shown, as the default model wrote them over themselves, and what must stay."""

from __future__ import annotations

import pytest

from llmos.messages import ToolCall
from llmos.planner.shown import as_shown

BY_AMOUNT = {"path": "report.csv", "to": "report.csv", "sort": "-amount"}


def read(said: str, **args: object) -> tuple[str, dict[str, object]]:
    (call,) = as_shown([ToolCall(tool="text.export", args=args)], said)
    return call.tool, dict(call.args)


def test_a_table_is_shown_where_nobody_wants_it_changed() -> None:
    shown = ("text.query", {"path": "report.csv", "sort": "-amount"})
    assert read("report.csv ordered by amount, biggest on top", **BY_AMOUNT, overwrite=True) == shown
    theme = {"path": "settings.json", "to": "settings.json", "select": "theme"}
    assert read("get the theme from settings.json", **theme) == (
        "text.query",
        {"path": "settings.json", "select": "theme"},
    )


@pytest.mark.parametrize(
    ("said", "args"),
    [
        ("sort report.csv by amount, in the file itself", BY_AMOUNT | {"overwrite": True}),
        ("report.csv ordered by amount, as ranking.csv", BY_AMOUNT | {"to": "ranking.csv"}),
    ],
)
def test_what_was_to_be_written_is_written(said: str, args: dict[str, object]) -> None:
    assert read(said, **args) == ("text.export", args)

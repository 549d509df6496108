"""Training rows with the heads of the files that they name."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from llmos.tune import prepare
from llmos.tune.data import folders, heads, phrases


def row(say: str, tool: str, **args: Any) -> dict[str, Any]:
    return {
        "kind": "call", "say": say, "entries": ["orders.csv", "app.ini"], "data_head": None,
        "calls": [{"tool": tool, "args": args}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "used"),
    [
        ({"sum": "amount", "group": "customer"}, {"amount", "customer"}),
        ({"where": "city = Paris and not age >= 30", "select": "name, city"}, {"city", "age", "name"}),
        ({"sort": "-price desc", "sum": "avg(score), count"}, {"price", "score"}),
        ({"where": "日期 in (周六, 周日)"}, {"日期"}),
    ],
)
def test_what_a_question_uses_is_among_the_columns(args: dict[str, str], used: set[str]) -> None:
    for seed in range(40):
        made = heads.with_heads(
            row("ask orders.csv", "text.query", path="orders.csv", **args), random.Random(seed)
        )
        (line,) = made["heads"]
        columns = set(line.partition(": ")[2].split(", "))
        called = set(re.findall(r"\w+", " ".join(map(str, made["calls"][0]["args"].values()))))
        assert columns & used == called & used  # one that is called otherwise is not there under its own name
        assert len(columns & called) == len(used) and columns > columns & called
    assert line.startswith("Columns of orders.csv: ")


def test_the_columns_of_a_computed_number_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "OTHERWISE", 0.0)
    for used, args in (
        ({"qty", "price"}, {"sum": "qty * price"}),
        ({"who"}, {"sum": "count(distinct who)"}),
        ({"name", "income", "costs"}, {"select": "name", "sort": "-income - costs"}),
    ):
        asked = row("what orders.csv says", "text.query", path="orders.csv", **args)
        (line,) = heads.with_heads(asked, random.Random(2))["heads"]
        assert used <= set(line.removeprefix("Columns of orders.csv: ").split(", "))


def test_some_columns_are_called_otherwise_there_and_in_the_call_alike() -> None:
    asked = row("total of orders.csv", "text.query", path="orders.csv", sum="amount")
    seen = {
        (made["calls"][0]["args"]["sum"], made["calls"][0]["args"]["sum"] in made["heads"][0])
        for made in (heads.with_heads(asked, random.Random(seed)) for seed in range(60))
    }
    assert ("amount", True) in seen and len(seen) > 2 and all(there for _, there in seen)


def test_settings_are_keys_and_files_that_are_not_named_have_no_head() -> None:
    made = heads.with_heads(
        row("debug off in app.ini", "text.set", path="app.ini", key="debug"), random.Random(1)
    )
    assert made["heads"][0].startswith("Settings of app.ini: ") and "debug" in made["heads"][0]
    assert "heads" not in heads.with_heads(row("list it all", "file.list"), random.Random(1))
    assert (
        prepare.request(made) == f"Files here: orders.csv, app.ini\n{made['heads'][0]}\ndebug off in app.ini"
    )


def test_heads_that_a_pair_gives_stand_as_they_are() -> None:
    lines = (
        "@files o.csv, a.ini",
        "@heads o.csv: buyer, eur; a.ini: port",
        "o.csv => x",
        "@files b.csv",
        "b => y",
    )
    text = "\n".join(lines)
    first, second = phrases.parse(text, "some")
    assert first.heads == {"o.csv": ["buyer", "eur"], "a.ini": ["port"]} and second.heads == {}
    made = heads.given(first.heads, "who spent most, o.csv", ["o.csv", "a.ini"], [])
    assert made == {"heads": ["Columns of o.csv: buyer, eur"]}
    asked = row("who spent most, orders.csv", "text.query", path="orders.csv", sort="-eur", limit=1) | made
    assert heads.with_heads(asked, random.Random(1)) is asked


def folder_row(say: str, tool: str, **args: object) -> dict[str, object]:
    entries = ["Trip", "notes.txt", "new"]
    return {"kind": "call", "say": say, "entries": entries, "calls": [{"tool": tool, "args": args}]}


def lines(made: dict[str, object]) -> list[str]:
    """Of many draws, those in which something was told."""
    found = (folders.with_folders(made, random.Random(seed)) for seed in range(20))
    return [line for one in found for line in one.get("heads", ())]


def test_rows_are_told_what_is_in_the_folders_that_they_name() -> None:
    told = lines(
        folder_row("rename the jpgs in Trip", "file.rename", path="Trip/*.jpg", find="a", replace="b")
    )
    assert told and all(re.match(r"Files in Trip: .*\.jpg", line) for line in told)
    told = lines(
        folder_row(
            "delete all in Trip but keep.txt", "file.delete", path="Trip/*", **{"except": ["keep.txt"]}
        )
    )
    assert told and all("keep.txt" in line for line in told)
    assert lines(folder_row("find png in Trip", "shell.run", command="find Trip -iname '*.png'"))
    assert not lines(folder_row("make new", "file.mkdir", path="new"))
    assert not lines(folder_row("show notes.txt and Trip", "file.read", path="notes.txt"))

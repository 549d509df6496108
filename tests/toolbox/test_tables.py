"""Columns of, and questions to, real CSV and JSON files: what people ask, and what hostile input tries.

Most of it runs the programs in this process: they are the same ones, without an interpreter's start each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmos.errors import LlmosError
from llmos.messages import Outcome
from llmos.toolbox import tables
from llmos.toolbox.context import Context
from llmos.toolbox.inside import columns, query, update
from llmos.toolbox.inside.numbers import number
from llmos.toolbox.inside.told import Refused

from .conftest import Call

Ask = Callable[..., Outcome]

PEOPLE = """name,city,age,first seen,salary
Ann,Paris,31,2024-01-05,"1,200.50"
Bob,New York,25,2023-11-30,900
"O'Neil, Cy",Paris,,2024-02-01,$1100
Dee,paris,100,2022-01-01,n/a
李雷,北京,42,2024-03-03,0.1
"""
USERS = {
    "version": "1.2",
    "users": [
        {"name": "ann", "age": 31, "tags": ["a", "b"], "home": {"city": "Paris"}},
        {"name": "bob", "age": 9, "active": True},
    ],
    "limits": {"cpu": 2, "memory": "1G"},
}


@pytest.fixture
def folder(here: Context) -> Path:
    place = Path(here.cwd)
    (place / "p.csv").write_text(PEOPLE)
    (place / "u.json").write_text(json.dumps(USERS))
    (place / "e.jsonl").write_text(
        '{"level": "error", "n": 1}\n{"level": "info", "n": 2, "more": {"x": "y"}}\n'
    )
    return place


@pytest.fixture
def ask(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The program itself, and the reader of what it prints."""
    monkeypatch.chdir(folder)
    none = dict.fromkeys(("where", "select", "group", "sum", "sort", "separator"))

    def run(path: str, **args: Any) -> Outcome:
        given = {**none, "limit": 1000, "name": path, "path": path, **args}
        code, problem = 0, ""
        try:
            (columns if "columns" in args else query).main(given)
        except (Refused, OSError) as error:
            code, problem = 1, str(error)
        return tables.read_rows(
            Outcome(exit_code=code, stdout=capsys.readouterr().out, stderr=problem), given
        )

    return run


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"where": "city = Paris", "select": "name"}, "Ann\nO'Neil, Cy\n"),
        ({"where": "city = New York", "select": "name"}, "Bob\n"),
        ({"where": "city = 'New York' or age > 40", "select": "name"}, "Bob\nDee\n李雷\n"),
        ({"where": "CITY is 北京", "select": "NAME"}, "李雷\n"),
        ({"where": "age > 30", "select": "name"}, "Ann\nDee\n李雷\n"),
        ({"where": "age is empty", "select": "name"}, "O'Neil, Cy\n"),
        ({"where": "not (age >= 31 or age is missing)", "select": "name"}, "Bob\n"),
        ({"where": 'name contains "o\'n"', "select": "city"}, "Paris\n"),
        ({"where": "name starts with D", "select": "age"}, "100\n"),
        ({"where": "city in (Paris, 北京) and age != 31", "select": "name"}, "O'Neil, Cy\n李雷\n"),
        ({"where": "first seen between 2024-01-01 and 2024-02-28", "select": "name"}, "Ann\nO'Neil, Cy\n"),
        ({"where": "`first seen` < 2023-01-01", "select": "name"}, "Dee\n"),
        ({"where": "salary > 1000", "select": "name"}, "Ann\nO'Neil, Cy\n"),
        ({"where": "age < salary", "select": "count"}, "2\n"),
        ({"select": "name", "sort": "-age", "limit": 2}, "Dee\n李雷\n… and 3 more rows.\n"),
        ({"select": "distinct city", "sort": "city desc", "limit": 9}, "北京\nparis\nParis\nNew York\n"),
        ({"sum": "age"}, "198\n"),
        ({"sum": "avg(age)"}, "49.5\n"),
        ({"sum": "count"}, "5\n"),
        ({"sum": "salary"}, "3200.6\n"),
        ({"select": "count(*)"}, "5\n"),
        ({"select": "max(age)", "where": "city = Paris"}, "31\n"),
        ({"where": "city = Rome"}, "No row fits.\n"),
    ],
)
def test_questions_to_a_csv_file(ask: Ask, args: dict[str, object], told: str) -> None:
    outcome = ask("p.csv", **args)
    assert (outcome.stdout, outcome.stderr) == (told, "")


def test_groups_come_largest_first_with_their_sums(ask: Ask) -> None:
    lines = ask("p.csv", group="city").stdout.splitlines()
    assert lines[0].split() == ["city", "count"] and lines[1].split() == ["Paris", "2"] and len(lines) == 5
    lines = ask("p.csv", group="city", sum="age").stdout.splitlines()
    assert lines[1].split() == ["paris", "100"] and lines[0].split() == ["city", "sum(age)"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"select": "users.name"}, "ann\nbob\n"),
        ({"select": ".users[].name"}, "ann\nbob\n"),
        ({"select": "name"}, "ann\nbob\n"),
        ({"select": "users.home.city", "where": "users.age > 10"}, "Paris\n"),
        ({"select": "users.tags", "where": "name = ann"}, "a, b\n"),
        ({"where": "active = true", "select": "users.age"}, "9\n"),
        ({"select": "version"}, "1.2\n"),
        ({"select": "limits"}, "limits.cpu     2\nlimits.memory  1G\n"),
        ({"sum": "users.age"}, "40\n"),
    ],
)
def test_questions_to_a_json_document(ask: Ask, args: dict[str, object], told: str) -> None:
    outcome = ask("u.json", **args)
    assert (outcome.stdout, outcome.stderr) == (told, "")


def test_json_lines_lists_and_piped_data(call: Call, folder: Path) -> None:
    assert call("text.query", path="e.jsonl", where="level = error", select="n").stdout == "1\n"
    assert call("text.query", path="e.jsonl", select="more.x", where="n = 2").stdout == "y\n"
    (folder / "l.json").write_text('[{"a": 1}, {"a": 2.5}]')
    assert call("text.query", path="l.json", sum="a").stdout == "3.5\n"
    assert call("text.query", path="-", data=b"a;b\n1;2\n", select="b").stdout == "2\n"
    assert call("text.columns", path="-", data=b"a\tb\n1\t2\n", columns=["b"]).stdout == "2\n"


INJECTIONS = [
    "1=1; DROP TABLE t",
    "name = x' OR '1'='1",
    "name = (select 1)",
    "name = Ann) OR (1=1",
    "c0 = Ann",
    "1 = 1",
    "name = load_extension('x')",
    "name UNION SELECT 1",
    "name",
    "= Ann",
    "name =",
    "name = 'Ann",
    "((((name = a",
    "name between a",
    "name not",
    "and",
    "(" * 400 + "name = 1",
    "name ~ Ann",
    "sqlite_master = 1",
    "",
]


@pytest.mark.parametrize("where", INJECTIONS)
def test_words_never_become_sql(ask: Ask, where: str) -> None:
    """They are refused in a sentence, or compared as text and fit nothing."""
    outcome = ask("p.csv", where=where, select="name")
    assert "syntax" not in outcome.stderr, outcome
    fits_nothing = outcome.stdout == "No row fits.\n" or (where == "" and outcome.stdout.count("\n") == 5)
    assert fits_nothing or (outcome.exit_code == 1 and outcome.stderr.startswith("p.csv: ")), outcome
    for key in ("select", "group", "sum", "sort"):
        if where.strip():
            outcome = ask("p.csv", **{key: f'name"; {where} --'})
            assert outcome.exit_code == 1 and "there is no" in outcome.stderr, outcome


def test_columns_by_name_number_and_separator(ask: Ask, folder: Path) -> None:
    assert ask("p.csv", columns=["city", "name"]).stdout.splitlines()[1].split() == [
        "Paris",
        "Ann",
    ]
    assert ask("p.csv", columns=["3"]).stdout.splitlines()[:2] == ["age", "31"]
    (folder / "s.csv").write_text("date;total\n1;2\n")
    assert ask("s.csv", columns=["total"]).stdout == "2\n"
    assert ask("s.csv", columns=["total"], separator=";").stdout == "2\n"
    (folder / "b.txt").write_text("a  b   c\n1 2  3\n")
    assert ask("b.txt", columns=["2"], separator=" ").stdout == "b\n2\n"
    missing = ask("p.csv", columns=["nmae"])
    assert (
        missing.exit_code == 1
        and "Did you mean name?" in missing.stderr
        and "There are: name" in missing.stderr
    )
    assert "there is no column 9" in ask("p.csv", columns=["9"]).stderr
    assert "one character" in ask("p.csv", columns=["name"], separator="ab").stderr
    assert "more rows" in ask("p.csv", columns=["name"], limit=2).stdout


HOSTILE = {
    "binary.csv": b"\x00\x01\x02\xff" * 50,
    "deep.json": b"[" * 100_000,
    "bad.json": b'{"a": }',
    "bad.jsonl": b'{"a": 1}\n{"a": \n',
    "empty.csv": b"",
    "wide.csv": b"a," * 5000 + b"\n" + b"1," * 5000,
    "odd.csv": b"name\n\xff\xfe\x1b[31m\nb\n",
    "quote.csv": b'name\n"never closed\n',
    "ragged.csv": b"name,b\n1\n1,2,3,4\n\n",
    "twice.csv": b"name,name\n1,2\n",
    "huge.json": b'[{"name": 123456789012345678901234567890}]',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_a_sentence_or_an_answer(ask: Ask, folder: Path, name: str) -> None:
    (folder / name).write_bytes(HOSTILE[name])
    for args in ({"where": "name = 1"}, {"columns": ["name"]}):
        outcome = ask(name, **args)
        assert "\x1b" not in outcome.stdout, outcome
        assert outcome.exit_code == 0 or outcome.stderr.startswith(f"{name}: "), outcome


def test_they_run_as_programs_and_missing_files_are_said(call: Call, folder: Path) -> None:
    assert call("text.query", path="p.csv", where="city = 北京", select="name").stdout == "李雷\n"
    assert call("text.query", path="nope.csv", select="a").stderr == "nope.csv: No such file or directory\n"
    assert "directory" in call("text.query", path=".", select="a").stderr.lower()
    (folder / "-o dd\n.csv").write_text("a\n1\n")
    assert call("text.columns", path="-o dd\n.csv", columns=["a"]).stdout == "1\n"
    with pytest.raises(LlmosError):
        call("text.query", path="-", select="a")
    assert not [name for name in os.listdir(folder) if "pycache" in name]


@pytest.mark.parametrize(
    ("text", "is_number"),
    [
        ("12,50", 12.5), ("1.234,56", 1234.56), ("1,234", 1234), ("1,234.5", 1234.5), ("-3,5", -3.5),
        ("7 EUR", 7), ("7%", 7), ("$7", 7), ("€ 5", 5), ("19,90 €", 19.9), ("€ 5,50", 5.5), ("-$7", -7),
        ("0,125", 0.125), ("-0,125", -0.125), ("20 eur", 20), ("5元", 5),
        ("7" * 50, None), ("1" + " " * 9000 + "x", None),
        ("007", None), ("1.2.3", None), ("abc", None), ("%", None), ("2024-01-05", None),
    ],
)  # fmt: skip
def test_numbers_as_they_are_written(text: str, is_number: float | None) -> None:
    assert number(text) == is_number


def test_sums_say_what_they_leave_out(call: Call, here: Context) -> None:
    text = "what;when;price\na;2024-03-01;12,50\nb;2023-01-09;n/a\nc;2024-01-05;7,5 €\n"
    Path(here.cwd, "s.csv").write_text(text)
    found = call("text.query", path="s.csv", sum="price")
    assert found.stdout.strip() == "20" and "price: 1 of 3 values are no numbers" in found.stderr
    found = call("text.query", path="s.csv", sum="when")
    assert found.exit_code == 1 and "when has no numbers to add up, but 2023-01-09" in found.stderr
    assert call("text.query", path="s.csv", sum="min(when)").stdout.strip() == "2023-01-09"
    assert call("text.query", path="s.csv", sum="max(price)").stdout.strip() == "12.5"


def test_lines_of_a_text_are_no_rows(call: Call, folder: Path) -> None:
    (folder / "guests.txt").write_text("Ann\nBob\nCy\n")
    refused = call("text.query", path="guests.txt", sum="count")
    assert refused.exit_code == 1 and "no columns" in refused.stderr
    (folder / "sizes.txt").write_text("name;size\na;1\nb;2\n")
    assert call("text.query", path="sizes.txt", sum="size").stdout.strip() == "3"
    (folder / "guests.csv").write_text("name\nAnn\nBob\n")
    assert call("text.query", path="guests.csv", sum="count").stdout.strip() == "2"


def test_a_text_that_is_there_in_another_case_alone_is_taken(call: Call, folder: Path) -> None:
    (folder / "h.csv").write_text("who,day,hours\nTom,Mon,3\nAda,Mon,4\nTom,Tue,2\n")
    tom = call("text.query", path="h.csv", where="who = tom", sum="hours")
    assert tom.stdout.strip() == "5" and tom.stderr == "No tom is there, but Tom, which is taken.\n"
    assert "Ada" not in call("text.query", path="h.csv", where="who != ADA", select="who").stdout
    assert (
        call("text.query", path="h.csv", where="who in (ada, tom) and hours > 3", sum="count").stdout == "1\n"
    )
    none = call("text.query", path="h.csv", where="who = Tom and hours > 9")
    assert none.stdout == "No row fits.\n" and not none.stderr
    several = call("text.query", path="p.csv", where="city = PARIS", select="name")
    assert several.stdout == "No row fits.\n"
    assert several.stderr == "No PARIS is there, but Paris, paris.\n"
    before = (folder / "h.csv").read_text()
    changed = call("text.update", path="h.csv", set="hours = 0", where="who = tom")
    assert "but Tom" in changed.stderr and (folder / "h.csv").read_text() == before
    assert not call("text.query", path="p.csv", where="city = paris", select="name").stderr
    (folder / "e.csv").write_text("what,price\na,20 EUR\nb,30 EUR\n")
    assert not call("text.query", path="e.csv", where="not price > 10").stderr
    assert not call("text.query", path="p.csv", where="city = Rome", select="name").stderr


def test_columns_are_found_by_ordinals_and_in_the_plural(call: Call, here: Context) -> None:
    Path(here.cwd, "o.csv").write_text("name,city,amount\nAda,Paris,30\nBob,Rome,12\n")
    for name, said in (
        ("second", "city\nParis\nRome\n"),
        ("last", "amount\n30\n12\n"),
        ("1st", "name\nAda\nBob\n"),
    ):
        assert call("text.columns", path="o.csv", columns=[name]).stdout == said
    assert call("text.columns", path="o.csv", columns=["Cities"]).stdout == "Paris\nRome\n"
    assert call("text.query", path="o.csv", sum="amounts").stdout.strip() == "42"
    Path(here.cwd, "two.csv").write_text("amount,amounts\n1,2\n")
    assert call("text.query", path="two.csv", sum="amounts").stdout.strip() == "2"
    Path(here.cwd, "first.csv").write_text("a,first\n1,2\n")
    assert call("text.columns", path="first.csv", columns=["first"]).stdout == "2\n"


def test_an_answer_is_written_as_what_the_new_files_ending_says(call: Call, here: Context) -> None:
    folder = Path(here.cwd)
    (folder / "i.csv").write_text("who;amount;paid\nAnn;30;no\n'Bob';07;yes\n\"Cy; Ltd\";4.5;no\n")

    def written(to: str, **args: Any) -> str:
        outcome = call("text.export", path="i.csv", to=to, **args)
        assert outcome.exit_code == 0, outcome.stderr
        return (folder / to).read_text()

    unpaid = written("unpaid.csv", where="paid = no", sort="-amount")
    assert unpaid == 'who;amount;paid\nAnn;30;no\n"Cy; Ltd";4.5;no\n'  # the separator of its source
    assert written("new/who.txt", select="who", limit=2) == "Ann\n'Bob'\n"  # a list, in a folder that is made
    assert written("i.tsv", select="amount, who").splitlines()[3] == "4.5\tCy; Ltd"
    assert json.loads(written("i.json"))[1] == {"who": "'Bob'", "amount": "07", "paid": "yes"}
    assert json.loads(written("i.jsonl", group="paid", sum="amount").splitlines()[0]) == {
        "paid": "no",
        "sum(amount)": 34.5,
    }
    nested = [{"n": 1, "x": {"y": "z"}, "t": ["a", {"b": 2}], "on": True}, {"n": "2"}]
    (folder / "k.json").write_text(json.dumps({"of": nested}))
    call("text.export", path="k.json", to="l.json", where="n = 1")
    assert json.loads((folder / "l.json").read_text()) == nested[:1]
    (folder / "j.json").write_text('[{"n": 1, "x": {"y": "z"}}, {"n": 2}]')
    assert call("text.export", path="j.json", to="j.csv").stdout == "wrote j.csv: 2 rows\n"
    assert (folder / "j.csv").read_text() == "n,x.y\n1,z\n2,\n"


def test_nothing_is_written_where_something_is_wrong(call: Call, here: Context) -> None:
    folder = Path(here.cwd)
    (folder / "i.csv").write_text("who,amount\nBob,2\nAnn,1\n")
    kept = call("text.export", path="i.csv", to="i.csv", sort="who")
    assert kept.exit_code == 1 and "overwrite=true" in kept.stderr
    assert (folder / "i.csv").read_text() == "who,amount\nBob,2\nAnn,1\n"
    assert "no column" in call("text.export", path="i.csv", to="o.csv", select="age").stderr
    assert "is a folder" in call("text.export", path="i.csv", to=".").stderr
    assert not (folder / "o.csv").exists()
    assert call("text.export", path="i.csv", to="i.csv", sort="who", overwrite=True).exit_code == 0
    assert (folder / "i.csv").read_text() == "who,amount\nAnn,1\nBob,2\n"


def test_two_columns_make_one_number_and_values_are_counted_once(call: Call, here: Context) -> None:
    Path(here.cwd, "s.csv").write_text(
        "product,price,qty,net-price\npot,10,2,8\ntoaster,30,1,25\npot,10,3,8\ncup,,9,1\n"
    )

    def asked(**args: Any) -> str:
        return call("text.query", path="s.csv", **args).stdout.strip()

    assert asked(sum="price*qty") == asked(sum="price * qty") == "80"
    assert asked(group="product", sum="price * qty").splitlines()[1].split() == ["pot", "50"]
    assert asked(select="product", sort="-price * qty", limit=1) == "toaster\n… and 3 more rows."
    assert asked(select="price * qty", where="product = toaster") == "30"
    assert asked(sum="price - net-price") == "9"
    assert asked(sum="max(price + qty)") == "31"
    assert asked(select="price / qty / 2", where="product = toaster") == "15"
    assert asked(select="qty + price / 4", where="qty = 3") == "5.5"
    assert asked(sum="price / 4") == "12.5" and asked(select="price / qty", where="product = toaster") == "30"
    assert asked(sum="count(distinct product)") == "3" and asked(sum="count(distinct price)") == "2"
    assert asked(where="qty > 1", sum="count(distinct product)") == "2"
    assert "no column" in call("text.query", path="s.csv", sum="price * size").stderr


def test_rows_are_written_as_they_stand_in_their_source(call: Call, here: Context) -> None:
    folder = Path(here.cwd)

    def written(path: str, to: str, **args: Any) -> bytes:
        outcome = call("text.export", path=path, to=to, **args)
        assert outcome.exit_code == 0, outcome.stderr
        return (folder / to).read_bytes()

    (folder / "l.csv").write_bytes(b'n\xe4me,ort,ort\r\nZo\xeb,b,"x\ry"\r\nAda,a, c,more\r\n')
    assert written("l.csv", "l.csv", sort="ort", overwrite=True) == (
        b'n\xe4me,ort,ort\r\nAda,a, c,more\r\nZo\xeb,b,"x\ry"\r\n'
    )
    assert (
        "UTF-8" in call("text.export", path="l.csv", to="l.json").stderr and not (folder / "l.json").exists()
    )
    (folder / "b.csv").write_bytes(b"\xef\xbb\xbfv\tw\n1.10\t1\n007\t2\n")
    assert written("b.csv", "b.csv", sort="-w", overwrite=True) == b"\xef\xbb\xbfv\tw\n007\t2\n1.10\t1\n"
    assert json.loads(written("b.csv", "b.json")) == [{"v": "007", "w": 2}, {"v": "1.10", "w": 1}]
    objects = [
        {"a": 1, "a.b": 2, "t": ["K\u00f6ln"], "e": {}, "f": 1700000000.123456},
        {"a": "true", "n": None},
    ]
    (folder / "o.json").write_text(json.dumps({"version": 1, "of": objects}))
    assert json.loads(written("o.json", "p.json", sort="-a")) == objects
    assert json.loads(written("o.json", "q.json", where="t contains K\u00f6ln", select="a, t")) == [
        {"a": 1, "t": ["K\u00f6ln"]}
    ]
    assert b"1700000000.123456" in written("o.json", "o.csv")
    wide = ",".join(f"c{n}" for n in range(1600)) + "\n" + ",".join(["1"] * 1600) + "\n"
    (folder / "w.csv").write_text(wide)  # more columns than the base can have
    assert written("w.csv", "w2.csv", sort="c0").decode() == wide
    assert json.loads(written("o.json", "g.json", group="a", sum="f"))[0] == {
        "of.a": 1, "sum(of.f)": 1700000000.12346,
    }  # fmt: skip
    assert (
        "only of would be left"
        in call("text.export", path="o.json", to="o.json", sort="a", overwrite=True).stderr
    )
    assert "no .xlsx" in call("text.export", path="b.csv", to="b.xlsx").stderr
    assert "is a folder" in call("text.export", path="b.csv", to="new/").stderr


def test_groups_are_put_in_order_by_what_they_come_to(call: Call, here: Context) -> None:
    Path(here.cwd, "g.csv").write_text("who,price,qty\na,1,100\nb,100,3\na,5,2\nc,10,1\n")
    asked = {"path": "g.csv", "group": "who", "sum": "price * qty"}
    for sort in ("-price * qty", "-price*qty", "-sum(price * qty)"):
        rows = call("text.query", **asked, sort=sort).stdout.split("\n")[1:4]
        assert [row.split()[0] for row in rows] == ["b", "a", "c"]
    assert call("text.query", path="g.csv", sum="price * 2").stdout.strip() == "232"
    assert "no numbers" in call("text.query", path="g.csv", sum="who * qty").stderr
    assert "nested" in call("text.query", path="g.csv", sum="+".join(["qty"] * 900)).stderr


# --- several files as one table ----------------------------------------------------------------------


def test_a_pattern_takes_the_rows_of_several_files_together(call: Call, folder: Path) -> None:
    (folder / "sales").mkdir()
    for month, amount in (("2024-01", 4), ("2024-02", 6)):
        (folder / f"sales/{month}.csv").write_text(f"item,qty\ncup,{amount}\n")
    (folder / "sales/.old.csv").write_text("item,qty\ncup,100\n")
    assert call("text.query", path="sales/*.csv", sum="qty").stdout == "10\n"
    assert call("text.export", path="sales/*.csv", to="all.csv").exit_code == 0
    assert (folder / "all.csv").read_text() == "item,qty\ncup,4\ncup,6\n"
    (folder / "sales/2024-03.csv").write_text("item;price\ncup;3\n")
    outcome = call("text.query", path="sales/*.csv", sum="qty")
    assert outcome.exit_code and "2024-03.csv do not have the same columns" in outcome.stderr
    assert "nothing matches it" in call("text.query", path="sales/x*.csv").stderr


def test_the_new_file_is_none_of_its_sources(call: Call, folder: Path) -> None:
    (folder / "t").mkdir()
    for name in ("a", "b"):
        (folder / f"t/{name}.csv").write_text(f"name,km/h\n{name},3\n")
    for _ in range(2):
        assert call("text.export", path="t/*.csv", to="t/all.csv", overwrite=True).exit_code == 0
        assert (folder / "t/all.csv").read_text() == "name,km/h\na,3\nb,3\n"
    assert call("text.query", path="t/a.csv", select="km/h * 2").stdout == "6\n"
    assert "no column 'm/s'" in call("text.query", path="t/a.csv", sum="m/s").stderr
    for name, key in (("x", "users"), ("y", "items")):
        (folder / f"t/{name}.json").write_text(json.dumps({key: [{"a": 1}]}))
    assert "the same columns" in call("text.query", path="t/?.json", sum="a").stderr
    for between in ('"', "\n"):
        assert "separate" in call("text.export", path="t/a.csv", to="n.csv", separator=between).stderr
    assert "separate" in call("text.export", path="t/a.csv", to="n.json", separator=";").stderr


def test_a_table_that_would_lose_no_row_is_said_to(call: Call, folder: Path) -> None:
    (folder / "staff.csv").write_text("name,city\nDan Smith,Rome\nAnn,Ulm\n")
    told = {"path": "staff.csv", "to": "staff.csv", "overwrite": True}
    outcome = call("text.export", where="name != Dan", **told)
    assert outcome.exit_code and "every row fits" in outcome.stderr
    assert call("text.export", where="name != 'Dan Smith'", **told).exit_code == 0
    assert (folder / "staff.csv").read_text() == "name,city\nAnn,Ulm\n"


def test_objects_of_several_files_are_rows(call: Call, folder: Path) -> None:
    (folder / "runs").mkdir()
    for number_of_run, status in enumerate(("ok", "failed", "failed")):
        (folder / f"runs/{number_of_run}.json").write_text(json.dumps({"status": status, "loss": 0.5}))
    outcome = call("text.query", path="runs/*.json", where="status = failed", sum="count")
    assert outcome.stdout == "2\n"


@pytest.mark.parametrize(("told", "between"), [(",", ","), ("semicolon", ";"), ("tab", "\t")])
def test_the_new_file_has_the_separator_that_was_asked_for(
    call: Call, folder: Path, told: str, between: str
) -> None:
    (folder / "contacts.csv").write_text("name;town\nAnn;Rome\n")
    assert call("text.export", path="contacts.csv", to="new.csv", separator=told).exit_code == 0
    assert (folder / "new.csv").read_text() == f"name{between}town\nAnn{between}Rome\n"
    assert "one character" in call("text.export", path="contacts.csv", to="x.csv", separator="ab").stderr


# --- cells -------------------------------------------------------------------------------------------

STOCK = 'article;qty;price;note\r\n"A-1";4;12,50;"x;y"\r\nB-2;;3 EUR\r\nC-3;7;0,80;old\r\n'


@pytest.mark.parametrize(
    ("args", "changed"),
    [
        ({"set": "qty = 40", "where": "article = C-3"}, {"C-3;7": "C-3;40"}),
        ({"set": "note = sold, out", "where": "article = C-3"}, {";old": ";sold, out"}),
        ({"set": "qty = 0, note = none", "where": "article = B-2"}, {"B-2;;3 EUR": "B-2;0;3 EUR;none"}),
        ({"set": "price = price * 2"}, {"12,50": "25,00", "3 EUR": "6 EUR", "0,80": "1,60", '"A-1"': "A-1"}),
        ({"set": "qty = qty - 1", "where": "qty > 5"}, {"C-3;7": "C-3;6"}),
        ({"set": "article = 3/4", "where": "qty = 7"}, {"C-3": "3/4"}),
        ({"set": "note = 'qty + 1'", "where": "qty = 7"}, {";old": ";qty + 1"}),
        ({"set": "note =", "where": "qty = 7"}, {";old": ";"}),
        ({"set": "note = 'a, qty = 2'", "where": "qty = 7"}, {";old": ";a, qty = 2"}),
        ({"set": "note = article", "where": "qty = 7"}, {";old": ";C-3"}),
        ({"set": "note = price * 2", "where": "qty = 7"}, {";old": ";1,60"}),
        ({"set": "price = price * 2 + 1", "where": "qty = 7"}, {"0,80": "2,60"}),
    ],
)
def test_cells_change_and_all_else_stays(
    call: Call, folder: Path, args: dict[str, str], changed: dict[str, str]
) -> None:
    (folder / "stock.csv").write_bytes(STOCK.encode())
    assert call("text.update", path="stock.csv", **args).exit_code == 0
    expected = STOCK
    for old, new in changed.items():
        expected = expected.replace(old, new)
    assert (folder / "stock.csv").read_bytes().decode() == expected


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"set": "qty = 1", "where": "article = Z"}, "no row fits"),
        ({"set": "qty = qty + 1"}, "row 2 has no number"),
        ({"set": "size = 1"}, "no column 'size'"),
        ({"set": "qty"}, "column = value"),
        ({"set": "qty = 1", "to": "stock.csv"}, "exists already"),
        ({"set": "qty = 1", "to": "new.json"}, "text.export converts"),
        ({"set": "qty = 1", "to": "new/"}, "is a folder"),
        ({"set": "price = price-2"}, "quotation marks"),
        ({"set": "price = price * 10%"}, "quotation marks"),
        ({"set": "price = (price + 2) * 3"}, "quotation marks"),
        ({"set": " " * 5000}, "longer than"),
        ({"set": "price = qty * \u0663"}, "quotation marks"),
    ],
)
def test_what_cannot_be_changed_leaves_the_file_alone(
    call: Call, folder: Path, args: dict[str, str], told: str
) -> None:
    (folder / "stock.csv").write_bytes(STOCK.encode())
    outcome = call("text.update", path="stock.csv", **args)
    assert outcome.exit_code and told in outcome.stderr
    assert (folder / "stock.csv").read_bytes() == STOCK.encode()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_cells_keep_the_encoding(call: Call, folder: Path, encoding: str) -> None:
    text = "name,city\n\nJosé,Bonn\n\nAnn,Ulm"
    (folder / "people.csv").write_text(text, encoding=encoding)
    assert call("text.update", path="people.csv", set="city = Rome", where="name = Ann").exit_code == 0
    assert (folder / "people.csv").read_text(encoding=encoding) == text.replace("Ulm", "Rome")
    (folder / "users.json").write_text('[{"a": 1}]')
    assert "text.set" in call("text.update", path="users.json", set="a = 2").stderr
    outcome = call("text.update", path="people.csv", set="city = Köln", where="name = Ann")
    assert bool(outcome.exit_code) == (encoding == "latin-1") == ("UTF-8" in outcome.stderr)
    assert "name one file" in call("text.update", path="*.csv", set="city = Rome").stderr


def test_a_cell_with_a_line_break_stays_one(call: Call, folder: Path) -> None:
    (folder / "n.csv").write_bytes(b'a,price\r\n"x\r\ny",1\r\n"z\nw",5\r\n')
    assert call("text.update", path="n.csv", set="price = price + 1").exit_code == 0
    assert (folder / "n.csv").read_bytes() == b'a,price\r\n"x\r\ny",2\r\n"z\nw",6\r\n'


@pytest.mark.parametrize(
    ("value", "like", "text"),
    [
        (25, "12.50", "25.00"), (3.575, "3.25", "3.58"), (0.025, "0.1", "0.025"), (0.8505, "850.5", "0.8505"),
        (4, "-$5", "$4"), (-7, "-$5.00", "-$7.00"), (2000, "1e3", "2000"),
        (4006381333932, "1", "4006381333932"),
        (6.5, "12,50 €", "6,50 €"), (0.001, "0.10", "0.001"), (0.1 + 0.2, "1", "0.3"), (44.0, "40", "44"),
        (1234.5, "1,000.25", "1234.50"), (0, "3 EUR", "0 EUR"),
    ],
)  # fmt: skip
def test_a_number_is_written_as_the_one_before(value: float, like: str, text: str) -> None:
    assert update.written(value, like) == text

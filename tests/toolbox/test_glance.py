"""Heads of files that a sentence names: which files, and what is told of them."""

from __future__ import annotations

import time

import pytest

from llmos.toolbox import glance

ENTRIES = [
    "orders.csv",
    "price_list.csv",
    "members.csv",
    "app.ini",
    "notes.txt",
    "photos",
    "a.csv",
    ".env",
    "支出.csv",
]


def test_the_only_one_of_a_kind_is_named_by_its_kind() -> None:
    assert glance.named("who is in the table twice", ["a.csv", "b.ini", "c.txt"]) == ["a.csv"]
    assert glance.named("change the port in the settings", ["a.csv", "b.ini", "c.txt"]) == ["b.ini"]
    assert glance.named("change the port in the settings", ["settings.json", "b.ini"]) == ["settings.json"]


@pytest.mark.parametrize(
    ("say", "entries", "names"),
    [
        ("the phones of the parents", ["2025_parents.csv", "pupils.csv"], ["2025_parents.csv"]),
        ("the parents' phones", ["2025_parents.csv", "2024_parents.csv"], []),  # which?
        ("销售11月总共卖了多少", ["销售_11月.csv", "员工.csv"], ["销售_11月.csv"]),
        ("期末考了多少分", ["期末成绩.csv", "名单.csv"], ["期末成绩.csv"]),
        ("what is in the car", ["car_2025.csv"], []),  # too short to tell
        ("add up the fees in club/fees.csv", ["notes.txt"], ["club/fees.csv"]),
        ("the port in ./etc/app.ini.", ["app.ini"], ["etc/app.ini", "app.ini"]),
    ],
)
def test_a_table_is_named_by_a_word_of_its_name(say: str, entries: list[str], names: list[str]) -> None:
    assert glance.named(say, entries) == names


@pytest.mark.parametrize(
    ("say", "names"),
    [
        ("what did we earn according to the orders", ["orders.csv"]),
        ("the cheapest thing on the price list", ["price_list.csv"]),
        ("sort price_list by name", ["price_list.csv"]),
        ("查一下支出里最大的一笔", ["支出.csv"]),
        ("打开orders看看", ["orders.csv"]),
        ("who is a Member since 2020?", ["members.csv"]),
        ("turn debug off in app.ini", ["app.ini"]),
        ("add up a.csv", ["a.csv"]),
        ("set PORT in .env to 80", [".env"]),
        ("show notes.txt", []),
        ("reorder the photos", []),
        ("orders, members and stock", ["orders.csv", "members.csv"]),
        ("who is in the csv", []),  # which?
        ("the members in orders.csv", ["orders.csv"]),
        ("what does the ini say", ["app.ini"]),
    ],
)
def test_files_are_named_whole_or_without_their_ending(say: str, names: list[str]) -> None:
    assert glance.named(say, ENTRIES) == names


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("o.csv", b"\xef\xbb\xbfdate;buyer;item\n1;2;3\n", "Columns of o.csv: date, buyer, item"),
        ("o.csv", b'"full name","e-mail"\n', "Columns of o.csv: full name, e-mail"),
        ("o.tsv", b"a\tb\n1\t2\n", "Columns of o.tsv: a, b"),
        ("o.csv", b"7,2024,x\n8,2025,y\n", ""),
        ("o.csv", b"", ""),
        ("l.json", b'[{"id":1,"n":{"x":2}}, {"id"', "Columns of l.json: id, n.x"),
        ("l.jsonl", b'{"a":1,"b":[1]}\n{"a":2}\n', "Columns of l.jsonl: a, b"),
        ("s.json", b'{"theme":"dark","users":[{"name":1}]}', "Settings of s.json: theme, users.name"),
        ("s.json", b'{"theme":', ""),
        ("s.json", b"[" * 30_000, ""),
        ("a.ini", b"top = 1\n[db]\nhost=x\n# port=1\n", "Settings of a.ini: top, db.host"),
        ("c.yaml", b"port: 80\nserver:\n  host: x\n", "Settings of c.yaml: port, server.host"),
        (".env", b"A=1\nexport B='2'\n", "Settings of .env: A, B"),
        ("b.csv", b"\x00\x1b[31m,\xff\n", "Columns of b.csv: [31m, \ufffd"),
        ("l.csv", b"x" * 500 + b",short\n", "Columns of l.csv: short"),
    ],
)  # fmt: skip
def test_heads_are_short_and_plain(name: str, data: bytes, line: str) -> None:
    assert glance.head(name, data) == line


def test_a_configuration_that_is_cut_has_no_half_line() -> None:
    data = b"".join(b"key%d = 1\n" % n for n in range(9000))[: glance.HEAD_BYTES]
    assert glance.head("a.ini", data).startswith("Settings of a.ini: key0, key1, ")


def test_a_file_of_a_long_name_has_a_head_too() -> None:
    name = "orders_of_the_northern_branch_office_2024.csv"
    assert glance.head(name, b"region,amount\n") == f"Columns of {name}: region, amount"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.ini", b"[" * 3000 + b" " * 3000 + b"x"),
        ("a.ini", (b"[" * 90 + b" " * 90 + b"x\n") * 170),
        ("a.ini", b"a x" + b" " * 20_000 + b"y"),
        ("a.csv", b"a" + b" " * 32_000 + b"a,b\n"),
        ("a.csv", b"," * 32_000),
        ("a.json", b'{"a":' * 6000),
    ],
)  # fmt: skip
def test_no_content_takes_long(name: str, data: bytes) -> None:
    began = time.process_time()
    glance.head(name, data[: glance.HEAD_BYTES])
    assert time.process_time() - began < 0.5


def test_of_a_wide_table_the_first_columns_are_told() -> None:
    names = [f"c{number}" for number in range(90)]
    assert (
        glance.head("w.csv", ",".join(["x", *names]).encode())
        == f"Columns of w.csv: x, {', '.join(names[:13])}"
    )


@pytest.mark.parametrize(
    ("say", "names"),
    [
        ("the pictures in Trip start with IMG_", ["Trip"]),
        ("what is in Trip/2024?", ["Trip/2024", "Trip"]),
        ("tripping over the trips", []),
        ("照片里有什么", ["照片"]),
        ("look into /etc/ssh and ~/Trip/x and ../Trip", ["Trip"]),
    ],
)
def test_folders_are_named_as_words_and_paths(say: str, names: list[str]) -> None:
    assert glance.folders(say, ["Trip", "照片", "a"]) == names


def test_what_is_in_a_folder_is_a_short_line() -> None:
    assert glance.contents("Trip", ["a b.jpg", "c.png"]) == 'Files in Trip: "a b.jpg", c.png'
    assert glance.contents("Trip", []) == ""
    assert len(glance.contents("Trip", ["x" * 150, "y" * 20, *map(str, range(100))])) < 250

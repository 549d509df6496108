"""The head that says which tools a request is about: the shipped one, and one that is made anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmos import cli
from llmos.planner import toolhead
from llmos.toolbox import catalog

SHIPPED = catalog.load((Path(__file__).parents[2] / "tools",)).specs


def test_it_knows_the_tools_there_are() -> None:
    assert set(toolhead.shipped().tools) == {spec.name for spec in SHIPPED}


@pytest.mark.parametrize(
    ("say", "tool"),
    [
        ("how much did each customer order, all in all? orders.csv", "text.query"),
        ("nobody else may look into the diary", "file.permissions"),
        ("which contianers are runing", "docker.container.list"),
        ("磁盘还剩多少", "system.disk"),
        ("give chrome no more than two gigs", "resource.limit"),
    ],
)
def test_what_people_say_is_near_the_top(say: str, tool: str) -> None:
    ranked = toolhead.shipped().likely(say)
    assert tool in [name for _, name in ranked[:4]]
    assert sum(share for share, _ in ranked) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("say", ["", " ", "\0\ud800", "x" * 100_000, "🙂" * 5000])
def test_whatever_is_said_is_ranked(say: str) -> None:
    assert len(toolhead.shipped().likely(say)) == len(SHIPPED)


def test_one_is_made_from_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentences = {
        "system.load": "how busy is the processor number",
        "net.dns": "which address has the name host",
    }
    rows = [
        {"kind": "call", "say": f"{say} {n}", "calls": [{"tool": tool, "args": {}}], "source": "hand"}
        for tool, say in sentences.items()
        for n in range(300)
    ]
    file, out = tmp_path / "rows.jsonl", tmp_path / "head.safetensors"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["tune", "tools", "--rows", str(file), "--valid", str(file), "--out", str(out)]) == 0
    assert "head                      1.000" in capsys.readouterr().out
    head = toolhead.read(out)
    assert head.likely("is the processor busy")[0][1] == "system.load"
    assert head.likely("the address of a name")[0][1] == "net.dns"

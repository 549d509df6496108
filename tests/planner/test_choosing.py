"""Which tools are listed: few whole, many by nearness, the common ones always and first."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.messages import Example, ToolSpec
from llmos.planner.choosing import FEW, MOST, Chooser
from llmos.planner.retrieval import Retriever
from llmos.toolbox import catalog

SHIPPED = catalog.load((Path(__file__).parents[2] / "tools",)).specs


def chooser(*specs: ToolSpec) -> Chooser:
    return Chooser(specs, Retriever(specs))


def spec(name: str, *says: str, common: bool = False) -> ToolSpec:
    examples = tuple(Example(say=say, args={}) for say in says)
    return ToolSpec(
        name=name, summary=name.replace(".", " "), parameters={"type": "object"}, common=common,
        examples=examples,
    )  # fmt: skip


MANY = [spec(f"thing.n{number}", f"do thing number{number}") for number in range(FEW)]


def test_few_tools_are_all_listed() -> None:
    tools = (spec("a.b", "say a"), spec("c.d", "say c"))
    assert chooser(*tools).listed("nothing of that") == tools


def test_the_common_ones_stand_first_and_are_the_same_for_every_request() -> None:
    common = [spec("a.common", "look here", common=True), spec("z.common", "look there", common=True)]
    found = chooser(*common, *MANY, spec("web.restart", "restart the web server"))
    heads = {found.listed(say)[:2] == tuple(common) for say in ("restart the web server", "xyzzy", "做事")}
    assert heads == {True}
    assert [one.name for one in found.listed("please restart the web server")][2] == "web.restart"


def test_a_sentence_of_several_parts_gets_the_tools_of_each() -> None:
    tools = (spec("web.stop", "stop the web server"), spec("disk.check", "check the disk for errors"))
    names = [one.name for one in chooser(*tools, *MANY).listed("stop the web server, then check the disk")]
    assert {"web.stop", "disk.check"} <= set(names) and len(names) <= MOST


def test_chinese_sentences_are_parted_at_their_own_commas() -> None:
    tools = (spec("photo.pack", "压缩照片"), spec("report.send", "发送报告"))
    names = [one.name for one in chooser(*tools, *MANY).listed("压缩照片，发送报告")]
    assert {"photo.pack", "report.send"} <= set(names)


def test_a_tool_without_examples_is_found_by_its_own_words() -> None:
    names = [one.name for one in chooser(*MANY, spec("printer.queue")).listed("show the printer queue")]
    assert "printer.queue" in names


@pytest.mark.parametrize(
    ("say", "name"),
    [
        ("limit chrome to half a gigabyte of memory", "resource.limit"),
        ("why did nginx not come up? show its journal", "service.logs"),
        ("is htop installed?", "package.installed"),
        ("which process has port 8080 open", "process.holders"),
        ("make deploy.sh executable", "file.permissions"),
        ("限制 chrome 的内存", "resource.limit"),
    ],
)
def test_shipped_tools_are_found_for_what_people_say(say: str, name: str) -> None:
    listed = chooser(*SHIPPED).listed(say)
    assert name in [one.name for one in listed]
    assert len(listed) <= sum(one.common for one in SHIPPED) + MOST

"""Retrieval over examples: similar sentences first, several tools among them, any script."""

from __future__ import annotations

from llmos.messages import Example, ToolSpec
from llmos.planner.retrieval import Retriever


def tool(name: str, summary: str, *sayings: str) -> ToolSpec:
    examples = tuple(Example(say=say, args={}) for say in sayings)
    return ToolSpec(name=name, summary=summary, parameters={"type": "object"}, examples=examples)


TOOLS = (
    tool("file.move", "move or rename", "rename a.txt to b.txt", "move photo.jpg to pictures", "重命名文件"),
    tool(
        "file.delete", "delete files", "delete old.txt", "remove the folder build", "delete all", "删除文件"
    ),
    tool("system.memory", "memory in use", "how much memory is free", "ram usage", "内存还剩多少"),
)
RETRIEVER = Retriever(TOOLS)


def best(say: str) -> str:
    return RETRIEVER.nearest(say, 1)[0].spec.name


def test_the_most_similar_example_comes_first() -> None:
    assert best("please rename notes.md to diary.md") == "file.move"
    assert best("delete report.pdf") == "file.delete"
    assert best("how much free memory have I got?") == "system.memory"


def test_typing_errors_and_inflections_still_match() -> None:
    assert best("renaming x") == "file.move"
    assert best("how much memry is fre") == "system.memory"


def test_scripts_without_blanks_match_by_pairs_of_characters() -> None:
    assert best("现在内存多少") == "system.memory"
    assert best("把文件删除") == "file.delete"


def test_a_named_file_counts_and_its_name_does_not() -> None:
    by_path = [shot.say for _, shot in RETRIEVER.ranked("tidy /srv/x.dat into /srv/y.dat")]
    assert by_path[0] == "rename a.txt to b.txt"


def test_one_tool_does_not_fill_the_list() -> None:
    found = RETRIEVER.nearest("delete the file old.txt, how much memory", 3, per_tool=1)
    assert len({shot.spec.name for shot in found}) == len(found)


def test_nothing_in_common_and_nothing_to_search_give_nothing() -> None:
    assert RETRIEVER.nearest("∑∏", 4) == ()
    assert Retriever(()).nearest("delete old.txt", 4) == ()
    assert RETRIEVER.nearest("", 4) == ()

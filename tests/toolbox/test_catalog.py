"""Manifests: the shipped ones are sound, wrong ones are explained, a person's own are only templates."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import threading
from pathlib import Path
from typing import Literal

import pytest

from llmos import paths
from llmos.errors import ConfigError, UsageError
from llmos.messages import Outcome, ToolCall
from llmos.toolbox import arguments, builtins, catalog, docs, values
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.containers import tables as container_tables
from llmos.toolbox.context import Context, Machine, ProcessInfo

SHIPPED = catalog.load(paths.tool_dirs()[:1])
EXPECTED = """
shell.run advise goal.add goal.remove goal.list
file.list file.find file.read file.write file.move file.copy file.delete file.archive
file.permissions file.link file.checksum file.duplicates file.rename file.mkdir file.trash file.restore
text.lines text.tail text.columns text.query text.export text.update text.compare text.set
file.tree
file.usage text.search text.count text.replace process.list process.find process.stop process.start
system.info system.memory system.disk system.load system.ports answer ask
service.status service.logs service.failed service.timers
service.start service.stop service.restart service.enable package.install package.remove
package.installed package.provides package.updates
user.list user.info session.list net.interfaces net.dns net.ping net.connections
process.tree process.wait process.suspend process.resume process.details process.holders
resource.status resource.limit resource.release resource.priority resource.affinity resource.rlimit
docker.container.list docker.container.run docker.container.start docker.container.stop
docker.container.restart docker.container.remove docker.container.logs docker.container.exec
docker.container.stats docker.container.update docker.container.inspect docker.container.wait
docker.image.list docker.image.build docker.image.pull docker.image.tag docker.image.remove docker.image.prune
docker.volume.list docker.volume.create docker.volume.remove docker.volume.backup docker.volume.restore
docker.volume.prune docker.network.list docker.network.create docker.network.remove docker.network.connect
docker.network.disconnect docker.disk
""".split()  # noqa: SIM905
GOOD = """name = "my.head"
summary = "First lines"
read_only = true
[args.path]
type = "path"
required = true
[args.lines]
type = "integer"
default = 2
min = 1
[effects]
reads = ["{path}"]
[run]
argv = ["head", "-n", "{lines}", "--", "{path}"]
[[example]]
say = "head of a"
args = { path = "a" }
"""


def someone(name: str) -> list[ProcessInfo]:
    return [ProcessInfo(4242, name, name, 1, 1.0)]


def large() -> Machine:
    return Machine(frozenset(range(64)), 1 << 40)


def anybodys(name: str, uid: int) -> Literal["system", "user"]:
    return "system"


# Something that is not there may come to be: containers, volumes and folders need not be here.
EVERYWHERE = Context(
    cwd="/work",
    home="/home/a",
    uid=1,
    has_data=True,
    follows=True,
    find_processes=someone,
    machine=large,
    find_unit=anybodys,
)


def test_the_first_set_is_there() -> None:
    assert sorted(EXPECTED) == [spec.name for spec in SHIPPED.specs]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_example_is_a_call_that_plans(name: str) -> None:
    spec = SHIPPED.get(name).spec
    chinese = [
        example for example in spec.examples if any("\u4e00" <= char <= "\u9fff" for char in example.say)
    ]
    assert len(spec.examples) >= 12 and len(chinese) >= 2
    assert len({example.say for example in spec.examples}) == len(spec.examples)
    for example in spec.examples:
        plan = SHIPPED.plan(ToolCall(tool=name, args=example.args), EVERYWHERE)
        assert plan.command and (plan.steps or plan.reply)
        if plan.read_only:
            assert not (plan.effects.writes or plan.effects.deletes or plan.effects.signals)
        assert all(path.startswith("/") for path in plan.effects.reads + plan.effects.writes)


def test_the_grammar_takes_every_schema() -> None:
    import llguidance

    from llmos.engine.grammar import lark

    compiled = llguidance.LLMatcher.grammar_from_lark(lark(SHIPPED.specs))
    assert llguidance.LLMatcher.validate_grammar(compiled) == ""


def test_the_page_of_tools_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs/tools.md"
    assert page.read_text() == docs.markdown(SHIPPED), "run: python -m llmos.toolbox.docs > docs/tools.md"


# --- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "args", "told"),
    [
        ("file.find", {"limit": 0}, r"file\.find: argument `limit`: expected at least 1"),
        ("file.find", {"limit": "many"}, "a whole number"),
        ("file.find", {"larger_than": "huge"}, "a size such as"),
        ("file.find", {"older_than": "last week"}, "a duration such as"),
        ("file.find", {"sort": "biggest"}, "one of name, size"),
        ("file.find", {"sort": ["name"]}, "one of name, size"),
        ("file.find", {"lmit": 3}, "no argument `lmit`"),
        ("file.delete", {}, "`path`: it is missing"),
        ("file.delete", {"path": "a", "recursive": "yes"}, "true or false"),
        ("file.delete", {"path": "a\0b"}, "a path"),
        ("file.delete", {"path": ""}, "a path"),
        ("file.delete", {"path": "a" * 5000}, "a path"),
        ("file.delete", {"path": "a\ud800"}, "a path"),
        ("file.write", {"path": "a", "content": "\udfff"}, "text"),
        ("file.write", {"path": "a", "content": "x" * (1 << 21)}, "at most"),
        ("file.delete", {"path": "*/a*"}, "only the last part"),
        ("file.archive", {"action": "create", "archive": "a.rar", "path": "b"}, "no archive that is known"),
        ("file.archive", {"action": "create", "archive": "a.zip"}, "`path`: it is missing"),
        ("shell.run", {"command": "  "}, "it is empty"),
        ("process.start", {"command": "a 'b"}, "quot"),
        ("file.lst", {}, "no tool `file.lst`"),
    ],
)
def test_bad_arguments_are_named(tool: str, args: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told) as error:
        SHIPPED.plan(ToolCall(tool=tool, args=args), EVERYWHERE)
    assert error.value.next_step


def test_sizes_and_durations_become_numbers_in_one_place() -> None:
    checked = arguments.check(
        SHIPPED.get("file.find").manifest, {"larger_than": "1.5 MB", "older_than": "7d"}
    )
    assert checked["larger_than"] == 1572864 and checked["older_than"] == 604800
    assert [values.human_size(n) for n in (0, 1023, 1536, 1 << 30)] == ["0 B", "1023 B", "1.5K", "1.0G"]
    assert values.human_duration(90061) == "1d 1h"


def test_what_was_cut_short_is_left_as_it_is() -> None:
    plan = SHIPPED.plan(ToolCall(tool="file.find"), EVERYWHERE)
    outcome = Outcome(exit_code=137, stdout="half a record", timed_out=True)
    assert SHIPPED.read(plan, outcome) is outcome


# --- a person's own manifests ----------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/head.toml").write_text(GOOD)
    return tmp_path / "own"


@pytest.mark.parametrize("place", ["", "head.toml"])
def test_a_tool_that_others_could_write_is_not_trusted(own: Path, place: str) -> None:
    (own / place).chmod(0o777)
    with pytest.raises(ConfigError, match="not trusted"):
        catalog.load([*paths.tool_dirs()[:1], own])


def test_a_tool_that_is_no_file_is_not_waited_for(own: Path) -> None:
    os.mkfifo(own / "fifo.toml")
    with pytest.raises(ConfigError, match="not a regular file"):
        catalog.load([*paths.tool_dirs()[:1], own])


def load(own: Path) -> Catalog:
    return catalog.load([paths.tool_dirs()[0], own])


def test_a_dropped_in_manifest_is_a_tool(own: Path) -> None:
    (own / "-a b").write_text("1\n2\n3\n")
    here = Context(cwd=str(own), home=str(own), uid=1)
    plan = load(own).plan(ToolCall(tool="my.head", args={"path": "-a b"}), here)
    assert plan.effects.reads == (f"{own}/-a b",) and plan.read_only
    done = subprocess.run(plan.steps[0].argv, cwd=own, capture_output=True, text=True, timeout=20)
    assert done.stdout == "1\n2\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("summary =", "sumary =", 2, "summary"),
        ('type = "integer"', 'type = "integr"', 8, "args.lines.type"),
        ("required = true", "requird = true", 6, "required"),
        ("{lines}", "{linez}", 13, "linez"),
        ("argv =", "builtin = 'files.list'\nargv =", 13, "exactly one"),
        ('argv = ["head", "-n", "{lines}", "--", "{path}"]', "builtin = 'files.list'", 14, "shipped"),
        ("[effects]", '[effects]\nwrites = ["/x"]', 3, "read-only"),
        ('"my.head"', '"file.list"', 1, "already"),
        ('"my.head"', '"My Head"', 1, "name"),
        ('args = { path = "a" }', 'args = { pth = "a" }', 15, "pth"),
        ('summary = "First lines"', "summary = First", 2, "line 2"),
        ("default = 2", "default = 2\nchoices = ['a']", 7, "choices"),
    ],
)
def test_a_typo_names_file_line_and_key(own: Path, old: str, new: str, line: int, told: str) -> None:
    assert old in GOOD
    (own / "head.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as error:
        load(own)
    assert f"{own}/head.toml:{line}:" in str(error.value)
    assert told in f"{error.value} {error.value.next_step}" and error.value.next_step


def test_a_file_that_is_no_text_is_an_error(own: Path) -> None:
    (own / "head.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"head\.toml:1"):
        load(own)


def test_the_watch_keeps_the_last_good_set(own: Path) -> None:
    changed = threading.Event()
    watch = catalog.watch([paths.tool_dirs()[0], own], lambda fresh: changed.set())
    try:
        (own / "head.toml").write_text("broken = [")
        assert _eventually(lambda: watch.error is not None)
        assert "my.head" in watch.catalog.tools and not changed.is_set()
        (own / "head.toml").write_text(GOOD.replace("my.head", "my.top"))
        assert changed.wait(10) and "my.top" in watch.catalog.tools and watch.error is None
    finally:
        watch.stop()


def _eventually(condition: object) -> bool:
    pause = threading.Event()
    return any(condition() or pause.wait(0.05) for _ in range(200)) if callable(condition) else False


@pytest.mark.parametrize("kind", ["PAIRS", "OBSERVERS", "CHANGERS"])
def test_the_tables_of_built_ins_name_what_stands_in_their_modules_and_all_of_it(kind: str) -> None:
    table = getattr(builtins, kind)
    assert all(callable(getattr(entry, "plan", entry)) for entry in table.values())
    modules = pkgutil.iter_modules([str(Path(builtins.__file__).parent)])
    found = [
        importlib.import_module(f"llmos.toolbox.{one.name}") for one in modules if one.name != "builtins"
    ]
    found.append(container_tables)
    assert set(table) == {name for module in found for name in getattr(module, kind, ())}

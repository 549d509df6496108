"""`llmos mcp`, spoken to by the official SDK's own client over stdin and stdout."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from tests.daemon import support

pytestmark = pytest.mark.sandbox
SCRIPT = {"list the files": {"calls": [{"tool": "file.list", "args": {"path": "."}}]}, "*": {"calls": []}}


@pytest.fixture(scope="module")
def env(make_home: Callable[[], dict[str, str]]) -> Iterator[dict[str, str]]:
    made = make_home()
    started = support.start(Path(made["XDG_RUNTIME_DIR"]), SCRIPT, env=made)
    yield made | {"LLMOS_SOCKET": str(started.path)}
    started.stop()


class Person:
    """Answers the questions that come through the assistant."""

    def __init__(self, *answers: bool | None) -> None:
        self.answers = list(answers)
        self.seen: list[str] = []

    async def __call__(self, context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        self.seen.append(params.message)
        answer = self.answers.pop(0)
        if answer is None:
            return types.ElicitResult(action="cancel")
        return types.ElicitResult(action="accept", content={"approve": answer})


def speak(
    env: dict[str, str],
    work: Path,
    play: Callable[[Client], Any],
    *words: str,
    person: Person | None = None,
    mode: str = "auto",
) -> None:
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "llmos", "mcp", "--cwd", str(work), *words], env=env
    )

    async def session() -> None:
        async with Client(server, mode=mode, elicitation_callback=person) as client:  # type: ignore[arg-type]
            await play(client)

    asyncio.run(asyncio.wait_for(session(), 60))


def said(result: types.CallToolResult) -> str:
    return "".join(block.text for block in result.content if isinstance(block, types.TextContent))


def test_tools_are_listed_and_reading_runs_at_once(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")

    async def play(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"ask", "file_list", "shell_run"} <= set(tools) and "answer" not in tools
        hints = tools["file_list"].annotations
        assert hints is not None and hints.read_only_hint
        assert "notes.txt" in said(await client.call_tool("file_list", {"path": "."}))
        assert "notes.txt" in said(await client.call_tool("ask", {"text": "list the files"}))
        denied = await client.call_tool("shell_run", {"command": "rm -rf /etc"})
        assert denied.is_error and denied.structured_content["status"] == "denied"
        assert (await client.call_tool("no_such", {})).is_error

    speak(env, tmp_path, play)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_change_is_asked_about_through_the_assistant(
    env: dict[str, str], tmp_path: Path, mode: str
) -> None:
    person = Person(False, True, None)

    async def play(client: Client) -> None:
        no = await client.call_tool("shell_run", {"command": "touch made.txt"})
        assert no.is_error and "said no" in said(no) and not (tmp_path / "made.txt").exists()
        yes = await client.call_tool("shell_run", {"command": "touch made.txt"})
        assert not yes.is_error and (tmp_path / "made.txt").exists() and "llmos undo" in said(yes)
        assert "it waits" in said(await client.call_tool("shell_run", {"command": "touch other.txt"}))

    speak(env, tmp_path, play, person=person, mode=mode)
    assert "touch made.txt" in person.seen[0] and f"created: {tmp_path}/made.txt" in person.seen[0]


@pytest.mark.parametrize(("words", "person"), [((), None), (("--no-elicit",), Person())])
def test_else_it_waits_in_the_inbox(
    env: dict[str, str], tmp_path: Path, words: tuple[str, ...], person: Person | None
) -> None:
    async def play(client: Client) -> None:
        result = await client.call_tool("shell_run", {"command": "touch made.txt"})
        assert result.is_error and "llmos inbox approve" in said(result)

    speak(env, tmp_path, play, *words, person=person)
    assert not (tmp_path / "made.txt").exists()

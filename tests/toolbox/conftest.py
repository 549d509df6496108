"""Runs a plan's steps for real by subprocess: the sandbox has tests of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmos import paths
from llmos.messages import Observe, Outcome, Pipelines, Run, ToolCall
from llmos.toolbox import catalog
from llmos.toolbox.context import Context
from tests.toolbox import wires

Call = Callable[..., Outcome]


@pytest.fixture(scope="session")
def tools() -> catalog.Catalog:
    return catalog.load(paths.tool_dirs()[:1])


@pytest.fixture
def here(tmp_path: Path) -> Context:
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "home").mkdir()
    return Context(cwd=str(folder), home=str(tmp_path / "home"), uid=0)


@pytest.fixture
def call(tools: catalog.Catalog, here: Context) -> Call:
    """call(tool, data=bytes, **args): plan, run every step until one fails, read."""

    def run(tool: str, *, data: bytes | None = None, **args: Any) -> Outcome:
        context = Context(here.cwd, here.home, here.uid, data is not None)
        plan = tools.plan(ToolCall(tool=tool, args=args), context)
        out, err, code = "", "", 0
        for step in plan.steps:
            if isinstance(step, Observe):
                out += tools.observers[step.observer](step.args)
                continue
            assert isinstance(step, Run | Pipelines)
            more_out, more_err, code = _run(step, here, data)
            out, err = out + more_out.decode(), err + more_err.decode()
            if code not in step.ok_codes:
                break
        return tools.read(plan, Outcome(exit_code=code, stdout=out, stderr=err))

    return run


def _run(step: Run | Pipelines, here: Context, data: bytes | None) -> tuple[bytes, bytes, int]:
    text = step.stdin_text.encode() if isinstance(step, Run) and step.stdin_text is not None else b""
    fed = (data or b"") if step.stdin_data else text
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": here.home}
    return wires.run(step, feed=fed, cwd=here.cwd, env=env)

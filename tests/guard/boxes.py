"""Helpers for the live sandbox tests: real permits, real folders, real commands."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llmos.config import SandboxSettings
from llmos.guard.permit import Permit, mint
from llmos.guard.sandbox import PATH
from llmos.guard.spawn import Spawner
from llmos.messages import (
    Caller,
    Decision,
    Effects,
    Outcome,
    Plan,
    Run,
    Shell,
    Step,
    ToolCall,
    Verdict,
    new_id,
)

PYTHON = shutil.which("python3", path=PATH) or "python3"
OTHER_UID = 12345  # a caller who is not the broker, for tests run by root
VERDICT = Verdict(decision=Decision.ALLOW, rule="test", reason="a test")


def permit(
    *steps: Step,
    cwd: Path,
    write: tuple[Path, ...] = (),
    network: bool = False,
    data: bytes | None = None,
    caller: Caller | None = None,
    hidden: tuple[str, ...] = (),
    stage: str = "",
    hosts: tuple[str, ...] = (),
) -> Permit:
    call = ToolCall(tool="shell.run")
    plan = Plan(call=call, command="a test", effects=Effects(), steps=steps, read_only=not write)
    return mint(
        plan,
        VERDICT,
        caller or Caller(uid=os.geteuid(), gid=os.getegid()),
        request_id=new_id(),
        cwd=str(cwd),
        write_roots=tuple(map(str, write)),
        network=network,
        data=data,
        hidden=hidden,
        stage=stage,
        hosts=hosts,
    )


@dataclass
class Bench:
    """A spawner and a folder to work in, for one caller."""

    folder: Path
    caller: Caller
    settings: SandboxSettings = field(default_factory=SandboxSettings)
    spawner: Spawner = field(init=False)

    def __post_init__(self) -> None:
        self.spawner = Spawner(self.settings)

    def limit(self, **settings: float) -> None:
        self.spawner.close()
        self.settings = SandboxSettings(**settings)
        self.spawner = Spawner(self.settings)

    def run(
        self,
        *steps: Step,
        write: tuple[Path, ...] | None = None,
        network: bool = False,
        data: bytes | None = None,
        cancel_after_s: float | None = None,
        on_output: Callable[[str, str], None] | None = None,
    ) -> Outcome:
        roots = (self.folder,) if write is None else write
        granted = permit(*steps, cwd=self.folder, write=roots, network=network, data=data, caller=self.caller)
        return asyncio.run(self._run(granted, cancel_after_s, on_output or (lambda stream, text: None)))

    async def _run(
        self, granted: Permit, cancel_after_s: float | None, on_output: Callable[[str, str], None]
    ) -> Outcome:
        cancel = asyncio.Event()
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, cancel.set)
        return await self.spawner.run(granted, on_output=on_output, cancel=cancel)

    def shell(self, text: str, *, write: tuple[Path, ...] | None = None, network: bool = False) -> Outcome:
        return self.run(Shell(text=text, timeout_s=20), write=write, network=network)

    def python(self, code: str, *, network: bool = False, write: tuple[Path, ...] | None = None) -> Outcome:
        return self.run(Run(argv=(PYTHON, "-I", "-c", code), timeout_s=20), network=network, write=write)

    def make(self, name: str, text: str = "canary\n", mode: int = 0o644) -> Path:
        """A file of the caller's in his folder."""
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)
        self.own()
        return place

    def own(self) -> None:
        if os.geteuid() == 0:
            for folder, _, files in os.walk(self.folder):
                for name in (".", *files):
                    os.lchown(os.path.join(folder, name), self.caller.uid, self.caller.gid)

"""A gate of our own over a real working folder, for the tests of policy, gate and command lines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from llmos import paths
from llmos.config import Settings
from llmos.guard.audit import Audit
from llmos.guard.gate import Gate
from llmos.guard.policy import Policy
from llmos.guard.remembered import Remembered
from llmos.messages import Caller, Effects, Plan, Shell, ToolCall, Verdict

CALLER = Caller(uid=os.getuid(), gid=os.getgid())


@dataclass(frozen=True)
class Place:
    """A folder with a gate of its own and some files to name."""

    folder: Path
    gate: Gate

    def plan(self, command: str) -> Plan:
        call = ToolCall(tool="shell.run", args={"command": command})
        shell = (Shell(text=command),)
        plan = Plan(call=call, command=command, effects=Effects(), steps=shell, read_only=False)
        return self.gate.expand(plan, cwd=str(self.folder), home=str(Path.home()))

    def judge(self, command: str, *write: Path) -> Verdict:
        roots = tuple(map(str, write))
        return self.gate.judge(self.plan(command), CALLER, cwd=str(self.folder), write_roots=roots)

    def word(self, command: str) -> str:
        return self.judge(command).decision.word


def make(folder: Path, set_name: str = "default", *later: Path) -> Place:
    """A gate over FOLDER/work; its journal and memory lie beside that. `later` are policy folders."""
    work = folder / "work"
    (work / "src").mkdir(parents=True)
    (work / ".hidden").mkdir()
    for name in ("README.md", "notes.txt", "data.csv", "src/main.py", ".env", "a.log", "b.log"):
        (work / name).write_text("1\n2\n")
    (work / "link").symlink_to("/etc")
    (work / ".hidden/secrets").symlink_to("/etc/shadow")
    policy = Policy.load(set_name, (paths.builtin_policy_dir(), *later))
    remembered = Remembered(folder / "remembered.json")
    return Place(work, Gate(policy, Audit(folder / "audit.jsonl"), Settings(), remembered))

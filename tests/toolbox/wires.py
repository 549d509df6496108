"""One Run, or one pipeline, as real processes: what the sandbox wires, without the sandbox."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from llmos.messages import Pipelines, Run


def argvs(step: Run | Pipelines) -> list[tuple[str, ...]]:
    """The programs of a step. A tool's pipeline is one, without redirections."""
    if isinstance(step, Run):
        return [step.argv]
    (only,) = step.pipelines
    assert not any(command.redirects or command.env for command in only.commands)
    return [(command.program, *command.argv[1:]) for command in only.commands]


def run(
    step: Run | Pipelines, *, feed: bytes, cwd: str | None = None, env: dict[str, str]
) -> tuple[bytes, bytes, int]:
    """(stdout, stderr, the last program's exit code)."""
    programs: Sequence[tuple[str, ...]] = argvs(step)
    out, err = feed, b""
    for program in programs:
        done = subprocess.run(program, input=out, capture_output=True, cwd=cwd, env=env, timeout=60)
        out, err = done.stdout, err + done.stderr
    return out, err, done.returncode

"""One Run, or pipelines, as real processes: what the sandbox wires, without the sandbox."""

from __future__ import annotations

import subprocess

from llmos.messages import Pipeline, Pipelines, Run


def argvs(step: Run | Pipelines) -> list[tuple[str, ...]]:
    """The programs of a step that is one pipeline."""
    if isinstance(step, Run):
        return [step.argv]
    (only,) = step.pipelines
    return _programs(only)


def _programs(pipeline: Pipeline) -> list[tuple[str, ...]]:
    """A tool's pipelines are without redirections."""
    assert not any(command.redirects or command.env for command in pipeline.commands)
    return [(command.program, *command.argv[1:]) for command in pipeline.commands]


def run(
    step: Run | Pipelines, *, feed: bytes, cwd: str | None = None, env: dict[str, str]
) -> tuple[bytes, bytes, int]:
    """(stdout, stderr, the last program's exit code)."""
    chain = (
        [("", [step.argv])] if isinstance(step, Run) else [(p.joiner, _programs(p)) for p in step.pipelines]
    )
    said, err, code = b"", b"", 0
    for joiner, programs in chain:
        assert joiner in ("", "||")
        if joiner and code == 0:
            break
        out = feed
        for program in programs:
            done = subprocess.run(program, input=out, capture_output=True, cwd=cwd, env=env, timeout=60)
            out, err, code = done.stdout, err + done.stderr, done.returncode
        said += out
    return said, err, code

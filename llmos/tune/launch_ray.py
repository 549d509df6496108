"""Training on a Ray cluster: the job is submitted, its log shown here, and what came out written to --out.

The rows travel with the job; llmos (with its extra `ray`) and the model must be installed on the nodes. Ray
trusts whoever reaches its dashboard, and neither encrypts: use a network you trust, or a tunnel.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmos.errors import CallFailed, UsageError
from llmos.tune import on_ray
from llmos.tune.train import check_shares

_DASHBOARD = "http://127.0.0.1:8265"
_COMES_AGAIN = 5  # times that a log's stream may break off


def run(words: Sequence[str], given: argparse.Namespace, *, restarts: int) -> int:
    """`llmos tune train WORDS` as a job; Ctrl-C stops it there as well."""
    check_shares(given.accumulate, given.processes)
    address = given.ray or os.environ.get("RAY_API_SERVER_ADDRESS") or _DASHBOARD
    client = _client(address)
    with tempfile.TemporaryDirectory(prefix="llmos-ray-") as folder:
        job = _submit(client, Path(folder), words, given, restarts)
    say(f"job {job} at {address}")
    try:
        found = asyncio.run(_followed(client, job))
    except KeyboardInterrupt:
        client.stop_job(job)
        raise
    info = client.get_job_info(job)
    if info.status.value != "SUCCEEDED":
        if info.driver_exit_code in range(2, 10) and info.driver_exit_code != CallFailed.exit_code:
            return int(info.driver_exit_code)  # of the contract, and said in the log
        raise CallFailed(
            f"the job {job} ended as {info.status.value.lower()}: {info.message or 'no reason given'}",
            f"Read what it said: ray job logs --address {address} {job}",
        )
    _write(on_ray.joined_lines(found), given.out, job)
    return 0


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _client(address: str) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise UsageError(
            "--launch ray needs Ray, which is not installed", "Run: pip install 'llmos[ray]'"
        ) from None
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise CallFailed(
            f"no Ray cluster answers at {address}: {str(error).strip().splitlines()[-1]}",
            "Start one with `ray start --head`, or name its dashboard: --ray http://HOST:8265",
        ) from None


def _submit(client: Any, folder: Path, words: Sequence[str], given: argparse.Namespace, restarts: int) -> str:
    shutil.copyfile(given.rows, folder / "rows.jsonl")
    shutil.copyfile(given.valid, folder / "valid.jsonl")
    job = f"llmos-{os.urandom(6).hex()}"
    out = f"{tempfile.gettempdir()}/{job}"
    # What stands later on a command line counts: places of there, and processes that actors are.
    there = [
        "--rows",
        "rows.jsonl",
        "--valid",
        "valid.jsonl",
        "--out",
        out,
        "--launch",
        "torchrun",
        "--processes",
        "1",
    ]
    task = on_ray.Task((*words, *there), out, given.processes, restarts)
    (folder / "task.json").write_text(task.text())
    found: str = client.submit_job(
        entrypoint="python -m llmos.tune.on_ray task.json",
        submission_id=job,
        runtime_env={
            "working_dir": str(folder),
            "env_vars": {"RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"},
        },
    )
    return found


async def _followed(client: Any, job: str) -> list[str]:
    """Shows the log to its end, as it grows; gives the lines that hold the result."""
    log = _Log()
    for _ in range(_COMES_AGAIN):
        log.from_the_start()
        with contextlib.suppress(RuntimeError):  # the stream broke off
            async for text in client.tail_job_logs(job):
                log.add(text)
        if client.get_job_status(job).is_terminal():
            log.add("\n")
            break
        await asyncio.sleep(1)
    return log.result


class _Log:
    """A log that may be read again from its start: each line is shown once."""

    def __init__(self) -> None:
        self.result: list[str] = []
        self._taken = 0  # lines
        self.from_the_start()

    def from_the_start(self) -> None:
        self._again, self._rest = self._taken, ""

    def add(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if self._again:
                self._again -= 1
                continue
            self._taken += 1
            self._take(line)

    def _take(self, line: str) -> None:
        mark, _, part = line.strip().partition(" ")
        if mark == on_ray.MARK:
            self.result.append(part)
        elif line:
            say(line)


def _write(result: bytes | None, out: Path, job: str) -> None:
    if result is None:
        say(f"nothing was fetched: what came out is on the cluster, in {tempfile.gettempdir()}/{job}")
        return
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(result)) as archive:
        archive.extractall(out, filter="data")
    say(f"fetched: {', '.join(sorted(file.name for file in out.iterdir() if file.is_file()))}")

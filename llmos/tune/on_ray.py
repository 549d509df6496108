"""Training on a Ray cluster: the part that runs there, started by `llmos tune train --launch ray` as a job.

    python -m llmos.tune.on_ray FILE

An actor for each process, spread over the nodes; the first is on the job's own node where there is room, so
that the state it keeps outlives the other nodes. When an actor or its node dies, all start again from that
state. What came out is packed and written to the job's log in lines that only `launch_ray` reads.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import socket
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmos.errors import LlmosError

MARK = "llmos-result"
LINE_CHARACTERS = 12_000  # Ray cuts longer lines
MOST_BYTES = 64 << 20  # more than any adapter


@dataclass(frozen=True, slots=True)
class Task:
    """`words` of `llmos tune train`, which write to `out`."""

    words: tuple[str, ...]
    out: str
    processes: int
    restarts: int

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Task:
        found = json.loads(text)
        return cls(**found | {"words": tuple(found["words"])})


class Member:
    """One of the processes, in an actor."""

    def place(self) -> tuple[str, int]:
        """Where the others find the first: its address, and a port that is free."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def train(self, words: tuple[str, ...], environment: dict[str, str]) -> int:
        from llmos.tune.__main__ import main as train

        os.environ.update(environment)
        try:
            return train(words)
        except LlmosError as error:
            if environment["RANK"] == "0":
                print(f"llmos: {error}\n  {error.next_step}", flush=True)  # noqa: T201
            return error.exit_code

    def result(self, out: str) -> bytes | None:
        """Taken away from here, unless it is too large."""
        found = packed(Path(out))
        if found is not None:
            shutil.rmtree(out, ignore_errors=True)
        return found


def main() -> int:
    import ray

    task = Task.read(Path(sys.argv[1]).read_text())
    ray.init(log_to_driver=True)
    for attempt in range(task.restarts + 1):
        try:
            return _attempt(task)
        except ray.exceptions.RayError as error:
            what = str(error).strip().splitlines()[0]
            print(f"a process is gone ({what}): restart {attempt + 1} of {task.restarts}", flush=True)  # noqa: T201
    return 5


def _attempt(task: Task) -> int:
    import ray

    members = _members(task.processes)
    try:
        address, port = ray.get(members[0].place.remote())
        shared = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(task.processes)}
        running = [
            member.train.remote(task.words, shared | {"RANK": str(rank), "LOCAL_RANK": "0"})
            for rank, member in enumerate(members)
        ]
        left = running
        while left:  # whoever ends first says what became of it
            done, left = ray.wait(left, num_returns=1)
            if code := ray.get(done[0]):
                return int(code)
        _tell(ray.get(members[0].result.remote(task.out)), task.out)
        return 0
    finally:
        for member in members:
            ray.kill(member)


def _members(count: int) -> list[Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= count else 0
    kind = ray.remote(num_cpus=1, num_gpus=gpus)(Member)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    first = kind.options(scheduling_strategy=here).remote()
    return [first, *(kind.options(scheduling_strategy="SPREAD").remote() for _ in range(count - 1))]


def _tell(result: bytes | None, out: str) -> None:
    if result is None:
        print(f"what came out is larger than {MOST_BYTES >> 20} MiB and stays there, in {out}")  # noqa: T201
        return
    for line in lines(result):
        print(line)  # noqa: T201
    sys.stdout.flush()


# --- the result, as bytes and as lines


def packed(folder: Path) -> bytes | None:
    """All but the state; None where it is too large to travel in a log."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    if sum(file.stat().st_size for file in files) > MOST_BYTES:
        return None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            archive.add(file, arcname=file.name)
    return buffer.getvalue()


def lines(result: bytes) -> Iterator[str]:
    text = base64.b64encode(result).decode()
    for start in range(0, len(text), LINE_CHARACTERS):
        yield f"{MARK} {text[start : start + LINE_CHARACTERS]}"
    yield f"{MARK} sha256:{hashlib.sha256(result).hexdigest()}"


def joined_lines(found: list[str]) -> bytes | None:
    """What `lines` was given; None where a part is missing."""
    if not found or not found[-1].startswith("sha256:"):
        return None
    result = base64.b64decode("".join(found[:-1]))
    return result if found[-1] == f"sha256:{hashlib.sha256(result).hexdigest()}" else None


if __name__ == "__main__":
    sys.exit(main())

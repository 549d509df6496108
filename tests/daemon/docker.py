"""A daemon whose engine is the tests' own, and calls to it: what tests of Docker's tools share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker import APIClient

from tests import dockerd

from . import support

NAP = "sh -c 'trap exit TERM; while :; do sleep 0.2; done'"


@dataclass
class Bench:
    client: support.Client
    engine: APIClient
    work: Path
    host: str

    def call(self, tool: str, consent: str = "yes", **args: Any) -> dict[str, Any]:
        """The result of a call of `docker.TOOL`."""
        return self.client.result(
            "call", tool=f"docker.{tool}", args=args, cwd=str(self.work), consent=consent
        )

    def done(self, tool: str, **args: Any) -> dict[str, Any]:
        """The one call of a result that must be done."""
        return self.one(f"docker.{tool}", **args)

    def one(self, tool: str, **args: Any) -> dict[str, Any]:
        """The same, of any tool."""
        result = self.client.result("call", tool=tool, args=args, cwd=str(self.work), consent="yes")
        assert result["status"] == "done", result
        (one,) = result["calls"]
        return dict(one)

    def error(self, tool: str, **args: Any) -> str:
        """What is said of a call that cannot be made, or fails."""
        told = self.client.error("call", tool=f"docker.{tool}", args=args, cwd=str(self.work), consent="yes")
        assert told["data"]["next_step"], told
        return f"{told['message']} | {told['data']['next_step']}"

    def denied(self, tool: str, **args: Any) -> str:
        """The rule that refuses a call although it is approved."""
        result = self.call(tool, **args)
        assert result["status"] == "denied" and result["calls"][0]["exit_code"] is None, result
        return str(result["calls"][0]["rule"])

    def undo(self, undo_id: str) -> dict[str, Any]:
        result = self.client.result("undo", undo_id=undo_id, consent="yes")
        assert result["status"] == "done", result
        return result

    def state(self, name: str) -> dict[str, Any]:
        return dict(self.engine.inspect_container(name)["State"])

    def exists(self, name: str) -> bool:
        return any(f"/{name}" in one["Names"] for one in self.engine.containers(all=True))

    def nap(self, name: str, **args: Any) -> dict[str, Any]:
        """A container that goes on running until it is told to end."""
        return self.done("container.run", image=dockerd.IMAGE, name=name, command=NAP, **args)


@contextlib.contextmanager
def bench(engine: dockerd.Engine, env: dict[str, str], work: Path, script: Any = None) -> Iterator[Bench]:
    """One daemon for many cases. `env` is a home of its own."""
    home = Path(env["XDG_RUNTIME_DIR"])
    daemon = support.start(home, script, env=env | {"DOCKER_HOST": engine.host})
    try:
        with daemon.connect() as client, contextlib.closing(engine.client()) as own:
            yield Bench(client, own, work, engine.host)
    finally:
        daemon.stop()


MakeHome = Callable[[], dict[str, str]]

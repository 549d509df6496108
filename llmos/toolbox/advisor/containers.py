"""What the Docker Engine knows of trouble: containers that restart, are unhealthy or were ended for memory,
and the space that nobody uses. Asked as the caller: who may not use the engine learns nothing of it here.
"""

from __future__ import annotations

import contextlib
import datetime
from typing import TYPE_CHECKING

from llmos import rights
from llmos.errors import LlmosError
from llmos.messages import JsonObject
from llmos.toolbox.advisor.facts import Container, EngineSpace
from llmos.toolbox.containers import engine, finding, looking, meant
from llmos.toolbox.values import shown

if TYPE_CHECKING:
    from docker import APIClient

_TIMEOUT_S = 10.0
_SPACE_S = 5.0  # the engine adds up the files of every volume
_MOST = 200  # containers that are inspected
_RECENT_S = 86_400.0
_SAID_CHARS = 120


def look(uid: int) -> tuple[tuple[Container, ...], EngineSpace | None, str]:
    """Containers, space, and why the engine could not be asked, if there is one."""
    if not meant.has_engine():
        return (), None, ""
    engine.sdk()
    boxes: tuple[Container, ...] = ()
    try:
        with rights.acting_as(uid), engine.connected(engine.socket_of(uid), _TIMEOUT_S) as client:
            boxes = tuple(_container(client, one["Id"]) for one in client.containers(all=True)[:_MOST])
        with rights.acting_as(uid), engine.connected(engine.socket_of(uid), _SPACE_S) as client:
            return boxes, _space(client), ""
    except (LlmosError, OSError) as error:
        return boxes, None, f"{'the space of images and volumes' if boxes else 'containers'}: {error}"


def _container(client: APIClient, identity: str) -> Container:
    found = client.inspect_container(identity)
    state = found["State"]
    health = state.get("Health") or {}
    said = [str(one.get("Output", "")).strip() for one in health.get("Log") or ()]
    return Container(
        id=found["Id"], name=finding.title(found), state=str(state["Status"]), pid=int(state.get("Pid") or 0),
        restarts=int(found.get("RestartCount") or 0), exit_code=int(state.get("ExitCode") or 0),
        out_of_memory=bool(state.get("OOMKilled")), recent=_is_recent(state),
        health=str(health.get("Status") or ""), said=shown(" ".join(said[-1:]))[:_SAID_CHARS],
        memory=int(found["HostConfig"].get("Memory") or 0),
    )  # fmt: skip


def _is_recent(state: JsonObject) -> bool:
    """Whether it started or ended within a day: what happened before, somebody has seen."""
    with contextlib.suppress(ValueError):
        now = datetime.datetime.now(datetime.UTC)
        last = max(str(state.get("StartedAt")), str(state.get("FinishedAt")))[:19]
        at = datetime.datetime.fromisoformat(last).replace(tzinfo=datetime.UTC)
        return (now - at).total_seconds() < _RECENT_S
    return False


def _space(client: APIClient) -> EngineSpace:
    dangling = looking.unused(client, every=False)
    found = client.df()
    used = [one["UsageData"] for one in found.get("Volumes") or ()]
    return EngineSpace(
        place=str(client.info().get("DockerRootDir") or "/"),
        dangling=len(dangling),
        dangling_bytes=sum(int(one["Size"]) for one in dangling),
        volumes=sum(1 for one in used if one["RefCount"] == 0),
        volume_bytes=sum(max(0, int(one["Size"])) for one in used if one["RefCount"] == 0),
    )

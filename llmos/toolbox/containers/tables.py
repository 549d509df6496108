"""All of Docker's tools: how they are planned, how they look, how they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmos.messages import Caller, Changed, JsonObject
from llmos.toolbox import resources
from llmos.toolbox.containers import (
    changing,
    images,
    limiting,
    looking,
    networks,
    plan_images,
    plan_networks,
    plan_running,
    plan_volumes,
    planning,
    running,
    volumes,
)
from llmos.toolbox.context import Pair

PAIRS: Mapping[str, Pair] = {
    **planning.PAIRS,
    **plan_running.PAIRS,
    **plan_images.PAIRS,
    **plan_volumes.PAIRS,
    **plan_networks.PAIRS,
}
OBSERVERS: Mapping[str, Callable[[JsonObject], str]] = looking.OBSERVERS
CHANGERS: Mapping[str, Callable[[JsonObject, Caller], Changed]] = {
    **changing.CHANGERS,
    **running.CHANGERS,
    **images.CHANGERS,
    **volumes.CHANGERS,
    **networks.CHANGERS,
    "docker.container.limit": limiting.limiting(resources.change_limits),
    "docker.container.release": limiting.releasing(resources.release),
}

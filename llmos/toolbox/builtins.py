"""Pairs, observers and changers that a shipped manifest may name; a new area is one line in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmos.messages import Caller, Changed, JsonObject
from llmos.toolbox import (
    archives,
    attributes,
    commands,
    files,
    holders,
    lines,
    links,
    listing,
    network,
    packagechanges,
    packages,
    processes,
    processfacts,
    resources,
    servicechanges,
    services,
    several,
    system,
    tables,
    text,
    usage,
    users,
    waits,
)
from llmos.toolbox.context import Pair

PAIRS: Mapping[str, Pair] = {
    **commands.PAIRS,
    **listing.PAIRS,
    **files.PAIRS,
    **archives.PAIRS,
    **attributes.PAIRS,
    **links.PAIRS,
    **several.PAIRS,
    **tables.PAIRS,
    **lines.PAIRS,
    **text.PAIRS,
    **processes.PAIRS,
    **system.PAIRS,
    **processfacts.PAIRS,
    **holders.PAIRS,
    **waits.PAIRS,
    **usage.PAIRS,
    **resources.PAIRS,
    **services.PAIRS,
    **servicechanges.PAIRS,
    **packages.PAIRS,
    **packagechanges.PAIRS,
    **users.PAIRS,
    **network.PAIRS,
}
OBSERVERS: Mapping[str, Callable[[JsonObject], str]] = {
    **processes.OBSERVERS,
    **system.OBSERVERS,
    **processfacts.OBSERVERS,
    **holders.OBSERVERS,
    **waits.OBSERVERS,
    **usage.OBSERVERS,
    **services.OBSERVERS,
    **users.OBSERVERS,
    **network.OBSERVERS,
    **attributes.OBSERVERS,
}
CHANGERS: Mapping[str, Callable[[JsonObject, Caller], Changed]] = {
    **resources.CHANGERS,
    **attributes.CHANGERS,
    **links.CHANGERS,
    **servicechanges.CHANGERS,
    **packagechanges.CHANGERS,
}

"""docs/tools.md, written from the manifests: `python -m llmos.toolbox.docs > docs/tools.md`. Pure."""

from __future__ import annotations

import sys

from llmos import paths
from llmos.toolbox import catalog
from llmos.toolbox.manifest import Arg

_HEAD = """# Tools

Written from `tools/*.toml`; do not edit. `llmos call TOOL --args JSON` makes a call without the model.

A path ending in a pattern (`*.jpg`) stands for what it matches in that folder. Sizes are written `500K`,
`10M`, `1.5G`, durations `30m`, `12h`, `7d`. GNU findutils, coreutils, grep, sed and tar are assumed.
"""


def markdown(tools: catalog.Catalog) -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(tool) for tool in tools.tools.values())])


def _section(tool: catalog.Tool) -> str:
    it = tool.manifest
    effect = "reads only" if it.read_only else "may change things"
    lines = [f"## {it.name}\n", f"{it.summary} ({effect}).\n"]
    if it.args:
        lines += ["| argument | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [_row(name, arg) for name, arg in it.args.items()] + [""]
    lines += [f"- “{example.say}”" for example in it.example[:3]]
    return "\n".join(lines) + "\n"


def _row(name: str, arg: Arg) -> str:
    kind = " \\| ".join(arg.choices) if arg.choices else arg.type
    default = "required" if arg.required else "" if arg.default is None else f"`{arg.default}`"
    note = " (not offered to the model)" if arg.advanced else ""
    return f"| `{name}` | {kind} | {default} | {arg.help}{note} |"


if __name__ == "__main__":
    sys.stdout.write(markdown(catalog.load(paths.tool_dirs()[:1])))

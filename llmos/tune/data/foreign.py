"""Tools that are not ours, for training only: a model that has seen many tool lists reads the one before it.

== NAME | SUMMARY | RAW            a tool; RAW names its argument when that is plain text to the line's end
- ARG[!] TYPE [a|b|c] [=DEFAULT]   an argument; `!` marks a required one
## {"arg": "{slot}"}               then as in a phrase file, without the tool's name
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import resources

from llmos.messages import Example, ToolSpec
from llmos.toolbox import arguments
from llmos.toolbox.manifest import Arg, Manifest, RunSpec
from llmos.tune.data import phrases
from llmos.tune.data.names import Filler

_EXAMPLES = 8
_HELP = RunSpec(argv=("true",))


def _texts() -> Iterator[tuple[str, str]]:
    root = resources.files(__package__).joinpath("foreign")
    for item in sorted(root.iterdir(), key=lambda item: item.name):
        if item.name.endswith(".txt"):
            yield item.name[:-4], item.read_text(encoding="utf-8")


def _tools(text: str) -> Iterator[tuple[Manifest, str]]:
    """Each tool of a file: its manifest, and its phrases as the text of a phrase file."""
    for block in text.split("\n== ")[1:]:
        head, *lines = block.splitlines()
        name, summary, *raw = (part.strip() for part in head.split("|"))
        args = dict(_arg(line[2:]) for line in lines if line.startswith("- "))
        manifest = Manifest(
            name=name, summary=summary, raw=raw[0] if raw else None, read_only=True, args=args, run=_HELP
        )
        said = [_named(line, name) for line in lines if not line.startswith("- ")]
        yield manifest, "\n".join(said)


def _arg(line: str) -> tuple[str, Arg]:
    line, _, default = line.partition(" =")
    name, kind, *choices = line.split()
    value = json.loads(default) if default in ("true", "false") or default.isdigit() else default
    return name.rstrip("!"), Arg.model_validate(
        {
            "type": kind,
            "required": name.endswith("!"),
            "default": None if default == "" else value,
            "choices": tuple(choices[0].split("|")) if choices else (),
        }
    )


def _named(line: str, name: str) -> str:
    if line.startswith("## "):
        return f"## {name} {line[3:]}"
    return line.replace(" => {", f" => {name} {{")


@lru_cache(maxsize=1)
def templates() -> tuple[phrases.Template, ...]:
    """Every phrase of every foreign tool."""
    return tuple(
        template
        for file, text in _texts()
        for manifest, said in _tools(text)
        for template in phrases.parse(said, f"foreign/{file}/{manifest.name}")
    )


def beside(ours: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
    """`ours`, then the foreign tools of other names: what was foreign once may have become one of ours."""
    names = {spec.name for spec in ours}
    return (*ours, *(spec for spec in _specs() if spec.name not in names))


@lru_cache(maxsize=1)
def _specs() -> tuple[ToolSpec, ...]:
    """The foreign tools as a planner is taught them, each with some examples."""
    said: dict[str, list[phrases.Template]] = {}
    for template in templates():
        said.setdefault(template.tools[0], []).append(template)
    return tuple(_spec(manifest, said[manifest.name]) for _, text in _texts() for manifest, _ in _tools(text))


def _spec(manifest: Manifest, said: list[phrases.Template]) -> ToolSpec:
    rng = random.Random(manifest.name)
    filler = Filler(rng)
    shown = [phrases.fill(template, filler, rng) for template in said[:_EXAMPLES]]
    return ToolSpec(
        name=manifest.name,
        summary=manifest.summary,
        parameters=arguments.schema(manifest),
        raw=manifest.raw,
        examples=tuple(Example(say=each.say, args=each.calls[0]["args"]) for each in shown),
    )

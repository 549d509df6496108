"""The tools in force: manifests read from folders, calls made plans, outcomes made readable.

`load` reads everything or raises; `watch` reads again when a file changes and keeps the last good set
when it is broken. Nothing is imported from those folders: a tool that a person adds is an argv template.
A read_only tool is safe by what the sandbox grants (no write root), not by what its manifest claims.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmos.errors import ConfigError, UsageError
from llmos.messages import Caller, Changed, Effects, JsonObject, Outcome, Plan, ToolCall, ToolSpec
from llmos.toolbox import arguments, manifest, template
from llmos.toolbox.context import Args, Context, Draft, Pair, command_of, pipeline, programs

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent

__all__ = ["Catalog", "Context", "Tool", "Watch", "load", "watch"]


@dataclass(frozen=True)
class Tool:
    """A manifest, where it came from, and the pair that carries it out."""

    manifest: manifest.Manifest
    file: Path
    shipped: bool

    def ready(self) -> None:
        """Import what carries it out, with our own rights: a caller need not be able to read llmos' files."""
        self.pair.prepare()

    @cached_property
    def pair(self) -> Pair:
        found = self.manifest
        if found.run.builtin is None:
            return Pair(lambda args, context: _from_template(found, args, context))
        from llmos.toolbox import builtins

        return builtins.PAIRS[found.run.builtin]

    @cached_property
    def spec(self) -> ToolSpec:
        it = self.manifest
        return ToolSpec(
            name=it.name,
            summary=it.summary,
            parameters=arguments.schema(it),
            raw=it.raw,
            common=it.common,
            examples=it.example,
        )

    @property
    def typed_spec(self) -> ToolSpec:
        """With the arguments that the model is not told of: what a person or a program may type."""
        parameters = arguments.schema(self.manifest, advanced=True)
        return self.spec.model_copy(update={"parameters": parameters})


@dataclass(frozen=True)
class Catalog:
    """Tools by name, in the order of their names. Immutable: a reload makes another one."""

    tools: Mapping[str, Tool]

    @cached_property
    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self.tools.values())

    @property
    def observers(self) -> Mapping[str, Callable[[JsonObject], str]]:
        from llmos.toolbox import builtins

        return builtins.OBSERVERS

    @property
    def changers(self) -> Mapping[str, Callable[[JsonObject, Caller], Changed]]:
        from llmos.toolbox import builtins

        return builtins.CHANGERS

    def tidy(self) -> None:
        """Remove, in the background, what a daemon before this one may have left behind."""
        from llmos.toolbox import groups

        groups.sweep_on()

    def get(self, name: str) -> Tool:
        """The tool of this name; raises UsageError with the nearest name."""
        if name in self.tools:
            return self.tools[name]
        close = difflib.get_close_matches(name, self.tools, 1)
        step = f"Did you mean `{close[0]}`?" if close else "See: llmos tools"
        raise UsageError(f"there is no tool `{name[:80]}`", step)

    def plan(self, call: ToolCall, context: Context) -> Plan:
        """Check the arguments and make the call concrete; pure but for looking up processes by name.

        Raises UsageError naming the tool, the argument and what was expected.
        """
        tool = self.get(call.tool)
        draft = tool.pair.plan(arguments.check(tool.manifest, call.args), context)
        return Plan(
            call=call,
            command=draft.command or command_of(draft.steps),
            effects=draft.effects,
            steps=draft.steps,
            read_only=tool.manifest.read_only or draft.read_only,
            reply=draft.reply,
            whole=draft.whole,
            opens=draft.opens if tool.shipped else (),
        )

    def read(self, plan: Plan, outcome: Outcome) -> Outcome:
        """What came of a plan, made readable; one that was cut short is left as it is."""
        if outcome.cancelled or outcome.timed_out:
            return outcome
        tool = self.get(plan.call.tool)
        return tool.pair.read(outcome, arguments.check(tool.manifest, plan.call.args))

    def describe(self) -> list[JsonObject]:
        """What `llmos tools` shows."""
        return [
            {
                **tool.typed_spec.model_dump(mode="json"),
                "read_only": tool.manifest.read_only,
                "file": str(tool.file),
            }
            for tool in self.tools.values()
        ]


def load(dirs: Sequence[Path]) -> Catalog:
    """Read every manifest; the first folder holds the shipped ones. Raises ConfigError."""
    tools: dict[str, Tool] = {}
    for index, folder in enumerate(dirs):
        for file in sorted(folder.glob("*.toml")):
            tool = _tool(file, shipped=index == 0)
            if other := tools.get(tool.manifest.name):
                raise ConfigError(
                    f"the tool {tool.manifest.name} is defined in {other.file} already",
                    "Give yours another name: a tool is never replaced.",
                    where=f"{file}:{_name_line(file)}: name",
                )
            tools[tool.manifest.name] = tool
    return Catalog(dict(sorted(tools.items())))


def _name_line(file: Path) -> str:
    return manifest.where(file, file.read_text(encoding="utf-8"), ("name",)).rsplit(":", 2)[1]


def _tool(file: Path, *, shipped: bool) -> Tool:
    found = manifest.read(file, shipped=shipped)
    _check_builtin(found, file)
    tool = Tool(found, file, shipped)
    for index, example in enumerate(found.example):
        try:
            arguments.check(found, example.args)
        except UsageError as error:
            where = manifest.where(file, file.read_text(encoding="utf-8"), ("example", index))
            raise ConfigError(str(error), "Correct that example.", where=where) from error
    return tool


def _check_builtin(found: manifest.Manifest, file: Path) -> None:
    from llmos.toolbox import builtins

    if found.run.builtin is not None and found.run.builtin not in builtins.PAIRS:
        raise ConfigError(
            f"no built-in is called {found.run.builtin!r}",
            f"Choose one of: {', '.join(builtins.PAIRS)}.",
            where=manifest.where(file, file.read_text(encoding="utf-8"), ("run", "builtin")),
        )


def _from_template(found: manifest.Manifest, args: Args, context: Context) -> Draft:
    argvs = [template.fill(argv, args, found.args, context) for argv in found.argvs]
    run = pipeline(
        argvs, stdin_data=found.run.stdin_data, timeout_s=found.run.timeout_s, ok_codes=found.run.ok_codes
    )

    def filled(templates: Sequence[str], *, paths: bool) -> tuple[str, ...]:
        return template.effects(templates, args, found.args, context, paths=paths)

    declared = found.effects
    effects = Effects(
        reads=filled(declared.reads, paths=True),
        writes=filled(declared.writes, paths=True),
        deletes=filled(declared.deletes, paths=True),
        programs=tuple(dict.fromkeys((*programs(*argvs), *filled(declared.programs, paths=False)))),
        network=filled(declared.network, paths=False),
    )
    return Draft((run,), effects)


# --- watching --------------------------------------------------------------------------------------


class Watch:
    """A running watch. `error` is why the newest manifests are not in force, or None."""

    def __init__(self, dirs: Sequence[Path], on_change: Callable[[Catalog], None]) -> None:
        self._dirs, self._on_change = tuple(dirs), on_change
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self.catalog = load(dirs)
        self.error: ConfigError | None = None
        self._observer = self._observe()

    def _observe(self) -> object:
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer

        touched = self._touched

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.event_type not in ("opened", "closed_no_write"):
                    touched()

        observer = Observer()
        for folder in _present(self._dirs):
            observer.schedule(Handler(), str(folder))
        observer.start()
        return observer

    def _touched(self) -> None:
        """An editor writes in several steps: wait until it is quiet for a moment."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._timer = threading.Timer(0.1, self._reload)
            self._timer.daemon = True
            self._timer.start()

    def _reload(self) -> None:
        try:
            fresh = load(self._dirs)
        except ConfigError as error:
            self.error = error
            return
        self.catalog, self.error = fresh, None
        self._on_change(fresh)

    def stop(self) -> None:
        with self._lock:
            if self._timer:
                self._timer.cancel()
        self._observer.stop()  # type: ignore[attr-defined]
        self._observer.join()  # type: ignore[attr-defined]


def _present(dirs: Sequence[Path]) -> Iterator[Path]:
    return (folder for folder in dirs if folder.is_dir())


def watch(dirs: Sequence[Path], on_change: Callable[[Catalog], None]) -> Watch:
    """Call `on_change` (in a thread of the watch's own) with each new good catalogue, until stopped."""
    return Watch(dirs, on_change)

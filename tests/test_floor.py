"""The floor: what may import what, and who may start a process (design.md, section 4).

Reads the source as a syntax tree, so that imports inside functions count as well. It cannot see what
is imported by a computed name; `importlib.import_module` and `__import__` with anything but a literal
are therefore violations too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmos.paths import PACKAGE_DIR

# Lower numbers are deeper; an import must go to a strictly lower number or stay in its own part.
LAYERS = {
    "errors": 0,
    **dict.fromkeys(("messages", "paths", "cgroupfs", "stopping", "waiting", "amounts", "hints", "heap"), 1),
    **dict.fromkeys(("config", "wire", "rights", "shelf", "parsed", "compiled"), 2),
    "client": 3,  # the public one, for programs
    **dict.fromkeys(("console", "guard", "toolbox", "engine", "cloud", "hooks"), 3),
    "automation": 3,  # scripts and their runs; requests are made for it by who runs it
    "mcp_server": 4,
    "explain": 4,  # of commands: documentation, and the guard's tables of programs
    "planner": 4,
    "serve": 4,  # the engine over HTTP
    "tune": 5,  # trains on what the planner's own prompt builder writes
    "daemon": 6,
    "cli": 7,
}
# Modules that only some parts, or some files, may import.
RESERVED = {
    "torch": ("engine/", "tune/"),
    "prompt_toolkit": ("console/",),
    "huggingface_hub": ("engine/download.py",),
    **dict.fromkeys(
        ("requests", "httpx", "httpx2", "aiohttp", "urllib3", "urllib.request", "http.client"), ("cloud/",)
    ),
    "docker": ("guard/", "toolbox/"),
}
# The only files that start processes: the sandbox's, the planner's parent, `pip download`, the C compiler
# for the engine's kernels and the sandbox's forks, and systemctl for schedules.
STARTERS = (
    *("guard/launcher.py", "guard/nursery.py", "guard/forks.py", "guard/init.py", "daemon/supervisor.py"),
    *("engine/download.py", "compiled.py", "automation/systemctl.py"),
)
START_CALLS = {
    "subprocess": None,  # the whole module
    "pty": None,
    "multiprocessing": None,
    "concurrent.futures": {"ProcessPoolExecutor"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
    "os": {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp"}
    | {f"exec{suffix}" for suffix in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}
    | {f"spawn{suffix}" for suffix in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")},
}
START_METHODS = {"create_subprocess_exec", "create_subprocess_shell", "subprocess_exec", "subprocess_shell"}


@dataclass(frozen=True)
class Module:
    name: str  # "guard/spawn.py"
    tree: ast.Module

    @property
    def part(self) -> str:
        return part_of(self.name.split("/")[0].removesuffix(".py"))

    def imports(self) -> Iterator[tuple[str, int]]:
        """Every imported dotted name with its line; `from a import b` gives both `a` and `a.b`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                yield base, node.lineno
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
            elif isinstance(node, ast.Call) and _dotted(node.func) in (
                "__import__",
                "importlib.import_module",
            ):
                yield _literal(node) or "a computed name", node.lineno

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = ["llmos", *self.name.split("/")[:-1]]
        base = package[: len(package) - node.level + 1]
        return ".".join([*base, *([node.module] if node.module else [])])


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _literal(call: ast.Call) -> str:
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def part_of(top: str) -> str:
    """The command line is one part in several files: cli.py, cli_*.py, *_cli.py and those named here."""
    return "cli" if top in ("__main__", "first_use") or "cli" in top.split("_") else top


def parse(name: str, source: str) -> Module:
    return Module(name, ast.parse(source, filename=name))


def modules() -> list[Module]:
    files = sorted(PACKAGE_DIR.rglob("*.py"))
    return [
        parse(file.relative_to(PACKAGE_DIR).as_posix(), file.read_text(encoding="utf-8")) for file in files
    ]


# --- the rules, each a generator of sentences --------------------------------------------------


def layering(module: Module) -> Iterator[str]:
    own = -1 if module.name == "__init__.py" else LAYERS.get(module.part)
    if own is None:
        yield f"{module.name} is in no layer; give it one in tests/test_floor.py and in the design"
        return
    for name, line in module.imports():
        part = part_of(name.split(".")[1]) if name.startswith("llmos.") else module.part
        if part != module.part and LAYERS.get(part, -1) >= own:
            what = "a sibling" if LAYERS[part] == own else "a higher layer"
            yield f"{module.name}:{line} imports {name}, {what}"


def reserved(module: Module) -> Iterator[str]:
    for name, line in module.imports():
        if name == "a computed name" and module.part != "cli":  # its table of verbs: all of it our own code
            yield f"{module.name}:{line} imports {name}, which no test can check"
        for library, allowed in RESERVED.items():
            if (name == library or name.startswith(library + ".")) and not module.name.startswith(allowed):
                yield f"{module.name}:{line} imports {name}, which only {', '.join(allowed)} may"


def starts(module: Module) -> Iterator[str]:
    if module.name in STARTERS:
        return
    for name, line in module.imports():
        for library, functions in START_CALLS.items():
            whole = functions is None and (name == library or name.startswith(library + "."))
            if whole or (functions and name in {f"{library}.{function}" for function in functions}):
                yield f"{module.name}:{line} imports {name}; only {', '.join(STARTERS)} start processes"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and _starts(node):
            yield f"{module.name}:{node.lineno} uses {node.attr}; only {', '.join(STARTERS)} start processes"


def _starts(node: ast.Attribute) -> bool:
    library, _, function = _dotted(node).rpartition(".")
    return node.attr in START_METHODS or function in (START_CALLS.get(library) or ())


def minting(module: Module) -> Iterator[str]:
    """Only the gate makes a Permit: by `mint`, or by any other road to its constructor."""
    if module.name in ("guard/gate.py", "guard/permit.py"):
        return
    for name, line in module.imports():
        if name.startswith("llmos.guard.permit.") and name.rpartition(".")[2] != "Permit":
            yield f"{module.name}:{line} imports {name}: only guard/gate.py mints permits"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("mint", "_mint"):
            yield f"{module.name}:{node.lineno} reaches for {node.attr}: only guard/gate.py mints permits"
        if isinstance(node, ast.Call) and _makes_permit(node):
            yield f"{module.name}:{node.lineno} builds a Permit: only guard/gate.py mints permits"


def _makes_permit(call: ast.Call) -> bool:
    """`Permit(…)`, and `replace(permit, …)`, which would copy the seal along with wider grants."""
    name = _dotted(call.func).rpartition(".")[2]
    copied = _dotted(call.args[0]) if call.args else ""
    return name == "Permit" or (name in ("replace", "__replace__") and "permit" in copied.lower())


def inert(module: Module) -> Iterator[str]:
    """Importing does nothing: at the top level only definitions, and calls that give a value a name."""
    for node in module.tree.body:
        guarded = isinstance(node, ast.If) and "__name__" in ast.dump(node.test)
        if isinstance(node, ast.For | ast.While | ast.With | ast.Try) and not guarded:
            yield f"{module.name}:{node.lineno} does work while being imported"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            name = _dotted(node.value.func)
            if not name.endswith(".model_rebuild"):  # pydantic: resolves the forward references of a type
                yield f"{module.name}:{node.lineno} calls {name} while being imported"


Rule = Callable[[Module], Iterator[str]]
RULES: tuple[Rule, ...] = (layering, reserved, starts, minting, inert)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_the_rule(rule: Rule) -> None:
    violations = [sentence for module in modules() for sentence in rule(module)]
    assert not violations, "\n" + "\n".join(violations)


# Each rule must bite: one violation a line, in the file where it would stand.
BITES: list[tuple[Rule, str, str]] = [
    (layering, "guard/gate.py", "def f():\n    from llmos.toolbox import catalog"),
    (layering, "errors.py", "from llmos import paths"),
    (layering, "engine/model.py", "from ..planner import loop"),
    (layering, "wire.py", "import llmos.config"),
    (layering, "surprise/x.py", ""),
    (reserved, "planner/loop.py", "def f():\n    import torch.nn"),
    (reserved, "daemon/server.py", "from torch import nn"),
    (reserved, "guard/gate.py", "import importlib\nimportlib.import_module(name)"),
    (reserved, "daemon/server.py", "import urllib.request"),
    (reserved, "cli.py", "from prompt_toolkit import PromptSession"),
    (reserved, "engine/store.py", "import huggingface_hub"),
    (starts, "toolbox/files.py", "import subprocess"),
    (starts, "guard/gate.py", "from os import execve"),
    (starts, "guard/gate.py", "import os\nos.posix_spawn('/bin/true', [], {})"),
    (starts, "daemon/server.py", "import asyncio\nasyncio.create_subprocess_exec('true')"),
    (starts, "daemon/server.py", "loop.subprocess_exec(factory, 'true')"),
    (minting, "daemon/session.py", "from llmos.guard.permit import Permit\nPermit(plan)"),
    (minting, "daemon/session.py", "from llmos.guard.permit import mint"),
    (minting, "daemon/session.py", "permit.mint()"),
    (minting, "daemon/session.py", "dataclasses.replace(self.permit, network=True)"),
    (inert, "toolbox/x.py", "print('hello')"),
    (inert, "toolbox/x.py", "for x in y:\n    pass"),
]


@pytest.mark.parametrize(("rule", "name", "source"), BITES)
def test_the_rule_bites(rule: Rule, name: str, source: str) -> None:
    assert list(rule(parse(name, source)))


def test_the_walk_sees_the_whole_package() -> None:
    seen = {module.name for module in modules()}
    assert {"errors.py", "guard/permit.py", "engine/store.py"} <= seen


# --- what importing really brings in ------------------------------------------------------------

_REPORT = "import sys, {0}; print(sorted(m for m in {1} if m in sys.modules))"


def _heavy(module: str, *libraries: str) -> str:
    code = _REPORT.format(module, libraries)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BROKER = [
    module.name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    for module in modules()
    if module.part in ("daemon", "guard", "toolbox")
]


def test_the_broker_never_imports_torch() -> None:
    names = ", ".join(f"llmos.{name}" for name in BROKER if not name.endswith(("__main__", "launcher")))
    assert _heavy(names, "torch", "transformers", "llmos.engine.engine", "llmos.planner.worker") == "[]"


@pytest.mark.parametrize("module", ["llmos.cli", "llmos.console.client"])
def test_the_client_starts_without_the_heavy_libraries(module: str) -> None:
    if not Path(PACKAGE_DIR.parent, *module.split(".")).with_suffix(".py").exists():
        pytest.fail(f"{module} is missing")
    assert _heavy(module, "torch", "pydantic", "prompt_toolkit", "huggingface_hub", "numpy") == "[]"


def test_the_store_is_usable_without_torch() -> None:
    assert _heavy("llmos.model_cli", "torch", "pydantic", "huggingface_hub") == "[]"

"""Do ten varied requests for real and print the transcript that stands in docs/request-trace.md.

    python -m tests.bench.trace > docs/request-trace.md

Every line of output below a `$` is what the program printed, in a fresh workspace, with the default
model; only the path of its home, a temporary folder, is shortened.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from llmos import paths
from tests.bench.report import commit, machine
from tests.bench.understand.__main__ import daemon
from tests.bench.understand.workspace import build

REQUESTS: tuple[tuple[str, list[str], str | None], ...] = (
    ("A question about files", ["what are the three largest files in this folder?"], None),
    ("Reading", ["show me the first 3 lines of notes.txt"], None),
    ("Searching", ["find the ERROR lines in error.log"], None),
    ("Piped data", ["how many lines is this"], "one\ntwo\nthree\n"),
    ("A change is shown and, with nobody to ask, not made", ["rename util.py to tools.py"], None),
    ("The same with --yes", ["rename util.py to tools.py", "--yes"], None),
    ("Only the plan", ["--plan", "delete old.log"], None),
    ("A write outside the folder is denied, --yes or not", ["call", "file.write", "--yes", "--args",
     '{"path": "/etc/llmos-canary", "content": "x"}'], None),
    ("System facts, for a program", ["--json", "how much memory is free?"], None),
    ("Chinese", ["查找所有 py 文件"], None),
)  # fmt: skip


def shown(argv: list[str]) -> str:
    words = [arg if arg and not set(arg) & set(" '\"{?$") else f"'{arg}'" for arg in argv]
    return " ".join(["llmos", *words])


def run(argv: list[str], data: str | None, root: Path, sock: Path) -> str:
    env = os.environ | {"LLMOS_SOCKET": str(sock), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "llmos", *argv]
    source: dict[str, object] = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **source
    )  # type: ignore[call-overload]
    prompt = f"$ printf {data!r} | {shown(argv)}" if data is not None else f"$ {shown(argv)}"
    text = done.stdout.replace(str(root.parent), "~").rstrip()
    return f"```console\n{prompt}\n{text}\n$ echo $?\n{done.returncode}\n```\n"


def main() -> None:
    facts = machine()
    print("# Ten requests, as they went\n")
    print("Made by `python -m tests.bench.trace` with the default model and its adapter, in the benchmark's")
    print(f"workspace: commit {commit()}, {facts['cores']} cores, kernel {facts['kernel']}.\n")
    with tempfile.TemporaryDirectory(prefix="trace-", dir=Path.home()) as name:
        os.environ.setdefault("LLMOS_MODELS_DIR", str(paths.models_dir()))
        os.environ["HOME"] = name  # an empty trash
        root = Path(name) / "work"
        root.mkdir()
        build(root)
        with daemon("default", Path(name)) as sock:
            for title, argv, data in REQUESTS:
                print(f"## {title}\n\n{run(argv, data, root, sock)}", flush=True)


if __name__ == "__main__":
    main()

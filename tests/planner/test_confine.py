"""Confinement, tried from inside: a child process confines itself and then attempts what it must not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Each attempt runs after both steps; the thread is started between them, as torch's workers are.
SCRIPT = """
import ctypes, json, os, queue, socket, sys, threading
from pathlib import Path
from llmos.planner import confine

folder = Path(sys.argv[1])
before = confine.confine_files(confine.needed_to_read(folder / "weights"), [folder / "prepared"])
(folder / "prepared/early").write_text("while loading")
jobs, done = queue.SimpleQueue(), queue.SimpleQueue()
def serve():
    while True:
        done.put(attempt(jobs.get()))
def attempt(action):
    try:
        action()
        return "done"
    except OSError as error:
        return type(error).__name__
threading.Thread(target=serve, daemon=True).start()
import torch
after = confine.confine_calls()
attempts = {
    "read_weights": lambda: (folder / "weights").read_bytes(),
    "read_other": lambda: (folder / "secret").read_bytes(),
    "read_parents_environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "write": lambda: (folder / "new").write_text("x"),
    "write_prepared": lambda: (folder / "prepared/late").write_text("x"),
    "append_to_weights": lambda: (folder / "weights").open("ab"),
    "unlink": lambda: (folder / "weights").unlink(),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "socket": lambda: socket.socket(),
    "socketpair": lambda: socket.socketpair(),
    "signal_parent": lambda: os.kill(os.getppid(), 0),
    "pidfd": lambda: os.pidfd_open(os.getppid()),
    "thread": lambda: threading.Thread(target=int).start(),
}
report = {"held": before.held + after.held, "missing": before.missing + after.missing}
report |= {name: attempt(action) for name, action in attempts.items()}
for name in ("write", "socket", "exec"):
    jobs.put(attempts[name])
    report["older_thread_" + name] = done.get()
report["matmul"] = float((torch.ones(300, 300) @ torch.ones(300, 300)).sum())
report["capabilities"] = [l.split()[1] for l in open("/proc/self/status") if l.startswith("Cap")]
print(json.dumps(report))
"""
ALLOWED = ("read_weights", "thread")
REFUSED = (
    *("read_other", "read_parents_environment", "write", "write_prepared", "append_to_weights", "unlink"),
    *("exec", "fork", "socket", "socketpair", "signal_parent", "pidfd"),
    *("older_thread_write", "older_thread_socket", "older_thread_exec"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("confined")
    (folder / "weights").write_bytes(b"GGUF")
    (folder / "prepared").mkdir()
    (folder / "secret").write_text("secret")
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert sorted(path.name for path in Path(folder).iterdir()) == ["prepared", "secret", "weights"]
    assert [path.name for path in (folder / "prepared").iterdir()] == ["early"]
    found: dict[str, object] = json.loads(ran.stdout)
    if found["missing"]:
        pytest.skip(f"this kernel lacks {found['missing']}. Run: llmos doctor")
    return found


def test_every_layer_holds(report: dict[str, object]) -> None:
    assert report["held"] == ["capabilities", "no_new_privs", "landlock", "seccomp"]
    assert all(int(str(value), 16) == 0 for value in report["capabilities"])  # type: ignore[attr-defined]


def test_the_work_goes_on(report: dict[str, object]) -> None:
    assert [report[name] for name in ALLOWED] == ["done", "done"]
    assert report["matmul"] == 300**3


@pytest.mark.parametrize("attempt", REFUSED)
def test_what_is_not_needed_is_refused(report: dict[str, object], attempt: str) -> None:
    assert report[attempt] == "PermissionError"

"""llmos as a service of a booted systemd: put in place, activated, reloaded, watched, taken away."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import machine as machines
from .machine import Machine

SYSTEMD = machines.CHECKOUT / "systemd"
WAIT_S = 30.0


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Iterator[Machine]:
    """The machine with the service, and two people who may use it. A shorter watchdog."""
    done = machine.llmos("service", "install", "--yes")
    assert done.returncode == 0, done.stderr
    # No weights are loaded here, whatever the machine has.
    machine.path("/etc/llmos/config.toml").write_text('[model]\nname = "/nowhere.gguf"\n')
    dropin = machine.path("/etc/systemd/system/llmosd.service.d")
    dropin.mkdir()
    (dropin / "short.conf").write_text("[Service]\nWatchdogSec=4\n")
    machine.ok("systemctl", "daemon-reload")
    for name in ("carol", "dave"):
        machine.ok("useradd", "--create-home", "--groups", "llmos", name)
    machine.ok("useradd", "--create-home", "erin")
    yield machine
    machine.llmos("service", "uninstall", "--yes")


def call(machine: Machine, tool: str, user: str = "", yes: bool = True, **args: Any) -> dict[str, Any]:
    """The one object that `llmos call --json` prints."""
    words = ["call", tool, "--json", *(["--yes"] if yes else []), "--args", json.dumps(args)]
    done = machine.llmos(*words, user=user)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def status(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.llmos("status", "--json").stdout)
    return found


def show(machine: Machine, name: str, unit: str = "llmosd.service") -> str:
    return machine.ok("systemctl", "show", "-P", name, unit).strip()


def await_that(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


# --- in place ------------------------------------------------------------------------------------


UNITS = ("llmosd.service", "llmosd.socket", "llmosd-launcher.socket", "llmosd-planner.socket", "llmos.slice")


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_shipped_is_what_systemd_takes(machine: Machine, unit: str) -> None:
    """Without the program: a distribution puts it at /usr/bin/llmos."""
    done = machine.run("systemd-analyze", "verify", "--recursive-errors=no", str(SYSTEMD / unit))
    complaints = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert not complaints, done.stderr


@pytest.mark.parametrize(("name", "most"), [("llmosd.service", 4.0), ("llmosd-planner@.service", 1.5)])
def test_each_part_is_as_closed_as_is_said(machine: Machine, name: str, most: float) -> None:
    """docs/security.md names what is left open, and why."""
    unit = str(SYSTEMD / name)
    told = machine.run("systemd-analyze", "security", "--offline=yes", "--no-pager", unit).stdout
    level = re.search(r"exposure level for \S+: ([0-9.]+)", told)
    assert level and float(level[1]) <= most, told


def test_installing_is_shown_first_and_done_once(machine: Machine, installed: Machine) -> None:
    again = machine.llmos("service", "install")
    assert again.returncode == 0 and "installed already" in again.stderr
    place = machine.path("/etc/systemd/system/llmosd.socket")
    text = place.read_text()
    place.write_text(text + "# by hand\n")
    asked = machine.llmos("service", "install")
    assert asked.returncode == 4 and f"replace {'/etc/systemd/system/llmosd.socket'}" in asked.stderr
    planned = json.loads(machine.llmos("service", "install", "--plan", "--json").stdout)
    assert planned["status"] == "planned" and place.read_text() != text
    assert machine.llmos("service", "install", "--yes").returncode == 0 and place.read_text() == text
    refused = machine.llmos("service", "install", "--yes", user="carol")
    assert refused.returncode == 2 and "only root installs" in refused.stderr


# --- at work -------------------------------------------------------------------------------------


def test_the_first_client_starts_it(installed: Machine) -> None:
    installed.ok("systemctl", "stop", "llmosd.service")
    assert show(installed, "ActiveState") == "inactive"
    result = call(installed, "shell.run", command="id -u")
    assert result["status"] == "done" and result["calls"][0]["stdout"] == "0\n"
    assert show(installed, "ActiveState") == "active" and show(installed, "Slice") == "llmos.slice"
    assert show(installed, "StatusText").startswith(("ready", "loading"))
    told = json.loads(installed.llmos("service", "status", "--json").stdout)
    assert told["installed"] == "yes" and told["answers"] == "yes" and told["pid"]


def test_each_command_runs_as_who_asked(installed: Machine) -> None:
    for user in ("carol", "dave"):
        result = call(installed, "shell.run", user, command="id -un; touch made")
        assert result["status"] == "done" and result["calls"][0]["stdout"] == f"{user}\n", result
        made = installed.path(f"/home/{user}/made").stat()
        assert made.st_uid == int(installed.ok("id", "-u", user))
    undone = installed.llmos("undo", "--yes", user="carol")
    assert undone.returncode == 0 and not installed.path("/home/carol/made").exists()
    assert installed.path("/home/dave/made").exists()


def test_the_daemon_itself_can_make_no_namespace_and_mount_nothing(installed: Machine) -> None:
    """What it has given away is really gone; the launcher has it, and works for it."""
    call(installed, "shell.run", command="true")
    pid = show(installed, "MainPID")
    facts = installed.ok("cat", f"/proc/{pid}/status")
    assert "NoNewPrivs:\t1" in facts and "Seccomp:\t2" in facts
    bounding = int(re.search(r"CapBnd:\t(\w+)", facts)[1], 16)  # type: ignore[index]
    # net_admin, net_raw, module, rawio, chroot, ptrace, time, mknod
    assert not any(bounding >> number & 1 for number in (12, 13, 16, 17, 18, 19, 25, 27))
    assert "llmosd-launcher@" in installed.ok("systemctl", "list-units", "--plain", "--no-legend", "llmosd-*")


def test_sandboxes_are_put_up_by_the_program_that_the_daemon_has_built(installed: Machine) -> None:
    def in_force() -> bool:
        call(installed, "shell.run", command="true")  # after which the launcher takes it up
        return "llmos.forks" in installed.run("pgrep", "--list-full", "--full", "^llmos.forks").stdout

    await_that(in_force, "the launcher's forks are still in Python")
    (program,) = installed.path("/var/lib/llmos/forks").iterdir()
    assert program.stat().st_uid == 0 and program.stat().st_mode & 0o022 == 0
    assert call(installed, "shell.run", command="id -u")["calls"][0]["stdout"] == "0\n"


def test_the_planner_is_nobody_in_a_unit_of_its_own(installed: Machine) -> None:
    """There are no such weights: that it says so shows that it was started, and heard."""
    done = installed.llmos("ask", "--json", "how much memory is free", user="carol")
    assert "/nowhere.gguf" in json.loads(done.stdout)["answer"], done.stdout
    # Its cache is owned by who it was: systemd.exec(5), DynamicUser=.
    assert 61184 <= installed.path("/var/cache/private/llmos-planner").stat().st_uid <= 65519


def test_who_is_not_in_the_group_gets_a_daemon_of_their_own(installed: Machine) -> None:
    before = show(installed, "ActiveState")
    done = installed.llmos("call", "shell.run", "--json", "--args", '{"command": "id -un"}', user="erin")
    assert json.loads(done.stdout)["calls"][0]["stdout"] == "erin\n"
    assert installed.llmos("daemon", "stop", user="erin").returncode == 0
    assert "started the llmos daemon" in done.stderr and show(installed, "ActiveState") == before


def test_services_are_changed_and_taken_back_through_it(installed: Machine) -> None:
    text = "[Service]\nExecStart=/bin/sleep 1000\n"
    installed.path("/etc/systemd/system/nap.service").write_text(text)
    installed.ok("systemctl", "daemon-reload")
    asked = call(installed, "service.start", yes=False, name="nap")
    assert asked["status"] == "needs_approval" and asked["calls"][0]["effects"]["units"] == ["nap.service"]
    done = call(installed, "service.start", name="nap")
    assert done["status"] == "done" and show(installed, "ActiveState", "nap") == "active", done
    assert installed.llmos("undo", done["calls"][0]["undo_id"], "--yes").returncode == 0
    assert show(installed, "ActiveState", "nap") == "inactive"
    refused = call(installed, "service.start", "carol", name="nap")
    assert refused["status"] == "denied" and show(installed, "ActiveState", "nap") == "inactive", refused
    unknown = installed.llmos("call", "service.stop", "--args", '{"name": "npa"}')
    assert unknown.returncode == 2 and "nap.service" in unknown.stderr
    own = call(installed, "service.stop", name="llmosd")
    assert own["status"] == "denied" and show(installed, "ActiveState") == "active"


# --- reload, watchdog, stop ----------------------------------------------------------------------


def verdict(machine: Machine) -> str:
    found: str = json.loads(machine.llmos("policy", "check", "--json", "--", "touch x").stdout)["verdict"]
    return found


def test_a_reload_reads_the_settings_anew_and_a_broken_file_changes_nothing(installed: Machine) -> None:
    assert verdict(installed) == "ask"
    pid, settings = show(installed, "MainPID"), installed.path("/etc/llmos/config.toml")
    kept = settings.read_text()
    settings.write_text('policy = "readonly"\n')
    installed.ok("systemctl", "reload", "llmosd")
    await_that(lambda: verdict(installed) == "deny", "the reload")
    settings.write_text("polcy = 1\n")
    installed.ok("systemctl", "reload", "llmosd")
    await_that(lambda: "polcy" in show(installed, "StatusText"), "the error in the status")
    assert verdict(installed) == "deny" and show(installed, "ActiveState") == "active"
    settings.write_text(kept)
    installed.ok("systemctl", "reload", "llmosd")
    await_that(lambda: verdict(installed) == "ask", "the old settings")
    assert show(installed, "MainPID") == pid


@pytest.mark.parametrize("signal", ["STOP", "KILL"])
def test_one_that_hangs_or_dies_is_replaced(installed: Machine, signal: str) -> None:
    """STOP: the watchdog finds out."""
    call(installed, "shell.run", command="true")
    pid = show(installed, "MainPID")
    assert int(pid) > 1  # 0 would be our own process group
    installed.ok("kill", f"-{signal}", pid)
    await_that(lambda: show(installed, "MainPID") not in ("0", pid), "another process")
    assert call(installed, "shell.run", command="echo again")["calls"][0]["stdout"] == "again\n"
    if signal == "STOP":
        log = installed.ok("journalctl", "-u", "llmosd", "-n", "30", "--no-pager")
        assert "Watchdog timeout" in log, log


def test_stopping_lets_what_runs_end(installed: Machine) -> None:
    words = ["env", "-C", "/home/carol", machines.python(), "-m", "llmos", "call", "shell.run", "--json"]
    args = ["--yes", "--args", '{"command": "sleep 2; echo slept > slept"}']
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    with subprocess.Popen([*installed.words("carol"), *words, *args], text=True, **streams) as client:
        await_that(lambda: bool(status(installed)["requests"]), "the request")
        installed.ok("systemctl", "stop", "llmosd.service")
        told, _ = client.communicate(timeout=30)
    assert (
        json.loads(told)["status"] == "done" and installed.path("/home/carol/slept").read_text() == "slept\n"
    )
    assert show(installed, "Result") == "success"


def speaking(machine: Machine, user: str, method: str, **params: Any) -> subprocess.Popen[str]:
    """A client that makes one request and prints what it hears, to the end of the connection."""
    frame = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/llmos/llmos.sock')\n"
        "s.sendall(sys.argv[1].encode() + b'\\n')\n"
        "for line in s.makefile(): print(line, end='', flush=True)"
    )
    words = [*machine.words(user), machines.python(), "-c", code, json.dumps(frame)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def answer(machine: Machine, user: str, method: str, **params: Any) -> dict[str, Any]:
    with speaking(machine, user, method, **params) as client:
        assert client.stdout is not None
        reply = next(
            frame for frame in map(json.loads, client.stdout) if "result" in frame or "error" in frame
        )
        client.kill()
    return dict(reply["result"])


def test_an_upgrade_in_place_loses_nobodys_request(installed: Machine) -> None:
    """What runs ends, a question is told to come again, the inbox stays, who comes late is served after."""
    later = {"tool": "shell.run", "args": {"command": "touch later"}, "cwd": "/home/dave"}
    item = answer(installed, "dave", "inbox.ask", **later)["item"]["id"]
    old = show(installed, "MainPID")
    asked = {**later, "args": {"command": "touch asked-for"}, "consent": "interactive"}
    waiting = speaking(installed, "dave", "call", **asked)
    args = ["call", "shell.run", "--json", "--yes", "--args", '{"command": "sleep 6; echo slept > upgraded"}']
    words = ["env", "-C", "/home/carol", machines.python(), "-m", "llmos"]
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    running = subprocess.Popen([*installed.words("carol"), *words, *args], **streams)
    await_that(lambda: len(status(installed)["requests"]) == 2, "both requests")
    # Another version's unit, which also has the models elsewhere: at a path that has to be quoted.
    installed.path("/opt/models of llmos: 50%").mkdir(parents=True)
    installed.path("/opt/models of llmos: 50%/here.gguf").write_bytes(b"GGUF" + bytes(60))
    upgrade = ["env", "LLMOS_MODELS_DIR=/opt/models of llmos: 50%", machines.python(), "-m", "llmos"]
    upgrading = subprocess.Popen(
        [*installed.words(), *upgrade, "service", "install", "--yes"], stderr=subprocess.PIPE, **streams
    )
    await_that(lambda: show(installed, "ActiveState") == "deactivating", "the stop")
    late = installed.llmos("call", "shell.run", "--json", "--args", '{"command": "echo late"}', user="dave")
    assert json.loads(late.stdout)["calls"][0]["stdout"] == "late\n", late.stderr
    _, said = upgrading.communicate(timeout=60)
    assert upgrading.returncode == 0 and "restart llmosd.service" in said, said
    assert show(installed, "MainPID") not in ("0", old)
    told, _ = running.communicate(timeout=30)
    assert json.loads(told)["status"] == "done"
    assert installed.path("/home/carol/upgraded").read_text() == "slept\n"
    heard, _ = waiting.communicate(timeout=30)
    assert "nothing was run for this request" in heard and '"Overloaded"' in heard, heard
    assert not installed.path("/home/dave/asked-for").exists()
    assert answer(installed, "dave", "inbox.approve", item=item, consent="yes")["status"] == "done"
    assert installed.path("/home/dave/later").exists()
    assert installed.llmos("audit", "verify").returncode == 0


def test_the_planners_settings_are_the_daemons_and_its_models_lie_where_they_lie(installed: Machine) -> None:
    """Root's own file, which the planner cannot read; weights below a path that has blanks."""
    place = installed.path("/root/.config/llmos")
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.toml").write_text('[model]\nname = "/run/llmos/models/here.gguf"\n')
    installed.ok("systemctl", "reload", "llmosd")
    done = installed.llmos("ask", "--json", "how much memory is free", user="carol")
    (place / "config.toml").unlink()
    installed.ok("systemctl", "reload", "llmosd")
    assert "here.gguf is not a readable GGUF file" in done.stdout, done.stdout + done.stderr


def test_decisions_are_in_the_journal_with_their_fields(installed: Machine) -> None:
    call(installed, "shell.run", "carol", command="echo fields-of-carol")
    lines = installed.ok("journalctl", "-t", "llmos", "-o", "json", "--no-pager").splitlines()
    (entry,) = [e for e in map(json.loads, lines) if "fields-of-carol" in e["MESSAGE"]]
    assert entry["_SYSTEMD_UNIT"] == "llmosd.service" and entry["PRIORITY"] == "6", entry
    uid = installed.ok("id", "-u", "carol").strip()
    assert any(value == uid for name, value in entry.items() if name.startswith("LLMOS_")), entry


# --- taken away ----------------------------------------------------------------------------------


def test_uninstalling_leaves_the_records_and_nothing_else(installed: Machine) -> None:
    before = call(installed, "shell.run", command="true")["status"]
    assert before == "done"
    done = installed.llmos("service", "uninstall", "--yes")
    assert done.returncode == 0 and "/var/lib/llmos" in done.stderr, done.stderr
    left = [str(p) for p in installed.path("/etc").rglob("*llmos*") if "systemd" in str(p) or ".d/" in str(p)]
    assert [Path(p).name for p in left] == ["llmosd.service.d"]  # the tests' own
    assert installed.ok("systemctl", "list-units", "--all", "--plain", "--no-legend", "llmos*") == ""
    assert not installed.path("/run/llmos/llmos.sock").exists()
    assert installed.path("/var/lib/llmos/audit.jsonl").exists()
    assert "not installed" in installed.llmos("service", "uninstall", "--yes").stderr
    assert installed.llmos("service", "install", "--yes").returncode == 0
    assert call(installed, "shell.run", command="true")["status"] == "done"

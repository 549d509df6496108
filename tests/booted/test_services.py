"""The service tools on a booted systemd: read and changed by effect, for root and for a plain user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .machine import Machine

UNIT = """[Unit]
Description=Web \N{EN DASH} of the tests
[Service]
ExecStart=/bin/sh -c 'echo "hello from web"; logger -p user.err "web is in trouble"; exec sleep 1000'
[Install]
WantedBy=basic.target
"""
BROKEN = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo cannot do it >&2; exit 7'\n"


@pytest.fixture(scope="module")
def web(machine: Machine) -> Iterator[Machine]:
    """The machine with a service that runs, one that failed, a timer, and a plain user."""
    machine.add_user("anna")
    for name, text in (("web", UNIT), ("broken", BROKEN)):
        machine.path(f"/etc/systemd/system/{name}.service").write_text(text)
    timer = "[Timer]\nOnCalendar=*-*-* 03:30:00\nUnit=broken.service\n"
    machine.path("/etc/systemd/system/nightly.timer").write_text(timer)
    machine.ok("systemctl", "daemon-reload")
    machine.ok("systemctl", "start", "web.service", "nightly.timer")
    machine.run("systemctl", "start", "broken.service")
    return machine


def look(machine: Machine, tool: str, user: str = "", /, **args: object) -> str:
    """What an observer says, or its error."""
    return machine.ask("OBSERVERS", tool, args | {"uid": machine.uid(user)})


@pytest.mark.parametrize("user", ["", "anna"])
def test_a_units_state_is_told_to_everybody(web: Machine, user: str) -> None:
    running = look(web, "service.status", user, name="web.service")
    assert "active (running) since" in running and "Web – of the tests" in running
    failed = look(web, "service.status", user, name="broken.service")
    assert "failed (failed)" in failed and "exit-code, exit status 7" in failed
    assert "broken.service" in look(web, "service.failed", user)
    timers = look(web, "service.timers", user)
    assert "nightly.timer" in timers and "03:30:00 (in" in timers and "broken.service" in timers


def test_the_journal_is_read_with_the_callers_rights(web: Machine) -> None:
    assert "hello from web" in look(web, "service.logs", unit="web.service", lines=50)
    grave = look(web, "service.logs", unit="web.service", lines=50, priority="err")
    assert "in trouble" in grave and "hello from web" not in grave
    assert "cannot do it" in look(web, "service.status", name="broken.service")
    theirs = look(web, "service.logs", "anna", unit="web.service", lines=50)
    assert "hello from web" not in theirs and "only your own part" in theirs
    web.ok("usermod", "-aG", "systemd-journal", "anna")
    assert "hello from web" in look(web, "service.logs", "anna", unit="web.service", lines=50)


def test_a_range_of_time_bounds_the_journal(web: Machine) -> None:
    began = float(web.ok("date", "+%s.%N", "-d", "-2 seconds"))
    web.ok("logger", "-t", "marker", "between")
    inside = look(web, "service.logs", unit="", lines=1000, since=began, until=began + 60)
    assert "marker" in inside
    assert "marker" not in look(web, "service.logs", unit="", lines=1000, until=began)
    assert len(look(web, "service.logs", unit="", lines=3).splitlines()) == 3


def test_a_misspelt_unit_gets_the_nearest_names(web: Machine) -> None:
    told = look(web, "service.status", name="wb.service")
    assert told.startswith("UsageError: there is no unit wb.service") and "web.service" in told
    assert "nearest" not in told and "UsageError" in look(web, "service.logs", unit="wbe.service", lines=5)


def test_a_users_own_units_are_theirs(web: Machine) -> None:
    folder = web.path("/home/anna/.config/systemd/user")
    folder.mkdir(parents=True)
    (folder / "sync.service").write_text(UNIT)
    web.ok("chown", "-R", "anna:anna", "/home/anna/.config")
    uid = web.ok("id", "-u", "anna").strip()
    own = {"XDG_RUNTIME_DIR": f"/run/user/{uid}"}
    web.run("systemctl", "--user", "daemon-reload", user="anna", env=own)
    assert web.run("systemctl", "--user", "start", "sync", user="anna", env=own).returncode == 0
    assert "sync.service (your own)" in look(web, "service.status", "anna", name="sync.service")
    assert look(web, "service.status", name="sync.service").startswith("UsageError")


def test_sessions_are_those_of_logind(web: Machine) -> None:
    assert look(web, "session.list", "anna")  # nobody is at a terminal here; it is asked and answers

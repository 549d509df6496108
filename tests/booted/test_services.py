"""The service tools on a booted systemd: read and changed by effect, for root and for a plain user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .machine import Machine

UNIT = """[Unit]
Description=Web \N{EN DASH} of the tests
[Service]
ExecStart=/bin/sh -c 'echo "hello from web"; echo "<3>web is in trouble"; exec sleep 1000'
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
    told: str = machine.ask("OBSERVERS", tool, args | {"uid": machine.uid(user)})
    return told


def change(machine: Machine, verb: str, name: str, user: str = "", scope: str = "system") -> dict[str, Any]:
    """What a changer did, with the steps that take it back; an error is `{"error": …}`."""
    done = machine.ask("CHANGERS", "service", {"verb": verb, "name": name, "scope": scope}, machine.uid(user))
    return {"error": done} if isinstance(done, str) else done


def state(machine: Machine, name: str) -> str:
    return machine.run("systemctl", "is-active", name).stdout.strip()


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
    web.ok("journalctl", "--sync")
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


# --- changing ------------------------------------------------------------------------------------


def back(machine: Machine, done: dict[str, Any], user: str = "") -> dict[str, Any]:
    """Take it back by the step that came with it."""
    (step,) = done["reverse"]
    args = step["args"]
    return change(machine, args["verb"], args["name"], user, args["scope"])


def test_a_stopped_unit_is_started_again_by_its_reverse(web: Machine) -> None:
    done = change(web, "stop", "web.service")
    assert done["text"] == "stopped web.service\n" and state(web, "web") == "inactive"
    assert change(web, "stop", "web.service") == {
        "text": "web.service is not running (inactive (dead))\n",
        "reverse": [],
        "exit_code": 0,
    }
    again = back(web, done)
    assert again["text"].startswith("started web.service: active (running), process ")
    assert state(web, "web") == "active"
    assert "running already" in change(web, "start", "web.service")["text"]
    assert back(web, again)["text"] == "stopped web.service\n" and state(web, "web") == "inactive"
    change(web, "start", "web.service")


def test_a_restart_is_seen_in_the_process(web: Machine) -> None:
    before = web.ok("systemctl", "show", "-P", "MainPID", "web")
    done = change(web, "restart", "web.service")
    assert done["text"].startswith("restarted web.service") and done["reverse"] == []
    assert web.ok("systemctl", "show", "-P", "MainPID", "web") != before
    assert "UsageError: web.service cannot reread" in change(web, "reload", "web.service")["error"]


def test_enabling_is_undone_by_disabling(web: Machine) -> None:
    done = change(web, "enable", "web.service")
    assert "basic.target.wants/web.service" in done["text"]
    assert web.ok("systemctl", "is-enabled", "web").strip() == "enabled"
    again = change(web, "enable", "web.service")
    assert again == {"text": "web.service is enabled already\n", "reverse": [], "exit_code": 0}
    assert back(web, done)["text"].startswith("disabled web.service")
    assert web.run("systemctl", "is-enabled", "web").stdout.strip() == "disabled"
    assert "no [Install] section" in change(web, "enable", "broken.service")["error"]


ASKED_WHILE_RELOADING = """
import subprocess
from llmos.toolbox import manager
reloads = subprocess.Popen(["sh", "-c", "for i in $(seq 40); do systemctl daemon-reload; done"])
while reloads.poll() is None:
    with manager.connect("system", 0) as systemd:
        assert systemd.units()
"""


def test_a_manager_that_reloads_is_understood(web: Machine) -> None:
    """Its signals come right behind the line that ends the handshake."""
    done = web.python(ASKED_WHILE_RELOADING)
    assert done.returncode == 0, done.stderr


def test_a_unit_that_does_not_start_says_why(web: Machine) -> None:
    failed = change(web, "start", "broken.service")["error"]
    assert (
        "CallFailed: broken.service did not start: exit-code, exit status 7; it said: cannot do it" in failed
    )
    assert "service.logs" in failed
    assert "there is no unit frobnicate.service" in change(web, "start", "frobnicate.service")["error"]
    web.ok("systemctl", "mask", "--runtime", "nightly.service")
    assert "unmask" in change(web, "start", "nightly.service")["error"]


def test_a_plain_user_changes_their_own_units_and_no_others(web: Machine) -> None:
    refused = change(web, "stop", "web.service", "anna")["error"]
    assert refused.startswith("Denied: you may not change web.service") and state(web, "web") == "active"
    assert change(web, "enable", "web.service", "anna")["error"].startswith("Denied")
    done = change(web, "stop", "sync.service", "anna", "user")
    assert (
        done["text"] == "stopped sync.service\n"
        and done["reverse"][0]["shows"] == "systemctl --user start sync.service"
    )
    assert back(web, done, "anna")["text"].startswith("started sync.service")


def test_a_users_link_to_the_machines_socket_makes_nobody_an_administrator(web: Machine) -> None:
    """Connected with root's ids, it would: the folder belongs to the user."""
    private = f"/run/user/{web.uid('anna')}/systemd/private"
    web.ok("mv", private, f"{private}.away", user="anna")
    web.ok("ln", "-s", "/run/systemd/private", private, user="anna")
    try:
        stopped = change(web, "stop", "web.service", "anna", "user")
        assert "error" in stopped and state(web, "web") == "active"
    finally:
        web.ok("mv", "-T", f"{private}.away", private, user="anna")


# --- packages ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(machine: Machine) -> Machine:
    """An archive on the machine itself: `lamp` needs `bulb`."""
    build = """
set -e
mkdir -p /srv/shop; cd /srv/shop
for name in bulb lamp; do
    mkdir -p $name/DEBIAN $name/usr/share/$name; echo light >$name/usr/share/$name/file
    {
        printf 'Package: %s\nVersion: 1.0\nArchitecture: all\n' $name
        printf 'Maintainer: t <t@example.org>\nDescription: test\n'
    } >$name/DEBIAN/control
done
echo 'Depends: bulb' >>lamp/DEBIAN/control
for name in bulb lamp; do dpkg-deb --build $name . >/dev/null; done
for deb in *.deb; do
    dpkg-deb -f $deb; echo "Filename: ./$deb"; echo "Size: $(stat -c %s $deb)"
    echo "SHA256: $(sha256sum $deb | cut -d' ' -f1)"; echo
done >Packages
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/apt/apt.conf.d/*proxy*
echo 'deb [trusted=yes] file:/srv/shop ./' >/etc/apt/sources.list
apt-get -q update
"""
    machine.ok("bash", "-c", build)
    return machine


def package(machine: Machine, verb: str, *names: str, user: str = "") -> dict[str, Any]:
    done = machine.ask("CHANGERS", "package", {"verb": verb, "names": list(names)}, machine.uid(user))
    return {"error": done} if isinstance(done, str) else done


def test_packages_are_installed_and_exactly_these_are_taken_off_again(shop: Machine) -> None:
    done = package(shop, "install", "lamp")
    assert done.get("text") == "installed bulb 1.0\ninstalled lamp 1.0\n", done
    assert shop.path("/usr/share/lamp/file").read_text() == "light\n"
    (step,) = done["reverse"]
    assert step["shows"] == "apt-get remove bulb lamp"
    assert package(shop, "install", "lamp")["text"] == "lamp is installed already\n"
    gone = package(shop, "remove", *step["args"]["names"])
    assert (
        gone["text"] == "removed bulb 1.0\nremoved lamp 1.0\n" and not shop.path("/usr/share/lamp").exists()
    )
    assert shop.ok("systemctl", "list-units", "--all", "--plain", "--no-legend", "llmos-*") == ""


def test_what_others_need_is_not_removed(shop: Machine) -> None:
    package(shop, "install", "lamp")
    refused = package(shop, "remove", "bulb")["error"]
    assert "would go too: lamp" in refused and "Nothing was removed" in refused
    assert shop.path("/usr/share/bulb/file").exists()


def test_packages_are_roots_business_and_must_exist(shop: Machine) -> None:
    assert package(shop, "install", "lamp", user="nobody")["error"].startswith("Denied: only root")
    assert "Unable to locate package no-such-zz" in package(shop, "install", "no-such-zz")["error"]
    assert package(shop, "remove", "no-such-zz")["text"] == "no-such-zz is not installed\n"


def test_the_advisor_counts_the_errors_of_units_and_says_where_to_look(web: Machine) -> None:
    script = 'i=0; while [ $i -lt 40 ]; do echo \\"<3>no database\\"; i=$((i+1)); done; exec sleep 100'
    text = f'[Service]\nExecStart=/bin/sh -c "{script}"\n'
    web.path("/etc/systemd/system/noisy.service").write_text(text)
    web.ok("systemctl", "daemon-reload")
    web.ok("systemctl", "start", "noisy.service")
    web.ok("journalctl", "--sync")
    found = json.loads(look(web, "advise", about="services", json=True))["findings"]
    kinds = {(one["kind"], one["numbers"]["unit"]): one for one in found}
    noisy = kinds["errors", "noisy.service"]
    assert noisy["numbers"]["errors"] == 40 and "no database" in noisy["evidence"][1]
    assert noisy["suggestions"][0]["args"] == {"name": "noisy.service", "lines": 50, "priority": "err"}
    assert ("failed-unit", "broken.service") in kinds and ("errors", "web.service") not in kinds

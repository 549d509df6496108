"""Packages, accounts, network and times: the machine's own databases, real sockets on the loopback."""

from __future__ import annotations

import datetime
import os
import pwd
import re
import socket
import subprocess
import threading

import pytest

from llmos.errors import CallFailed, UsageError
from llmos.messages import Observe, Outcome, ToolCall
from llmos.toolbox import manager, moments, packages, schedules
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.context import Context

from .conftest import Call

# --- packages ------------------------------------------------------------------------------------


def test_an_installed_package_is_told_with_its_version(call: Call) -> None:
    version = subprocess.check_output(["dpkg-query", "-W", "-f=${Version}", "coreutils"], text=True)
    assert call("package.installed", name="coreutils").stdout.startswith(f"coreutils {version} is installed")
    assert call("package.installed", name="Coreutils").exit_code == 0  # as people write it


def test_what_is_not_installed_is_said_with_what_is_like_it(call: Call) -> None:
    assert call("package.installed", name="no-such-zz").stdout == "no-such-zz is not installed.\n"
    assert "dpkg" in call("package.installed", name="dpk").stdout.partition("Installed with that")[2]


def test_a_removed_package_that_left_its_configuration() -> None:
    told = "demo\tconfig-files\t1.2\tall\t10\tA demo\n"
    read = packages.read_installed(Outcome(exit_code=0, stdout=told), {"name": "demo"})
    assert read.stdout == "demo is not installed; its configuration (1.2) is still there.\n"


@pytest.mark.parametrize("path", ["ls", "/bin/ls", "/usr/bin/ls"])
def test_a_commands_package_is_found_by_either_of_its_names(call: Call, path: str) -> None:
    assert "coreutils" in call("package.provides", path=path).stdout.split()
    assert "pattern" not in call("package.provides", path=path).stderr


def test_what_no_package_holds(call: Call) -> None:
    assert call("package.provides", path="*").stdout.startswith("No installed package contains *")
    assert "apt-file search" in call("package.provides", path="/no/such/file").stdout


@pytest.mark.parametrize(
    ("tool", "name"),
    [("installed", "a b"), ("installed", "--root=/x"), ("installed", "*"), ("installed", "x" * 200)],
)
def test_what_is_no_package_name_is_refused(call: Call, tool: str, name: str) -> None:
    with pytest.raises(UsageError, match="not the name of a package"):
        call(f"package.{tool}", name=name)


def test_updates_are_read_from_apts_list() -> None:
    text = (
        "Listing...\n"
        "zip/stable-security 3.0-13+deb12u1 amd64 [upgradable from: 3.0-13]\n"
        "vim/stable,now 2:9.1 amd64 [upgradable from: 2:9.0]\n"
    )
    every = packages.read_updates(Outcome(exit_code=0, stdout=text), {"security": False}).stdout
    assert "2 updates available" in every and "2:9.0" in every and "security" in every
    only = packages.read_updates(Outcome(exit_code=0, stdout=text), {"security": True}).stdout
    assert "1 security update available" in only and "vim" not in only


# --- accounts ------------------------------------------------------------------------------------


def test_accounts_of_people_and_of_the_system(call: Call) -> None:
    people = call("user.list").stdout
    assert "root" in people and "nobody" not in people
    assert "nobody" in call("user.list", system=True).stdout


def test_one_account_by_name_or_number(call: Call) -> None:
    entry = pwd.getpwuid(os.getuid())
    told = call("user.info", name=entry.pw_name).stdout
    assert f"({entry.pw_uid})" in told and entry.pw_dir in told and "Groups" in told
    assert call("user.info", name=str(entry.pw_uid)).stdout.splitlines()[0] in told
    asked = (call("user.info").stdout, call("user.info", name="me").stdout, told)
    assert (
        len({re.sub(r"(Processes +)\d+", r"\1N", one) for one in asked}) == 1
    )  # others begin and end meanwhile
    for name in ("no such", "rooot", "99999999999999999999"):
        with pytest.raises(UsageError, match="there is no user") as error:
            call("user.info", name=name)
        assert error.value.next_step
    assert call("session.list").exit_code == 0


# --- network -------------------------------------------------------------------------------------


def test_interfaces_with_their_addresses(call: Call) -> None:
    assert "127.0.0.1/8" in call("net.interfaces").stdout
    assert len(call("net.interfaces", name="lo").stdout.splitlines()) == 2
    with pytest.raises(UsageError, match="no interface") as error:
        call("net.interfaces", name="eht0")
    assert "lo" in error.value.next_step


def test_a_connection_is_shown_from_both_ends(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "No established connection" in call("net.connections", port=port).stdout
        assert f"({os.getpid()})" in call("net.connections", port=port, state="listening").stdout
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            assert call("net.connections", port=port).stdout.count("established") == 2
            assert call("net.connections", port=port, state="all").stdout.count(str(port)) == 3


def test_names_of_this_machine_are_looked_up_without_asking(
    call: Call, tools: Catalog, here: Context
) -> None:
    assert "127.0.0.1" in call("net.dns", name="localhost").stdout
    for tool, argument in (("net.dns", "name"), ("net.ping", "host")):
        for host, network in (
            ("localhost", ()),
            ("127.0.0.9", ()),
            ("::1", ()),
            ("Example.ORG.", ("example.org",)),
        ):
            plan = tools.plan(ToolCall(tool=tool, args={argument: host}), here)
            assert plan.effects.network == network
    asked = tools.plan(ToolCall(tool="net.dns", args={"name": "localhost", "server": "192.0.2.1"}), here)
    assert asked.effects.network == ("192.0.2.1",)


@pytest.mark.parametrize("host", ["a b", "-x", "", "x" * 300, "a..b", "http://x/", "$(id)", "a\nb"])
def test_what_is_no_machine_is_refused(tools: Catalog, here: Context, host: str) -> None:
    for tool, argument in (("net.dns", "name"), ("net.ping", "host")):
        with pytest.raises(UsageError, match="no machine's name or address"):
            tools.plan(ToolCall(tool=tool, args={argument: host}), here)


def test_a_name_server_is_asked(call: Call) -> None:
    """A real one, which knows one name."""
    import dns.message
    import dns.rrset

    def answer(sock: socket.socket) -> None:
        while True:
            query, sender = sock.recvfrom(4096)
            if query == b"end":
                return
            asked = dns.message.from_wire(query)
            reply = dns.message.make_response(asked)
            if asked.question[0].rdtype == 1:
                reply.answer.append(dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", "192.0.2.7"))
            sock.sendto(reply.to_wire(), sender)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.53", 53))
        except PermissionError:
            pytest.skip("needs root. Run: sudo ./test.sh")
        thread = threading.Thread(target=answer, args=(sock,))
        thread.start()
        try:
            assert call("net.dns", name="web.test", server="127.0.0.53").stdout == "A  192.0.2.7\n"
        finally:
            sock.sendto(b"end", ("127.0.0.53", 53))
            thread.join()
    with pytest.raises(CallFailed, match="does not answer"):
        call("net.dns", name="web.test", server="127.0.0.54")


@pytest.mark.root
def test_ping_tells_what_came_back(call: Call) -> None:
    assert "2 of 2" in call("net.ping", host="127.0.0.1", count=2).stdout
    with pytest.raises(UsageError, match="at most 20"):
        call("net.ping", host="127.0.0.1", count=1000)


# --- units, without systemd ----------------------------------------------------------------------


def test_names_of_units(tools: Catalog, here: Context) -> None:
    for text, name in (("nginx", "nginx.service"), ("a.timer", "a.timer"), ("app@1", "app@1.service"),
                       (" ssh ", "ssh.service"), ("org.x.y", "org.x.y.service")):  # fmt: skip
        assert manager.unit_name(text) == name
    for text in ("", "a b", "-x", "../../etc", "x;reboot", "a\nb", "x" * 300):
        with pytest.raises(UsageError, match="not the name of a unit"):
            tools.plan(ToolCall(tool="service.status", args={"name": text}), here)


def test_the_caller_is_told_by_the_planner_and_by_nobody_else(tools: Catalog, here: Context) -> None:
    (step,) = tools.plan(ToolCall(tool="service.logs", args={"name": "x"}), here).steps
    assert isinstance(step, Observe) and step.args["uid"] == here.uid
    with pytest.raises(UsageError, match="no argument `uid`"):
        tools.plan(ToolCall(tool="service.logs", args={"name": "x", "uid": 0}), here)


@pytest.mark.skipif(manager.is_running(), reason="tests/booted has the tests for a machine with systemd")
def test_without_systemd_that_is_said(call: Call) -> None:
    with pytest.raises(CallFailed, match="not run by systemd"):
        call("service.status", name="nginx")
    with pytest.raises(CallFailed, match="not run by systemd"):
        call("service.failed")
    assert call("service.timers").exit_code == 0  # cron may have some


def test_nearest_units() -> None:
    known = ["nginx.service", "postgresql.service", "postgresql@.service", "postgres.timer", "ssh.service"]
    assert manager.nearest("postgres.service", known) == ["postgresql.service", "postgresql@.service"]
    assert manager.nearest("ngnix.service", known) == ["nginx.service"]
    assert manager.nearest("frobnicate.service", known) == []


@pytest.mark.parametrize(
    ("line", "user", "job"),
    [
        ("30 3 * * 0 root  backup --all", "", ("30 3 * * 0", "root", "backup --all")),
        ("@daily anna sync", "", ("@daily", "anna", "sync")),
        ("*/5 * * * * poll --quiet", "anna", ("*/5 * * * *", "anna", "poll --quiet")),
        ("@reboot start", "anna", ("@reboot", "anna", "start")),
        ("1 2 3", "", ("1 2 3", "?", "")),
    ],
)
def test_lines_of_a_cron_table(line: str, user: str, job: tuple[str, str, str]) -> None:
    assert schedules.job(line, "here", user)[:3] == job


# --- times ---------------------------------------------------------------------------------------

NOW = datetime.datetime(2026, 11, 26, 14, 30)


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("yesterday", "2026-11-25 00:00"),
        ("today", "2026-11-26 00:00"),
        ("昨天", "2026-11-25 00:00"),
        ("now", "2026-11-26 14:30"),
        ("1 hour ago", "2026-11-26 13:30"),
        ("2 Hours  ago", "2026-11-26 12:30"),
        ("-30min", "2026-11-26 14:00"),
        ("90m", "2026-11-26 13:00"),
        ("3 days ago", "2026-11-23 14:30"),
        ("1 month ago", "2026-10-27 14:30"),
        ("10:15", "2026-11-26 10:15"),
        ("23:00", "2026-11-25 23:00"),
        ("2026-11-20", "2026-11-20 00:00"),
        ("2026-11-20 08:05:30", "2026-11-20 08:05:30"),
        ("2026/11/20", "2026-11-20 00:00"),
    ],
)
def test_times_as_people_write_them(text: str, then: str) -> None:
    assert moments.moment(text, NOW) == datetime.datetime.fromisoformat(then)


@pytest.mark.parametrize(
    "text", ["", "soon", "25:00", "2026-13-01", "1 fortnight ago", "999999y", "yesterday; rm"]
)
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="a time such as"):
        moments.moment(text, NOW)


def test_a_wrong_time_names_its_argument(tools: Catalog, here: Context) -> None:
    with pytest.raises(UsageError, match="argument `since`: expected a time such as"):
        tools.plan(ToolCall(tool="service.logs", args={"since": "soon"}), here)

"""Three users of one daemon, one of them hostile: no effect of one on another, and all are served in time."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos.wire import MAX_FRAME_BYTES

from . import shared
from .shared import ANN, BOB, MALLORY, Shared
from .support import Client

pytestmark = [pytest.mark.root, pytest.mark.sandbox]
SCRIPT = {
    "slow": {"command": "true", "delay_s": 1.2},
    "ann's": {"command": "echo ann", "delay_s": 0.6},
    "bob's": {"command": "echo bob", "delay_s": 0.3},
    "*": {"command": "true"},
}
IN_TIME_S = 3.0  # on a machine that does other things as well; unprotected, it was more than twenty


@pytest.fixture(scope="module")
def machine(make_home: Callable[[], dict[str, str]]) -> Iterator[Shared]:
    limits = {"max_clients": 240, "max_clients_per_user": 100}
    with shared.running(make_home(), SCRIPT, {"server": limits}) as found:
        with found.client(ANN) as client:
            while client.result("status")["state"] != "ready":
                time.sleep(0.05)
        yield found


def run(machine: Shared, client: Client, uid: int, command: str, **more: Any) -> dict[str, Any]:
    more = {"cwd": machine.home(uid), "consent": "yes", **more}
    return client.result("call", tool="shell.run", args={"command": command}, **more)


def resident_mb(machine: Shared) -> float:
    pages = int(Path(f"/proc/{machine.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def slowest_s(machine: Shared, uid: int = ANN) -> float:
    """The longest that an honest user waits for a few cheap things, a new connection among them."""
    slowest = 0.0
    for _ in range(5):
        began = time.monotonic()
        with machine.client(uid) as client:
            assert client.hello is not None and "params" in client.hello, client.hello
            client.result("status")
            client.result("policy.check", command="ls -la", cwd=machine.home(uid))
        slowest = max(slowest, time.monotonic() - began)
    return slowest


@contextlib.contextmanager
def attack(machine: Shared, connections: int, work: Callable[[Client], None]) -> Iterator[list[Client]]:
    """Mallory does something over and over on many connections, until the end of the block."""
    over = threading.Event()

    def body(client: Client) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                work(client)

    def drain(client: Client) -> None:
        with contextlib.suppress(OSError):
            while client.sock.recv(1 << 20):
                pass

    clients = [machine.client(MALLORY, 5.0) for _ in range(connections)]
    threads = [threading.Thread(target=body, args=(one,), daemon=True) for one in clients]
    threads += [threading.Thread(target=drain, args=(one,), daemon=True) for one in clients]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    try:
        yield clients
    finally:
        over.set()
        for client in clients:
            client.close()
        for thread in threads:
            thread.join(10)


def frame(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


# --- what is somebody's is theirs alone -----------------------------------------------------------


def test_each_command_runs_as_its_caller_and_ids_do_not_collide(machine: Shared) -> None:
    """Requests of one name at the same time, by everybody."""
    clients = {uid: machine.client(uid) for uid in shared.USERS}
    numbers = {
        uid: client.send("call", tool="shell.run", args={"command": "sleep 0.3; id -u"}, id="same",
                         cwd=machine.home(uid), consent="yes")
        for uid, client in clients.items()
    }  # fmt: skip
    for uid, client in clients.items():
        told = client.reply(numbers[uid])["result"]["calls"][0]
        assert told["stdout"] == f"{uid}\n", told
        (entry,) = [one for one in client.result("history")["entries"] if one["id"] == "same"]
        assert entry["status"] == "done" and entry["cwd"] == machine.home(uid)
        client.close()


def test_nobody_sees_answers_cancels_or_undoes_what_is_somebody_elses(machine: Shared) -> None:
    with machine.client(ANN) as ann, machine.client(MALLORY) as mallory:
        mallory.result("subscribe")
        number = ann.send("call", tool="shell.run", args={"command": "echo ann-was-here > kept"}, id="anns",
                          cwd=machine.home(ANN), consent="interactive")  # fmt: skip
        ann.until("approval")
        assert mallory.result("status")["requests"] == []
        tries = (("approve", {"decision": "yes"}), ("approve", {"decision": "no"}), ("cancel", {}))
        for method, params in tries:
            assert "no request anns" in mallory.error(method, id="anns", **params)["message"]
        ann.result("approve", id="anns", decision="yes")
        undo_id = ann.reply(number)["result"]["calls"][0]["undo_id"]
        assert "nothing is kept" in mallory.error("undo", undo_id=undo_id, consent="yes")["message"]
        assert "could be undone" in mallory.error("undo", consent="yes")["message"]
        assert "ann-was-here" not in json.dumps(mallory.result("history", limit=1000))
        with pytest.raises(TimeoutError):  # no event of hers came
            mallory.sock.settimeout(0.2)
            mallory.receive()
        assert Path(machine.home(ANN), "kept").read_text() == "ann-was-here\n"


def test_what_waits_in_an_inbox_is_its_owners(machine: Shared) -> None:
    with machine.client(ANN) as ann, machine.client(MALLORY) as mallory:
        call = {"tool": "shell.run", "args": {"command": "touch waited"}}
        asked = ann.result("inbox.ask", cwd=machine.home(ANN), **call)
        item = asked["item"]["id"]
        assert mallory.result("inbox.list")["waiting"] == []
        tries = (("inbox.approve", {"item": item, "consent": "yes"}), ("inbox.reject", {"id": item}))
        for method, params in tries:
            assert "nothing called" in mallory.error(method, **params)["message"]
        assert [one["id"] for one in ann.result("inbox.list")["waiting"]] == [item]
        ann.result("inbox.reject", id=item)


def test_links_in_a_common_folder_lead_nowhere_their_maker_wants(machine: Shared) -> None:
    """Mallory's link stands where bob writes, and bob's folder is swapped for a link before he undoes."""
    secret = Path(machine.home(BOB), "precious")
    secret.write_text("bob's\n")
    os.chown(secret, BOB, BOB)
    work = machine.common / "work"
    with shared.as_user(MALLORY):
        work.mkdir()
        work.chmod(0o777)
        (work / "out").symlink_to(secret)
    with machine.client(BOB) as bob, machine.client(MALLORY) as mallory:
        told = run(machine, bob, BOB, "echo x > out", cwd=str(work))
        assert told["status"] == "denied" and secret.read_text() == "bob's\n", told
        made = run(machine, bob, BOB, "mkdir -p sub; echo one > sub/file", cwd=str(work))
        assert made["status"] == "done", made
        with shared.as_user(MALLORY):
            (work / "sub").rename(work / "aside")  # the folder above is hers
            (work / "sub").symlink_to(machine.home(BOB))
        Path(machine.home(BOB), "file").write_text("another\n")
        undone = bob.result("undo", undo_id=made["calls"][0]["undo_id"], consent="yes")
        assert undone["status"] == "failed" and "changed since" in undone["answer"], undone
        assert Path(machine.home(BOB), "file").read_text() == "another\n"
        stolen = run(machine, mallory, MALLORY, f"cat {secret}")
        assert stolen["status"] in ("denied", "failed") and "bob's" not in json.dumps(stolen)


def test_the_model_goes_round_among_users(machine: Shared) -> None:
    with machine.client(MALLORY) as mallory, machine.client(ANN) as ann:
        for number in range(17):
            mallory.send("translate", text="slow", cwd="/", id=f"m{number}")
        told: dict[str, Any] = {}
        while "error" not in told:
            told = mallory.receive() or {}
        assert told["error"]["data"]["kind"] == "Overloaded" and told["error"]["code"] == -32007
        began = time.monotonic()
        assert ann.result("translate", text="quick", cwd="/", id="m3")["command"] == "true"
        assert time.monotonic() - began < 3.0  # all of mallory's, three at a time, would take 6.4


def test_who_names_a_request_as_somebody_else_has_gets_an_answer_of_their_own(machine: Shared) -> None:
    with machine.client(BOB) as bob, machine.client(ANN) as ann:
        first = ann.send("translate", text="ann's", cwd="/", id="same")
        second = bob.send("translate", text="bob's", cwd="/", id="same")
        assert bob.reply(second)["result"]["command"] == "echo bob"
        assert ann.reply(first)["result"]["command"] == "echo ann"


# --- floods ---------------------------------------------------------------------------------------


def test_a_flood_of_requests_holds_up_whoever_sends_it(machine: Shared) -> None:
    status = frame("status") * 300
    check = frame("policy.check", command="find / -name '*.x' | sort", cwd=machine.home(MALLORY)) * 32

    def work(client: Client) -> None:
        client.raw(status)
        client.raw(check)

    with attack(machine, 40, work):
        assert slowest_s(machine) < IN_TIME_S
        assert slowest_s(machine, BOB) < IN_TIME_S


def test_a_flood_of_connections_leaves_room_for_others(machine: Shared) -> None:
    held, refused = [], 0
    try:
        for uid in (MALLORY, 41_666):
            for _ in range(130):
                held.append(machine.client(uid))
                hello = held[-1].hello
                if hello is not None and "error" in hello:
                    refused += 1
                    assert hello["error"]["data"]["kind"] == "Overloaded"
        assert refused > 60
        assert slowest_s(machine) < IN_TIME_S
    finally:
        for client in held:
            client.close()


def test_half_frames_and_oversized_ones_are_bounded_in_sum(machine: Shared) -> None:
    """Never finished, too long, or holding so many values that reading them would fill the memory."""
    held = [machine.client(MALLORY, 5.0) for _ in range(22)]
    half = b'{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":"' + b"x" * (3 << 20)
    cut_off = 0
    for client in held:
        with contextlib.suppress(OSError):
            client.raw(half)
    for client in held:
        client.sock.settimeout(0.05)
        with contextlib.suppress(TimeoutError, OSError):
            reply = client.receive()
            cut_off += reply is not None and "unanswered frames" in json.dumps(reply)
    assert cut_off >= 4, cut_off
    for client in held:
        client.close()
    many = b'{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":[' + b"{}," * (1 << 20) + b"1]}}\n"
    with attack(machine, 4, lambda client: client.raw(many)):
        assert slowest_s(machine) < IN_TIME_S
    with machine.client(MALLORY) as client:
        client.raw(many)
        assert "over 100000 values" in json.dumps(client.receive())
        long = "echo " + "a," * 200_000  # one value, whatever is in it
        client.raw(frame("policy.check", command=long, cwd="/"))
        assert "result" in (client.receive() or {})
        with contextlib.suppress(OSError):
            client.raw(b"x" * (MAX_FRAME_BYTES + 2))
    assert slowest_s(machine) < IN_TIME_S


def test_who_does_not_read_is_cut_off_before_it_costs_memory(machine: Shared) -> None:
    before = resident_mb(machine)
    deaf = [machine.client(MALLORY, 0.5) for _ in range(24)]
    for _ in range(40):
        for client in deaf:
            with contextlib.suppress(OSError):
                client.raw(frame("tools") * 8)
    assert slowest_s(machine) < IN_TIME_S
    assert resident_mb(machine) < before + 160  # in 24 replies each of 32 MiB there would be 800
    for client in deaf:
        client.close()


def test_after_all_that_everybody_is_served_and_nothing_was_a_bug(machine: Shared) -> None:
    for uid in shared.USERS:
        with machine.client(uid) as client:
            told = run(machine, client, uid, "id -u")
            assert told["calls"][0]["stdout"] == f"{uid}\n"
    assert "a bug" not in machine.log_text(), machine.log_text()[-3000:]
    assert resident_mb(machine) < 160

"""Docker's tools on a real engine, through a real daemon: each by what it does there."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmos.console import names
from llmos.toolbox import groups
from tests import dockerd

from .docker import NAP, Bench, MakeHome, bench

pytestmark = [pytest.mark.root, pytest.mark.sandbox]
IMAGE = dockerd.IMAGE
MAKER = {"image": IMAGE, "name": "maker", "command": NAP, "volumes": ["made:/data"]}
SCRIPT = {
    "a volume and its user": {
        "calls": [
            {"tool": "docker.volume.create", "args": {"name": "made"}},
            {"tool": "docker.container.run", "args": MAKER},
            {"tool": "docker.container.exec", "args": {"name": "maker", "command": "touch /data/x"}},
        ]
    },
    "*": {"calls": []},
}


@pytest.fixture(scope="module")
def at(
    docker_engine: dockerd.Engine, make_home: MakeHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    with bench(docker_engine, make_home(), tmp_path_factory.mktemp("work"), SCRIPT) as found:
        yield found


@pytest.fixture(autouse=True)
def clean(at: Bench) -> Iterator[None]:
    yield
    for found in at.engine.containers(all=True):
        at.engine.remove_container(found["Id"], force=True, v=True)


# --- containers --------------------------------------------------------------------------------------


def test_a_container_is_run_looked_at_and_taken_away_by_undo_and_made_again(at: Bench) -> None:
    made = at.nap("web", memory="64M", env=["MODE=test"])
    config = at.engine.inspect_container("web")
    assert config["State"]["Running"] and config["HostConfig"]["Memory"] == 64 << 20
    assert "MODE=test" in config["Config"]["Env"] and not config["HostConfig"]["Privileged"]
    assert "web" in at.done("container.list")["stdout"]
    assert names.listed(at.call("container.list", all=True)) == ["web"]  # what the shell offers on Tab
    told = at.done("container.inspect", name="web")
    assert '"MODE=(set; values are not shown)"' in told["stdout"] and told["verdict"] == "allow"
    at.undo(made["undo_id"])
    assert not at.exists("web")
    at.undo(made["undo_id"])
    assert at.state("web")["Running"]


def test_stop_and_start_are_each_others_undo(at: Bench) -> None:
    at.nap("web")
    stopped = at.done("container.stop", name="web")
    assert not at.state("web")["Running"] and stopped["stdout"] == "web is stopped.\n"
    assert at.done("container.stop", name="web")["undo_id"] is None  # nothing was changed
    at.undo(stopped["undo_id"])
    assert at.state("web")["Running"]
    assert at.done("container.restart", name="web")["undo_id"] is None
    at.done("container.run", image=IMAGE, name="deaf", command="sleep 300")
    assert "was killed" in at.done("container.stop", name="deaf", timeout="0s")["stdout"]


def test_a_command_in_a_container_gives_its_output_and_its_exit_code(at: Bench) -> None:
    at.nap("web")
    assert at.done("container.exec", name="web", command="echo 'a  b'")["stdout"] == "a  b\n"
    assert at.done("container.exec", name="web", command="echo a | tr a b")["stdout"] == "b\n"
    failed = at.call("container.exec", name="web", command="cat /nothing")
    assert failed["status"] == "failed" and failed["calls"][0]["exit_code"] == 1
    assert "/nothing" in failed["calls"][0]["stdout"]
    at.engine.stop("web", timeout=0)
    assert "web does not run" in at.error("container.exec", name="web", command="id")


def test_limits_are_read_back_and_undo_sets_those_of_before(at: Bench) -> None:
    at.nap("web", memory="64M")
    changed = at.done("container.update", name="web", memory="80M", cpus=0.5)
    assert "memory 80.0M, CPUs 0.5" in changed["stdout"] and changed["effects"]["resources"] == [
        "container:web"
    ]
    host = at.engine.inspect_container("web")["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (80 << 20, 500_000_000)
    at.undo(changed["undo_id"])
    assert at.engine.inspect_container("web")["HostConfig"]["Memory"] == 64 << 20
    assert "6M or more" in at.error("container.update", name="web", memory="1M")
    assert "on this machine" in at.error("container.update", name="web", cpus=4000)
    assert "`memory` or `cpus`" in at.error("container.update", name="web")


def test_a_container_is_a_target_of_the_tools_for_resources_by_its_name(at: Bench) -> None:
    at.nap("web")
    pid = at.state("web")["Pid"]
    asked = {"cpu": 50, "memory": "64M", "pids": 20, "cpu_weight": 30, "cpus": "0", "io": "1M"}
    limited = at.one("resource.limit", target="container:web", **asked)
    host = at.engine.inspect_container("web")["HostConfig"]
    held = {"Memory": 64 << 20, "NanoCpus": 500_000_000, "PidsLimit": 20, "CpuShares": 307, "CpusetCpus": "0"}
    assert held.items() <= host.items() and limited["effects"]["resources"] == ["container:web"]
    assert "By the Docker Engine, read back" in limited["stdout"] and "1.0M a second" in limited["stdout"]
    assert "of 64.0M" in at.one("resource.status", target="web", kind="container")["stdout"]
    inner = [folder for folder in groups.ours() if f".{pid}." in folder.name]
    assert inner and all(pid in groups.pids_in(folder) for folder in inner)
    at.undo(limited["undo_id"])
    every = (os.cpu_count() or 1) * 10**9
    host = at.engine.inspect_container("web")["HostConfig"]
    assert host["NanoCpus"] == every and not host["PidsLimit"]
    assert not any(folder.exists() for folder in inner)
    at.one("resource.limit", target="web", cpu=50)
    freed = at.one("resource.release", target="web")
    assert at.engine.inspect_container("web")["HostConfig"]["NanoCpus"] == every, freed
    at.one("resource.priority", target="container:web", nice=7)
    assert os.getpriority(os.PRIO_PROCESS, pid) == 7


def test_a_container_that_does_not_run_is_limited_by_the_engine_alone(at: Bench) -> None:
    at.nap("web")
    at.engine.stop("web", timeout=0)
    at.one("resource.limit", target="container:web", cpu=60)
    args = {"target": "container:web", "cpu": 70, "io": "1M"}
    refused = at.client.error("call", tool="resource.limit", args=args, cwd="/", consent="yes")
    assert "does not run" in refused["message"]
    assert at.engine.inspect_container("web")["HostConfig"]["NanoCpus"] == 600_000_000
    args = {"target": "container:wev", "cpu": 5}
    error = at.client.error("call", tool="resource.limit", args=args, cwd="/")
    assert "Did you mean web?" in error["data"]["next_step"], error


def test_the_advisor_names_containers_in_trouble_and_what_would_mend_them(at: Bench) -> None:
    body = {
        "Image": IMAGE,
        "Cmd": ["sh", "-c", "exit 3"],
        "HostConfig": {"RestartPolicy": {"Name": "always"}},
    }
    at.engine.start(at.engine.create_container_from_config(body, "crash")["Id"])
    probe = {"Test": ["CMD-SHELL", "echo db is away; false"], "Interval": 10**9, "Retries": 1}
    body = {"Image": IMAGE, "Cmd": ["sleep", "60"], "Healthcheck": probe}
    at.engine.start(at.engine.create_container_from_config(body, "sick")["Id"])
    eats = "sh -c 'dd if=/dev/zero of=/dev/null bs=100M count=1; sleep 60'"
    at.done("container.run", image=IMAGE, name="hungry", command=eats, memory="20M")
    deadline = time.monotonic() + 20
    while at.state("sick")["Health"]["Status"] != "unhealthy" or not _restarts(at, "crash"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    found = json.loads(at.one("advise", json=True)["stdout"])["findings"]
    by_kind = {one["kind"]: one for one in found if one["kind"].startswith(("container", "oom"))}
    assert "db is away" in by_kind["container-unhealthy"]["evidence"][0]
    assert by_kind["container-restarting"]["suggestions"][1] == {
        "tool": "docker.container.stop", "args": {"name": "crash"}, "why": "let it rest for now",
    }  # fmt: skip
    killed = next(one for one in found if one["kind"] == "oom-kill" and "hungry" in one["what"])
    call = killed["suggestions"][0]
    assert call["tool"] == "resource.limit" and call["args"]["memory"] == "30M"
    at.one(call["tool"], **call["args"])
    assert at.engine.inspect_container("hungry")["HostConfig"]["Memory"] == 30 << 20


def _restarts(at: Bench, name: str) -> bool:
    return int(at.engine.inspect_container(name)["RestartCount"]) >= 3


def test_a_removed_container_comes_back_where_nothing_of_it_is_lost(at: Bench) -> None:
    at.nap("web", memory="64M")
    assert "web runs" in at.error("container.remove", name="web")
    gone = at.done("container.remove", name="web", force=True)
    assert not at.exists("web")
    at.undo(gone["undo_id"])
    assert (
        at.state("web")["Running"] and at.engine.inspect_container("web")["HostConfig"]["Memory"] == 64 << 20
    )
    at.done("container.exec", name="web", command="touch /mine")
    written = at.done("container.remove", name="web", force=True)
    assert written["undo_id"] is None and "cannot be had again" in written["stdout"]


def test_a_fresh_container_that_is_waited_for_shows_its_output_and_goes(at: Bench) -> None:
    told = at.done("container.run", image=IMAGE, command="echo hello", detach=False)
    assert told["stdout"] == "hello\n" and not at.engine.containers(all=True)
    failed = at.call("container.run", image=IMAGE, command="sh -c 'echo bad; false'", detach=False)
    assert failed["status"] == "failed" and failed["calls"][0]["stdout"] == "bad\n"


def test_what_fails_to_start_leaves_nothing(at: Bench) -> None:
    assert "not found" in at.error("container.run", image=IMAGE, name="bad", command="nothing-like-it")
    told = at.error("container.run", image=IMAGE, name="bad", command="sh -c 'echo oops; false'")
    assert "ended at once with exit code 1: oops" in told
    at.error("container.run", image=IMAGE, name="bad", volumes=["newvol:/data"], command="nothing-like-it")
    assert not at.exists("bad") and not at.engine.volumes()["Volumes"]


def test_names_that_are_taken_missing_or_wrong_are_said_before_anybody_is_asked(at: Bench) -> None:
    at.nap("web")
    assert "there is a container web already" in at.error("container.run", image=IMAGE, name="web")
    assert "Did you mean web?" in at.error("container.stop", name="wbe")
    assert "no name Docker knows" in at.error("container.stop", name="../images")
    assert "no image name" in at.error("image.pull", name="../../etc/x")
    assert "there is no image" in at.error("image.remove", name="nothing:1")
    assert "there is no volume" in at.error("volume.remove", name="nothing")
    assert "write it 8080:80" in at.error("container.run", image=IMAGE, ports=["80:http"])
    assert "NAME=value" in at.error("container.run", image=IMAGE, env=["HOME"])
    assert "there is nothing at" in at.error("container.run", image=IMAGE, volumes=["./none:/x"])


def test_output_is_read_by_lines_and_waiting_tells_the_exit_code(at: Bench) -> None:
    at.done("container.run", image=IMAGE, name="job", command="sh -c 'seq 5; sleep 0.6; exit 7'")
    assert at.done("container.logs", name="job", lines=2)["stdout"] == "4\n5\n"
    assert "exit code 7" in at.done("container.wait", name="job")["stdout"]
    assert "has printed nothing" in at.done("container.logs", name="job", since="0.001s")["stdout"]


def test_use_is_measured(at: Bench) -> None:
    at.done("container.run", image=IMAGE, name="busy", command="sh -c 'while :; do :; done'", memory="32M")
    rows = [line.split() for line in at.done("container.stats")["stdout"].splitlines()]
    (row,) = [row for row in rows if row[0] == "busy"]
    assert float(row[1]) > 5 and row[3] == "32.0M"


# --- images, volumes, networks -------------------------------------------------------------------------


def test_an_image_is_built_from_the_folder_less_what_is_left_out(at: Bench) -> None:
    (at.work / "app").mkdir(exist_ok=True)
    (at.work / "app/Dockerfile").write_text(f"FROM {IMAGE}\nCOPY . /app\n")
    (at.work / "app/page").write_text("hello")
    (at.work / "app/.env").write_text("PASSWORD=canary")
    assert at.denied("image.build", path="app", tag="app:1") == "machine.secrets"
    (at.work / "app/.dockerignore").write_text(".env\n")
    built = at.done("image.build", path="app", tag="app:1")
    told = at.done("container.run", image="app:1", command="ls -a /app", detach=False)
    assert "page" in told["stdout"] and ".env\n" not in told["stdout"]
    at.undo(built["undo_id"])
    assert "app:1" not in at.done("image.list")["stdout"]
    (at.work / "app/Dockerfile").write_text(f"FROM {IMAGE}\nRUN false\n")
    assert "the build failed" in at.error("image.build", path="app")


def test_tags_are_given_and_taken_and_a_prune_names_what_it_removes(at: Bench) -> None:
    tagged = at.done("image.tag", image=IMAGE, name="other:1")
    removed = at.done("image.remove", name="other:1")
    at.undo(removed["undo_id"])
    assert "other" in at.done("image.list", name="other")["stdout"]
    at.undo(tagged["undo_id"])
    assert "No image" in at.done("image.list", name="other")["stdout"]
    at.engine.import_image_from_data(b"\0" * 10240)  # one without a name
    preview = at.done("image.prune", preview=True)
    assert preview["verdict"] == "allow" and IMAGE not in preview["stdout"]
    assert "1 images are removed" in at.done("image.prune")["stdout"]
    assert at.done("image.prune")["verdict"] == "allow"  # there is nothing to ask about
    assert at.engine.images(IMAGE)


def test_a_volume_is_made_saved_and_removed(at: Bench) -> None:
    made = at.done("volume.create", name="data")
    at.done(
        "container.run", image=IMAGE, command="sh -c 'echo x > /data/f'", volumes=["data:/data"], detach=False
    )
    saved = at.done("volume.backup", name="data", archive="data.tar.gz")
    with tarfile.open(at.work / "data.tar.gz") as tar:
        assert tar.extractfile("./f").read() == b"x\n"  # type: ignore[union-attr]
    assert not at.engine.containers(all=True)
    assert "is there already" in at.error("volume.backup", name="data", archive="data.tar.gz")
    at.undo(saved["undo_id"])
    assert not (at.work / "data.tar.gz").exists()
    assert at.denied("volume.backup", name="data", archive="/etc/data.tar.gz") == "machine.roots"
    assert "does not say how to pack" in at.error("volume.backup", name="data", archive="data.rar")
    at.nap("user", volumes=["data:/data"])
    assert "user" in at.done("volume.list")["stdout"]
    assert "used by user" in at.error("volume.remove", name="data")
    at.engine.remove_container("user", force=True)
    at.undo(made["undo_id"])
    assert not at.engine.volumes()["Volumes"]


def test_a_saved_volume_is_had_again_in_an_empty_one_and_hostile_archives_fill_none(at: Bench) -> None:
    fill = "sh -c 'echo x > /data/f; ln -s f /data/l'"
    at.done("container.run", image=IMAGE, command=fill, volumes=["old:/data"], detach=False)
    at.done("volume.backup", name="old", archive="old.tgz")
    assert "is not empty" in at.error("volume.restore", name="old", archive="old.tgz")
    made = at.done("volume.restore", name="new", archive="old.tgz")
    read = {"image": IMAGE, "command": "cat /data/l", "volumes": ["new:/data"], "detach": False}
    assert at.done("container.run", **read)["stdout"] == "x\n"
    at.undo(made["undo_id"])
    assert [one["Name"] for one in at.engine.volumes()["Volumes"]] == ["old"]
    with tarfile.open(at.work / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))
    (at.work / "junk.tar.gz").write_bytes(b"no archive")
    for archive in ("evil.tar", "junk.tar.gz"):
        assert at.call("volume.restore", name="new", archive=archive)["status"] == "failed"
    assert "no file" in at.error("volume.restore", name="new", archive="none.tar")
    at.engine.create_volume("etc", "local", {"type": "none", "device": "/etc", "o": "bind"})
    assert at.denied("volume.restore", name="etc", archive="old.tgz") == "containers.places"
    at.engine.remove_volume("etc")
    assert [one["Name"] for one in at.engine.volumes()["Volumes"]] == ["old"]


def test_volumes_nobody_uses_are_shown_and_these_alone_are_removed(at: Bench) -> None:
    for volume in at.engine.volumes()["Volumes"] or ():
        at.engine.remove_volume(volume["Name"])
    nameless = at.engine.create_volume()["Name"]
    at.done("volume.create", name="named")
    at.nap("web", volumes=["used:/data"])
    assert "named" not in at.done("volume.prune", preview=True)["stdout"]
    assert nameless in at.done("volume.prune", preview=True)["stdout"]
    gone = at.done("volume.prune")
    assert gone["effects"]["containers"] == [f"volume:{nameless}"] and "1 volumes" in gone["stdout"]
    at.done("volume.prune", all=True)
    assert [one["Name"] for one in at.engine.volumes()["Volumes"]] == ["used"]


def test_networks_are_made_left_and_removed_and_each_comes_back(at: Bench) -> None:
    at.done("network.create", name="vault", internal=True)
    assert at.engine.inspect_network("vault")["Internal"]
    at.nap("web", network="vault")
    assert "web is connected" in at.error("network.remove", name="vault")
    out = at.done("network.disconnect", container="web", network="vault")
    assert not at.engine.inspect_container("web")["NetworkSettings"]["Networks"]
    at.undo(out["undo_id"])
    assert "vault" in at.engine.inspect_container("web")["NetworkSettings"]["Networks"]
    at.engine.remove_container("web", force=True)
    gone = at.done("network.remove", name="vault")
    at.undo(gone["undo_id"])
    assert at.engine.inspect_network("vault")["Internal"]
    at.done("network.remove", name="vault")
    made = at.done("network.create", name="vault")
    at.undo(made["undo_id"])
    assert not at.engine.networks(names=["vault"])
    assert "stays" in at.error("network.remove", name="host")
    assert "of its own" in at.error("network.create", name="bridge")
    at.nap("lone")
    assert "host network" in at.error("network.connect", container="lone", network="host")


def test_a_container_joins_a_network_and_undo_takes_it_out(at: Bench) -> None:
    for name in ("outer", "inner"):
        at.engine.create_network(name, driver="bridge", internal=True)
    at.nap("web", network="outer")
    try:
        joined = at.done("network.connect", container="web", network="inner")
        assert "inner" in at.engine.inspect_container("web")["NetworkSettings"]["Networks"]
        assert "inner" in at.done("network.list")["stdout"]
        at.undo(joined["undo_id"])
        assert "inner" not in at.engine.inspect_container("web")["NetworkSettings"]["Networks"]
    finally:
        at.engine.remove_container("web", force=True)
        at.engine.remove_network("inner")
        at.engine.remove_network("outer")
    assert "Images" in at.done("disk")["stdout"]


# --- what opens a container's walls ----------------------------------------------------------------------

WALLS = [
    ({"privileged": True}, "containers.privileged"),
    ({"pid": "host"}, "containers.namespaces"),
    ({"ipc": "host"}, "containers.namespaces"),
    ({"userns": "host"}, "containers.namespaces"),
    ({"cap_add": ["SYS_ADMIN"]}, "containers.capabilities"),
    ({"cap_add": ["cap_sys_ptrace"]}, "containers.capabilities"),
    ({"cap_add": ["ALL"]}, "containers.capabilities"),
    ({"security_opt": ["seccomp=unconfined"]}, "containers.walls"),
    ({"security_opt": ["apparmor:unconfined"]}, "containers.walls"),
    ({"devices": ["/dev/mem"]}, "containers.devices"),
    ({"volumes": ["/:/host:ro"]}, "containers.places"),
    ({"volumes": ["/etc:/host:ro"]}, "containers.places"),
    ({"volumes": ["/proc:/host:ro"]}, "containers.places"),
    ({"volumes": ["/:/host"]}, "machine.roots"),
    ({"volumes": ["/srv:/host"]}, "machine.roots"),
    ({"volumes": ["/etc/shadow:/host:ro"]}, "machine.secrets"),
]


@pytest.mark.parametrize(("args", "rule"), WALLS, ids=[str(args) for args, _ in WALLS])
def test_what_leads_out_of_a_container_is_denied_whoever_approves(
    at: Bench, args: dict[str, object], rule: str
) -> None:
    assert at.denied("container.run", image=IMAGE, command="true", **args) == rule
    assert not at.engine.containers(all=True)


def test_the_engines_socket_is_given_to_no_container_by_any_name(at: Bench, tmp_path: Path) -> None:
    socket = at.host.removeprefix("unix://")
    link = at.work / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(socket)
    for source in (socket, "./link"):
        assert (
            at.denied("container.run", image=IMAGE, command="true", volumes=[f"{source}:/s:ro"])
            == "containers.places"
        )
    at.engine.create_volume("sly", driver_opts={"type": "none", "o": "bind", "device": "/"})
    try:
        args = {"image": IMAGE, "command": "true", "volumes": ["sly:/host"]}
        assert at.denied("container.run", **args) == "containers.places"
        assert at.denied("volume.backup", name="sly", archive="all.tar") == "containers.places"
    finally:
        at.engine.remove_volume("sly")


def test_what_is_weaker_but_no_way_out_is_asked_each_time_and_not_done_unattended(at: Bench) -> None:
    args = {"image": IMAGE, "command": "true", "network": "host"}
    assert at.call("container.run", consent="none", **args)["status"] == "needs_approval"
    assert at.done("container.run", **args)["effects"]["settings"] == ["network=host"]
    inside = at.done("container.run", image=IMAGE, volumes=[".:/here:ro"], command="ls /here", detach=False)
    assert inside["effects"]["settings"] == [f"mount-ro:{at.work}"]


def test_nothing_is_run_inside_a_container_that_sees_the_machines_keys(at: Bench) -> None:
    host = at.engine.create_host_config(binds=["/etc:/host:ro"])
    made = at.engine.create_container(IMAGE, ["sleep", "300"], name="mighty", host_config=host)["Id"]
    at.engine.start(made)
    assert at.denied("container.exec", name="mighty", command="cat /host/shadow") == "containers.places"
    at.done("container.stop", name="mighty", timeout="0s")  # its owner's own; stopping it opens nothing
    removed = at.done("container.remove", name="mighty")
    assert removed["undo_id"] is None  # undo would open /etc once more


# --- several steps -----------------------------------------------------------------------------------------


def then(tool: str, **args: object) -> dict[str, object]:
    return {"tool": f"docker.{tool}", "args": args}


def test_a_container_is_stopped_its_volume_saved_and_started_again_and_taken_back_as_one(at: Bench) -> None:
    at.nap("web", volumes=["data:/data"])
    at.done("container.exec", name="web", command="touch /data/f")
    steps = [
        then("volume.backup", name="data", archive="web.tar"),
        then("container.start", name="web"),
        then("container.update", name="web", memory="80M"),
    ]
    args = {"tool": "docker.container.stop", "args": {"name": "web", "timeout": "0s"}, "then": steps}
    planned = at.client.result("call", **args, cwd=str(at.work), mode="plan")
    assert [one["tool"] for one in planned["calls"]] == [args["tool"], *(one["tool"] for one in steps)]
    assert planned["status"] == "needs_approval" and at.state("web")["Running"]
    before = at.state("web")["StartedAt"]
    result = at.client.result("call", **args, cwd=str(at.work), consent="yes")
    assert result["status"] == "done" and all(one["undo_id"] for one in result["calls"]), result
    assert at.state("web")["Running"] and at.state("web")["StartedAt"] != before
    with tarfile.open(at.work / "web.tar") as tar:
        assert "./f" in tar.getnames()
    undone = at.undo(result["id"])
    assert len(undone["calls"]) == 4 and at.state("web")["Running"] and not (at.work / "web.tar").exists()
    assert at.engine.inspect_container("web")["HostConfig"]["Memory"] != 80 << 20


def test_the_first_failure_ends_a_plan_and_says_what_was_done_and_what_was_not(at: Bench) -> None:
    at.nap("web", volumes=["data:/data"])
    (at.work / "taken.tar").write_text("mine")
    steps = [then("volume.backup", name="data", archive="taken.tar"), then("container.start", name="web")]
    args = {"tool": "docker.container.stop", "args": {"name": "web", "timeout": "0s"}, "then": steps}
    result = at.client.result("call", **args, cwd=str(at.work), consent="yes")
    assert result["status"] == "failed" and [one["exit_code"] for one in result["calls"]] == [0, 5, None]
    assert "taken.tar is there already" in result["answer"] and "Done: 1 (docker stop" in result["answer"]
    assert (
        f"Not done: 3 (docker start web). To take back what was done: llmos undo {result['id']}"
        in (result["answer"])
    )
    assert not at.state("web")["Running"] and (at.work / "taken.tar").read_text() == "mine"
    at.undo(result["id"])
    assert at.state("web")["Running"]
    # One denied step, and nothing of the plan is done.
    args["then"] = [then("container.run", image=IMAGE, privileged=True)]
    assert at.client.result("call", **args, cwd=str(at.work), consent="yes")["status"] == "denied"
    assert at.state("web")["Running"]


def test_files_and_containers_of_one_plan_are_taken_back_together(at: Bench) -> None:
    (at.work / "web.conf").write_text("old\n")
    steps = [
        then("container.run", image=IMAGE, name="web", command=NAP),
        {"tool": "file.copy", "args": {"path": "web.conf", "to": "web.bak"}},
        then("container.exec", name="web", command="cat /nothing"),
        {"tool": "file.delete", "args": {"path": "web.bak"}},
    ]
    write = {"path": "web.conf", "content": "new\n", "mode": "overwrite"}
    result = at.client.result(
        "call", tool="file.write", args=write, then=steps, cwd=str(at.work), consent="yes"
    )
    assert [one["exit_code"] for one in result["calls"]] == [0, 0, 0, 1, None], result
    assert "Not done: 5" in result["answer"] and at.state("web")["Running"]
    assert (at.work / "web.conf").read_text() == "new\n" and (at.work / "web.bak").exists()
    at.undo(result["id"])
    assert not at.exists("web") and (at.work / "web.conf").read_text() == "old\n"
    assert not (at.work / "web.bak").exists()


def test_the_model_may_say_several_steps_of_which_one_makes_what_the_next_needs(at: Bench) -> None:
    result = at.client.result("ask", text="a volume and its user", cwd=str(at.work), consent="yes")
    assert result["status"] == "done" and len(result["calls"]) == 3, result
    assert at.state("maker")["Running"]
    at.undo(result["id"])
    assert not at.exists("maker") and not at.engine.volumes(filters={"name": "made"})["Volumes"]


# --- who may, and no engine --------------------------------------------------------------------------------

AS_ANOTHER = """
import os, sys
sys.path.insert(0, sys.argv[3])
from llmos.errors import LlmosError
from llmos.guard.spawn import _as_wanted
from llmos.messages import Caller
from llmos.toolbox.containers import tables
look = tables.OBSERVERS["docker.container.list"]
caller = Caller(uid=int(sys.argv[2]), gid=65534)
try:
    print(_as_wanted(caller, look, {"engine": sys.argv[1]}))
except LlmosError as error:
    print(type(error).__name__, error, error.next_step)
"""


def test_a_command_that_cannot_reach_the_engine_is_pointed_to_the_tools_that_can(at: Bench) -> None:
    args = {"command": "docker ps"}
    result = at.client.result("call", tool="shell.run", args=args, cwd=str(at.work), consent="yes")
    assert result["status"] == "failed" and result["calls"][0]["verdict"] == "allow"
    assert "the docker tools do" in result["answer"], result


def test_who_may_not_use_the_engine_gets_nothing_of_it_through_root(at: Bench) -> None:
    """In a process of its own: the SDK needs no rights of ours once it is there."""
    import sys

    socket, root = at.host.removeprefix("unix://"), str(Path(__file__).parents[2])
    argv = [sys.executable, "-c", AS_ANOTHER, socket]
    os.chmod(Path(socket).parent, 0o755)
    told = subprocess.run([*argv, "65534", root], capture_output=True, text=True, timeout=60).stdout
    assert told.startswith("Denied you may not use the Docker engine"), told
    os.chown(socket, 65534, 0)
    told = subprocess.run([*argv, "65534", root], capture_output=True, text=True, timeout=60).stdout
    assert "No container runs" in told


def test_without_an_engine_each_tool_says_so_and_what_is_denied_stays_denied(
    make_home: MakeHome, tmp_path: Path
) -> None:
    from .support import start

    env = make_home()
    daemon = start(Path(env["XDG_RUNTIME_DIR"]), env=env | {"DOCKER_HOST": "unix:///run/nothing.sock"})
    try:
        with daemon.connect() as client:

            def call(tool: str, **args: object) -> dict[str, object]:
                return client.call("call", tool=tool, args=args, cwd=str(tmp_path), consent="yes")

            for tool, args in (("container.list", {}), ("container.stop", {"name": "web"}), ("disk", {}),
                               ("container.run", {"image": "busybox"})):  # fmt: skip
                error = call(f"docker.{tool}", **args)["error"]
                assert "there is no Docker engine here" in error["message"], error  # type: ignore[index]
            result = call("docker.container.run", image="busybox", privileged=True)["result"]
            assert result["status"] == "denied"  # type: ignore[index]
    finally:
        daemon.stop()


def test_the_broker_stays_small_also_with_the_engine(at: Bench) -> None:
    at.done("container.list")
    pid = at.client.result("status")["pid"]
    kib = next(
        int(line.split()[1])
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if "VmRSS" in line
    )
    assert kib < 80 << 10, f"{kib} KiB"

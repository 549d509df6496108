"""Limits of units and of processes on a booted systemd: its properties, for root and for a plain user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmos.messages import Change
from llmos.toolbox import unitlimits
from llmos.toolbox.limits import Limits

from .machine import Machine

UNIT = "[Service]\nExecStart=/bin/sleep 1000\nMemoryMax=900M\n"


@pytest.fixture(scope="module")
def api(machine: Machine) -> Iterator[Machine]:
    machine.path("/etc/systemd/system/api.service").write_text(UNIT)
    machine.ok("systemctl", "daemon-reload")
    machine.ok("systemctl", "start", "api.service")
    yield machine
    machine.ok("systemctl", "stop", "api.service")


def do(machine: Machine, change: Change | dict[str, Any], uid: int = 0) -> dict[str, Any]:
    step = change if isinstance(change, Change) else Change.model_validate(change)
    done = machine.ask("CHANGERS", step.changer, step.args, uid)
    return {"error": done} if isinstance(done, str) else done


def show(machine: Machine, unit: str, name: str) -> str:
    return machine.ok("systemctl", "show", "--value", "-p", name, unit).strip()


def test_a_units_limits_are_set_read_back_taken_back_and_released(api: Machine) -> None:
    wanted = unitlimits.values(Limits(cpu=20, memory=200 << 20, pids=30, cpu_weight=50))
    done = do(api, unitlimits.step("api.service", "system", wanted, "limit it"))
    assert "by systemd over D-Bus" in done["text"] and "MemoryMax: 209715200" in done["text"], done
    assert show(api, "api.service", "CPUQuotaPerSecUSec") == "200ms"
    assert show(api, "api.service", "MemoryMax") == str(200 << 20)
    assert api.run("ls", "/etc/systemd/system.control").returncode != 0  # until the next boot, not for good
    freed = do(
        api, Change(changer="resource.free", args={"unit": "api.service", "scope": "system"}, shows="x")
    )
    assert show(api, "api.service", "CPUQuotaPerSecUSec") == "infinity", freed
    do(api, freed["reverse"][0])
    assert show(api, "api.service", "CPUQuotaPerSecUSec") == "200ms"
    do(api, done["reverse"][0])
    assert show(api, "api.service", "MemoryMax") == str(900 << 20)  # what its own file says


def test_for_good_is_kept_in_etc_and_a_plain_user_may_not(api: Machine) -> None:
    limit = unitlimits.step("api.service", "system", {"TasksMax": 40}, "limit it", persist=True)
    refused = do(api, limit, uid=65534)
    assert "Denied" in refused["error"] and "sudo" in refused["error"], refused
    done = do(api, limit)
    assert "for good" in done["text"] and "50-TasksMax.conf" in api.ok(
        "ls", "-R", "/etc/systemd/system.control"
    )
    do(api, done["reverse"][0])
    missing = do(api, unitlimits.step("nothing.service", "system", {"TasksMax": 40}, "limit it"))
    assert "there is no unit nothing.service" in missing["error"]


def test_processes_get_a_scope_of_their_own_that_goes_with_them(api: Machine) -> None:
    script = "setsid sh -c 'sleep 500 & wait' >/dev/null 2>&1 & echo $!"
    pid = int(api.ok("sh", "-c", script))
    known = [{"pid": pid, "started": float(api.python(STARTED, str(pid)).stdout)}]
    args = {"label": "nap", "known": known, "limits": {"cpu": 30, "pids": 50}}
    done = do(api, Change(changer="resource.limit", args=args, shows="limit it"))
    assert "by systemd (scope llmos-limit-0." in done["text"], done
    unit = done["reverse"][0]["args"]["unit"]
    assert show(api, unit, "CPUQuotaPerSecUSec") == "300ms" and show(api, unit, "TasksMax") == "50"
    assert int(show(api, unit, "TasksCurrent").replace("[not set]", "2")) == 2
    args["limits"] = {"cpu": 60}
    again = do(api, Change(changer="resource.limit", args=args, shows="limit it"))
    assert show(api, unit, "CPUQuotaPerSecUSec") == "600ms", again  # the same scope
    do(api, again["reverse"][0])
    assert show(api, unit, "CPUQuotaPerSecUSec") == "300ms"
    freed = do(
        api, Change(changer="resource.release", args={"label": "nap", "known": known}, shows="free it")
    )
    assert show(api, unit, "CPUQuotaPerSecUSec") == "infinity", freed
    api.ok("pkill", "-P", str(pid))
    for _ in range(100):
        if show(api, unit, "ActiveState") != "active":
            break
    assert show(api, unit, "ActiveState") == "inactive"


STARTED = "import psutil, sys; print(psutil.Process(int(sys.argv[1])).create_time())"

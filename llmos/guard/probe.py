"""What of the sandbox this machine can give, for `llmos doctor`: each check with the command that mends it.

The last two checks run the real thing: a program in the sandbox, and a canary it must not be able to
touch. The others say why, where those fail. Nothing is changed on the machine.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmos.config import SandboxSettings
from llmos.errors import LlmosError
from llmos.guard import cgroups, forks, landlock, layers, seccomp, staging
from llmos.guard.identity import identity
from llmos.guard.program import Ended
from llmos.guard.spawn import Spawner
from llmos.messages import Caller, new_id

_OLDEST_KERNEL = (5, 12)  # mount_setattr
_APPARMOR_SWITCH = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. `mend` is empty where nothing needs mending."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


def probe() -> list[Check]:
    """All checks, in the order in which the layers rest on one another. Blocks for a fraction of a second."""
    checks = [_kernel(), _user_namespaces(), _filter(), _landlock(), _cgroup(), _forks()]
    return [*checks, *_live()]


def _failed(name: str, layer: str, detail: str) -> Check:
    return Check(name, False, detail, layers.LAYERS[layer].mend)


def _kernel() -> Check:
    release = platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < _OLDEST_KERNEL:
        return _failed("kernel", "mount-api", f"Linux {release}; the mount API needs 5.12")
    return Check("kernel", True, f"Linux {release}, its mount API is used directly (no bubblewrap)")


def _user_namespaces() -> Check:
    name = "user namespaces"
    if _read("/proc/sys/user/max_user_namespaces") == "0":
        return _failed(name, "user-namespace", "user.max_user_namespaces is 0")
    if _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        mend = "sudo sysctl -w kernel.unprivileged_userns_clone=1"
        return Check(name, False, "kernel.unprivileged_userns_clone is 0", mend)
    if _read(str(_APPARMOR_SWITCH)) == "1":
        mend = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        return Check(name, False, "AppArmor keeps capabilities from unprivileged user namespaces", mend)
    return Check(name, True, "allowed")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _filter() -> Check:
    try:
        size, version = len(seccomp.program(network=False)) // 8, seccomp.version()
    except LlmosError as error:
        return Check("seccomp", False, str(error), error.next_step)
    return Check("seccomp", True, f"libseccomp {version}, {size} instructions")


def _landlock() -> Check:
    """The second fence: a kernel without it still has the mounts, so it is reported and not required."""
    version = landlock.abi()
    if version == 0:
        mend = "Boot with lsm=landlock,… on the kernel's command line (see /sys/kernel/security/lsm)."
        return Check("landlock", True, "not in this kernel: files are fenced by mounts alone", mend)
    known = (("files", 1), ("TCP", 4), ("devices' ioctls", 5), ("abstract sockets and signals", 6))
    return Check(
        "landlock", True, f"ABI {version}: {', '.join(what for what, since in known if version >= since)}"
    )


def _cgroup() -> Check:
    """A call runs without one too, unless the settings require it; then each process is bounded alone."""
    found = cgroups.find(prepare=False)
    if not found:
        detail = f"none for calls ({found.missing}): limits are per process"
        return Check("cgroup", True, detail, layers.LAYERS["cgroup"].mend)
    note = f", {found.missing}" if found.missing else ""
    return Check(
        "cgroup", True, f"version {found.version}: each call is bounded in {', '.join(found.folders)}{note}"
    )


def _forks() -> Check:
    """What puts a sandbox up, and is its first process: slower in Python, and the same otherwise."""
    if why := forks.missing():
        mend = "The daemon builds it at its start where there is a C compiler: sudo apt install gcc libc6-dev"
        return Check("forks", True, f"in Python: no program in C ({why})", mend)
    return Check("forks", True, f"in C: {forks.place()}")


# --- the real thing --------------------------------------------------------------------------------


def _live() -> list[Check]:
    """A run in the sandbox of a command that must be able to do one thing and unable to do two others."""
    with tempfile.TemporaryDirectory(prefix="llmos-probe-") as top:
        folder, outside = Path(top) / "work", Path(top) / "outside"
        folder.mkdir()
        outside.write_text("canary\n")
        try:
            ended = asyncio.run(_self_test(str(folder)))
        except LlmosError as error:
            return [Check("sandbox", False, str(error), error.next_step)]
        return [
            _judge("sandbox", ended.stdout == "ran\n", "a command ran in it", ended.stderr.strip()),
            _judge(
                "canary",
                outside.read_text() == "canary\n",
                "nothing outside changed",
                "a file outside changed",
            ),
            _owner(folder / "inside"),
            _preview(str(folder)),
        ]


def _preview(folder: str) -> Check:
    """The same command on a copy-on-write view. Without it calls run, and are asked about on their plan."""
    try:
        stage = staging.create(new_id(), (folder,))
        try:
            asyncio.run(_self_test(folder, str(stage.folder)))
            seen = (stage.upper(0) / "inside").exists()
        finally:
            stage.discard()
    except (LlmosError, OSError) as error:
        return Check("preview", True, f"not here: {error}", layers.LAYERS["stage"].mend)
    return _judge(
        "preview", seen, "overlayfs: effects are seen before they happen", "the view took no change"
    )


async def _self_test(folder: str, stage: str = "") -> Ended:
    spawner = Spawner(SandboxSettings())
    try:
        return await spawner.self_test(folder, stage)
    finally:
        spawner.close()


def _judge(name: str, ok: bool, good: str, bad: str) -> Check:
    return Check(name, ok, good if ok else bad, "" if ok else "Report it: llmos doctor --json")


def _owner(made: Path) -> Check:
    """What a command made belongs to the caller: for root this is what ID-mapped mounts are for."""
    who = f"as uid {identity(Caller(uid=os.geteuid(), gid=os.getegid())).host_uid}"
    ok = made.exists() and made.stat().st_uid == os.geteuid()
    return _judge("ownership", ok, f"a command runs {who}, its files are yours", "a file has another owner")

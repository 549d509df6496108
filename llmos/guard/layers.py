"""The layers of the sandbox by name: what each is, and the command that mends a machine without it.

One table for the error a call gives and for `llmos doctor`. Pure data and one function.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmos.errors import LlmosError, NoPreview, SandboxUnavailable, UsageError


@dataclass(frozen=True, slots=True)
class Layer:
    what: str
    mend: str


_USERNS_MEND = (
    "Allow user namespaces: sudo sysctl -w user.max_user_namespaces=15000; on Ubuntu also sudo sysctl -w"
    " kernel.apparmor_restrict_unprivileged_userns=0; in a container start it with --security-opt"
    " seccomp=unconfined --security-opt apparmor=unconfined --cap-add SYS_ADMIN. A chroot has none."
)

LAYERS = {
    "user-namespace": Layer("user namespaces", _USERNS_MEND),
    "namespaces": Layer("namespaces of its own", _USERNS_MEND),
    "mount-api": Layer(
        "the kernel's mount API by descriptor (Linux 5.12)",
        "Use Linux 5.12 or later; in a container start it with --cap-add SYS_ADMIN --security-opt"
        " seccomp=unconfined --security-opt apparmor=unconfined.",
    ),
    "idmap": Layer(
        "ID-mapped mounts, which let a root caller's command run as another uid",
        "Work on ext4, xfs, btrfs or tmpfs (Linux 6.3), or make the request as a user other than root.",
    ),
    "stage": Layer(
        "a copy-on-write view of the folder to be changed (overlayfs)",
        "It needs overlayfs and a folder on ext4, xfs, btrfs or tmpfs: sudo modprobe overlay.",
    ),
    "mounts": Layer(
        "the file system that is mounted there",
        "It was mounted after llmos had started, and mounts are private here, so nobody heard of it. Restart"
        " the daemon (llmos daemon stop); after mount --make-rshared / it hears of later ones.",
    ),
    "mask": Layer("the masks over secrets", "Run: llmos doctor"),
    "identity": Layer("a host uid other than 0", "Run llmos as a user other than root."),
    "proc": Layer(
        "a /proc of its own", "In a container start it with --security-opt systempaths=unconfined."
    ),
    "cgroup": Layer(
        "a control group for the call",
        "Run the daemon as root's service, or in a unit of your own with control groups delegated to it:"
        " systemd-run --user --unit=llmos -p Delegate=yes llmos daemon. Without require_cgroup in"
        " config.toml, the limits of each process stand alone.",
    ),
    "reach": Layer(
        "a network of its own that leads to the granted machines alone",
        "Grant the port that is meant (HOST:PORT), or run the command outside llmos.",
    ),
    "privileges": Layer("a process without privileges", "Run: llmos doctor"),
    "landlock": Layer(
        "the Landlock fence", "In a container start it with --security-opt seccomp=unconfined."
    ),
    "seccomp": Layer("the system call filter", "Install it: sudo apt install libseccomp2."),
    "launcher": Layer("the launcher process", "Run: llmos doctor"),
}


def explain(layer: str, error: str) -> LlmosError:
    """The error to raise for a layer that failed. Two of them are about the request, not the machine."""
    if layer == "cwd":
        return UsageError(
            f"a command cannot enter the folder of this request: {error}",
            "Make the request in a folder that exists and that is not hidden from commands.",
        )
    if layer == "write-root":
        return UsageError(
            f"a folder cannot be made writable: {error}",
            "Name an existing folder by a path without symbolic links, and try again.",
        )
    if layer == "stage":
        return NoPreview(f"{LAYERS[layer].what} cannot be had ({error})", LAYERS[layer].mend)
    known = LAYERS.get(layer, LAYERS["launcher"])
    return SandboxUnavailable(f"no sandbox: {known.what} cannot be had ({error})", known.mend)

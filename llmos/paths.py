"""Where llmos keeps things: one place that knows the XDG Base Directory rules.

Pure look-ups of the environment; nothing is created here (`ensure_private` is for who writes).
Spec: XDG Base Directory Specification 0.8; system-wide paths follow file-hierarchy(7).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

FORKS_NAME = "llmos.forks"  # what the program of `forks_dir` is called among processes
SYSTEM_SOCKET = Path("/run/llmos/llmos.sock")
PACKAGE_DIR = Path(__file__).resolve().parent


def _xdg(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification says that a relative path there is invalid and must be ignored.
    return Path(value) if value.startswith("/") else Path.home() / fallback


def config_dir() -> Path:
    return _xdg("XDG_CONFIG_HOME", ".config") / "llmos"


def cache_dir() -> Path:
    return _xdg("XDG_CACHE_HOME", ".cache") / "llmos"


def state_dir() -> Path:
    return _xdg("XDG_STATE_HOME", ".local/state") / "llmos"


def models_dir() -> Path:
    """Weights are large and read-only: LLMOS_MODELS_DIR lets several homes share one folder."""
    override = os.environ.get("LLMOS_MODELS_DIR", "")
    return Path(override) if override.startswith("/") else cache_dir() / "models"


def prepared_dir() -> Path:
    """Loaded forms of the models, one folder a model; a cache."""
    override = os.environ.get("LLMOS_PREPARED_DIR", "")
    return Path(override) if override.startswith("/") else models_dir() / "prepared"


def kernels_dir() -> Path:
    """What the machine's own compiler made of the engine's kernels; a cache, beside `prepared_dir`."""
    return prepared_dir().parent / "kernels"


def forks_dir() -> Path:
    """The program that puts up sandboxes, as the machine's own compiler made it: in the state, which no
    command sees, because whoever could change it would be outside of every sandbox. LLMOS_FORKS_DIR names
    another place."""
    override = os.environ.get("LLMOS_FORKS_DIR", "")
    return Path(override) if override.startswith("/") else state_dir() / "forks"


def audit_file() -> Path:
    return state_dir() / "audit.jsonl"


def parsed_file() -> Path:
    return state_dir() / "parsed.json"


def log_file() -> Path:
    return state_dir() / "daemon.log"


def runtime_dir() -> Path:
    """The folder of the per-user socket: private to the user, gone at reboot."""
    value = os.environ.get("XDG_RUNTIME_DIR", "")
    if value.startswith("/"):
        return Path(value)
    if os.getuid() == 0:
        return Path("/run/llmos")
    return Path(f"/tmp/llmos-{os.getuid()}")  # noqa: S108 - created 0700 and checked for its owner


def socket_path() -> Path:
    override = os.environ.get("LLMOS_SOCKET", "")
    return Path(override) if override else runtime_dir() / "llmos.sock"


def sockets() -> tuple[Path, ...]:
    """Where a client looks for a daemon, in order: the one named, or the system's and then one's own."""
    own = socket_path()
    if os.environ.get("LLMOS_SOCKET") or own == SYSTEM_SOCKET:
        return (own,)
    return (SYSTEM_SOCKET, own)


def _shipped(name: str) -> Path:
    """Data folders lie inside an installed wheel and beside the package in a checkout."""
    installed = PACKAGE_DIR / "data" / name
    return installed if installed.is_dir() else PACKAGE_DIR.parent / name


def tool_dirs() -> tuple[Path, ...]:
    """Manifest folders, shipped ones first; later folders may add tools, not replace shipped ones."""
    return (_shipped("tools"), Path("/etc/llmos/tools"), config_dir() / "tools")


def adapters_dir() -> Path:
    return _shipped("adapters")


def own_adapters_dir() -> Path:
    """Adapters of the machine's own, each a folder that the configuration can name."""
    return models_dir() / "adapters"


def unit_dir() -> Path:
    """Units of systemd, with the settings of sysusers.d and tmpfiles.d that they need."""
    return _shipped("systemd")


def builtin_policy_dir() -> Path:
    return _shipped("policies")


def system_policy_dir() -> Path:
    return Path("/etc/llmos/policies")


def user_policy_dir() -> Path:
    return config_dir() / "policies"


def refuse_unless_private(path: Path | str) -> None:
    """Raises OSError unless `path` is no link, ours or root's, and writable for its owner alone."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise OSError(f"{path} could be changed by others")


def ensure_private(folder: Path) -> Path:
    """Create `folder` with mode 0700 if missing and refuse one that belongs to somebody else."""
    from llmos.errors import CallFailed

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise CallFailed(
            f"cannot create {folder}: {error.strerror}",
            f"Check the permissions and space of {folder.parent}.",
        ) from error
    if owner not in (os.getuid(), 0):
        raise CallFailed(
            f"{folder} belongs to uid {owner}, not to you",
            f"Remove {folder}, or set LLMOS_SOCKET to another place.",
        )
    return folder

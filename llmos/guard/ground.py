"""What every sandbox's tree is built on: where the launcher keeps it, and how it is mounted (`template`).

Apart, because a fork needs these few words and nothing else of the launcher's.
"""

from __future__ import annotations

from llmos.guard import mounts

BASE = "/run"  # hidden by this from the launcher alone: no tree shows the host's own
EMPTY_FOLDER, EMPTY_FILE = f"{BASE}/empty/folder", f"{BASE}/empty/file"
DEVICE = mounts.ATTR_NOSUID | mounts.ATTR_NOEXEC
READ_ONLY = mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_RDONLY
WRITABLE = mounts.ATTR_NOSUID | mounts.ATTR_NODEV


def folder(*, mapped: bool) -> str:
    """What is to become a fork's root: the host's files, ID-mapped for a root caller, or as they are."""
    return f"{BASE}/{'mapped' if mapped else 'plain'}"

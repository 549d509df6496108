"""Foreign tools that would do a call just as well: they must not stand in the list when ours is the answer.

`shell.run` is for what no other tool does. Where a prompt offers a tool for checksums, `sha256sum …` is no
longer the right reply, so a row names the tools beside which it would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# A shell command's head, and the tools that do the same.
_COMMANDS = (
    (r"chmod|chown|chgrp|stat|ls -l|ls -ld|umask", ("file.permissions",)),
    (r"ln |readlink", ("file.link",)),
    (r"sha\d*sum|md5sum", ("file.checksum",)),
    (r"find .*md5sum", ("file.duplicates",)),
    (r"mkdir", ("file.mkdir",)),
    (r"for f in|rename", ("file.rename", "photo.resize")),
    (r"cut|awk|sort|jq|paste|column|tail -n \+", ("text.columns", "text.query", "text.export")),
    (r"diff|cmp|comm", ("text.compare",)),
    (
        r"systemctl|journalctl|dmesg|crontab|service",
        (
            "service.status",
            "service.start",
            "service.stop",
            "service.restart",
            "service.enable",
            "service.logs",
            "service.failed",
            "service.timers",
            "advise",
        ),
    ),
    (
        r"apt|apt-get|dpkg|dpkg-query|pip|which|\w[\w.-]* --version|npm install",
        ("package.installed", "package.provides", "package.install", "package.remove", "package.updates"),
    ),
    (
        r"who|whoami|id|last|w|cut -d: -f1 /etc/passwd|getent|groups|grep .*/etc/passwd",
        ("user.list", "user.info", "session.list"),
    ),
    (
        r"ip|ping|dig|host|ss|netstat|nslookup|ifconfig|hostname",
        ("net.interfaces", "net.dns", "net.ping", "net.connections"),
    ),
    (r"docker", ("docker",)),
    (
        r"ps|pstree|lsof|tr '\\0'|renice|nice",
        ("process.tree", "process.details", "process.holders", "resource.priority", "resource.status"),
    ),
    (r"convert|identify", ("photo.resize",)),
    (r"ffmpeg", ("video.cut",)),
    (r"echo|printf", ("say",)),
    (r"sleep", ("timer.set", "process.wait")),
)
_TOOLS = {
    "file.read": ("text.tail",),
    "file.delete": ("file.trash",),
    "process.find": ("process.details", "process.tree", "resource.status"),
    "process.list": ("advise", "process.tree", "resource.status"),
    "process.start": ("music.play",),
    "system.ports": ("process.holders", "net.connections"),
    "system.disk": ("advise",),
    "system.memory": ("advise", "resource.status"),
    "system.load": ("advise", "resource.status"),
    "file.write": ("note.add",),
    "text.search": ("note.search", "text.query"),
    "file.find": ("file.duplicates",),
    "process.stop": ("service.stop", "music.stop"),
    "answer": (
        "calendar",
        "weather",
        "mail",
        "light",
        "heating",
        "room",
        "shop",
        "db",
        "translate",
        "currency",
        "note",
        "say",
        "advise",
        "music",
    ),
    "ask": ("advise", "music"),
}


def of(calls: Sequence[dict[str, Any]]) -> list[str]:
    """Names of foreign tools, or first parts of such names, that compete with these calls."""
    found: set[str] = set()
    for call in calls:
        found |= set(_TOOLS.get(call["tool"], ()))
        if call["tool"] == "shell.run":
            command = call["args"]["command"]
            for pattern, tools in _COMMANDS:
                if re.match(rf"(?:{pattern})(?:\b|\s|$)", command):
                    found |= set(tools)
    return sorted(found)

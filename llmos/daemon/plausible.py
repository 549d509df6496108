"""Calls that are valid and still cannot be what was meant: what a small model gets wrong again and again.

Nothing is allowed because of this. What is found here is read otherwise, asked about, or asked back.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePath

from llmos import hints
from llmos.messages import ToolCall

ONLY_LOOKS = "your words sound as if something is only to be looked at, and this call changes something"

_SETTINGS = frozenset({".yaml", ".yml", ".json", ".toml", ".ini", ".conf", ".cfg", ".env", ".properties"})
_KEY = re.compile(r"[A-Za-z][\w.-]*")
_VALUE = re.compile(r"(?i)true|false|on|off|yes|no|null|none|-?\d+(?:\.\d+)?|[:=]?")
_SPARED = re.compile(
    r"(?i)(?:\bexcept(?:ing)?(?: for)?|\b(?:but|do) not(?: touch)?|\b(?:other than|apart from)|除了?)"
    r"\s*(?:the |file |folder )*[\"'`]?(?P<name>[\w.*?/-]*\w)"
)


def _is_left(name: str, touched: Collection[str]) -> bool:
    """Whether that is a file beside what was changed, and was not. Patterns and other words ("the invoices")
    do not tell which files they mean.
    """
    if (
        "." not in name
        or set("*?") & set(name)
        or any(name.casefold() in path.casefold() for path in touched)
    ):
        return False
    return any((folder / name).is_file() for folder in {Path(path).parent for path in touched})


def misfit(call: ToolCall) -> str:
    """Why nobody means this call; empty where somebody may.

    `debug: true` in which debug becomes false is `false: true`: what was meant is the setting's value.
    """
    if call.tool != "text.replace" or PurePath(str(call.args.get("path", ""))).suffix not in _SETTINGS:
        return ""
    find, replace = str(call.args.get("find", "")), str(call.args.get("replace", ""))
    if not _KEY.fullmatch(find) or _VALUE.fullmatch(find) or not _VALUE.fullmatch(replace):
        return ""
    return f"it would put {replace!r} in the place of the name {find!r}, and not set its value"


def doubt(text: str, call: ToolCall, touched: Collection[str] | None = None) -> str:
    """What in a person's words speaks against a call that changes something; empty where nothing does.

    `touched`: the paths that it changed when it was tried, where it was.
    """
    if hints.only_looks(text):
        return ONLY_LOOKS
    spared = None if call.args.get("except") else _SPARED.search(text)
    if spared is None or spared["name"].casefold() in str(call.args).casefold():
        return ""
    if touched is not None and _is_left(spared["name"], touched):
        return ""
    return f"you named an exception ({spared['name']}), and this call knows of none"

"""JSON documents as rows: where in one they are, and nested objects as flat ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llmos.toolbox.inside.numbers import Value


def place(document: Any, asked: Sequence[list[str]]) -> list[str]:
    """Where in the document the rows are: the list that a name leads through, or the only list of objects."""
    for parts in asked:
        found = document
        for depth, part in enumerate(parts):
            found = found.get(part) if isinstance(found, dict) else None
            if isinstance(found, list) and depth + 1 < len(parts):
                return parts[: depth + 1]
            if isinstance(found, list) and any(isinstance(item, dict) for item in found):
                return parts[: depth + 1]
    if isinstance(document, dict):
        lists = [key for key, value in document.items() if isinstance(value, list) and value]
        lists = [key for key in lists if all(isinstance(item, dict) for item in document[key])]
        named = {parts[0] for parts in asked}
        if len(lists) == 1 and not named & set(document):
            return lists
    return []


def flat(value: Any, prefix: str = "", depth: int = 0) -> dict[str, Value]:
    """Nested objects as one: `{"a": {"b": 1}}` is `a.b`. Lists become one value, joined by commas."""
    if not isinstance(value, dict) or depth > 50:
        return {prefix or "value": _plain(value)}
    found: dict[str, Value] = {}
    for key, item in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(item, dict) and item:
            found |= flat(item, name, depth + 1)
        else:
            found[name] = _plain(item)
    return found


def _plain(value: Any) -> Value:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(str(_plain(item)) for item in value)
    return json.dumps(value, ensure_ascii=False)

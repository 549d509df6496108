"""Setting the model's name in a config.toml that a person keeps: their comments and order stay.

The standard library reads TOML and does not write it, so this edits one line of text and then parses
the result to prove that nothing else has changed. Where it cannot prove that, it refuses.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from llmos.errors import ConfigError


def with_model_name(text: str, name: str, file: Path) -> str:
    """`text` (TOML) with `[model] name` set, comments and order kept. The result is parsed to make sure."""
    line = f"name = {json.dumps(name, ensure_ascii=False)}"
    header = re.search(r"^[ \t]*\[model\][ \t]*(#.*)?$", text, re.MULTILINE)
    if header is None:
        edited = text + ("\n" if text and not text.endswith("\n") else "") + f"\n[model]\n{line}\n"
    else:
        body = text[header.end() :]
        section = body[: match.start()] if (match := re.search(r"^[ \t]*\[", body, re.MULTILINE)) else body
        changed, count = re.subn(
            r"^[ \t]*name[ \t]*=.*$", lambda _: line, section, count=1, flags=re.MULTILINE
        )
        changed = changed if count else f"\n{line}{section}"
        edited = text[: header.end()] + changed + body[len(section) :]
    try:
        before, after = tomllib.loads(text), tomllib.loads(edited)
        before.setdefault("model", {})["name"] = name
        if before == after:
            return edited.lstrip("\n")
    except (tomllib.TOMLDecodeError, AttributeError, TypeError) as error:
        raise ConfigError(
            str(error), f"Mend {file}, or set model.name there yourself.", where=str(file)
        ) from error
    raise ConfigError("cannot set model.name safely", "Set it there yourself.", where=f"{file}: model.name")

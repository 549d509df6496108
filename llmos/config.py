"""Settings, declared once, frozen and loud: an unknown key stops with its file and key.

Read from /etc/llmos/config.toml, then ~/.config/llmos/config.toml (later wins key by key, except that it
cannot leave a `policy` the system has chosen), then `LLMOS_MODEL`. Everything has a default: no file is
needed.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmos import paths
from llmos.errors import ConfigError

SYSTEM_FILE = Path("/etc/llmos/config.toml")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(_Section):
    name: str = "default"  # a catalogue name, a GGUF file or a safetensors folder
    adapter: bool = True  # the shipped adapter, where there is one for these weights
    dtype: Literal["auto", "packed", "bfloat16", "float32"] = "bfloat16"  # auto: packed where it can be had
    threads: int = Field(default=0, ge=0, le=256)  # 0: chosen at start from the cores we may use
    context_tokens: int = Field(default=4096, ge=512, le=131072)
    idle_unload_s: float = Field(default=600.0, gt=0)
    think_timeout_s: float = Field(default=120.0, gt=0)


class SandboxSettings(_Section):
    timeout_s: float = Field(default=60.0, gt=0, le=86400)
    max_output_bytes: int = Field(default=1_000_000, ge=1000, le=100_000_000)
    max_memory_bytes: int = Field(default=4 << 30, ge=64 << 20)
    max_processes: int = Field(default=512, ge=8)
    max_file_bytes: int = Field(default=8 << 30, ge=1 << 20)
    max_written_bytes: int = Field(default=16 << 30, ge=1 << 20)  # in sum, where changes are kept in a stage
    min_free_bytes: int = Field(default=256 << 20, ge=0)  # a call that would leave less of a disk is ended
    max_cpus: float = Field(default=0.0, ge=0)  # processors a call may use in sum; 0: all of them
    require_cgroup: bool = False  # refuse to run where a call cannot be bounded in sum


class ServerSettings(_Section):
    max_queued: int = Field(default=64, ge=1)
    max_clients: int = Field(default=256, ge=1)
    max_request_chars: int = Field(default=16_000, ge=100)
    approval_timeout_s: float = Field(default=900.0, gt=0, le=86400)  # a question nobody answers is a no


class AuditSettings(_Section):
    max_file_bytes: int = Field(default=16 << 20, ge=4096)  # then a new file begins
    keep_files: int = Field(default=16, ge=1, le=10_000)  # full ones
    keep_days: float = Field(default=0, ge=0)  # 0: however old
    journald: bool = True  # mirror the entries there, where it runs


class UndoSettings(_Section):
    max_bytes: int = Field(default=10 << 30, ge=0)  # of what changes displaced; oldest go first
    max_age_days: float = Field(default=30.0, gt=0)


class Settings(_Section):
    model: ModelSettings = ModelSettings()
    sandbox: SandboxSettings = SandboxSettings()
    server: ServerSettings = ServerSettings()
    audit: AuditSettings = AuditSettings()
    undo: UndoSettings = UndoSettings()
    policy: Literal["default", "readonly", "unattended"] = "default"


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            return tomllib.load(handle)
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(error), f"Mend the TOML syntax of {file}.", where=str(file)) from error
    except OSError as error:
        raise ConfigError(error.strerror or str(error), f"Make {file} readable.", where=str(file)) from error


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def load(files: tuple[Path, ...] | None = None) -> Settings:
    """Read and merge the settings; raises ConfigError naming the file and the key."""
    merged: dict[str, Any] = {}
    for file in files if files is not None else (SYSTEM_FILE, paths.config_dir() / "config.toml"):
        found = _read(file)
        _validate(found, file)
        _check_not_looser(merged.get("policy"), found.get("policy"), file)
        merged = _merge(merged, found)
    if name := os.environ.get("LLMOS_MODEL", ""):
        merged = _merge(merged, {"model": {"name": name}})
    return _validate(merged, None)


def _check_not_looser(before: str | None, after: str | None, file: Path) -> None:
    """The set that the system's file names holds for everybody; a person may leave only `default`."""
    if before not in (None, "default") and after not in (None, before):
        raise ConfigError(
            f"the system's configuration has chosen {before!r}, which a later file cannot change",
            "Remove that key; to be stricter, add rules in ~/.config/llmos/policies.",
            where=f"{file}: policy",
        )


def _validate(values: dict[str, Any], file: Path | None) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(Settings.model_fields)
        where = f"{file or 'settings'}: {key}"
        raise ConfigError(
            first["msg"], f"Correct or remove that key (sections: {known}).", where=where
        ) from error

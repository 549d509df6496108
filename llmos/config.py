"""Settings, declared once, frozen and loud: an unknown key stops with its file and key.

Read from /etc/llmos/config.toml, then ~/.config/llmos/config.toml (later wins key by key, except that it
cannot leave a `policy` the system has chosen nor raise a cap of its `budget`, and that backends are
added), then `LLMOS_MODEL`. Everything has a default: no file is needed.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llmos import paths
from llmos.errors import ConfigError

SYSTEM_FILE = Path("/etc/llmos/config.toml")
THINK_AT_ONCE = 3  # requests side by side in one planner: each has a cache of some 20 MB


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ModelSettings(_Section):
    name: str = "default"  # a catalogue name, a GGUF file or a safetensors folder
    # true: the shipped one, where there is one for these weights; else a name or folder
    adapter: bool | str = True
    dtype: Literal["auto", "packed", "bfloat16", "float32"] = (
        "auto"  # packed where it can be had, else bfloat16
    )
    threads: int = Field(default=0, ge=0, le=256)  # 0: chosen at start from the cores we may use
    context_tokens: int = Field(default=4096, ge=512, le=131072)
    idle_unload_s: float = Field(default=600.0, gt=0)
    think_timeout_s: float = Field(default=120.0, gt=0)

    def for_model(self, name: str) -> ModelSettings:
        """Of another model: an adapter that is named belongs to the weights it was made for."""
        return self.model_copy(update={"name": name, "adapter": bool(self.adapter)})


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
    max_clients: int = Field(default=4096, ge=1)
    # Of one user but root, where several share the daemon. Nobody takes more than they leave free, either.
    max_queued_per_user: int = Field(default=16, ge=1)
    max_clients_per_user: int = Field(default=1024, ge=1)
    max_request_chars: int = Field(default=16_000, ge=100)
    approval_timeout_s: float = Field(default=900.0, gt=0, le=86400)  # a question nobody answers is a no


class QuotaSettings(_Section):
    """What one user but root may use at a time, where several share the daemon. 0: no bound of its own."""

    running: int = Field(default=8, ge=0)  # commands; more wait for their turn
    cpus: float = Field(default=0.0, ge=0)  # processors of all their commands together
    memory_bytes: int = Field(default=0, ge=0)
    processes: int = Field(default=0, ge=0)
    day_tokens: int = Field(default=0, ge=0)  # read and written by the models of this machine, until midnight


class QuotasSettings(QuotaSettings):
    """`[quota]` holds for everybody; `[quota.users.NAME]` (a name or a uid) changes single keys for one."""

    users: dict[str, dict[str, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> QuotasSettings:
        for name in self.users:
            self.of(name)
        return self

    def of(self, *names: str) -> QuotaSettings:
        """For a user, who is known by these names."""
        own = next((self.users[name] for name in names if name in self.users), {})
        return QuotaSettings.model_validate({**self.model_dump(exclude={"users"}), **own})


class AuditSettings(_Section):
    max_file_bytes: int = Field(default=16 << 20, ge=4096)  # then a new file begins
    keep_files: int = Field(default=16, ge=1, le=10_000)  # full ones
    keep_days: float = Field(default=0, ge=0)  # 0: however old
    journald: bool = True  # mirror the entries there, where it runs


class UndoSettings(_Section):
    max_bytes: int = Field(default=10 << 30, ge=0)  # of what changes displaced; oldest go first
    max_age_days: float = Field(default=30.0, gt=0)


class BackendSettings(_Section):
    """One `[[backend]]`: an OpenAI-compatible endpoint. Prices are US dollars for a million tokens.

    The key is found at one place, never written here: a variable of the daemon's environment, a file, a
    systemd credential, or SERVICE/USER in the keyring.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")
    url: str = Field(pattern=r"^https?://[^/?#\s@]+(/[^?#\s]*)?$")  # …/v1
    model: str = Field(min_length=1, max_length=200)
    window: int = Field(default=8192, ge=512)  # tokens of prompt and reply together
    max_reply_tokens: int = Field(default=1024, ge=16)
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    key_env: str = ""
    key_file: str = ""
    key_credential: str = ""
    key_keyring: str = ""
    dialect: Literal["auto", "json_schema", "json_object", "llama_cpp", "guided", "tools", "text"] = "auto"
    proxy: str = Field(default="", pattern=r"^(http://[^/?#\s]+/?)?$")
    ca_file: str = ""
    plain_http: bool = False  # allow http to another machine: nothing then keeps others from reading along
    connect_timeout_s: float = Field(default=10.0, gt=0, le=120)
    silence_timeout_s: float = Field(default=60.0, gt=0, le=600)  # between two pieces of an answer
    timeout_s: float = Field(default=120.0, gt=0, le=3600)  # for one attempt in all

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def on_this_machine(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @model_validator(mode="after")
    def _check(self) -> BackendSettings:
        if self.url.startswith("http://") and not (self.on_this_machine or self.plain_http):
            raise ValueError("http to another machine is read by others: use https, or set plain_http = true")
        if not self.on_this_machine and None in (self.price_in, self.price_out):
            raise ValueError("say what it costs: price_in and price_out (0 where it is free)")
        if sum(map(bool, (self.key_env, self.key_file, self.key_credential, self.key_keyring))) > 1:
            raise ValueError("one of key_env, key_file, key_credential, key_keyring is enough")
        if self.max_reply_tokens >= self.window:
            raise ValueError("max_reply_tokens leaves no room in the window")
        return self


class OffloadSettings(_Section):
    """When and how requests go to a backend. The order of the backends is the order they are tried in."""

    min_confidence: float = Field(
        default=0.5, ge=0, le=1
    )  # that its calls are right; below it, they are not relied on
    larger: tuple[str, ...] = Field(
        default=(), max_length=4
    )  # local models asked before any backend, in order
    retries: int = Field(default=2, ge=0, le=10)  # of one backend, before the next one
    hedge_after_s: float = Field(default=0.0, ge=0)  # ask a second one too when the first is silent; 0: never
    timeout_s: float = Field(default=180.0, gt=0, le=3600)  # for all attempts together
    breaker_failures: int = Field(default=3, ge=1)  # so many in a row, and a backend is left alone
    breaker_rest_s: float = Field(default=30.0, ge=0)
    consent_days: float = Field(default=90.0, gt=0)
    idle_s: float = Field(default=300.0, gt=0)  # then the process that speaks with backends ends
    max_steps: int = Field(default=8, ge=1, le=50)  # of a request that goes on from what came of its calls
    steps_timeout_s: float = Field(default=900.0, gt=0)  # for them together, without a person's thinking

    @field_validator("larger", mode="before")
    @classmethod
    def _one_or_several(cls, names: object) -> object:
        return names if not isinstance(names, str) else (names,) if names else ()


class BudgetSettings(_Section):
    """Hard caps, enforced before sending by the most that it can cost. A later file can only lower them."""

    request_usd: float = Field(default=0.25, ge=0)
    user_day_usd: float = Field(default=2.0, ge=0)
    day_usd: float = Field(default=5.0, ge=0)  # all users of this daemon together
    request_tokens: int = Field(default=200_000, ge=0)
    day_tokens: int = Field(default=10_000_000, ge=0)


class ConsoleSettings(_Section):
    language: str = Field(default="", pattern=r"^([A-Za-z]{2,3}([_-][A-Za-z]+)?)?$")  # empty: the locale's


class Settings(_Section):
    model: ModelSettings = ModelSettings()
    sandbox: SandboxSettings = SandboxSettings()
    server: ServerSettings = ServerSettings()
    quota: QuotasSettings = QuotasSettings()
    audit: AuditSettings = AuditSettings()
    undo: UndoSettings = UndoSettings()
    policy: Literal["default", "readonly", "unattended"] = "default"
    backend: tuple[BackendSettings, ...] = Field(default=(), max_length=32)
    offload: OffloadSettings = OffloadSettings()
    budget: BudgetSettings = BudgetSettings()
    console: ConsoleSettings = ConsoleSettings()

    @model_validator(mode="after")
    def _check(self) -> Settings:
        names = [backend.name for backend in self.backend]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise ValueError(f"the backend {twice} is there twice")
        return self


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
        caps, backends = merged.get("budget", {}), merged.get("backend", [])
        merged = _merge(merged, found)
        merged |= {"backend": [*backends, *found.get("backend", [])]}
        for cap, most in caps.items():
            merged["budget"][cap] = min(most, merged["budget"][cap])
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

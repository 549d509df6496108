"""The model store: weights by name, verified by hash, fetched once, kept in the user's cache folder.

    catalogue()  what there is        resolve(name)  the verified file, or what to do about it
    pull(name)   fetch it             use(name)      make it the default from now on

A stored file has a sidecar (`FILE.json`) with the hash it was verified to have and the size and
modification time it had then. While those agree the file is taken as good; otherwise it is hashed
again. That catches truncation and replacement, not a disk that changes bits in silence: for that there
is `llmos model show --verify`. Must not import torch: the command line calls it in the client.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmos import paths
from llmos.engine import download
from llmos.engine.cards import ModelCard, card, catalogue
from llmos.engine.choice import with_model_name
from llmos.engine.download import Progress
from llmos.engine.localfile import checked, is_path, read_origin
from llmos.errors import DiskFull, ModelError, UsageError

__all__ = [
    "Info",
    "ModelCard",
    "catalogue",
    "current",
    "installed",
    "pull",
    "remove",
    "resolve",
    "sha256_of",
    "show",
    "use",
]

State = Literal["installed", "absent", "corrupt"]
_SPARE_BYTES = 64 << 20  # what a disk should have left when we are done


@dataclass(frozen=True)
class Info:
    """A model and what is here of it. `partial_bytes`: parts of an unfinished pull."""

    card: ModelCard
    state: State
    path: Path
    partial_bytes: int = 0


def resolve(name_or_path: str) -> Path:
    """The verified file of a catalogue name, or the checked path of a GGUF file or safetensors folder.

    Raises ModelError (absent: `llmos model pull NAME`; corrupt; not a model).
    """
    if is_path(name_or_path):
        return checked(Path(name_or_path).expanduser())
    found = card(name_or_path)
    state = _state(found)
    if state == "installed":
        return _file(found)
    what = (
        "is not here yet" if state == "absent" else f"is corrupt: {_file(found)} has not the published hash"
    )
    raise ModelError(
        f"the model {found.name!r} ({found.title}) {what}", f"Run: llmos model pull {found.name}"
    )


def sha256_of(name: str) -> str | None:
    """The hash that a resolved model's weights were verified to have; None for a file of the person's own.

    A quantised model counts as the one it was made of, whose adapter it has inside or not at all.
    """
    if not is_path(name):
        return card(name).sha256
    origin = read_origin(Path(name).expanduser())
    return origin.base_sha256 if origin and origin.adapter_sha256 else None


def pull(name: str, progress: Progress = lambda done, total, what: None) -> Path:
    """Fetch a model unless it is here, from the first source that has it. Raises ModelError or DiskFull."""
    if is_path(name):
        return resolve(name)
    found = card(name)
    with _lock(found, progress) as lock_fd:
        if _state(found) != "installed":
            _fetch(found, lock_fd, progress)
    return _file(found)


def installed() -> tuple[Info, ...]:
    """The models of the catalogue that are here, corrupt ones included."""
    return tuple(info for info in map(_info, catalogue()) if info.state != "absent")


def show(name: str, *, verify: bool = False) -> Info:
    """What is known of one model; with `verify` its file is hashed whatever the sidecar says."""
    return _own(resolve(name), verify) if is_path(name) else _info(card(name), verify=verify)


def remove(name: str) -> int:
    """Delete a model's file, its prepared forms and any partial download; gives the bytes freed.

    Raises ModelError if there are none.
    """
    if is_path(name):
        raise UsageError(f"{name} is your own file, not one of the store", f"Delete it yourself: rm {name}")
    found = card(name)
    with _lock(found):
        files = [file for file in (_file(found), _sidecar(found)) if file.exists()]
        folders = (_work(found), paths.prepared_dir() / _file(found).stem)
        num_bytes = sum(file.stat().st_size for file in files) + sum(map(download.num_bytes_below, folders))
        for file in files:
            file.unlink()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    if not num_bytes:
        raise ModelError(f"the model {name!r} is not here", "See what is: llmos model list")
    return num_bytes


def current() -> str:
    """The name or path that requests use now (LLMOS_MODEL, then the settings, then `default`)."""
    from llmos import config

    return config.load().model.name


def use(name_or_path: str) -> str:
    """Make a model the default: writes `[model] name` into the user's config.toml; gives what was written.

    Raises ModelError when it is not here, ConfigError when that file has a form we cannot edit safely.
    """
    path = resolve(name_or_path)
    name = str(path.absolute()) if is_path(name_or_path) else name_or_path
    file = paths.ensure_private(paths.config_dir()) / "config.toml"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    edited = with_model_name(text, name, file)
    draft = file.with_suffix(".toml.new")
    draft.write_text(edited, encoding="utf-8")
    draft.replace(file)
    return name


# --- where things lie -----------------------------------------------------------------------


def _own(path: Path, verify: bool) -> Info:
    """The person's own file: nothing is published about it, so its hash is only told when asked for."""
    digest = sha256(path) if verify and path.is_file() else ""
    num_bytes = path.stat().st_size if path.is_file() else download.num_bytes_below(path)
    return Info(ModelCard(str(path), path.stem, path.name, num_bytes, digest, "", ()), "installed", path)


def _file(found: ModelCard) -> Path:
    return paths.models_dir() / found.file


def _sidecar(found: ModelCard) -> Path:
    return paths.models_dir() / f"{found.file}.json"


def _work(found: ModelCard) -> Path:
    return paths.models_dir() / f".partial-{found.sha256[:16]}"


# --- verifying --------------------------------------------------------------------------------


def _info(found: ModelCard, *, verify: bool = False) -> Info:
    return Info(found, _state(found, verify=verify), _file(found), download.num_bytes_below(_work(found)))


def _state(found: ModelCard, *, verify: bool = False) -> State:
    """Quick while size and time are those of the last verification; else the whole file is hashed."""
    file = _file(found)
    try:
        status = file.stat()
        if status.st_size != found.num_bytes:
            return "corrupt"
        seen = {"sha256": found.sha256, "num_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        if not verify and _recorded(found) == seen:
            return "installed"
        if sha256(file) != found.sha256:
            _sidecar(found).unlink(missing_ok=True)
            return "corrupt"
        _record(found, seen)
    except FileNotFoundError:
        return "absent"
    except OSError as error:
        raise ModelError(
            f"cannot read {file}: {error.strerror}", f"Check the permissions of {file}."
        ) from error
    return "installed"


def sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _recorded(found: ModelCard) -> object:
    try:
        return json.loads(_sidecar(found).read_bytes())
    except (OSError, ValueError):
        return None


def _record(found: ModelCard, seen: dict[str, object]) -> None:
    """The sidecar only saves time, so a store that we may not write to goes without."""
    draft = _sidecar(found).with_suffix(f".{os.getpid()}")
    try:
        draft.write_text(json.dumps(seen), encoding="utf-8")
        draft.replace(_sidecar(found))
    except OSError:
        draft.unlink(missing_ok=True)


# --- fetching ---------------------------------------------------------------------------------


@contextmanager
def _lock(found: ModelCard, progress: Progress = lambda done, total, what: None) -> Iterator[int]:
    """One pull or removal of a model at a time, across processes; freed by the kernel if we are killed."""
    file = paths.models_dir() / f".lock-{found.sha256[:16]}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("ab")
    except OSError as error:
        raise download.disk_error(error, file.parent) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(0, found.num_bytes, "waiting for another pull of this model")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()


def _fetch(found: ModelCard, lock_fd: int, progress: Progress) -> None:
    """Try the sources in order; what is whole and has the right hash is moved into place in one step."""
    work = _work(found)
    reasons: list[str] = []
    for source in found.sources:
        _need_space(found, source.disk_factor)
        try:
            work.mkdir(exist_ok=True)
            file = download.fetch(found, source, work, lock_fd, progress)
            _accept(found, file, progress)
            shutil.rmtree(work, ignore_errors=True)
            return
        except DiskFull:
            raise
        except ModelError as error:
            reasons.append(str(error))
        except OSError as error:
            raise download.disk_error(error, work) from error
    raise ModelError(
        f"no source could give the model {found.name!r}: " + "; ".join(reasons),
        f"Check the network and pip's settings, then run again: llmos model pull {found.name} "
        "(or use a file you have: llmos model use /path/to/model.gguf)",
    )


def _need_space(found: ModelCard, factor: int) -> None:
    missing = found.num_bytes * factor - download.num_bytes_below(_work(found))
    free = shutil.disk_usage(paths.models_dir()).free
    if free < missing + _SPARE_BYTES:
        raise DiskFull(
            f"{found.title} needs {missing >> 20} MiB in {paths.models_dir()}, which has {free >> 20} MiB",
            "Free some space, or set LLMOS_MODELS_DIR to a roomier folder.",
        )


def _accept(found: ModelCard, file: Path, progress: Progress) -> None:
    progress(found.num_bytes, found.num_bytes, "verifying")
    digest = sha256(file)
    if digest != found.sha256:
        shutil.rmtree(_work(found))  # a kept part would only spoil the next try
        raise ModelError(f"what arrived has the hash {digest[:12]}…, not {found.sha256[:12]}…")
    file.chmod(0o644)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    file.replace(_file(found))
    status = _file(found).stat()
    _record(found, {"sha256": digest, "num_bytes": status.st_size, "mtime_ns": status.st_mtime_ns})

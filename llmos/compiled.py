"""What the machine's own C compiler makes of sources of ours: built once, kept, and used only where it can
be trusted.

What was built is kept under the hash of everything that went into it, in a folder that nobody else may
write to: code is loaded from there, so a folder or file of another person's, or one that others can change,
is left alone and nothing is loaded. It does not protect against somebody who can write there as this user.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from llmos.paths import refuse_unless_private

_BUILD_TIMEOUT_S = 120
_MAX_BUILDS = 8  # kept: several machines may share a store, and versions of llmos too


@dataclass(frozen=True)
class Recipe:
    """`sources` is a folder, of which every file counts; `files` of it are named to the compiler."""

    sources: Path
    files: tuple[str, ...]
    flags: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    suffix: str = ""
    mode: int = 0o600
    processor: bytes = b""  # what else the result depends on

    def place(self, folder: Path) -> Path:
        """Where in `folder` the result is, or would be."""
        source = b"".join(file.read_bytes() for file in sorted(self.sources.iterdir()) if file.is_file())
        identity = b"\0".join([source, " ".join(self.flags).encode(), self.processor])
        return folder / f"{hashlib.sha256(identity).hexdigest()[:16]}{self.suffix}"


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def built(recipe: Recipe, folder: Path) -> Path:
    """The result, built if need be: this may start the compiler. Raises OSError."""
    file = recipe.place(folder)
    if not file.is_file():
        import tempfile  # rarely: a process that finds it built has no use for that

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_unless_private(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as name:
            made = Path(name) / "made"
            _compile(recipe, made)
            made.chmod(recipe.mode)
            made.replace(file)
        _drop_oldest(folder, recipe.suffix)
    refuse_unless_private(folder)
    refuse_unless_private(file)
    return file


def _drop_oldest(folder: Path, suffix: str) -> None:
    with contextlib.suppress(OSError):
        files = [file for file in folder.iterdir() if file.is_file() and file.suffix == suffix]
        for file in sorted(files, key=lambda one: -one.stat().st_mtime)[_MAX_BUILDS:]:
            file.unlink()


def _compile(recipe: Recipe, out: Path) -> None:
    found = compiler()
    if found is None:
        raise OSError("there is no C compiler")
    sources = [str(recipe.sources / name) for name in recipe.files]
    argv = [found, *recipe.flags, "-o", str(out), *sources, *recipe.libraries]
    env = {"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(out.parent), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_BUILD_TIMEOUT_S,
            check=False,
            cwd=out.parent,
            env=env,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(str(error)) from error
    if done.returncode != 0:
        first = next((line for line in done.stderr.splitlines() if "error" in line), "the compiler failed")
        raise OSError(first.strip())

"""The files of the service: which there are, where they go, what is in them, and how they differ from what
is there.

They are shipped in `systemd/` as a distribution would install them; here the program's path is put in.
Nothing is written but what `place` and `remove` are told to.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from llmos import paths
from llmos.errors import CallFailed

_PROGRAM = re.compile(r"^ExecStart=/usr/bin/llmos\b", re.MULTILINE)
_MODELS = re.compile(r"(?<==|-)/var/cache/llmos/models\b")
# From a unit with ProtectHome= and PrivateTmp=.
_HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108
_ETC = Path("/etc")


@dataclass(frozen=True, slots=True)
class UnitFile:
    """One file: where it belongs, and what it should say."""

    place: Path
    text: str

    @property
    def state(self) -> str:
        """`missing`, `other` (an earlier version, or changed by hand) or `same`."""
        try:
            return "same" if self.place.read_text(encoding="utf-8") == self.text else "other"
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            raise _failed("read", self.place, error) from error


def system_files() -> tuple[UnitFile, ...]:
    """In the order in which they are needed: users and folders first."""
    source = paths.unit_dir()
    units = sorted(file for file in source.glob("llmos*") if file.is_file())
    return (
        UnitFile(_ETC / "sysusers.d/llmos.conf", _text(source / "sysusers.conf")),
        UnitFile(_ETC / "tmpfiles.d/llmos.conf", _text(source / "tmpfiles.conf")),
        *(UnitFile(_ETC / "systemd/system" / file.name, _text(file)) for file in units),
        *_manual(Path("/usr/local/share")),
    )


def _manual(share: Path) -> tuple[UnitFile, ...]:
    """The manual in its languages; none where that place is mounted read-only, as on immutable systems."""
    from llmos import cli_manual

    there = next(folder for folder in (share, *share.parents) if folder.exists())
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return ()
    return tuple(UnitFile(share / place, text) for place, text in cli_manual.pages().items())


def user_files() -> tuple[UnitFile, ...]:
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
    source = paths.unit_dir() / "user"
    share = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    units = tuple(UnitFile(folder / file.name, _text(file)) for file in sorted(source.glob("llmos*")))
    return (*units, *_manual(share))


def _text(file: Path) -> str:
    """With the program that runs now, and with root's weights where there are some already."""
    text = file.read_text(encoding="utf-8")
    program = f"ExecStart={_quoted(sys.executable)} -I -m llmos"
    if "ProtectHome=tmpfs" in text:
        program = "".join(f"BindReadOnlyPaths={_quoted(place)}\n" for place in _in_homes()) + program
    text = _PROGRAM.sub(lambda _: program, text)
    models = paths.models_dir()
    if models.is_dir() and any(models.iterdir()):
        text = _MODELS.sub(lambda _: _quoted(str(models)), text)
    return text


def _in_homes() -> tuple[str, ...]:
    """Folders of the program that lie in somebody's home, or where a unit sees folders of its own."""
    needed = {sys.base_prefix, os.path.realpath(sys.prefix), sys.prefix, str(paths.PACKAGE_DIR.parent)}
    return tuple(sorted(place for place in needed if place.startswith(_HIDDEN)))


def _quoted(path: str) -> str:
    """For a unit file (systemd.service(5)): `%` is doubled, what has blanks, quotes or colons is quoted."""
    path = path.replace("%", "%%")
    if not re.search(r"[\s\"\'\\;:]", path):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def place(file: UnitFile) -> None:
    """Write it whole or not at all. Raises CallFailed."""
    fresh = file.place.with_name(f".{file.place.name}.new")
    try:
        file.place.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(file.text, encoding="utf-8")
        fresh.chmod(0o644)
        fresh.replace(file.place)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise _failed("write", file.place, error) from error


def remove(file: UnitFile) -> None:
    try:
        file.place.unlink(missing_ok=True)
    except OSError as error:
        raise _failed("remove", file.place, error) from error


def _failed(verb: str, place: Path, error: OSError) -> CallFailed:
    step = "Run it as root: sudo llmos service …" if os.geteuid() else f"Check {place.parent}."
    return CallFailed(f"cannot {verb} {place}: {error.strerror}", step)

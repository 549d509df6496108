"""A backend's key, from the one place its settings name. It is held by the courier and shown to nobody.

Errors name the place and never what stands there.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from llmos.config import BackendSettings
from llmos.errors import ConfigError

_KEY = re.compile(r"[\x21-\x7e]{1,4096}")


def find(backend: BackendSettings) -> str:
    """The key, or an empty string where none is configured. Raises ConfigError."""
    where, key = _read(backend)
    if not where:
        return ""
    if not _KEY.fullmatch(key):
        what = "is empty" if not key else "holds more than a key (blanks, line breaks or other characters)"
        raise ConfigError(f"{where} {what}", f"Put the key of {backend.name} there, and nothing else.")
    return key


def _read(backend: BackendSettings) -> tuple[str, str]:
    if backend.key_env:
        return f"the variable {backend.key_env}", os.environ.get(backend.key_env, "").strip()
    if backend.key_file:
        return f"the file {backend.key_file}", _file(Path(backend.key_file).expanduser(), private=True)
    if backend.key_credential:
        # systemd.exec(5), LoadCredential=: a folder that the unit alone can read.
        folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
        where = f"the systemd credential {backend.key_credential}"
        if not folder or "/" in backend.key_credential:
            raise ConfigError(f"{where} is not there", "Add LoadCredential= to the unit, and restart it.")
        return where, _file(Path(folder, backend.key_credential), private=False)
    if backend.key_keyring:
        return f"the keyring's entry {backend.key_keyring}", _keyring(backend.key_keyring)
    return "", ""


def _file(file: Path, *, private: bool) -> str:
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the key in {file} cannot be read ({type(error).__name__})",
            "Check the path and who may read it.",
        ) from None
    if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others can read the key in {file}", f"Run: chmod 600 {file}")
    return text


def _keyring(entry: str) -> str:
    service, _, user = entry.partition("/")
    try:
        import keyring
    except ImportError:
        raise ConfigError(
            "the keyring library is not installed", "Run: pip install 'llmos[keyring]'"
        ) from None
    try:
        return (keyring.get_password(service, user) or "").strip()
    except Exception as error:  # its back ends raise what they like; none of it is shown, it may quote
        raise ConfigError(
            f"the keyring does not answer ({type(error).__name__})",
            "Unlock it, or use key_file or key_credential.",
        ) from None

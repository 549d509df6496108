"""Who may ask, and how often: bearer keys from a file, and a bucket of requests for each of them.

The file holds `NAME KEY` a line; only names go to logs and metrics. Keys are compared by hash, in constant
time. Not protected against: somebody who reads the file or the memory of this process.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
import time
from pathlib import Path

from llmos.errors import ConfigError
from llmos.serve.told import ApiError, busy

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,40})\s+(?P<key>[\x21-\x7e]{16,200})")


def load(file: Path) -> dict[bytes, str]:
    """SHA-256 of each key to its holder's name. Raises ConfigError, which never quotes a key."""
    try:
        mode = file.stat().st_mode
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the keys in {file} cannot be read ({type(error).__name__})", "Check the path."
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others can read the keys in {file}", f"Run: chmod 600 {file}")
    found: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not (match := _LINE.fullmatch(line.strip())):
            step = "Write NAME KEY, the key at least 16 characters: openssl rand -hex 24"
            raise ConfigError("no name and key", step, where=f"{file}:{number}")
        found[_hash(match["key"])] = match["name"]
    if not found:
        raise ConfigError(f"there is no key in {file}", "Write NAME KEY, one a line.")
    return found


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


class Doorkeeper:
    def __init__(self, keys: dict[bytes, str], per_minute: int) -> None:
        self._keys, self._per_minute = keys, per_minute
        self._buckets: dict[str, tuple[float, float]] = {}  # holder: requests left, and when that was so

    def holder(self, authorization: str) -> str:
        """Who asks. Raises ApiError 401."""
        if not self._keys:
            return "anybody"
        scheme, _, key = authorization.partition(" ")
        given, name = _hash(key.strip()), ""
        for known, holder in self._keys.items():
            name = holder if hmac.compare_digest(known, given) else name
        if scheme.lower() != "bearer" or not name:
            text = "Incorrect API key provided." if authorization else "You did not provide an API key."
            raise ApiError(
                401, f"{text} Send it as: Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return name

    def admit(self, holder: str) -> None:
        """Count one request. Raises ApiError 429 with when the next is welcome."""
        if not self._per_minute:
            return
        now = time.monotonic()
        left, then = self._buckets.get(holder, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - then) * self._per_minute / 60)
        if left < 1:
            self._buckets[holder] = left, now
            after_s = max(1.0, (1 - left) * 60 / self._per_minute)
            text = f"Rate limit reached: {self._per_minute} requests a minute. Try again in {after_s:.0f} s."
            raise busy(429, text, "rate_limit_exceeded", after_s)
        self._buckets[holder] = left - 1, now

"""Keeping the broker small. To be called before anything else of the daemon is imported."""

from __future__ import annotations

import sys


def leave_out_openssl() -> None:
    """Let asyncio and hashlib, which take OpenSSL where they find it, do without: 4 MB of the broker's 60.

    The broker speaks TLS to nobody and hashes only short lines. Who imports ssl later still gets it.
    """
    left_out = [name for name in ("ssl", "_hashlib") if name not in sys.modules]
    for name in left_out:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    try:
        import asyncio  # noqa: F401
        import hashlib  # noqa: F401
        import hmac  # noqa: F401
    finally:
        for name in left_out:
            del sys.modules[name]

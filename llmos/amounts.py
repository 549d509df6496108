"""Sizes and durations as a person reads them. Pure."""

from __future__ import annotations


def human_size(num_bytes: float) -> str:
    """As `ls -h` writes it: `512 B`, `1.5K`, `23M`."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    for unit in "KMGTP":
        num_bytes /= 1024
        if num_bytes < 1023.95 or unit == "P":
            break
    return f"{num_bytes:.1f}{unit}"


def human_duration(seconds: float) -> str:
    """The two largest units: `3d 4h`, `5m 2s`."""
    left, parts = int(max(0, seconds)), []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"

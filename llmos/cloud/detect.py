"""Secrets as detect-secrets knows them, beside our own table (guard/redaction.py).

Its plug-ins that go by how random a word looks, or by the word before it, are left out: they take commit
hashes and plain words for secrets. What is left are shapes: keys of named services, basic authentication.
Imported by the courier alone, before it confines itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

_LEFT_OUT = frozenset(
    {
        *("Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector", "IPPublicDetector"),
        "PrivateKeyDetector",  # its line BEGIN alone, which is no secret; the table knows the whole
    }
)
MAX_LINE_CHARS = 4096  # some of its patterns are slow on long lines; longer ones are cut into such pieces
_OVERLAP = 256


@functools.cache
def _detectors() -> tuple[Any, ...]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes: Any = get_mapping_from_secret_type_to_class().values()
    return tuple(made() for made in classes if made.__name__ not in _LEFT_OUT)


def secrets_in(text: str) -> Iterator[str]:
    """The secrets themselves."""
    for line in text.splitlines():
        for start in range(0, max(1, len(line)), MAX_LINE_CHARS):
            yield from _in_line(line[max(0, start - _OVERLAP) : start + MAX_LINE_CHARS])


def _in_line(line: str) -> Iterator[str]:
    for detector in _detectors():
        yield from (str(found) for found in detector.analyze_string(line) if found)


def load() -> None:
    """Import it all now, while files can still be read."""
    _detectors()

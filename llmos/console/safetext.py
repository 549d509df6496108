"""Make text from commands, files and models harmless to look at on a terminal.

A file name or a log line may hold escape sequences that move the cursor, retitle the window or hide
what follows, and bidirectional marks that show a command in another order than it runs in ("Trojan
Source", CVE-2021-42574). Here they become visible, as `cat -v` shows them. Nothing is dropped. It does
not help against look-alike letters. Text that goes to a file or a pipe is not touched at all.
"""

from __future__ import annotations

import functools
import re
import unicodedata

# Embeddings, overrides and isolates reorder what is seen. U+200E/F and the joiners are left alone in
# output, where ordinary Arabic, Hebrew and emoji need them.
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SGR = re.compile(r"\x1b\[[0-9;]*m")


def _mark(char: str) -> str:
    """`^[` for ESC, `\\x9b` for C1 and lone surrogates' bytes, `\\u202e` for format characters."""
    code = ord(char)
    if code < 0x20:
        return "^" + chr(code + 0x40)
    if code == 0x7F:
        return "^?"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def output(text: str) -> str:
    """Output of commands and models, for a terminal: newlines and tabs stay, other controls show."""
    if text.isprintable():
        return text
    return "".join(char if _harmless(char) else _mark(char) for char in text.replace("\r\n", "\n"))


def _harmless(char: str) -> bool:
    if char in "\n\t" or char.isprintable():
        return True
    return unicodedata.category(char) not in ("Cc", "Cs") and char not in _REORDERING


def exact(text: str) -> str:
    """A command or a path the person is to judge: every invisible character shows; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(char if char == "\n" or _seen(char) else _mark(char) for char in text)


def _seen(char: str) -> bool:
    return char.isprintable() or char == "\u3000"  # the ideographic space is a visible gap


def one_line(text: str, width: int = 0) -> str:
    """`exact` on one line, newlines shown as `⏎`, cut to `width` columns when that is given."""
    return clip(exact(text.replace("\n", "⏎")), width) if width else exact(text.replace("\n", "⏎"))


def columns(text: str) -> int:
    """Terminal columns the text takes: two for wide CJK characters, none for marks and our own colours."""
    text = _SGR.sub("", text)
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    return max(0, wcswidth(text))


def pad(text: str, width: int) -> str:
    return text + " " * max(0, width - columns(text))


@functools.cache
def _breakable() -> re.Pattern[str]:
    """Words with their blanks, or one wide character; compiled when needed, as these ranges take 5 ms."""
    return re.compile(r"[^\s\u2e80-\uffef]+\s*|[\u2e80-\uffef]\s*|\s+")


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at blanks, and between wide characters."""
    lines = [""]
    for word in _breakable().findall(text):
        if columns((lines[-1] + word).rstrip()) > width and lines[-1].strip():
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += word if lines[-1] else word.lstrip()
    return [*lines[:-1], lines[-1].rstrip()]


def clip(text: str, width: int) -> str:
    """Cut to at most `width` columns, the last of them `…` when something was cut."""
    if columns(text) <= width:
        return text
    kept = ""
    for char in text:
        if columns(kept + char) > width - 1:
            break
        kept += char
    return kept + "…"

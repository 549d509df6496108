"""Characters of a command that a person cannot see, or cannot tell from others: text with one is opaque.

Space-like, invisible and direction-changing characters make text look like other text, and so do letters of
one script among those of another. Pure. What it does not do: judge whole words in another script, which are
honest; a program of such a name is not a known one.
"""

from __future__ import annotations

import re
import unicodedata

MAX_CHARS = 10_000
# Not blanks to Unicode, and yet nothing to be seen; then quotes, dashes, slashes and operators of elsewhere.
_LOOKALIKE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufffc\U000e0100-\U000e01ef"
    "\u00b4\u02b9-\u02bf\u02c8\u02ca\u02cb\u2010-\u2015\u2018-\u201f\u2024\u2032-\u2037\u2039\u203a\u2043\u2044"
    "\u2212\u2215-\u2217\u2223\u2236\u223c\u2758\u27cb\u29f5\u29f8\u01c0\u02dc\u037e\u3003\ufe58]"
)
# Space-like, invisible and direction-changing characters make text look like other text.
_HIDDEN_CATEGORIES = {"Cc": "a control character", "Cf": "an invisible character", "Cs": "half a character",
                      "Co": "a private-use character", "Cn": "an unassigned character",
                      "Zl": "a line separator", "Zp": "a paragraph separator"}  # fmt: skip
# A Latin letter beside a Greek, Cyrillic, Armenian or Cherokee one: `ѕh`. Whole words in them are honest.
_MIXED = re.compile("[A-Za-z][\u0370-\u058f\u13a0-\u13ff]|[\u0370-\u058f\u13a0-\u13ff][A-Za-z]")
_STACKED = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff]{3}")  # marks that run into other lines


class Opaque(Exception):
    """The text is not plain words; the message says what in it is not."""


def check_characters(text: str) -> None:
    """Raise Opaque for text that is too long or holds characters a person cannot see or tell apart."""
    if len(text) > MAX_CHARS:
        raise Opaque(f"it is longer than {MAX_CHARS} characters")
    if _MIXED.search(text):
        raise Opaque("it mixes letters of different scripts in one word")
    if _STACKED.search(text):
        raise Opaque("it stacks marks on a letter")
    for char in text:
        if char in " \t\n" or " " < char <= "~":
            continue
        if what := _hidden(char):
            raise Opaque(f"it holds {what} (U+{ord(char):04X})")


def _hidden(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Zs":
        return "a space that is not a plain space"
    if what := _HIDDEN_CATEGORIES.get(category):
        return what
    if _LOOKALIKE.match(char):
        return "a look-alike of a plain character"
    # NFKC folds full-width and mathematical look-alikes: whoever sees `ｒｍ` or `；` reads `rm` or `;`.
    folded = unicodedata.normalize("NFKC", char)
    return "a look-alike of a plain character" if folded != char and folded.isascii() else ""

"""How text is written to a stream: harmless for a terminal, coloured where colours are welcome. Pure."""

from __future__ import annotations

from typing import NamedTuple

from llmos.console import safetext

_STYLES = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Look(NamedTuple):
    """How a stream is to be written to: `terminal` makes text harmless, `colour` adds SGR codes.

    `columns` is how wide it is, 0 for no limit.
    """

    terminal: bool = False
    colour: bool = False
    columns: int = 0

    def style(self, name: str, text: str) -> str:
        return f"\x1b[{_STYLES[name]}m{text}\x1b[0m" if self.colour and text else text

    def folded(self, text: str, *, by: int = 0, hang: int = 0) -> list[str]:
        """Sentences in lines that fit behind `by` columns, broken between words; the later ones `hang` in."""
        if not self.columns or safetext.columns(text) + by <= self.columns:
            return [text]
        first, *rest = safetext.wrap(text, max(16, self.columns - by - hang))
        return [first, *(" " * hang + line for line in rest)]

    def text(self, text: str) -> str:
        return safetext.output(text) if self.terminal else text

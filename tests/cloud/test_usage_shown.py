"""What `llmos usage` shows of what was spent."""

from __future__ import annotations

from typing import Any

from llmos.console import cloud


def row(
    day: str, usd: float, *, backend: str = "lab", tokens: int = 100, unsettled: int = 0
) -> dict[str, Any]:
    return {
        "day": day, "backend": backend, "attempts": 1, "prompt_tokens": tokens, "reply_tokens": 0, "usd": usd,
        "unsettled": unsettled,
    }  # fmt: skip


def bars(shown: str) -> dict[str, int]:
    """How long each day's bar is."""
    lines = [line.split("  ") for line in shown.splitlines() if line[:2] == "20" and "lab" not in line]
    return {day: rest.count("█") for day, rest in lines}


def test_a_bar_for_each_day_also_for_those_between() -> None:
    rows = [row("2026-02-27", 0.02), row("2026-03-02", 0.01), row("2026-03-02", 0.03)]
    shown = cloud.usage({"days": rows, "caps": {"day_usd": 1.0}, "left": {"day_usd": 0.96}}, 70)
    assert bars(shown) == {"2026-02-27": 20, "2026-02-28": 0, "2026-03-01": 0, "2026-03-02": 40}
    assert "0.020000 USD" in shown and "0.96 left" in shown and "not known" not in shown


def test_what_is_free_is_shown_by_tokens() -> None:
    shown = cloud.usage({"days": [row("2026-03-01", 0, tokens=7, unsettled=1)]}, 40)
    assert bars(shown) == {"2026-03-01": 10} and "7 tokens" in shown and "price is not known" in shown


def test_nothing_was_spent() -> None:
    assert cloud.usage({"days": []}, 80).startswith("nothing has left this machine yet")

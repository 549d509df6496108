"""Caps hold before anything is sent, and the ledger remembers through crashes."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from llmos.cloud.budget import Cost, Ledger
from llmos.config import BudgetSettings
from llmos.errors import OverBudget

CAPS = BudgetSettings(request_usd=0.10, user_day_usd=0.30, day_usd=0.50, request_tokens=1000, day_tokens=5000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "usage.jsonl"


def reserve(ledger: Ledger, usd: float, *, uid: int = 1, request: str = "r", tokens: int = 1) -> int:
    return ledger.reserve(uid=uid, request=request, backend="lab", most=Cost(usd, tokens))


def test_each_cap_holds_before_sending(file: Path) -> None:
    ledger = Ledger(CAPS, file)
    with pytest.raises(OverBudget, match="request_usd"):
        reserve(ledger, 0.11)
    with pytest.raises(OverBudget, match="request_tokens"):
        reserve(ledger, 0.0, tokens=1001)
    for number in range(3):
        reserve(ledger, 0.10, request=f"r{number}")
    with pytest.raises(OverBudget, match="user_day_usd"):
        reserve(ledger, 0.01, request="r4")
    reserve(ledger, 0.10, uid=2, request="a")
    reserve(ledger, 0.10, uid=2, request="b")
    with pytest.raises(OverBudget, match="day_usd"):
        reserve(ledger, 0.01, uid=3, request="c")
    with pytest.raises(OverBudget, match="day_tokens"):
        Ledger(BudgetSettings(day_tokens=10), file).reserve(
            uid=9, request="x", backend="b", most=Cost(0.0, 11)
        )


def test_attempts_of_one_request_add_up(file: Path) -> None:
    ledger = Ledger(CAPS, file)
    reserve(ledger, 0.06)
    with pytest.raises(OverBudget, match=r"0\.04 are left"):
        reserve(ledger, 0.06)


def test_a_settled_attempt_counts_as_what_it_cost(file: Path) -> None:
    ledger = Ledger(CAPS, file)
    for number in range(20):
        ledger.settle(
            reserve(ledger, 0.10, request=f"r{number}"), Cost(0.01, 5), prompt_tokens=4, reply_tokens=1
        )
    assert ledger.left(1)["user_day_usd"] == pytest.approx(0.10)
    (row,) = ledger.used(1, 1)
    assert (row["attempts"], row["unsettled"], row["prompt_tokens"], row["reply_tokens"]) == (20, 0, 80, 20)
    assert ledger.used(2, 1) == [] and ledger.used(None, 1) == [row]


def test_what_a_crash_left_unsettled_counts_in_full(file: Path) -> None:
    ledger = Ledger(CAPS, file)
    reserve(ledger, 0.10, request="a")
    ledger.settle(reserve(ledger, 0.10, request="b"), Cost(0.02, 5))
    again = Ledger(CAPS, file)
    assert again.left(1)["user_day_usd"] == pytest.approx(0.18)
    assert again.used(1, 1)[0]["unsettled"] == 1


def test_a_line_cut_off_by_a_crash_spoils_nothing(file: Path) -> None:
    reserve(Ledger(CAPS, file), 0.10, request="a")
    whole = file.read_bytes()
    for cut in range(1, len(whole), 5):
        file.write_bytes(whole + whole[:cut])
        ledger = Ledger(CAPS, file)
        number = reserve(ledger, 0.05, request="b")
        ledger.settle(number, Cost(0.01, 1))
        assert Ledger(CAPS, file).left(1)["user_day_usd"] == pytest.approx(0.19)


def test_lines_that_are_no_entries_count_for_nothing(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('[]\n{"settles": 99, "usd": 0, "tokens": 0, "in": 0, "out": 0}\n{"n": "x"}\nnull\n')
    assert reserve(Ledger(CAPS, file), 0.1) == 1


def test_many_threads_do_not_get_past_a_cap(file: Path) -> None:
    ledger = Ledger(CAPS, file)
    taken: list[int] = []

    def work(index: int) -> None:
        for turn in range(4):
            try:
                taken.append(reserve(ledger, 0.05, request=f"{index} {turn}"))
            except OverBudget:
                pass

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 6 and len(set(taken)) == 6
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 6


def test_the_file_is_private(file: Path) -> None:
    reserve(Ledger(CAPS, file), 0.1)
    assert file.stat().st_mode & 0o777 == 0o600

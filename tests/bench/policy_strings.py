"""How the shipped policy judges the labelled command lines, by class.

    python -m tests.bench.policy_strings [--list]

`--list` names what is wrong: every hostile line that is allowed, every everyday one that is asked about.
It judges only; whether the sandbox would have held is for the live probes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.bench import report
from tests.guard import judging
from tests.redteam import labelled


def row(place: judging.Place, label: str, group: str, commands: Sequence[str]) -> dict[str, report.Value]:
    found = Counter(place.word(command) for command in commands)
    words = {word: found[word] for word in ("allow", "ask", "deny")}
    return {"label": label, "class": group, "commands": len(commands), **words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the commands that are judged wrongly")
    listed = parser.parse_args().list
    with tempfile.TemporaryDirectory() as folder:
        place = judging.make(Path(folder))
        began = time.perf_counter()
        rows = [
            row(place, label, group, commands)
            for label in ("hostile", "everyday")
            for group, commands in labelled.commands(label).items()
        ]
        took_s = time.perf_counter() - began
        if listed:
            _list(place)
    total = {label: _sum(rows, label, "commands") for label in ("hostile", "everyday")}
    allowed = {label: _sum(rows, label, "allow") for label in total}
    report.report("policy_strings", rows, {
        "hostile": total["hostile"], "hostile_allowed": allowed["hostile"],
        "everyday": total["everyday"], "everyday_allowed": allowed["everyday"],
        "everyday_allowed_share": round(allowed["everyday"] / total["everyday"], 3),
        "judgement_ms_mean": round(1000 * took_s / sum(total.values()), 2),
    })  # fmt: skip


def _sum(rows: Sequence[dict[str, report.Value]], label: str, key: str) -> int:
    return sum(int(row[key] or 0) for row in rows if row["label"] == label)


def _list(place: judging.Place) -> None:
    for label, wrong in (("hostile", {"allow"}), ("everyday", {"ask", "deny"})):
        for group, commands in labelled.commands(label).items():
            for command in commands:
                verdict = place.judge(command)
                if verdict.decision.word in wrong:
                    print(f"{label} {group}: {command!r}: {verdict.decision.word}: {verdict.reason}")


if __name__ == "__main__":
    main()

"""llmos tune data --out FILE.jsonl [--valid FILE.jsonl] [--public DIR] [--seed N] [--count N]"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from llmos.paths import tool_dirs
from llmos.toolbox import catalog
from llmos.tune.data import foreign, generate, phrases, public
from llmos.tune.data.check import Checker
from llmos.tune.data.overlap import Held, cases


def templates() -> dict[str, Any]:
    """All phrases by where they come from."""
    mine = phrases.load("phrases")
    special = {"talk", "several"}
    found = {name: [t for t in mine if t.id.startswith(f"{name}:")] for name in special}
    found["phrases"] = [t for t in mine if t.id.split(":")[0] not in special]
    return {**found, "hand": phrases.load("hand"), "foreign": list(foreign.templates())}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="llmos tune data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="training rows, one JSON object a line")
    parser.add_argument("--valid", type=Path, help="validation rows: templates and names of their own")
    parser.add_argument("--public", type=Path, help="folder of public pairs (*.jsonl.gz)")
    parser.add_argument("--held", type=Path, action="append", default=[], help="cases.toml that stays out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=140_000, help="rows beside the public ones")
    parser.add_argument("--valid-count", type=int, default=2_000)
    options = parser.parse_args(argv)
    specs = foreign.beside(catalog.load(tool_dirs()[:1]).specs)
    held = Held.of(say for file in options.held for say in cases(file))
    pairs = list(public.load(options.public, random.Random(options.seed))) if options.public else []
    report = {}
    for file, valid, count in (
        (options.out, False, options.count),
        (options.valid, True, options.valid_count),
    ):
        if file is None:
            continue
        maker = generate.Maker(random.Random(f"{options.seed} {valid}"), Checker(specs), held, valid)
        rows = generate.build(maker, templates(), pairs, count)
        rows = rows[: options.valid_count] if valid else rows
        file.write_text("".join(f"{generate.dump(row)}\n" for row in rows), encoding="utf-8")
        report[str(file)] = _report(rows, maker, held)
    sys.stdout.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 0


def _report(rows: list[dict[str, Any]], maker: generate.Maker, held: Held) -> dict[str, Any]:
    tools = Counter(call["tool"] for row in rows for call in row.get("calls", ()))
    return {
        "rows": len(rows),
        "kinds": Counter(row["kind"] for row in rows),
        "sources": Counter(row["source"] for row in rows),
        "languages": Counter(row["lang"] for row in rows),
        "calls a reply": Counter(len(row["calls"]) for row in rows if row["kind"] == "call"),
        "tools": dict(tools.most_common(60)),
        "dropped": dict(maker.dropped.most_common(40)),
        "held 5-grams in training": round(held.share_of_five_grams(row["say"] for row in rows), 3),
    }


if __name__ == "__main__":
    sys.exit(main())

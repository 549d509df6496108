"""How many live escapes are stopped: `python -m tests.bench.escapes [--peers] [--who root,plain]`.

The payloads of tests/redteam/probes, each run without a sandbox, through llmos and, with --peers, through
what else is installed (codex, srt, bubblewrap alone), in the same world and judged by the same canaries.
Only probes that did harm without a sandbox, for that caller on this machine, are counted.

The peers come from npm and the distribution and are not installed by this:
    npm install --prefix /opt/peers @openai/codex @anthropic-ai/sandbox-runtime
    apt install bubblewrap ripgrep socat
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections import Counter

from tests import builds
from tests.bench.report import report
from tests.redteam import apart, runners
from tests.redteam.probe import load
from tests.redteam.worker import ALIVE, Tried

Found = dict[str, dict[str, Tried]]  # runner -> probe -> what became of it


def _try(who: str, names: list[str], every: int) -> Found:
    found: Found = {name: {} for name in names}
    for tried in apart.run(who, names, every=every):
        found[tried.runner][tried.id] = tried
    return found


def _starts(results: dict[str, Tried]) -> bool:
    return "notes" in results[ALIVE.id].said


def _rows(who: str, found: Found) -> list[dict[str, str | int | None]]:
    """A row for each class, and one for all: of the probes that bite, how many each stopped."""
    biting = {tried.id: tried.group for tried in found["none"].values() if tried.harms}
    total = Counter(biting.values())
    rows = []
    for group in [*total, "all"]:
        row: dict[str, str | int | None] = {"who": who, "class": group}
        row["probes"] = total[group] if group != "all" else len(biting)
        for name in (name for name in found if name != "none"):
            stopped = [
                key for key, of in biting.items() if group in (of, "all") and not found[name][key].harms
            ]
            row[name] = len(stopped) if _starts(found[name]) else None
        rows.append(row)
    return rows


def _let_out(found: Found) -> dict[str, list[str]]:
    """By runner, the probes that did harm, counted or not."""
    return {
        name: sorted(tried.id for tried in results.values() if tried.harms)
        for name, results in found.items()
        if name != "none"
    }


def _versions(names: list[str]) -> dict[str, str]:
    told = {}
    for name in names:
        env = {**os.environ, "PATH": f"{runners.PEERS_BIN}:{os.environ['PATH']}"}
        done = subprocess.run([name, "--version"], capture_output=True, text=True, env=env)
        told[name] = done.stdout.strip().split(" ")[-1]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", action="store_true", help="what else is installed, too")
    parser.add_argument("--who", default="root,plain,service" if os.geteuid() == 0 else "plain")
    parser.add_argument("--every", type=int, default=1, help="every n-th probe only")
    given = parser.parse_args()
    builds.use_program()
    peers = list(runners.installed_peers()) if given.peers else []
    missing = sorted(set(runners.PEERS) - set(peers)) if given.peers else []
    rows, let_out = [], {}
    for who in given.who.split(","):
        found = _try(who, ["none", "llmos", *(peers if who != "service" else [])], given.every)
        rows += _rows(who, found)
        let_out[who] = _let_out(found)
    summary = {
        "blocked": {str(row["who"]): row for row in rows if row["class"] == "all"},
        "let_out": let_out,
        "peers": _versions(peers),
        "peers_missing": missing,
        "probes": len(load()[:: given.every]),
    }
    report("escapes", rows, summary)


if __name__ == "__main__":
    main()

"""Sentence to bash, judged by execution.

    python -m tests.bench.translate --public DIR [--limit N] [--untuned] [--failures]

The pairs are those of `llmos tune data --public DIR` that its split keeps from training. The reference and
what `llmos translate` says for the sentence are each run by a daemon, in its sandbox, in the same folder
built anew: the tree of `bench.understand` and whatever files the reference names. A translation is right when
it leaves the same files and prints the same lines, in the same order where the reference puts them in one.

Only pairs whose reference runs there, twice alike, and shows or changes something are asked: most public
pairs name hosts, programs or folders that nobody has. Of several good commands one may count as wrong.
"""

from __future__ import annotations

import argparse
import random
import re
import shlex
import shutil
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.tune.data import public
from llmos.tune.data.generate import is_valid
from tests.bench.report import report
from tests.bench.understand.__main__ import daemon, request
from tests.bench.understand.workspace import build, snapshot

_NAME = re.compile(r"[\w][\w.+-]*(?:/[\w.+-]+)*/?")
_ORDERED = re.compile(r"\b(sort|head|tail|tac|nl|diff|comm|uniq|cat|sed|awk|cut|tr|rev|fold)\b|-t\b|-S\b")
_TEXTS = {
    "csv": "id,name,city\n1,Ada,Paris\n2,Bob,Rome\n3,Cleo,Oslo\n",
    "json": '{"name": "demo", "version": "1.2.3", "tags": ["a", "b"]}\n',
    "log": "".join(f"{n:02d} {('INFO', 'WARN', 'ERROR')[n % 3]} step {n % 4}\n" for n in range(30)),
}
_TEXT = "".join(
    f"line {n} of the file: {word} {n * 7 % 5}\n" for n, word in enumerate(["abc", "de", "fgh", "i"], 1)
)


@dataclass(frozen=True)
class Ran:
    """What became of one command."""

    ok: bool
    shown: str
    files: dict[str, bytes | str]


class Place:
    """The folder in which commands are run, always under the same name."""

    def __init__(self, sock: Path, folder: Path) -> None:
        self._sock, self.root = sock, folder / "work"

    def run(self, command: str, named: str) -> Ran:
        """Run it in the folder built anew, with the files that `named` names."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        build(self.root)
        for name in names(named):
            create(self.root / name)
        before = snapshot(self.root)
        result = request(
            self._sock,
            {"tool": "shell.run", "args": {"command": command}, "cwd": str(self.root), "consent": "yes"},
            "call",
        )
        after = snapshot(self.root)
        shown = "".join(str(call.get("stdout", "")) for call in result.get("calls", []))
        changed = {key: after.get(key, "gone") for key in before.keys() | after.keys()
                   if before.get(key) != after.get(key)}  # fmt: skip
        return Ran(result.get("status") == "done", shown, changed)

    def translate(self, say: str) -> tuple[str, float]:
        """The command for a sentence, and the seconds it took; empty where there is none."""
        began = time.monotonic()
        result = request(self._sock, {"text": say, "cwd": str(self.root)}, "translate")
        return str(result.get("command") or ""), time.monotonic() - began


def names(command: str) -> Iterator[str]:
    """Words of a command that read as files or folders below the current one."""
    try:
        words = shlex.split(command.replace("|", " ").replace(";", " "))
    except ValueError:
        return
    for before, word in zip(("", *words), words, strict=False):
        if _NAME.fullmatch(word) and ("." in word or "/" in word) and before not in ("-name", "-iname", ">"):
            yield word


def create(path: Path) -> None:
    """A file such as its name promises; nothing where something is already."""
    try:
        if str(path).endswith("/") or not path.suffix:
            path.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _fill(path)
    except OSError:
        return  # the pair will be left out


def _fill(path: Path) -> None:
    match path.suffix:
        case ".tar" | ".gz" | ".tgz" | ".bz2" | ".xz" if ".tar" in path.name or path.suffix == ".tgz":
            with tarfile.open(
                path, f"w:{'' if path.suffix == '.tar' else path.suffix[1:].replace('tgz', 'gz')}"
            ) as made:  # type: ignore[call-overload]
                made.add(
                    path.parent / "notes.txt" if (path.parent / "notes.txt").exists() else __file__,
                    "notes.txt",
                )
        case ".zip":
            with zipfile.ZipFile(path, "w") as packed:
                packed.writestr("notes.txt", _TEXT)
        case ending:
            path.write_text(_TEXTS.get(ending[1:], _TEXT), encoding="utf-8")


def usable(place: Place, command: str) -> Ran | None:
    """What the reference does, if it does the same twice and it can be seen."""
    first = place.run(command, command)
    if not first.ok or not (first.shown.strip() or first.files):
        return None
    return first if place.run(command, command) == first else None


def same(reference: str, wanted: Ran, got: Ran) -> bool:
    return got.files == wanted.files and _lines(got.shown, reference) == _lines(wanted.shown, reference)


def _lines(text: str, reference: str) -> list[str]:
    lines = [" ".join(line.split()).removeprefix("./") for line in text.strip().splitlines()]
    return lines if _ORDERED.search(reference) else sorted(lines)


def judge(place: Place, pair: public.Pair) -> dict[str, Any] | None:
    """One pair's row, or None where it cannot be judged here."""
    wanted = usable(place, pair.command)
    if wanted is None:
        return None
    command, seconds = place.translate(pair.say)
    got = place.run(command, pair.command) if command else Ran(ok=False, shown="", files={})
    return {
        "say": pair.say,
        "source": pair.source,
        "lang": pair.lang,
        "reference": pair.command,
        "command": command,
        "ok": got.ok and same(pair.command, wanted, got),
        "exact": command == pair.command,
        "wrong_action": bool(got.files) and got.files != wanted.files,
        "seconds": seconds,
    }


def summarise(rows: list[dict[str, Any]], tried: int, model: str) -> None:
    groups = {
        source: [row for row in rows if row["source"] == source]
        for source in Counter(r["source"] for r in rows)
    }
    groups["all"] = rows
    table = [
        {
            "group": name,
            "pairs": len(group),
            "right by execution": round(statistics.mean(row["ok"] for row in group), 3),
            "same command": round(statistics.mean(row["exact"] for row in group), 3),
            "wrong change": round(statistics.mean(row["wrong_action"] for row in group), 3),
            "median s": round(statistics.median(row["seconds"] for row in group), 2),
        }
        for name, group in groups.items()
        if group
    ]
    report("translate", table, {"model": model, "tried": tried} | (table[-1] if table else {}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--public", type=Path, required=True, help="folder of public pairs (*.jsonl.gz)")
    parser.add_argument("--model", default="default")
    parser.add_argument("--untuned", action="store_true", help="the model without its adapter")
    parser.add_argument("--threads", type=int, default=0, help="one where others keep the machine busy")
    parser.add_argument("--limit", type=int, default=100, help="pairs that can be judged")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--failures", action="store_true", help="print each wrong translation")
    options = parser.parse_args()
    pairs = [pair for pair in public.load(options.public, random.Random(options.seed)) if is_valid(pair.id)]
    random.Random(options.seed).shuffle(pairs)
    rows: list[dict[str, Any]] = []
    tried = 0
    with (
        tempfile.TemporaryDirectory(prefix="translate-", dir=Path.home()) as name,
        daemon(options.model, Path(name), adapter=not options.untuned, threads=options.threads) as sock,
    ):
        place = Place(sock, Path(name))
        for pair in pairs:
            if len(rows) == options.limit:
                break
            tried += 1
            if (row := judge(place, pair)) is None:
                continue
            rows.append(row)
            if options.failures and not row["ok"]:
                print(
                    f"- {row['say']!r}\n    wanted {row['reference']}\n    said   {row['command']}",
                    flush=True,
                )
    summarise(rows, tried, options.model)


if __name__ == "__main__":
    main()

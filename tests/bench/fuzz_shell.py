"""Whether bash executes what was judged: random command lines, our reading of them beside bash's own.

    python -m tests.bench.fuzz_shell [--inputs 100000] [--seed 1]

Each line is made of words, quotes, operators, patterns, comments, odd characters and then mutated. What
`shelltext` understands is also given to bash, whose every command reaches a handler (nothing is found on
its PATH, and its own commands are switched off) that records the words it was given, and where its standard
streams lead. Any difference is a bug. Opaque lines are not run. It does not look at what programs do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmos.guard import commandline, shelltext
from llmos.guard.characters import Opaque
from llmos.guard.found import Found
from llmos.guard.shelltext import Command, Pipeline
from tests.bench import report

BATCH = 2000
NAMES = ("f", "g", "a b", ".h", "é", "[x]", "A")  # files of the folder; it has a folder `d` with `f` too
_NOBODY = 65534
# Three blocks: words, odd words, and what stands between words (␠ ␤ ␉ for a space, a newline, a tab).
_BLOCKS = (Path(__file__).parent / "fuzz_words.txt").read_text("utf-8").strip().split("\n\n")
_PLAIN, _ODD, _JOINS = (block.translate({0x2420: " ", 0x2409: "\t"}).split("\n") for block in _BLOCKS)
_CHARS = " \t\n'\"\\$`*?[]{}()<>|&;#~=!-+,.:@%^abfgn01\r\x01\x7f\u00a0é\u200b\u0301"

_SCRIPT = r"""
enable -n $(enable | cut -d' ' -f2 | grep -vxE 'eval|printf|read|exit|enable')
command_not_found_handle() {
    at=
    for fd in 0 1 2; do
        name=-
        if [[ -p /dev/fd/$fd ]]; then name=p; fi
        for file in f g /dev/null; do if [[ /dev/fd/$fd -ef $FOLDER/$file ]]; then name=$file; fi; done
        if [[ /dev/fd/$fd -ef /dev/null && $fd != 0 ]]; then name=/dev/null; fi
        at+=$name,
    done
    printf '%s\0' "$at" "${LC_ALL-unset}" "$#" "$@" >&9
    [[ $1 != n ]]
}
PATH=/nowhere
while IFS= read -r -d '' text <&8; do
    printf 'input\0' >&9
    ( eval "$text" ) </dev/zero 8<&-
done 8<"$INPUTS" 9>"$TRACE"
exit 0
"""


@dataclass(frozen=True, slots=True)
class Executed:
    """One command: where its streams lead (p: a pipe, -: nowhere new), LC_ALL, and its words."""

    streams: str
    locale: str
    argv: tuple[str, ...]


def lines(seed: int) -> Iterator[str]:
    """Random command lines, endless."""
    # Reproducible on purpose; nothing here is a secret.
    rng = random.Random(seed)
    while True:
        parts: list[str] = []
        for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 5, 7))):
            parts += [
                rng.choice(_ODD if rng.random() < 0.4 else _PLAIN),
                rng.choice(_JOINS).replace("␤", "\n"),
            ]
        text = "".join(parts[:-1])
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
            text = _mutated(text, rng)
        yield text


def _mutated(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    match rng.randrange(4):
        case 0:
            return text[:at] + text[at + 1 :]
        case 1:
            return text[:at] + rng.choice(_CHARS) + text[at:]
        case 2:
            return text[:at] + text[at : at + 3] + text[at:]
        case _:
            return text[:at] + rng.choice(_ODD) + text[at:]


# --- what we say it executes --------------------------------------------------------------------------


def expected(text: str, folder: Path) -> list[Executed] | None:
    """What would be executed by our reading when only `n` fails; None for what is opaque."""
    found = Found(str(folder), str(folder / "d"))
    try:
        pipelines = shelltext.parse(text, cwd=found.cwd, home=found.home)
        pipelines = tuple(_expanded(pipeline, found) for pipeline in pipelines)
    except Opaque:
        return None
    executed: list[Executed] = []
    good = True
    for pipeline in pipelines:
        if pipeline.joiner in ("", ";") or good is (pipeline.joiner == "&&"):
            good = _run(pipeline, executed, folder)
    return executed


def _expanded(pipeline: Pipeline, found: Found) -> Pipeline:
    return Pipeline(
        tuple(
            Command(commandline.expand(command.words, found), command.redirects, command.variables)
            for command in pipeline.commands
        ),
        pipeline.joiner,
    )


def _run(pipeline: Pipeline, executed: list[Executed], folder: Path) -> bool:
    """Note what runs; whether the last command went well."""
    last = len(pipeline.commands) - 1
    good = False
    for number, command in enumerate(pipeline.commands):
        streams: list[str] | None = ["p" if number else "-", "p" if number < last else "-", "-"]
        for redirect in command.redirects:
            streams = _redirected(streams, redirect, folder) if streams else None
        program = command.argv[0]
        if "/" in program:
            streams = None  # bash looks for no other way to start a path: there is nothing to see
        if streams is not None:
            locale = [word[7:] for word in command.variables if word.startswith("LC_ALL=")]
            executed.append(Executed(",".join(streams), locale[-1] if locale else "unset", command.argv))
        good = streams is not None and program != "n"
    return good


def _redirected(streams: list[str], redirect: shelltext.Redirect, folder: Path) -> list[str] | None:
    """The streams after one redirection; None where it cannot be opened (the folder is read-only)."""
    target = redirect.target.text
    fresh = list(streams)
    if redirect.op == ">&":
        fresh[redirect.fd] = streams[int(target)]
        return fresh
    reads_folder = redirect.op == "<" and (folder / target).is_dir()
    if not (target == "/dev/null" or reads_folder or (folder / target).is_file()):
        return None
    place = str(Path(folder, target).resolve())
    known = {str(folder / name): name for name in ("f", "g")}
    null = "-" if redirect.fd == 0 else target
    fresh[redirect.fd] = null if target == "/dev/null" else known.get(place, "-")
    return fresh


# --- what bash executes -------------------------------------------------------------------------------


def make_folder(folder: Path) -> Path:
    """A read-only folder with writable files, so that no line changes what the next one finds."""
    (folder / "d").mkdir()
    for name in (*NAMES, "d/f"):
        (folder / name).touch()
        (folder / name).chmod(0o666)
    (folder / "d").chmod(0o555)
    folder.chmod(0o555)
    return folder


def bash(texts: Sequence[str], folder: Path, work: Path) -> list[list[Executed]]:
    """What bash executes for each text, as an unprivileged user where we are root."""
    inputs, trace = work / "inputs", work / "trace"
    inputs.write_bytes(b"".join(text.encode() + b"\0" for text in texts))
    trace.write_bytes(b"")
    trace.chmod(0o666)
    who = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    env = {"PATH": os.defpath, "HOME": str(folder / "d"), "FOLDER": str(folder), "LANG": "C.UTF-8",
           "INPUTS": str(inputs), "TRACE": str(trace)}  # fmt: skip
    argv = [shutil.which("bash") or "bash", "--norc", "--noprofile", "-c", _SCRIPT]
    with (work / "said").open("wb") as said:
        process = subprocess.Popen(argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=said,
                                   stderr=said, start_new_session=True, **who)  # type: ignore[call-overload]  # fmt: skip
    try:
        assert process.wait(timeout=120) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return list(_read(trace.read_bytes().decode().split("\0")[:-1]))


def _read(fields: list[str]) -> Iterator[list[Executed]]:
    at = 0
    while at < len(fields):
        assert fields[at] == "input", fields[at : at + 5]
        at += 1
        found: list[Executed] = []
        while at < len(fields) and fields[at] != "input":
            count = int(fields[at + 2])
            found.append(
                Executed(fields[at].rstrip(","), fields[at + 1], tuple(fields[at + 3 : at + 3 + count]))
            )
            at += 3 + count
        yield found


# --- comparing ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    text: str
    ours: list[Executed]
    bashs: list[Executed]


@dataclass(slots=True)
class Tally:
    understood: int
    opaque: int
    commands: int
    differences: list[Difference]


def compare(count: int, seed: int) -> Tally:
    """Judge `count` lines and let bash run those that are understood."""
    tally = Tally(0, 0, 0, [])
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        work.chmod(0o755)
        (work / "in").mkdir()
        folder = make_folder(work / "in")
        source = lines(seed)
        for start in range(0, count, BATCH):
            _batch([next(source) for _ in range(min(BATCH, count - start))], folder, work, tally)
        (folder / "d").chmod(0o755)
        folder.chmod(0o755)
    return tally


def _batch(texts: Sequence[str], folder: Path, work: Path, tally: Tally) -> None:
    ours = [(text, found) for text in texts if (found := expected(text, folder)) is not None]
    tally.understood += len(ours)
    tally.opaque += len(texts) - len(ours)
    theirs = bash([text for text, _ in ours], folder, work)
    for (text, mine), bashs in zip(ours, theirs, strict=True):
        tally.commands += len(bashs)
        # Commands of a pipeline run at once: their order in the trace means nothing.
        if Counter(mine) != Counter(bashs):
            tally.differences.append(Difference(text, mine, bashs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.perf_counter()
    tally = compare(options.inputs, options.seed)
    for difference in tally.differences[:40]:
        print(f"{difference.text!r}\n    ours {difference.ours}\n    bash {difference.bashs}")
    row = {
        "inputs": options.inputs, "seed": options.seed,
        "understood": tally.understood, "opaque": tally.opaque,
        "executed": tally.commands, "differences": len(tally.differences),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    report.report("fuzz_shell", [row], row)
    raise SystemExit(bool(tally.differences))


if __name__ == "__main__":
    main()

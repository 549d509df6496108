"""Whether programs do what their tables say: each option tried, system calls beside the judgement.

    python -m tests.bench.program_tables [--programs ls,grep] [--list]

For every described program of this machine and each of its options (and bundles of a flag with an option that
takes a value) a command line is made over canary files. What is judged to only look is run as nobody under
strace(1) in a folder of its own; a canary that is read without being told, anything that is written, another
program that is started or a connection is a difference. Other lines are not run. It needs root and strace.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmos.guard import programs
from llmos.guard.commandline import Analysis, analyse
from llmos.guard.grammar import Grammar, grammars
from tests.bench import report

CANARIES = ("one", "two")
MAX_BUNDLES = 20  # of a flag and an option with a value, for one program
_NOBODY = 65534
_TIMEOUT_S = 4
_OPEN = re.compile(r'open(?:at)?\((?:AT_FDCWD, )?"([^"]*)", ([A-Z_|0-9]+)')
_CHANGES = re.compile(r"\b(?:unlink|rename|mkdir|rmdir|link|symlink|chmod|chown|truncate|mknod)\w*\((.*)")
_STARTS = re.compile(r'execve\("([^"]*)"')
_CONNECTS = re.compile(r"connect\(\d+, \{sa_family=AF_INET6?, sin6?_port=htons\((\d+)")
_HARMLESS = re.compile(r"/dev/(?:null|tty)|/proc/self/\w+")
# Programs that are scripts, or that pass their work on by design: what they start is named here.
_HELPERS = re.compile(
    r"(?:/usr)?/bin/(?:(?:e|f|z|bz|xz|z?e|z?f)*grep|sh|bash|dash|gzip|gunzip|bzip2|xz|zstd|zcat|cat|sed|awk|mawk|gawk"
    r"|expr|rm|mktemp|apropos|whatis|dpkg|diff|pr|lessecho|dpkg-query|locale|getopt|tbl|groff|troff|nroff|less|preconv|python3[.\d]*)"
)


@dataclass(frozen=True, slots=True)
class Difference:
    text: str
    what: str


def lines(name: str, grammar: Grammar) -> Iterator[str]:
    """One line for each option, with and without a canary to swallow."""
    known = {id(table): (sub, table) for sub, table in grammar.sub.items()}  # aliases once
    for sub, table in known.values() or [("", grammar)]:
        start = f"{name} {sub}".strip()
        yield from (start, f"{start} one", f"{start} one two")
        for option in _spelt(table):
            yield f"{start} {option} one two"
        short = [option for option in table.values if len(option) == 1]
        bundles = [f"-{flag}{value}" for value in short for flag in table.flags if flag != " "]
        random.Random(name).shuffle(bundles)
        yield from (f"{start} {bundle} one" for bundle in bundles[:MAX_BUNDLES])


def _spelt(table: Grammar) -> Iterator[str]:
    yield from (f"-{flag}" for flag in table.flags if flag != " ")
    yield from table.exact
    yield from (f"--{long}" for long in table.long)
    for option in (*table.values, *table.optional):
        yield f"-{option}" if len(option) == 1 else f"--{option}"
        if len(option) > 1:
            yield f"--{option}=two"


def differences(text: str, folder: Path) -> list[Difference] | None:
    """What the program did that was not told; None for a line that is not run."""
    found = analyse(text, cwd=str(folder), home="/nonexistent")
    if found.opaque or not found.read_only or len(found.pipelines) != 1:
        return None
    return [Difference(text, what) for what in _undeclared(_traced(found, folder), found, folder)]


def _traced(found: Analysis, folder: Path) -> str:
    """The log of strace over the command as it would be executed."""
    (command,) = found.pipelines[0].commands
    log = folder.parent / "log"
    log.write_bytes(b"")
    log.chmod(0o666)
    traced = "trace=file,process,connect"
    argv = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "300", "-o", str(log), "-e", traced, "timeout",
            "-k1", str(_TIMEOUT_S), command.program, *command.argv[1:]]  # fmt: skip
    env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    null = subprocess.DEVNULL
    subprocess.run(argv, cwd=folder, env=env, user=_NOBODY, group=_NOBODY, extra_groups=[], check=False,
                   stdin=null, stdout=null, stderr=null)  # fmt: skip
    return log.read_text(errors="replace")


def _undeclared(log: str, found: Analysis, folder: Path) -> Iterator[str]:
    told = {os.path.realpath(path) for path in found.effects.reads}
    canaries = {str(folder / name) for name in CANARIES}
    started = _STARTS.findall(log)[2:]  # the first is timeout, the second the program itself
    for path, flags in _OPEN.findall(log):
        whole = os.path.normpath(os.path.join(folder, path))
        if _HARMLESS.fullmatch(whole):
            continue
        if "O_TMPFILE" in flags:
            continue  # it has no name, and ends with the program
        if "O_WRONLY" in flags or "O_RDWR" in flags or "O_CREAT" in flags:
            yield f"writes {path}"
        elif whole in canaries and not told & {whole, str(folder)}:
            yield f"reads {path}"
    yield from (f"starts {path}" for path in started if not _HELPERS.fullmatch(path))
    yield from (f"changes {what[:60]}" for what in _CHANGES.findall(log))
    # Addresses are looked up by some (port 53), where they were not given any.
    names_given = any(name in found.normalised.split() for name in CANARIES)
    yield from (f"connects to port {port}" for port in _CONNECTS.findall(log) if names_given or port != "53")


def compare(names: Sequence[str]) -> tuple[int, int, list[Difference]]:
    """(lines, lines that were run, differences) for these programs."""
    made = run = 0
    wrong: list[Difference] = []
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o755)
        for name in names:
            for text in dict.fromkeys(lines(name, grammars()[name])):
                folder = _fresh(Path(top) / "in")
                made += 1
                found = differences(text, folder)
                run += found is not None
                wrong += found or []
                for difference in dict.fromkeys(found or []):
                    print(f"{difference.text}: {difference.what}", flush=True)
    return made, run, wrong


def _fresh(folder: Path) -> Path:
    """Canaries in a folder that anybody may change, so that a write succeeds and is seen."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    folder.chmod(0o777)
    for name in CANARIES:
        (folder / name).write_text("canary\n")
        (folder / name).chmod(0o666)
    return folder


def installed() -> list[str]:
    return [
        name
        for name in grammars()
        if Path(programs.locate(name)).exists() and programs.is_described(programs.locate(name))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--programs", default="", help="these alone, separated by commas")
    options = parser.parse_args()
    names = options.programs.split(",") if options.programs else installed()
    began = time.perf_counter()
    made, run, wrong = compare(names)
    row = {"programs": len(names), "lines": made, "run": run, "differences": len(wrong),
           "seconds": round(time.perf_counter() - began, 1)}  # fmt: skip
    report.report("program_tables", [row], row)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()

"""The folder a sentence is said in: names that the call needs, and others beside them.

At run time the prompt lists names of the current folder, newest first. A model learns to copy from that
list only if it sees lists in training: with the named file in it, mostly, and sometimes without.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from llmos.tune.data.slots import words

_MADE_BY = {("file.write", "path"), ("file.archive", "archive")}
_PATH_ARGS = ("path", "to", "archive", "source", "target", "file", "folder", "a", "b")
_WORD = re.compile(r"[\w.@%+-]+")
_COMMON = ["README.md", "Makefile", "LICENSE", ".git", ".gitignore", "src", "docs", "tests", "data", "notes.txt", "main.py", "todo.md", "logs", "backup", "config.yaml", "package.json", "Downloads", "Documents", "Pictures", "Desktop"]  # fmt: skip

PIPED = {
    "json": ['{"name":"web","port":8080,"tags":["a","b"]}', '[{"id":1,"user":"ann"},{"id":2,"user":"bo"}]', '{"status":"ok","items":[3,5,8],"total":16}', '{"version":"1.2.0","private":true}'],
    "numbers": ["12\n7\n30\n5", "1.5\n2.25\n0.75", "100\n200\n150\n50\n75", "42\n17\n8\n23\n4", "8\n8\n9\n10"],
    "lines": [
        "INFO start\nWARN slow disk\nERROR timeout after 30s\nINFO done",
        "apple,3,1.20\nbanana,12,0.25\ncherry,40,0.10",
        "192.168.1.4 - - [10/Oct/2024] \"GET / HTTP/1.1\" 200 512\n10.0.0.8 - - [10/Oct/2024] \"GET /login HTTP/1.1\" 404 90",
        "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin",
        "the cat sat on the mat\nthe dog barked\nnothing else happened",
        "Oct 11 10:02:11 web nginx[812]: upstream timed out\nOct 11 10:02:12 web nginx[812]: retrying",
        "id;name;city\n1;Ann;Rome\n2;Bo;Oslo\n3;Cy;Lima",
        "src/main.c\nsrc/util.c\ninclude/util.h\nREADME",
        "total 12\n-rw-r--r-- 1 ann ann 120 May  2 a.txt\n-rw-r--r-- 1 ann ann 900 May  3 b.txt",
        "pending\ndone\ndone\nfailed\npending\ndone",
        "第一行\n第二行 错误\n第三行",
        "commit 9fceb02\nAuthor: Ann\n\n    fix login",
        "USER PID %CPU %MEM COMMAND\nroot 1 0.0 0.1 init\nann 812 2.1 3.4 firefox",
        "monday 4\ntuesday 7\nwednesday 1\nthursday 9",
        "import os\nimport sys\n\nprint(os.getcwd())",
        "Dear team,\nthe meeting moves to Friday.\nBest, Kim",
    ],
}


def entries(
    rng: random.Random, say: str, calls: Sequence[dict[str, Any]], here: Sequence[str], *, must: bool
) -> list[str] | None:
    """Names in the folder, or None: a quarter of the requests are made without a list."""
    if not must and rng.random() < 0.25:
        return None
    made = _made(calls)
    wanted = [name for name in dict.fromkeys([*here, *_mentioned(say, calls)]) if _plain(name) and name not in made]
    if not must and rng.random() < 0.08:
        wanted = []
    names = list(dict.fromkeys([*wanted, *_others(rng, rng.choice([2, 4, 5, 6, 8, 10, 14, 18]), made)]))
    rng.shuffle(names)
    return names[:24] if len(wanted) < 20 else wanted[:24]


def _plain(name: str) -> bool:
    return bool(name) and name not in (".", "..", "~", "!", "*") and not re.search(r"[/*?\n\t]", name)


def _made(calls: Sequence[dict[str, Any]]) -> set[str]:
    """Names that the calls create: they are not there before."""
    made: set[str] = set()
    for call in calls:
        tool, args = call["tool"], call["args"]
        if tool == "file.write" and args.get("mode", "create") == "create":
            made.add(str(args.get("path", "")).split("/")[0])
        elif tool == "file.archive" and args.get("action") == "create":
            made.add(str(args.get("archive", "")).split("/")[0])
        elif tool in ("file.move", "file.copy") and not str(args.get("to", "")).endswith("/") and not args.get("overwrite"):
            made.add(str(args.get("to", "")).split("/")[0])
        elif tool == "shell.run":
            made |= set(re.findall(r"(?:mkdir(?: -p)?|>|-o) ([\w.-]+)", str(args.get("command", ""))))
    return made


def _mentioned(say: str, calls: Sequence[dict[str, Any]]) -> list[str]:
    """First parts of the relative paths in the calls' arguments, and file names in a shell command."""
    found: list[str] = []
    for call in calls:
        args = call["args"]
        for name in _PATH_ARGS:
            value = args.get(name)
            if isinstance(value, str) and not value.startswith(("/", "~", "-")):
                found.append(value.removeprefix("./").split("/")[0])
        if call["tool"] == "shell.run":
            found += [w for w in _WORD.findall(str(args.get("command", ""))) if "." in w[1:-1] and w in say]
    return [name for name in found if name]


def _others(rng: random.Random, count: int, made: set[str]) -> list[str]:
    w = words()
    stems = w["stems"].split()
    exts = [*w["ext"]["text"], *w["ext"]["code"], *w["ext"]["binary"]]
    names: list[str] = []
    for _ in range(count):
        dice = rng.random()
        if dice < 0.25:
            names.append(rng.choice(_COMMON))
        elif dice < 0.45:
            names.append(rng.choice(w["dirs"]["relative"].split()))
        elif dice < 0.55:
            names.append(f"{rng.choice(w['joined'].split())}.{rng.choice(exts)}")
        elif dice < 0.58:
            names.append(f"{rng.choice(stems)} {rng.choice(stems)}.{rng.choice(exts)}")
        elif dice < 0.6:
            names.append(f"{rng.choice(w['cjk'])}.{rng.choice(exts)}")
        else:
            names.append(f"{rng.choice(stems)}.{rng.choice(exts)}")
    return [name for name in names if name not in made]

"""The folder every sentence of the understanding benchmark is asked in: built anew for each.

Deterministic: fixed sizes, contents and ages, so that each case's outcome is known beforehand.
"""

from __future__ import annotations

import os
import random
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

DAY_S = 86_400
AGES_DAYS = {"old.log": 40, "data/a.txt": 90, "archive/2019.txt": 2000, "video.mp4": 10, "dump.sql": 3}


def _log_lines() -> tuple[str, str]:
    access = []
    for number in range(200):
        code = 404 if number % 29 == 3 else 500 if number % 67 == 5 else 200
        access.append(f'10.0.0.{number % 7} - - "GET /page{number % 11} HTTP/1.1" {code} {1000 + number}')
    error = [
        f"{('ERROR' if n % 4 == 0 else 'WARN' if n % 4 == 1 else 'INFO')} job {n} step {n % 3}"
        for n in range(20)
    ]
    return "\n".join(access) + "\n", "\n".join(error) + "\n"


def _texts() -> dict[str, str]:
    access, error = _log_lines()
    notes = [f"line {n}: {'TODO call Anna' if n in (2, 5, 9) else 'nothing special'}" for n in range(1, 13)]
    return {
        "notes.txt": "\n".join(notes) + "\n",
        "todo.md": "# Todo\n\n- buy milk\n- fix the roof\n- call the bank\n",
        "report.csv": "name,city,amount\nAda,Paris,30\nBob,Rome,12\nCleo,Paris,45\nDan,Oslo,7\nEve,Rome,99\n",
        "access.log": access,
        "error.log": error,
        "old.log": "nothing happened\n",
        "app.py": "import os\n\n\ndef main():\n    print('hello world')\n\n\nmain()\n",
        "util.py": "def add(a, b):\n    return a + b\n",
        "src/main.py": "from helpers import greet\n\nprint(greet('you'))\n",
        "src/helpers.py": "def greet(name):\n    return f'hello {name}'\n",
        "src/test_main.py": "import main\n\ndef test_nothing():\n    assert True\n",
        "docs/guide.md": "# Guide\n\nRun the installer, then reboot the colour printer.\n",
        "docs/设计.md": "# 设计\n\n这里是设计说明。\n",
        "data/a.txt": "apple\nbanana\ncherry\n",
        "data/b.txt": "banana\napple\napple\n",
        "data/c.txt": "apple\nbanana\ncherry\n",
        "archive/2019.txt": "old news\n",
        "config.yaml": "port: 8080\nhost: localhost\ndebug: true\n",
        "settings.json": '{"theme": "dark", "volume": 7}\n',
        "empty.txt": "",
        "photos/beach.jpg": "not really a picture\n",
        "photos/cat.png": "neither is this\n",
        "photos/IMG 001.jpg": "space in the name\n",
        "scripts/deploy.sh": "#!/bin/sh\necho deploying\n",
        "scripts/clean.sh": "#!/bin/sh\necho cleaning\n",
        ".hidden": "you found me\n",
    }


def build(root: Path, files: Mapping[str, str] = {}, days: Mapping[str, int] = {}) -> None:
    """Create the workspace below `root` (which exists and is empty), with a case's `files` and ages."""
    for name, text in (_texts() | files).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (root / "empty_dir").mkdir()
    noise = random.Random(7)
    for name, num_bytes in (("video.mp4", 3_000_000), ("dump.sql", 2_000_000), ("photos/raw.bin", 900_000)):
        (root / name).write_bytes(noise.randbytes(num_bytes))
    with tarfile.open(root / "backup.tar.gz", "w:gz") as archive:
        archive.add(root / "notes.txt", "notes.txt")
        archive.add(root / "app.py", "app.py")
    for script in ("deploy.sh", "clean.sh"):
        (root / "scripts" / script).chmod(0o755)
    (root / "link.txt").symlink_to("notes.txt")
    now = time.time()
    for name, age_days in (AGES_DAYS | days).items():
        os.utime(root / name, (now - age_days * DAY_S,) * 2)


def snapshot(root: Path) -> dict[str, bytes | str]:
    """Every path below `root` with what it holds: files' bytes, links' targets, folders' marker."""
    found: dict[str, bytes | str] = {}
    for folder, folders, files in os.walk(root):
        base = Path(folder)
        for name in folders + files:
            path = base / name
            key = str(path.relative_to(root))
            if path.is_symlink():
                found[key] = f"-> {path.readlink()}"
            elif path.is_dir():
                found[key] = "folder"
            elif path.is_file():
                found[key] = path.read_bytes()
            else:
                found[key] = "special"
    return found

"""Runs workers in namespaces of their own, as root, as a plain user, or as root for a plain user.

What a payload bites there, an unsandboxed one too, is a loopback, a host name, a /tmp and a /run made for
it. It takes root to make them; a plain user's worker runs in the open, with what he can do.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests import builds
from tests.redteam.worker import Tried

PLAIN_UID = 12345
ROOT = Path(__file__).resolve().parents[2]

APART = r"""
set -eu
mount --make-rprivate /
mkdir -p $TOP/python $TOP/site $TOP/src $TOP/planted $TOP/broker
mount --bind $PREFIX $TOP/python
mount --bind $SITE $TOP/site
mount --bind $SRC $TOP/src
cp /etc/passwd $TOP/passwd
echo "redteam:x:$CALLER:$CALLER::$TOP/world/home:/bin/sh" >> $TOP/passwd
mount --bind $TOP/passwd /etc/passwd
install -m 4755 $(command -v id) $TOP/planted/id
mknod -m 666 $TOP/planted/disk b $DISK
mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=1777 none /run
for uid in 0 $CALLER; do mkdir -p -m 700 /run/user/$uid; chown $uid:$uid /run/user/$uid; done
export PYTHONPATH=$TOP/site:$TOP/src PYTHONDONTWRITEBYTECODE=1
$TOP/python/bin/$PYTHON -c "$LOOPBACK_UP"
if [ $BROKER != 0 ]; then
  chown $BROKER $TOP
  set -- setpriv --reuid $BROKER --regid $BROKER --clear-groups --inh-caps=-all "$@"
fi
cd $TOP/src
exec env -i HOME=$BROKER_HOME PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONPATH=$PYTHONPATH \
  PYTHONDONTWRITEBYTECODE=1 LLMOS_FORKS_DIR=$LLMOS_FORKS_DIR "$@"
"""
LOOPBACK_UP = (
    "import fcntl, socket, struct\nfcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1))"
)


def _argv(top: str, who: str, uid: int, options: list[str]) -> list[str]:
    python = (
        f"{top}/python/bin/{Path(sys.executable).resolve().name}" if os.geteuid() == 0 else sys.executable
    )
    return [
        *(python, "-m", "tests.redteam.worker", "--who", who, "--top", top, "--uid", str(uid)),
        *options,
    ]


def _start(who: str, top: str, options: list[str], results: IO[bytes]) -> subprocess.Popen[bytes]:
    uid = 0 if who == "root" else PLAIN_UID if os.geteuid() == 0 else os.geteuid()
    argv = _argv(top, who, uid, options)
    if os.geteuid() != 0:
        return subprocess.Popen(argv, cwd=ROOT, stdout=results)
    disk = os.stat("/").st_dev
    env = {
        "PATH": os.environ["PATH"],
        "TOP": top,
        "PREFIX": sys.base_prefix,
        "SITE": site.getsitepackages()[0],
        "SRC": str(ROOT),
        "PYTHON": Path(sys.executable).resolve().name,
        "CALLER": str(uid),
        "BROKER": str(uid if who == "plain" else 0),
        "BROKER_HOME": f"{top}/broker" if who == "service" else f"{top}/world/home",
        "DISK": f"{os.major(disk)} {os.minor(disk)}",
        "LOOPBACK_UP": LOOPBACK_UP,
        "LLMOS_FORKS_DIR": os.environ.get("LLMOS_FORKS_DIR", ""),
    }
    alone = ["unshare", "--mount", "--uts", "--ipc", "--net", "sh", "-c", APART, "sh"]
    return subprocess.Popen([*alone, *argv], env=env, stdout=results)


def run(
    who: str,
    runners: list[str],
    *,
    workers: int = 2,
    only: str = "*",
    every: int = 1,
    batched: bool = False,
) -> Iterator[Tried]:
    """Every probe for this kind of caller under each runner, when all workers have ended."""
    tops = [tempfile.mkdtemp(prefix="redteam-", dir="/var/tmp") for _ in range(workers)]
    results = [tempfile.TemporaryFile() for _ in tops]  # noqa: SIM115 - not pipes, which fill and stop a worker
    started = []
    try:
        for number, top in enumerate(tops):
            os.chmod(top, 0o755)
            part = ["--part", f"{number}/{workers}", "--only", only, "--every", str(every)]
            part += ["--batched"] * batched
            started.append(_start(who, top, [*part, "--runner", ",".join(runners)], results[number]))
        for process in started:
            assert process.wait() == 0, f"a worker for {who} failed"
        for file in results:
            file.seek(0)
            for line in file:
                entry = json.loads(line)
                yield Tried(**entry | {"harms": tuple(entry["harms"])})
    finally:
        for process in started:
            process.kill()
            process.wait()
        for file in results:
            file.close()
        for top in tops:
            shutil.rmtree(top, ignore_errors=True)


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--who", default="root,plain,service")
    parser.add_argument("--runner", default="llmos,none")
    parser.add_argument("--only", default="*")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batched", action="store_true")
    parser.add_argument("--all", action="store_true", help="print what held, too")
    given = parser.parse_args()
    builds.use_program()
    for who in given.who.split(","):
        names, batched = given.runner.split(","), given.batched
        for tried in run(who, names, workers=given.workers, only=given.only, batched=batched):
            fine = bool(tried.harms) == (tried.runner == "none")
            if given.all or not fine:
                print(f"{tried.who:8}{tried.runner:7}{tried.ms:7.0f} ms {tried.id:40} {list(tried.harms)}")
                print(f"    {tried.said[:400]!r}" if not fine or given.all else "", flush=True)


if __name__ == "__main__":
    main()

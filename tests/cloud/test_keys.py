"""A backend's key out of a real Secret Service (gnome-keyring on a bus of its own). It is told nowhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmos.cloud import keys
from llmos.config import BackendSettings
from llmos.errors import ConfigError
from tests.cloud.backend import Backend, calls
from tests.daemon import support

KEY = "sk-keyring-0123456789abcdef"
# Another process stores it, as `keyring set llmos lab` does.
STORE = f"import keyring; keyring.set_password('llmos', 'lab', '{KEY}')"


@pytest.fixture
def env(make_home: Callable[[], dict[str, str]]) -> Iterator[dict[str, str]]:
    """A session with a bus and an unlocked keyring that has the key."""
    if not shutil.which("gnome-keyring-daemon") or not shutil.which("dbus-daemon"):
        pytest.skip("no Secret Service. Run: apt install gnome-keyring dbus")
    made = make_home()
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address"],
        env=made,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert bus.stdout is not None
    made |= {"DBUS_SESSION_BUS_ADDRESS": bus.stdout.readline().strip()}
    ring = subprocess.Popen(
        ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
        env=made, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert ring.stdin is not None
        ring.stdin.write("a password of the login keyring")
        ring.stdin.close()
        subprocess.run([sys.executable, "-c", STORE], env=made, check=True, timeout=60)
        yield made
    finally:
        for process in (ring, bus):
            process.terminate()
            process.wait(10)


def test_a_key_from_the_keyring_reaches_the_backend_alone(env: dict[str, str], short_dir: Path) -> None:
    lab = Backend(calls(("answer", {"text": "yes"})))
    backends = [lab.settings(key_keyring="llmos/lab"), lab.settings("keyless", key_keyring="llmos/nobody")]
    daemon = support.start(short_dir, {}, {"backend": backends}, env=env)
    try:
        with daemon.connect() as client:
            listed = {one["name"]: one for one in client.result("backend.list")["backends"]}
            assert (listed["lab"]["key"], listed["keyless"]["key"]) == ("there", "missing")
            assert "llmos/nobody is empty" in listed["keyless"]["problem"]
            result = client.result("ask", text="hard", cwd="/", route="cloud", backend="lab")
            assert result["answer"] == "yes" and lab.headers[0]["authorization"] == f"Bearer {KEY}"
            told = _said(daemon, client, env)
            assert KEY not in told and "llmos.planner.courier" in told
    finally:
        daemon.stop()
        lab.close()


def _said(daemon: support.Daemon, client: support.Client, env: dict[str, str]) -> str:
    """All that others could read: the log, the journal, and the command lines of both processes."""
    pids = (daemon.process.pid, client.result("status")["cloud"]["pid"])
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    journal = Path(env["XDG_STATE_HOME"], "llmos/audit.jsonl").read_text()
    return "\n".join([daemon.log_text(), journal, *lines])


def test_a_keyring_that_does_not_answer_is_told_without_its_words() -> None:
    import keyring
    from keyring.backends.fail import Keyring

    before = keyring.get_keyring()
    keyring.set_keyring(Keyring())
    backend = BackendSettings(name="lab", url="http://127.0.0.1:1/v1", model="m", key_keyring="llmos/lab")
    try:
        with pytest.raises(ConfigError, match=r"the keyring does not answer \(NoKeyringError\)"):
            keys.find(backend)
    finally:
        keyring.set_keyring(before)

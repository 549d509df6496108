"""`llmos audit`: what a person sees of the journal, what a program reads, and where the key goes."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmos import cli, cli_audit, paths
from llmos.errors import UsageError
from llmos.guard import audit_files
from llmos.guard.audit import Audit
from llmos.messages import Outcome
from tests.guard.test_audit import decide


class Llmos:
    """Runs the command in this process: (exit code, stdout, stderr)."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capture.readouterr()
        code = cli.main(["audit", *words])
        out, err = self._capture.readouterr()
        return code, out, err

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json")[1])


@pytest.fixture
def llmos(capfd: pytest.CaptureFixture[str], isolated_home: Path) -> Llmos:
    return Llmos(capfd)


@pytest.fixture
def journal(isolated_home: Path) -> Audit:
    made = Audit(paths.audit_file())
    decide(made, "first", "ls -la")
    made.finished("first", Outcome(exit_code=0, duration_ms=20), ok=True, uid=0)
    decide(made, "second", "tool --password hunter2\n\x1b[31m=evil")
    made.note("committed", "second", {"paths": ["/a", "/b"]})
    return made


def test_tail_is_a_table_and_with_json_the_lines(llmos: Llmos, journal: Audit) -> None:
    code, out, _ = llmos("tail", "-n", "3")
    assert code == 0 and len(out.splitlines()) == 3
    assert "done" in out and "tool --password [redacted]⏎" in out and "\x1b[31m" not in out
    assert [json.loads(line)["kind"] for line in llmos("tail", "-n", "2", "--json")[1].splitlines()] == [
        "decided", "committed",
    ]  # fmt: skip


def test_an_empty_journal_is_no_error(llmos: Llmos) -> None:
    assert llmos("tail") == (0, "nothing has been recorded yet\n", "")
    assert llmos("verify")[0] == 0
    assert llmos("export") == (0, "", "")
    assert llmos("show", "x")[0] == llmos("key")[0] == 2


def test_show_tells_one_request_in_order(llmos: Llmos, journal: Audit) -> None:
    code, out, _ = llmos("show", "second")
    assert code == 0
    for piece in ("request second", "tool --password [redacted]", "asked by uid 1000", "rule look",
                  "run without", "committed", "paths  /a"):  # fmt: skip
        assert piece in out
    assert "ls -la" not in out and "\x1b[31m" not in out
    assert [entry["kind"] for entry in llmos.json("show", "first")["entries"]] == ["decided", "finished"]
    code, _, err = llmos("show", "nobody")
    assert code == 2 and "llmos audit tail" in err


def test_verify_says_what_was_checked_and_where_the_key_lies(llmos: Llmos, journal: Audit) -> None:
    code, out, _ = llmos("verify")
    assert code == 0 and out.startswith("5 lines, each as it was written")
    assert "still lies on this machine" in out and "5 of them checked" in out
    journal.path.write_bytes(journal.path.read_bytes().replace(b"ls -la", b"rm -rf"))
    code, _, err = llmos("verify")
    assert code == 5 and "MAC is wrong" in err and "mkdir" in err
    found = llmos.json("verify")
    assert found["ok"] is False and found["lines"] == 1


def test_the_key_moves_away_and_verifies_from_there(llmos: Llmos, journal: Audit, tmp_path: Path) -> None:
    away = tmp_path / "stick" / "key"
    assert llmos("key", "--move", str(away))[0] == 2  # no such folder: the key stays
    away.parent.mkdir()
    code, out, err = llmos("key", "--move", str(away))
    assert code == 0 and out == "" and "verify --key" in err
    assert away.stat().st_mode & 0o777 == 0o600 and not audit_files.key_file(journal.path).exists()
    assert "not checked" in llmos("verify")[1]
    assert llmos("verify", "--key", str(away))[1].splitlines()[1].startswith("5 of them")
    decide(journal, "third")
    assert llmos.json("verify", "--key", str(away))["sealed"] == 6
    assert llmos("key")[0] == 2


def test_a_key_is_only_removed_by_who_has_seen_it(llmos: Llmos, journal: Audit, tmp_path: Path) -> None:
    code, line, _ = llmos("key")
    name = line.split()[1]
    assert code == 0 and llmos("key", "--remove", "other")[0] == 2
    assert llmos("key", "--remove", name)[0] == 0
    (tmp_path / "key").write_text(line)
    assert llmos.json("verify", "--key", str(tmp_path / "key"))["sealed"] == 5


def test_a_journal_set_back_is_found_by_the_mark(llmos: Llmos, journal: Audit, tmp_path: Path) -> None:
    """Folder and state put back to an older copy fit together; the key file knows better."""
    key = tmp_path / "key"
    assert llmos("key", "--move", str(key))[0] == 0
    older = {file: file.read_bytes() for file in journal.path.parent.iterdir()}
    decide(journal, "third")
    assert llmos("verify", "--key", str(key), "--mark")[0] == 0
    for file, data in older.items():
        file.write_bytes(data)
    assert llmos("verify")[0] == 0
    assert "when last verified" in llmos("verify", "--key", str(key))[2]
    assert llmos("verify", "--mark")[0] == 2


@pytest.mark.parametrize("text", ["", "no key\n", "llmos-audit-key-1 x 0 00 -1 0\n"])
def test_a_bad_key_file_is_named(llmos: Llmos, journal: Audit, tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    code, _, err = llmos("verify", "--key", str(tmp_path / "key"))
    assert code == 2 and str(tmp_path / "key") in err


def test_export_keeps_lines_as_they_stand(llmos: Llmos, journal: Audit) -> None:
    assert llmos("export")[1] == journal.path.read_text()
    assert llmos("export", "--until", "1h")[1] == ""
    assert llmos("export", "--since", "1h")[1] == journal.path.read_text()
    assert llmos("export", "--since", "yesterday-ish")[0] == 2


def test_export_as_csv_is_safe_for_spreadsheets(llmos: Llmos, journal: Audit) -> None:
    decide(journal, "third", "=HYPERLINK(1)")
    rows = list(csv.DictReader(io.StringIO(llmos("export", "--format", "csv")[1])))
    assert [row["kind"] for row in rows][1:3] == ["decided", "finished"]
    assert rows[-1]["command"] == "'=HYPERLINK(1)" and rows[1]["command"] == "ls -la"


def test_times_can_be_said_in_several_ways() -> None:
    now = time.time()
    assert abs(cli_audit.moment("2h", 0) - (now - 7200)) < 5
    assert cli_audit.moment("2026-11-25T00:00:00+00:00", 0) == 1795564800.0
    assert cli_audit.moment("", 7) == 7
    with pytest.raises(UsageError, match="is no time"):
        cli_audit.moment("3 fortnights", 0)


def test_tail_follows_new_lines_and_ends_with_ctrl_c(journal: Audit) -> None:
    argv = [sys.executable, "-m", "llmos", "audit", "tail", "-f", "-n", "1", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["kind"] == "committed"
        decide(journal, "new")
        assert json.loads(process.stdout.readline())["id"] == "new"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_what_does_not_go_together_is_refused(llmos: Llmos) -> None:
    assert llmos("tail", "abc")[0] == llmos("show")[0] == llmos("nonsense")[0] == 2

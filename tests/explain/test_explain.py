"""Commands taken apart, and failures looked into: from documentation as it is written, without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.errors import UsageError
from llmos.explain import command, failure, pages, roff
from llmos.explain.command import Part

MAN7 = r""".TH TAR 1
.SH NAME
tar \- an archiving utility
.SH OPTIONS
.TP
\fB\-c\fR, \fB\-\-create\fR
Create a new archive.
.TP
\fB\-C\fR, \fB\-\-directory\fR=\fIDIR\fR
Change to DIR before \(aqanything\(aq.
.PP
\fB\-\-attach\fP
.RS 4
Attach to it.
.RE
.PP
.SH NOTES
\-z is not described here.
"""
MDOC = """.Dd x
.Sh NAME
.Nm ssh
.Nd remote login client
.Sh DESCRIPTION
.Bl -tag
.It Fl p Ar port
Port to connect to.
.It Fl v
Verbose mode.
.El
"""
HELP = """Usage: frob [OPTION]... FILE
Frobnicate files.

  -n, --lines=NUM    print the first NUM lines
                       instead of all
      --quiet        say nothing
  -x                 extract
"""


def test_man_pages_in_both_dialects() -> None:
    found = dict(roff.entries(MAN7))
    assert found == {
        "-c, --create": "Create a new archive.",
        "-C, --directory=DIR": "Change to DIR before 'anything'.",
        "--attach": "Attach to it.",
    }
    assert dict(roff.entries(MDOC))["-p port"] == "Port to connect to."


def test_help_texts() -> None:
    page = pages.from_help("frob --help", HELP)
    assert page.summary == "Frobnicate files."
    assert page.about("-n") == page.about("--lines") == "print the first NUM lines instead of all"
    assert page.takes_value("-n") and not page.takes_value("-x") and page.about("--quiet") == "say nothing"


@pytest.fixture
def manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Man pages of our own, and a program that has one."""
    (tmp_path / "man1").mkdir()
    (tmp_path / "man1/tar.1").write_text(MAN7.replace("\\-c\\fR", "\\-x\\fR, \\-z, \\-f"))
    (tmp_path / "man1/frob.1").write_text(".so man1/tar.1")
    pages.man.cache_clear()
    monkeypatch.setattr(pages, "MAN_FOLDERS", (tmp_path,))
    return tmp_path


def kinds(parts: list[Part]) -> list[tuple[str, str]]:
    return [(part.text, part.kind) for part in parts]


def test_each_word_is_what_it_is(manual: Path) -> None:
    parts = command.explain(
        "LC_ALL=C tar -xzf a.tgz -C /tmp 2>&1 | frob --directory=x -- -y > out.txt", lambda words: ""
    )
    assert kinds(parts) == [
        ("LC_ALL=C", "assignment"), ("tar", "program"), ("-x", "option"), ("-z", "option"), ("-f", "option"),
        ("a.tgz", "value"), ("-C", "option"), ("/tmp", "value"), ("2>&1", "operator"), ("|", "operator"),
        ("frob", "program"), ("--directory", "option"), ("x", "value"), ("--", "option"), ("-y", "argument"),
        (">", "operator"), ("out.txt", "argument"),
    ]  # fmt: skip
    assert parts[6].about.startswith("Change to DIR") and parts[6].source == "tar(1)"
    assert parts[1].about == "an archiving utility"


def test_without_a_page_the_help_text_is_asked_for(manual: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def help_of(words: tuple[str, ...]) -> str:
        asked.append(words)
        return HELP

    parts = command.explain("head -n 3 f", help_of)
    assert asked == [("head",)] and parts[1].about.startswith("print the first NUM")
    assert kinds(parts)[2:] == [("3", "value"), ("f", "argument")]


def test_find_sudo_and_what_cannot_be_cut() -> None:
    parts = command.explain("sudo find . -name '*.log' -delete", lambda words: "")
    assert ("-name", "option") in kinds(parts) and ("*.log", "value") in kinds(parts)
    assert kinds(parts)[1] == ("find", "program")
    for text in ("", "echo 'unfinished", "x" * 20_000):
        with pytest.raises(UsageError):
            command.explain(text, lambda words: "")


WHY = [
    ("gti status", 127, "", "no command 'gti'"),
    ("grep x f", 1, "", "nothing matched"),
    ("build", 137, "", "SIGKILL"),
    ("cat x", 1, "cp: error writing 'y': No space left on device", "disk is full"),
    ("python x.py", 1, "ModuleNotFoundError: No module named 'yaml'", "Python module yaml"),
    ("nginx", 1, "bind() to 0.0.0.0:80 failed (98: Address already in use)", "another program listens"),
    ("ls --colour", 2, "ls: unrecognized option '--colours'", "no option --colours"),
    ("true", 0, "", "did not fail"),
]


@pytest.mark.parametrize(("text", "code", "stderr", "said"), WHY)
def test_why(text: str, code: int, stderr: str, said: str) -> None:
    assert said in failure.findings(text, code, stderr)[0].what


def test_why_looks_at_the_files(tmp_path: Path) -> None:
    (tmp_path / "report.txt").touch()
    message = f"cat: {tmp_path}/reprot.txt: No such file or directory"
    (found, *_) = failure.findings("cat reprot.txt", 1, message)
    assert "no 'reprot.txt'" in found.what and "report.txt" in found.step
    (tmp_path / "tool.sh").write_text("#!/bin/sh\n")
    (tmp_path / "tool.sh").chmod(0o600)
    (found, *_) = failure.findings(str(tmp_path / "tool.sh"), 126, "")
    assert "may not be executed" in found.what and found.step.startswith("chmod +x")


@pytest.mark.parametrize(
    ("line", "word", "about"),
    [
        ("cp -a a b", "b", "where it goes"),
        ("cp -a a b", "a", "it reads this"),
        ("mv a b c/", "b", "it moves this"),
        ("sed -i s/a/b/ f.txt", "f.txt", "it replaces this"),
        ("sed s/a/b/ f.txt", "f.txt", "it reads this"),
        ("kill -9 1234", "-9", "the signal SIGKILL"),
        ("dd if=a of=b", "of=b", "it writes this instead of standard output"),
        ("chmod u+x f", "u+x", "the new permissions"),
        ("curl https://example.org/", "https://example.org/", "an address (URL)"),
        ("make -j4", "4", "the value of -j"),
    ],
)
def test_arguments_are_what_the_program_takes_them_for(line: str, word: str, about: str) -> None:
    found = {part.text: part.about for part in command.explain(line, lambda words: "")}
    assert found[word] == about


def test_a_program_after_sudo_is_explained_whatever_its_name() -> None:
    parts = command.explain("sudo -n apt-get install nginx", lambda words: "")
    assert [part.kind for part in parts if part.text == "apt-get"] == ["program"]


def test_tags_on_the_line_below_and_blanks_in_arguments() -> None:
    page = """.SH OPTIONS
.HP
\\fB\\-i[SUFFIX]\\fR, \\fB\\-\\-in\\-place\\fR[=\\fI\\,SUFFIX\\/\\fR]
.IP
edit files in place
.TP
.BI \\-C \\ cmdlist
Select by command name.
"""
    assert dict(roff.entries(page)) == {
        "-i[SUFFIX], --in-place[=SUFFIX]": "edit files in place",
        "-C cmdlist": "Select by command name.",
    }


def test_places_are_looked_at_where_no_message_is_known(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    found = failure.findings(f"frob {tmp_path}/there {tmp_path}/gone {tmp_path}/no/where", 1, "")
    assert [item.what for item in found] == [
        f"there is no {tmp_path}/gone now",
        f"there is no folder {tmp_path}/no",
    ]
    assert failure.findings(f"frob {tmp_path}/gone", 1, "frob: bad moon") == []


def test_swapped_letters_are_a_near_name() -> None:
    assert any("Did you mean" in item.step and "ls" in item.step for item in failure.findings("sl", 127, ""))


def test_why_says_how_much_of_long_messages_it_has_read(tmp_path: Path) -> None:
    (tmp_path / "err").write_text("starting\n" * 5000 + "x: No space left on device\n")
    argv = [sys.executable, "-m", "llmos", "why", "--code", "1", "--stderr", str(tmp_path / "err")]
    done = subprocess.run([*argv, "--", "make"], capture_output=True, text=True, timeout=60)
    assert "disk is full" in done.stdout and done.returncode == 0, done.stdout + done.stderr
    assert "Only the last 20,000 of 45,027 characters" in done.stdout
    done = subprocess.run([*argv, "--json", "--", "make"], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["chars_left_out"] == 25_027

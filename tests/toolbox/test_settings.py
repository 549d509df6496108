"""text.set: one value is changed, in the spelling of its file, and every other byte stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.errors import UsageError
from llmos.toolbox.context import Context
from tests.toolbox.conftest import Call

YAML = "# ours\nserver:\n  port: 80  # plain\n  tls:\n    on: 'yes'\ndb:\n  port: 5432\ndebug: true\n"
SSHD = "#Port 22\n#PermitRootLogin nothing\nUsePAM yes\n# Port is what we listen on\n"


@pytest.mark.parametrize(
    ("name", "text", "key", "value", "old", "new"),
    [
        ("a.yaml", YAML, "debug", "false", "debug: true", "debug: false"),
        ("a.yaml", YAML, "server.port", "81", "port: 80 ", "port: 81 "),
        ("a.yml", YAML, "on", "no", "'yes'", "'no'"),
        ("a.yml", YAML, "debug", "a: b", "debug: true", 'debug: "a: b"'),
        ("a.json", '{"theme": "dark", "volume": 7}', "volume", "11", "7", "11"),
        ("a.json", '{"theme": "dark", "volume": 7}', "theme", "7", '"dark"', '"7"'),
        ("a.json", '{"a":[{"v":1}],"b":{"v":"1.0"}}', "v", "2", '"1.0"', '"2"'),
        ("a.json", '{"a": "{\\"k\\": 1}", "k": null}', "k", "x", "null", '"x"'),
        ("a.ini", "[db]\nhost = ::1 ; us\n[web]\nhost=x\n", "db.host", "db.local", "::1", "db.local"),
        ("a.toml", '[tool.x]\nname = "x"\nworkers = 4\n', "workers", "8", "= 4", "= 8"),
        ("a.toml", '[tool.x]\nname = "x"\nworkers = 4\n', "name", 'a "b"', '"x"', r'"a \"b\""'),
        ("a.toml", '[tool.x]\nname = "x"\nworkers = 4\n', "workers", "many", "= 4", '= "many"'),
        (".env", "LOG_LEVEL=info\r\nX='a b'\r\n", "LOG_LEVEL", "two words", "info", "'two words'"),
        (".env", "LOG_LEVEL=info\r\nX='a b'\r\n", "log_level", "debug", "info", "debug"),
        ("env.sh", "export PATH=/bin\n", "PATH", "/usr/bin:/bin", "=/bin", "=/usr/bin:/bin"),
        ("sshd_config", SSHD, "UsePAM", "no", "UsePAM yes", "UsePAM no"),
        ("sshd_config", SSHD, "PermitRootLogin", "no", "#PermitRootLogin nothing", "PermitRootLogin no"),
        ("sshd_config", SSHD, "port", "2222", "#Port 22", "Port 2222"),
        ("pg.conf", "max = 100\t\t# (restart)\n#min = 1\n", "max", "200", "100", "200"),
        ("nginx.conf", "workers auto;\n", "workers", "4", "auto;", "4;"),
    ],
)  # fmt: skip
def test_only_the_value_changes(
    call: Call, here: Context, name: str, text: str, key: str, value: str, old: str, new: str
) -> None:
    file = Path(here.cwd, name)
    file.write_bytes(text.encode())
    file.chmod(0o640)
    before = file.stat()
    outcome = call("text.set", path=name, key=key, value=value)
    assert outcome.exit_code == 0, outcome.stderr
    assert file.read_bytes() == text.replace(old, new, 1).encode() != text.encode()
    assert (file.stat().st_ino, file.stat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize(
    ("name", "text", "key", "why"),
    [
        ("a.yaml", YAML, "port", "server.port, db.port. Say which one"),
        ("a.yaml", YAML, "prot", "there is no setting prot in it; it has server.port"),
        ("a.yaml", "x: {a: 1}\n", "x", "holds a list or a section"),
        ("a.yaml", "a: 1\na: 2\n", "a", "stands there 2 times"),
        ("a.json", '{"a": {"v": 1}, "b": {"v": 2}}', "v", "a.v, b.v"),
        ("a.bin", "\0a=1\n", "a", "binary"),
        ("a.conf", "# nothing\n", "a", "there is no setting a in it"),
    ],
)
def test_what_is_not_clear_is_refused_and_nothing_changes(
    call: Call, here: Context, name: str, text: str, key: str, why: str
) -> None:
    file = Path(here.cwd, name)
    file.write_text(text)
    outcome = call("text.set", path=name, key=key, value="9")
    assert (outcome.exit_code, file.read_text()) == (1, text)
    assert why in outcome.stderr


def test_a_value_that_is_there_already_and_a_link(call: Call, here: Context) -> None:
    file = Path(here.cwd, "real.env")
    file.write_text("A=1\n")
    Path(here.cwd, "a.env").symlink_to("real.env")
    stamp = file.stat().st_mtime_ns
    assert call("text.set", path="a.env", key="A", value="1").stdout == "A (line 1) is 1 already.\n"
    assert file.stat().st_mtime_ns == stamp
    assert call("text.set", path="a.env", key="A", value="2").stdout == "A (line 1): 1 -> 2\n"
    assert (file.read_text(), Path(here.cwd, "a.env").is_symlink()) == ("A=2\n", True)


def test_a_pattern_or_an_empty_key_is_no_setting(call: Call) -> None:
    for args in ({"path": "*.env", "key": "A"}, {"path": "a.env", "key": " "}):
        with pytest.raises(UsageError, match=r"text\.set"):
            call("text.set", value="1", **args)

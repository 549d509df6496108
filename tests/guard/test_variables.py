"""Variables in front of commands: people's own change nothing, those that programs obey are asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.guard import shelltext, variables
from llmos.guard.characters import Opaque
from tests.guard import judging

OBEYED = [
    "PATH", "HOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "IFS", "PS4", "PROMPT_COMMAND",
    "GIT_DIR", "GIT_PAGER", "GIT_SSH_COMMAND", "PAGER", "MANPAGER", "EDITOR", "VISUAL", "BROWSER",
    "LESS", "LESSOPEN", "TERM", "TERMINFO", "TZ", "TMPDIR", "TAR_OPTIONS", "GREP_OPTIONS",
    "RIPGREP_CONFIG_PATH", "XZ_OPT", "GZIP", "PYTHONPATH", "PYTHONSTARTUP", "PERL5OPT", "RUBYOPT",
    "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "LUA_INIT", "PHPRC", "OPENSSL_CONF", "SSLKEYLOGFILE",
    "CURL_HOME", "WGETRC", "HTTP_PROXY", "http_proxy", "all_proxy", "no_proxy",
    "npm_config_script_shell", "DOCKER_HOST", "KUBECONFIG", "SSH_AUTH_SOCK", "SUDO_ASKPASS",
    "XDG_CONFIG_HOME", "SYSTEMD_PAGER", "DBUS_SESSION_BUS_ADDRESS", "AWS_PROFILE", "PGSERVICEFILE",
    "GOFLAGS", "CARGO_HOME", "RUSTC_WRAPPER", "MAKEFLAGS", "CC", "CXX", "CFLAGS", "LLMOS_SOCKET",
    "RSYNC_RSH", "BAT_PAGER", "FZF_DEFAULT_COMMAND", "GLIBC_TUNABLES", "MALLOC_TRACE", "LOCPATH",
    "NLSPATH", "HOSTALIASES", "ANYTHING_PATH", "MY_EDITOR", "X_OPTIONS", "SOME_COMMAND", "A_PRELOAD",
    "B_CONFIG", "C_PROXY", "API_TOKEN", "DB_PASSWORD", "_", "USER", "LOGNAME",
]  # fmt: skip
OWN = [
    ("GREETING", "good day"),
    ("NAME", "Zoë"),
    ("VERSION", "1.2.3"),
    ("COUNT", "3"),
    ("FOO", ""),
    ("RESULT", "a=b"),
    ("name", "x"),
    ("target", "/srv/data"),
    ("TEXT", "50% of it, or more"),
    ("LC_ALL", "C"),
    ("PROJECT", "llmos"),
    *[("NO_COLOR", "1"), ("GIT_PAGER", "cat"), ("TERM", "dumb")],
    *[("TZ", "UTC"), ("TZ", "Europe/Berlin"), ("TZ", "EST5EDT"), ("TZ", "America/Argentina/Salta")],
]
NOT_SHOWN = ["TZ=../x", "TZ=:UTC", "TZ=/etc/x", "TZ=UTC/../x", "TZ=utc", "PAGER=./cat", "PAGER=cat x",
             "TERM=../x", "NO_COLOR=/x", "GIT_PAGER=cat|sh", "MANPAGER="]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> judging.Place:
    return judging.make(tmp_path_factory.mktemp("variables"))


@pytest.mark.parametrize("name", OBEYED)
def test_what_programs_obey_is_asked_about_in_either_form(place: judging.Place, name: str) -> None:
    assert not variables.harmless(name, "x")
    assert place.word(f"{name}=x ls") == place.word(f"export {name}=x; ls") == "ask"
    assert place.word(f"export {name}=x && cat notes.txt | head -1") == "ask"


@pytest.mark.parametrize(("name", "value"), OWN)
def test_peoples_own_change_nothing(place: judging.Place, name: str, value: str) -> None:
    assert variables.harmless(name, value)
    assert place.word(f"{name}='{value}' ls") == "allow"


@pytest.mark.parametrize("pair", NOT_SHOWN)
def test_only_plain_values_of_display_settings_are_known(place: judging.Place, pair: str) -> None:
    assert not variables.harmless(*pair.split("=", 1))
    assert place.word(f"{pair} ls") == "ask"


@pytest.mark.parametrize("value", ["/tmp/x", "./x", "--option", "-x"])
def test_a_path_or_an_option_in_capital_letters_may_be_meant_for_a_program(value: str) -> None:
    assert not variables.harmless("THING", value)


@pytest.mark.parametrize(
    "text",
    ["A=$(x) ls", "A=`x` ls", 'A="x" ls', "A=~ ls", "A=*.c ls", "A+=x ls", "a[0]=x ls",
     "A='x;y' ls", "A='$x' ls", "A=x", "export A", "export -n A=x; ls", "declare A=x; ls", "readonly A=x; ls",
     "ls; export A=x; ls", "export A=x || ls", "export A=x | ls", "export A=x > f; ls",
     "export A=x &", "export A=x"],
)  # fmt: skip
def test_whatever_else_assigns_is_opaque(text: str) -> None:
    with pytest.raises(Opaque):
        shelltext.parse(text, cwd="/w", home="/home/person")


def test_what_is_exported_is_given_to_every_command_and_stands_for_itself() -> None:
    text = "export A=one B='two words'; echo $A \"$A\" | cat && wc -l x"
    assert shelltext.render(shelltext.parse(text, cwd="/w", home="/home/person")) == (
        "A=one B='two words' echo one one | A=one B='two words' cat && A=one B='two words' wc -l x"
    )
    with pytest.raises(Opaque, match=r"\$B"):
        shelltext.parse("export B='two words'; echo $B", cwd="/w", home="/home/person")


def test_a_denial_holds_behind_a_variable(place: judging.Place) -> None:
    assert place.word("A=1 cat /etc/shadow") == "deny"
    assert place.word("export f=/etc/shadow; cat $f") == "deny"
    assert place.word("export f=.env && cat $f") == place.word("cat .env")
    assert place.word(f"export d={Path('/dev/sda')}; cp notes.txt $d") == "deny"

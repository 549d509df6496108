"""Errors, messages, paths and settings: what everything else leans on."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from llmos import config, errors, messages, paths
from llmos.errors import ConfigError, LlmosError
from llmos.messages import EXIT_CODES, Decision, Result, Step, ToolCall


def every_error() -> list[type[LlmosError]]:
    return list(errors._walk(LlmosError).values())


@pytest.mark.parametrize("kind", every_error())
def test_an_error_survives_the_wire(kind: type[LlmosError]) -> None:
    sent = kind("it broke", "mend it")
    back = errors.from_rpc(sent.to_rpc())
    assert type(back) is kind
    assert (str(back), back.next_step, back.exit_code) == ("it broke", "mend it", sent.exit_code)


def test_the_exit_codes_are_the_contract() -> None:
    codes = {kind.__name__: kind.exit_code for kind in every_error()}
    wanted = {"UsageError": 2, "Denied": 3, "NeedsApproval": 4, "CallFailed": 5, "NotUnderstood": 6}
    wanted |= {"DaemonUnreachable": 7, "SandboxUnavailable": 8, "OverBudget": 9}
    assert {name: codes[name] for name in wanted} == wanted
    assert EXIT_CODES["done"] == 0
    assert EXIT_CODES["needs_approval"] == 4


def test_a_malformed_error_from_a_peer_is_still_an_error() -> None:
    assert isinstance(errors.from_rpc({}), errors.WireError)
    assert isinstance(errors.from_rpc({"message": "x", "data": {"kind": "Nonsense"}}), errors.WireError)


def test_the_strictest_decision_wins() -> None:
    assert max(Decision.ALLOW, Decision.DENY, Decision.ASK) is Decision.DENY
    assert Decision.ASK.word == "ask"


def test_messages_refuse_unknown_keys_and_changes() -> None:
    with pytest.raises(ValidationError):
        ToolCall.model_validate({"tool": "answer", "arg": {}})
    call = ToolCall(tool="answer")
    with pytest.raises(ValidationError):
        call.tool = "shell.run"  # type: ignore[misc]


def test_steps_are_told_apart_by_kind() -> None:
    step = TypeAdapter[Step](Step).validate_python({"kind": "run", "argv": ["ls"]})
    assert isinstance(step, messages.Run)


def test_the_result_object_has_the_keys_of_the_contract() -> None:
    keys = set(Result(id="x", status="done").model_dump())
    assert keys == {"id", "status", "route", "calls", "answer", "timing"}


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_settings_merge_key_by_key(tmp_path: Path) -> None:
    system = write(tmp_path / "system.toml", '[model]\nname = "tiny"\nthreads = 3\n')
    user = write(tmp_path / "user.toml", "[model]\nthreads = 1\n")
    settings = config.load((system, user, tmp_path / "absent.toml"))
    assert (settings.model.name, settings.model.threads) == ("tiny", 1)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[modle]\n", "modle"),
        ("[model]\nthread = 1\n", "model.thread"),
        ("[model]\nthreads = 'x'\n", "model.threads"),
        ("model = [", "config.toml"),
    ],
)
def test_a_typo_in_the_settings_names_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    file = write(tmp_path / "config.toml", text)
    with pytest.raises(ConfigError) as caught:
        config.load((file,))
    assert str(file) in str(caught.value)
    assert key in str(caught.value)
    assert caught.value.next_step


def test_the_model_can_be_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOS_MODEL", "tiny")
    assert config.load(()).model.name == "tiny"


def test_paths_follow_xdg_and_ignore_relative_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x/state")
    assert paths.audit_file() == Path("/x/state/llmos/audit.jsonl")
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert paths.state_dir() == Path.home() / ".local/state/llmos"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/x/run")
    monkeypatch.delenv("LLMOS_SOCKET", raising=False)
    assert paths.socket_path() == Path("/x/run/llmos.sock")
    monkeypatch.setenv("LLMOS_SOCKET", "/y.sock")
    assert paths.socket_path() == Path("/y.sock")


def test_a_private_folder_is_private(tmp_path: Path) -> None:
    folder = paths.ensure_private(tmp_path / "a" / "b")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_shipped_folders_are_found() -> None:
    assert paths.builtin_policy_dir().is_dir()
    assert paths.tool_dirs()[0].is_dir()

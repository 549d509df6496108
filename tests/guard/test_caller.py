"""Root's daemon looks at files as the caller: what they cannot see is neither found nor told."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmos.config import Settings
from llmos.daemon import request
from llmos.errors import UsageError
from llmos.guard.audit import Audit
from llmos.guard.caller import account, as_caller
from llmos.guard.gate import Gate
from llmos.guard.policy import Policy
from llmos.guard.remembered import Remembered
from llmos.guard.tiers import Tiers
from llmos.messages import Caller
from tests.guard import judging
from tests.guard.boxes import OTHER_UID

OTHER = Caller(uid=OTHER_UID, gid=OTHER_UID)
pytestmark = pytest.mark.root


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder others may enter, with one that only root may."""
    folder = Path(tempfile.mkdtemp(prefix="caller-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "private").mkdir(mode=0o700)
    (folder / "private/hidden-name").write_text("root's\n")
    (folder / "private/link").symlink_to("/etc/passwd")
    (folder / "work").mkdir()
    os.chown(folder / "work", OTHER_UID, OTHER_UID)
    yield folder
    shutil.rmtree(folder)


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


def test_rights_are_the_callers_within_the_block_and_ours_after_it(top: Path) -> None:
    secret = top / "private/hidden-name"
    with as_caller(OTHER):
        assert not readable(secret)
        assert not readable(Path("/etc/shadow"))
        assert readable(Path("/etc/passwd"))
    assert readable(secret)


def test_rights_return_after_an_error_and_from_within_another_block(top: Path) -> None:
    secret = top / "private/hidden-name"
    with pytest.raises(KeyError), as_caller(OTHER):
        raise KeyError
    assert readable(secret)
    with as_caller(OTHER):
        with as_caller(Caller(uid=OTHER_UID + 1, gid=OTHER_UID + 1)):
            assert not readable(secret)
        assert not readable(secret)
        file = top / "work/mine"
        file.touch()
        assert file.stat().st_uid == OTHER_UID
    assert readable(secret)


def test_root_groups_do_not_come_along(top: Path) -> None:
    group_only = top / "group-only"
    group_only.write_text("x")
    group_only.chmod(0o040)  # root's group may read it
    with as_caller(OTHER):
        assert not readable(group_only)
    assert os.getgroups() is not None


def test_other_threads_keep_their_own_rights(top: Path) -> None:
    inside, looked = threading.Event(), threading.Event()
    found: list[bool] = []

    def other() -> None:
        inside.wait(10)
        found.append(readable(top / "private/hidden-name"))
        looked.set()

    thread = threading.Thread(target=other)
    thread.start()
    with as_caller(OTHER):
        inside.set()
        looked.wait(10)
    thread.join()
    assert found == [True]


def gate(top: Path) -> Gate:
    policy = Policy.load("default", (judging.paths.builtin_policy_dir(),))
    return Gate(policy, Audit(top / "audit"), Settings(), Remembered(top / "remembered"))


def test_a_pattern_finds_nothing_where_the_caller_cannot_look(top: Path) -> None:
    found = gate(top).policy_check(f"cat {top}/private/*", str(top / "work"), OTHER)
    assert "hidden-name" not in str(found)
    mine = gate(top).policy_check(f"cat {top}/private/*", str(top / "work"), judging.CALLER)
    assert "hidden-name" in str(mine)


def test_a_link_is_not_followed_where_the_caller_cannot_look(top: Path) -> None:
    found = gate(top).policy_check(f"cat {top}/private/link", str(top / "work"), OTHER)
    assert found["effects"]["reads"] == [f"{top}/private/link"]


def test_the_folder_of_a_request_must_be_one_the_caller_can_enter(top: Path) -> None:
    (top / "private/deep").mkdir()
    with pytest.raises(UsageError, match="no folder"):
        request.check_folder(str(top / "private/deep"), OTHER)
    assert request.entries(str(top / "private"), OTHER) == ()


# --- the caller's own tier ------------------------------------------------------------------------------

RULE = """
[[rule]]
id = "mine"
decision = "deny"
why = "not for me, please"
when = 'action == Action::"execute" && context.program like "*/grep"'
match = ["grep x y"]
"""


@pytest.fixture
def tiers() -> Tiers:
    return Tiers(Policy.load("default", (judging.paths.builtin_policy_dir(),)))


def write(home: Path, text: str, uid: int = OTHER_UID, mode: int = 0o644) -> Path:
    folder = home / ".config/llmos/policies"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mine.toml"
    file.write_text(text)
    file.chmod(mode)
    for path in (home / ".config", home / ".config/llmos", folder):
        os.chown(path, OTHER_UID, OTHER_UID)
    os.chown(file, uid, uid)
    return file


def ids(tiers: Tiers, home: Path) -> set[str]:
    return {rule.id for rule in tiers.of(OTHER, str(home)).rules}


def test_a_caller_brings_their_own_rules_and_nobody_elses(top: Path, tiers: Tiers) -> None:
    home = top / "work"
    assert "mine" not in ids(tiers, home)
    write(home, RULE)
    assert "mine" in ids(tiers, home)
    assert "mine" not in {rule.id for rule in tiers.of(judging.CALLER, str(home)).rules}


def test_a_broken_file_keeps_the_last_good_rules_and_is_told(top: Path, tiers: Tiers) -> None:
    home = top / "work"
    write(home, RULE)
    assert "mine" in ids(tiers, home)
    write(home, RULE.replace("deny", "maybe"))
    assert "mine" in ids(tiers, home)
    assert "mine.toml" in str(tiers.problem(OTHER))
    write(home, RULE.replace('"mine"', '"mended"'))
    assert "mended" in ids(tiers, home)
    assert tiers.problem(OTHER) is None


def test_without_a_last_good_version_the_request_is_refused(top: Path, tiers: Tiers) -> None:
    write(top / "work", "nonsense")
    with pytest.raises(UsageError, match=r"mine\.toml"):
        tiers.of(OTHER, str(top / "work"))


@pytest.mark.parametrize(("uid", "mode"), [(OTHER_UID + 1, 0o644), (OTHER_UID, 0o664), (OTHER_UID, 0o646)])
def test_a_file_that_others_could_write_is_refused(top: Path, tiers: Tiers, uid: int, mode: int) -> None:
    write(top / "work", RULE, uid, mode)
    with pytest.raises(UsageError, match=r"chown|chmod|others can write|belongs to"):
        tiers.of(OTHER, str(top / "work"))


def test_a_link_to_what_the_caller_cannot_read_tells_nothing(top: Path, tiers: Tiers) -> None:
    file = write(top / "work", RULE)
    file.unlink()
    file.symlink_to(top / "private/hidden-name")
    with pytest.raises(UsageError) as caught:
        tiers.of(OTHER, str(top / "work"))
    assert "root's" not in str(caught.value)


def test_an_account_is_told_by_name() -> None:
    assert account(0, 0)[0] == "root"
    assert "root" in account(0, 0)[1]
    assert account(OTHER_UID, OTHER_UID) == (str(OTHER_UID), (str(OTHER_UID),))

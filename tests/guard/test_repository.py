"""A repository whose own settings could start programs is asked about; an ordinary one is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from llmos.guard import repository
from llmos.guard.characters import Opaque
from llmos.guard.commandline import analyse

HOME = "/home/person"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "remote", "add", "origin", "https://example.org/x.git"], cwd=tmp_path, check=True)
    return tmp_path


def set_in(repo: Path, *words: str) -> None:
    subprocess.run(["git", "config", *words], cwd=repo, check=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("filter.x.clean", "./x"), ("filter.x.process", "./x"), ("diff.x.command", "./x"),
        ("diff.x.textconv", "./x"),
        ("include.path", "../x"), ("includeif.gitdir:/.path", "x"), ("core.worktree", "/etc"),
        ("extensions.partialclone", "origin"), ("remote.origin.promisor", "true"), ("remote.origin.vcs", "x"),
        ("core.attributesfile", "/x"), ("trailer.x.command", "./x"), ("merge.x.driver", "./x"),
        ("credential.helper", "!x"), ("uploadpack.packobjectshook", "./x"),
        ("core.alternaterefscommand", "./x"),
    ],
)  # fmt: skip
def test_settings_that_could_start_something_are_asked_about(repo: Path, key: str, value: str) -> None:
    assert analyse("git status", cwd=str(repo), home=HOME).opaque == ""
    set_in(repo, key, value)
    for cwd, command in (
        (repo, "git status"),
        (repo / "sub", "git log -p"),
        (Path("/"), f"git -C {repo} diff"),
    ):
        assert "settings" in analyse(command, cwd=str(cwd), home=HOME).opaque, command


@pytest.mark.parametrize(
    "key",
    ["core.fsmonitor", "core.pager", "alias.x", "user.name", "branch.main.remote", "pull.rebase", "gc.auto"],
)
def test_ordinary_settings_and_those_we_switch_off_are_not(repo: Path, key: str) -> None:
    set_in(repo, key, "./x")
    assert analyse("git status", cwd=str(repo), home=HOME).opaque == ""


def test_a_bare_repository_and_a_worktree_are_found_too(repo: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["git", "init", "-q", "--bare", str(bare)], check=True)
    (bare / "config").write_text((bare / "config").read_text() + '[filter "x"]\n clean = ./x\n')
    assert analyse("git log", cwd=str(bare), home=HOME).opaque
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / ".git").write_text(f"gitdir: {bare}\n")
    assert analyse("git status", cwd=str(linked), home=HOME).opaque


@pytest.mark.parametrize(
    "text",
    ["[core]\n\tfsmonitor = x\n[core] a b\n", "filter\n", '[filter "x"] clean = y\n', "[core\n", "\x00"],
)
def test_settings_that_cannot_be_read_are_not_trusted(repo: Path, text: str) -> None:
    (repo / ".git/config").write_text(text)
    with pytest.raises(Opaque):
        repository.check(str(repo))


def test_a_repository_that_would_start_its_filter_does_so_only_where_we_ask(repo: Path) -> None:
    """The danger is real: plain `git status` runs the filter that the repository names."""
    (repo / "f").write_text("a\n")
    subprocess.run(["git", "add", "f"], cwd=repo, check=True)
    (repo / ".gitattributes").write_text("f filter=x\n")
    set_in(repo, "filter.x.clean", f"touch {repo}/sprung; cat")
    (repo / "f").write_text("b\n")
    subprocess.run(["git", "status"], cwd=repo, check=True, capture_output=True)
    assert (repo / "sprung").exists()
    assert analyse("git status", cwd=str(repo), home=HOME).opaque

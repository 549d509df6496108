"""What a git repository's own settings could make git start: filters, monitors, helpers, further settings.

Git obeys the settings of whatever repository it finds. The dangerous ones that are known by name are
switched off by options of ours; settings that name programs in ways no option switches off (filters, which
`git status` runs over changed files) are found here by reading: all but known harmless ones make the
command opaque. Read with care: nothing is started, sizes are bounded, and what cannot be read is not trusted.

What it does not cover: the person's own ~/.gitconfig, which is theirs.
"""

from __future__ import annotations

import re
from pathlib import Path

from llmos.guard.characters import Opaque

MAX_BYTES = 256_000
_HEADER = re.compile(r'\s*\[\s*([\w.-]+)\s*(?:"((?:[^"\\\n]|\\.)*)")?\s*\]')
_KEY = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:=(.*))?$")
_BLANK = re.compile(r"\s*(?:[#;].*)?$")
_HARMLESS = re.compile(
    r"core\.(?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf"
    r"|eol|safecrlf|quotepath|abbrev|compression|longpaths|untrackedcache|preloadindex|protecthfs|protectntfs"
    r"|commentchar|whitespace|sharedrepository|pager|editor|fsmonitor|hookspath|sshcommand|splitindex|excludesfile)"
    r"|remote\.(?:url|fetch|pushurl|push|tagopt|prune|skipfetchall|mirror)"
    r"|branch\.(?:remote|merge|rebase|pushremote|description|autosetupmerge|autosetuprebase|sort"
    r"|vscode-merge-base|gh-merge-base|github-pr-owner-number)|alias\..*|diff\.external|gpg\.program"
    r"|(?:user|author|committer)\.(?:name|email|signingkey|useconfigonly)"
    r"|submodule\.(?:url|active|update|branch|recurse|fetchjobs)"
    r"|(?:init|pull|push|fetch|merge|rebase|gc|pack|color(?:\..*)?|log|blame|tag|status|advice|receive|transfer"
    r"|rerere|column|index|feature|commit|maintenance|gui|lfs|svn|svn-remote|http|diff|gpg)\.(?:(?!.*(?:command|program|textconv|external|cmd"
    r"|hook|helper|template|tool|proxy|cert|key|cookie|customtransferpath|extension|orderfile|driver|file|path)).*)"
    r"|extensions\.(?:objectformat|refstorage|noop|preciousobjects)"
)


def check(folder: str) -> None:
    """Raise Opaque if the repository that git finds from `folder` has settings that could start programs."""
    for place in _repositories(Path(folder)):
        for name in ("config", "config.worktree"):
            _check_settings(place / name)


def _repositories(folder: Path) -> set[Path]:
    """The git folders of this place: `.git` here or above, what such a file points to, or a bare one."""
    for place in (folder, *folder.parents):
        marker = place / ".git"
        if marker.is_dir():
            return _with_common(marker)
        if marker.is_file():
            return _with_common(_pointed(marker, place, "gitdir:"))
        if (place / "HEAD").exists() and (place / "objects").is_dir() and (place / "refs").is_dir():
            return _with_common(place)
    return set()


def _with_common(place: Path) -> set[Path]:
    common = place / "commondir"
    return {place, _pointed(common, place, "")} if common.is_file() else {place}


def _pointed(file: Path, base: Path, prefix: str) -> Path:
    text = _text(file).strip()
    if not text.startswith(prefix) or "\n" in text:
        raise Opaque(f"{file} is not what git makes of it")
    return base / text.removeprefix(prefix).strip()


def _check_settings(file: Path) -> None:
    if not file.exists():
        return
    section = ""
    continued = False
    for line in _text(file).splitlines():
        if continued:
            continued = line.endswith("\\")
            continue
        if header := _HEADER.match(line):
            section = header[1].lower()
            line = line[header.end() :]  # noqa: PLW2901 - a setting may follow on the same line
        if _BLANK.match(line):
            continue
        key = _KEY.match(line)
        name = f"{section}.{key[1].lower()}" if key else ""
        if key is None or not _HARMLESS.fullmatch(name):
            raise Opaque(f"the repository's settings ({name or 'unreadable'}) could start programs")
        continued = line.endswith("\\")


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise Opaque(f"{file} is too large to look through")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Opaque(f"{file} cannot be read") from error

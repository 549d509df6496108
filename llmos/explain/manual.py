"""The manual pages of this machine, ready to be searched: one line for each page, and the options of everyday
programs.

An SQLite file in the cache folder, made anew when a folder of pages has changed; that takes seconds for some
thousands of pages, once. Only what the distribution installed is read (`pages.MAN_FOLDERS`, written by root
alone). It finds words (BM25 of FTS5, with English stems), not meanings.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmos import paths
from llmos.explain import pages, roff
from llmos.guard.grammar import grammars

SECTIONS = ("1", "8", "7", "5")
HEAD_BYTES = 1 << 14  # the NAME of a page stands within
LIMIT = 40
_VERSION = "3"
_NAME = re.compile(r"^\.(?:SH|Sh) \"?NAME\"?[^\n]*\n(.*?)(?=^\.S[Hh] |\Z)", re.MULTILINE | re.DOTALL)
_DASH = re.compile(r"\s+(?:-|–|—|\\-)\s+")
_FILE = re.compile(r"(?P<name>.+)\.(?P<section>[1-9])[a-z]*(?:\.(?:gz|bz2|xz))?$")
_SCHEMA = """
create table about (key text);
create virtual table entries using fts5(name, words, section unindexed, tag unindexed, about unindexed,
                                        tokenize='porter unicode61');
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A page's own line (`tag` is empty then), or one of its options."""

    name: str
    section: str
    tag: str
    about: str

    @property
    def source(self) -> str:
        return f"{self.name}({self.section})"


class Manual:
    """`folders` and `cache` are the machine's own but in tests."""

    def __init__(self, folders: tuple[Path, ...] = pages.MAN_FOLDERS, cache: Path | None = None) -> None:
        self._folders = folders
        self._file = cache or paths.cache_dir() / "manual.sqlite"

    def search(self, words: tuple[str, ...], limit: int = LIMIT) -> list[Entry]:
        """Entries that have any of these words, the likeliest first."""
        if not words:
            return []
        terms = " OR ".join(f'"{word}"' for word in words if word.replace("-", "").isalnum())
        with self._open() as database:
            found = database.execute(
                "select name, section, tag, about from entries where entries match ?"
                " order by bm25(entries, 2.0, 1.0) limit ?",
                (terms, limit),
            ).fetchall()
        return [Entry(*row) for row in found]

    def page(self, name: str) -> Entry | None:
        """A page's own line."""
        with self._open() as database:
            found = database.execute(
                "select name, section, tag, about from entries where entries match ? and tag = ''",
                (f'name: "{name}"',),
            ).fetchall()
        exact = [Entry(*row) for row in found if row[0] == name]
        return min(exact, key=lambda entry: SECTIONS.index(entry.section), default=None)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The index; a file that cannot be kept, or is damaged, is one in memory for this once."""
        try:
            database = self._made()
        except (sqlite3.Error, OSError):
            database = sqlite3.connect(":memory:")
            self._fill(database)
        with contextlib.closing(database):
            yield database

    def _made(self) -> sqlite3.Connection:
        if self._file.exists():
            database = sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True)
            with contextlib.suppress(sqlite3.Error):
                if database.execute("select key from about").fetchall() == [(self._key(),)]:
                    return database
            database.close()
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(fresh)) as database:
            self._fill(database)
        fresh.replace(self._file)
        return sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True)

    def _fill(self, database: sqlite3.Connection) -> None:
        database.executescript(_SCHEMA)
        with database:
            database.execute("insert into about values (?)", (self._key(),))
            database.executemany("insert into entries values (?, ?, ?, ?, ?)", self._rows())

    def _key(self) -> str:
        """Another one where pages were added or removed."""
        places = [folder / f"man{section}" for folder in self._folders for section in SECTIONS]
        times = [f"{place}:{place.stat().st_mtime_ns}" for place in places if place.is_dir()]
        return " ".join([_VERSION, *times])

    def _rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """(name, words, section, tag, about)."""
        everyday = grammars()
        files = dict(self._files())
        for (name, section), file in files.items():
            listed = name in everyday or name.startswith("git-")
            if not listed and _is_part(name, files):
                continue
            text = pages.read(file, pages.MAX_PAGE_BYTES if listed else HEAD_BYTES) or ""
            if not (summary := summary_of(text)):
                continue
            yield name, summary, section, "", summary
            for tag, about in roff.entries(text) if listed else ():
                if tag.startswith("-"):
                    quoted = pages.clipped(about)  # what is found is what is quoted
                    yield name, f"{tag} {quoted}", section, tag, quoted

    def _files(self) -> Iterator[tuple[tuple[str, str], Path]]:
        for section in SECTIONS:
            for folder in self._folders:
                for file in sorted((folder / f"man{section}").glob("*")):
                    if found := _FILE.fullmatch(file.name):
                        yield (found["name"], found["section"]), file


def _is_part(name: str, files: dict[tuple[str, str], Path]) -> bool:
    """A page for a part of a program that has a page: `gcloud_compute_ssh`. There may be ten thousand."""
    head = re.split(r"[_-]", name, maxsplit=1)[0]
    return head != name and any((head, section) in files for section in SECTIONS)


def summary_of(text: str) -> str:
    """What a page's NAME says behind the dash; mdoc's .Nd as well."""
    if not (found := _NAME.search(text)):
        return ""
    body = " ".join(roff.plain(roff.macro_text(line)) for line in found[1].splitlines())
    parts = _DASH.split(" ".join(body.split()), maxsplit=1)
    if len(parts) > 1:
        return parts[1].strip()
    return next((line[4:].strip(' "') for line in found[1].splitlines() if line.startswith(".Nd ")), "")

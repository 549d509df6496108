"""Draws names and texts as they stand on real machines: files, folders, patterns, what is written.

A filler that is `held_out` draws from the names that the training set never sees, so that a score on the
validation set tells of copying, not of memory.
"""

from __future__ import annotations

import random
import re
import tomllib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

HELD_OUT_SHARE = 0.06
_PLAIN = re.compile(r"[\w.:/#@=-]+")


@dataclass(frozen=True, slots=True)
class Value:
    """`said` stands in the sentence, `meant` in the call; `here` are names that the folder then holds.

    The name `!` among them tells that without the others the sentence cannot be understood.
    """

    said: str
    meant: str | int
    here: tuple[str, ...] = ()

    @classmethod
    def same(cls, text: str, *here: str) -> Value:
        return cls(text, text, here)


def words() -> dict[str, Any]:
    return _toml("words.toml")


def forms() -> dict[str, Any]:
    return _toml("forms.toml")


@lru_cache(maxsize=2)
def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def split(text: str | Sequence[str]) -> list[str]:
    """A list of words.toml: an array, or one text with blanks between the words."""
    return text.split() if isinstance(text, str) else list(text)


def is_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % 1000 < 1000 * HELD_OUT_SHARE


class Filler:
    """A source of names and texts for one side of the split, in one language at a time."""

    def __init__(self, rng: random.Random, *, held_out: bool = False) -> None:
        self.rng = rng
        self._held_out = held_out
        self.lang = "en"

    # --- choosing

    def one(self, options: Sequence[str] | str) -> str:
        return self.rng.choice(split(options))

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def kept(self, make: Callable[[], str]) -> str:
        """A made name of the right side of the split (tried some times, then taken as it is)."""
        for _ in range(40):
            name = make()
            if is_held_out(name) == self._held_out:
                break
        return name

    # --- names

    def word(self) -> str:
        return self.one(words()["stems"])

    def stem(self) -> str:
        """A file's name without its ending."""
        if self.lang == "zh" and self.chance(0.15):
            return self.one(words()["cjk"])
        makers = [make for make, _ in _STEMS]
        return self.rng.choices(makers, [share for _, share in _STEMS])[0](self)

    def name(self, exts: Sequence[str]) -> str:
        return self.kept(lambda: f"{self.stem()}.{self.rng.choice(exts)}")

    def exts(self, *groups: str) -> list[str]:
        table = words()["ext"]
        return [ext for group in groups or table for ext in table[group]]

    def file(self, *groups: str, exts: Sequence[str] = ()) -> Value:
        """A file: mostly in this folder, sometimes elsewhere, sometimes one that every machine has."""
        if "text" in groups and self.chance(0.13):
            return self._known_file()
        name = self.name(exts or self.exts(*groups))
        return self.quoted(name if self.chance(0.65) else f"{self._folder(60, 12, 16, 12)}/{name}")

    def _known_file(self) -> Value:
        table = words()["files"]
        kind = self.rng.choices(["system", "home", "plain"], [5, 3, 5])[0]
        name = self.one(table[kind])
        return Value.same(name, name) if kind == "plain" else Value.same(name)

    def bare(self) -> Value:
        """A file's name alone, wherever it may stand."""
        name = self.name(self.exts())
        return Value(self.quoted(name).said.removeprefix("./"), name)

    def quoted(self, path: str) -> Value:
        """A path as it is said: in quotes when it has a blank, mostly, and else seldom."""
        here = () if path.startswith(("/", "~")) else (path.split("/", maxsplit=1)[0],)
        if " " in path:
            return Value(self.rng.choice([path, f'"{path}"', f"'{path}'", f'"{path}"']), path, here)
        if self.chance(0.05):
            return Value(self.rng.choice([f'"{path}"', f"'{path}'", f"`{path}`"]), path, here)
        if here and self.chance(0.02):
            return Value.same(f"./{path}", *here)
        return Value(path, path, here)

    def _folder(self, *weights: float) -> str:
        """A folder: relative, nested, absolute or in the home, by these weights."""
        table = words()["dirs"]
        kind = self.rng.choices(["relative", "nested", "absolute", "home"], weights)[0]
        return self.kept(lambda: self.one(table[kind]))

    def dir(self) -> Value:
        name = self._folder(55, 10, 20, 15)
        if self.chance(0.06):
            name = self.kept(lambda: self.stem().replace(".", "-"))
        value = self.quoted(name)
        if self.chance(0.06) and value.said == value.meant and name != "~":
            return Value(f"{name}/", f"{name}/", value.here)
        return value

    def near_dir(self, *, sure: bool = False) -> Value:
        """A folder in the current one; `sure`: it must be seen in the list of names to be understood."""
        name = self.kept(lambda: self.one(words()["dirs"]["relative"]))
        return Value.same(name, name, *(("!",) if sure else ()))

    def new_dir(self) -> Value:
        def make() -> str:
            return self.stem().replace(".", "-").replace(" ", "_")

        return Value.same(self.near_dir().said if self.chance(0.6) else self.kept(make))

    def loose(self) -> Value:
        """A file called by its name without the ending: it must be among the names in the folder."""
        pool, count = ("joined", 5) if self.chance(0.35) else ("stems", 12)
        exts = words()["ext"]["text"][:count]
        name = self.kept(lambda: f"{self.one(words()[pool])}.{self.rng.choice(exts)}")
        return Value(re.sub(r"[-_]", " ", name.rsplit(".", 1)[0]), name, (name, "!"))

    def script(self) -> Value:
        name = self.kept(lambda: f"{self.word()}.{self.one(['sh', 'py'])}")
        path = self.one(["", "", "scripts/", "bin/", "tools/", "./"]) + name
        return Value.same(path, path.removeprefix("./").split("/")[0])

    def archive(self) -> Value:
        name = self.name(words()["amounts"]["archives"])
        folder = self.one(["", "~/Downloads/", "/srv/backup/", "backups/"]) if self.chance(0.2) else ""
        return self.quoted(folder + name)

    def new_archive(self) -> Value:
        return Value.same(self.name(words()["amounts"]["archives"][:7]).replace(" ", "_"))

    def kind(self, table: str = "kinds") -> Value:
        """A kind of file as people call it ("python", ".py") and the pattern that it means."""
        said, meant = self.rng.choice(list(words()[table].items()))
        return Value(meant[1:] if self.chance(0.25) else said, meant, self._some(meant[1:]))

    def glob(self) -> Value:
        """A pattern as it is typed in a shell."""
        kind = self.kind()
        return Value(str(kind.meant), kind.meant, kind.here)

    def ext(self) -> Value:
        ext = self.rng.choice(self.exts())
        return Value(ext, ext, self._some(f".{ext}"))

    def _some(self, ending: str) -> tuple[str, ...]:
        return tuple(f"{self.word()}{ending}" for _ in range(self.rng.randint(0, 3)))

    # --- texts

    def quotable(self, text: str, *, bare: float) -> Value:
        """Text that is quoted in the sentence unless it is one plain word (or by chance `bare`)."""
        if self.lang == "zh" and self.chance(0.3) and "“" not in text:
            return Value(f"“{text}”", text)
        if self.chance(0.65 if _PLAIN.fullmatch(text) else bare):
            return Value(text, text)
        mark = self.rng.choice([mark for mark in ("'", '"') if mark not in text] or ["`"])
        return Value(f"{mark}{text}{mark}", text)

    def pattern(self) -> Value:
        pool = words()["search"]["words" if self.chance(0.72) else "phrases"]
        return self.quotable(self.kept(lambda: self.one(pool)), bare=0.12)

    def text(self) -> str:
        """What is written to a file."""
        table = words()["edit"]
        if self.lang == "zh":
            return self.kept(lambda: self.one(table["texts_zh" if self.chance(0.6) else "texts"]))
        return self._made_text() if self.chance(0.35) else self.kept(lambda: self.one(table["texts"]))

    def _made_text(self) -> str:
        made = forms()["made"]
        who, thing, day = (self.one(made[key]) for key in ("who", "thing", "day"))
        caps = {"WHO": who.upper(), "THING": thing.upper()}
        return self.one(made["texts"]).format(
            who=who, thing=thing, day=day, n=self.rng.randint(1, 99), **caps
        )

    def machine(self, key: str) -> Value:
        return Value.same(self.kept(lambda: self.one(words()["machine"][key])))

    def edit(self) -> tuple[Value, Value]:
        """What is replaced, and by what."""
        old, new = self.rng.choice(words()["edit"]["pairs"])
        pair = (new, old) if self.chance(0.3) else (old, new)
        return self.quotable(pair[0], bare=0.1), self.quotable(pair[1], bare=0.1)


def _dated(filler: Filler) -> str:
    rng = filler.rng
    return f"{filler.word()}-{rng.randint(2019, 2025)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


# How names are made, and of a hundred how many.
_STEMS: tuple[tuple[Callable[[Filler], str], int], ...] = (
    (lambda f: f.word(), 46),
    (lambda f: f.one(words()["joined"]), 12),
    (lambda f: f"{f.word()}_{f.word()}", 8),
    (lambda f: f"{f.word()}-{f.word()}", 7),
    (lambda f: f"{f.word()}{f.rng.randint(1, 12)}", 6),
    (lambda f: f"{f.word()}-{f.rng.randint(2018, 2025)}", 4),
    (lambda f: f"{f.word()} {f.word()}", 4),
    (lambda f: f"{f.word()}_{f.rng.randint(1, 31):02d}", 3),
    (lambda f: f"{f.word()}.{f.word()}", 3),
    (lambda f: f.word().upper(), 2),
    (lambda f: f.word().capitalize(), 2),
    (_dated, 2),
    (lambda f: f.one(words()["cjk"]), 1),
)

"""What a slot of a phrase is filled with: a wording for the sentence and the value it means.

`{size}` may be said "two gigabytes" and means `2G`; `{file}` is the same in both. Values come from words.toml.
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
SLOT = re.compile(r"\{([a-z]+)(\d?)\}")
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
_NUMBERS_ZH = "一两三四五六七八九十"
_UNITS_ZH = {"s": "秒", "m": "分钟", "h": "小时", "d": "天", "w": "周", "mo": "个月", "y": "年"}
_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}
_UNITS_DE = {"m": "Minuten", "h": "Stunden", "d": "Tagen", "w": "Wochen", "mo": "Monaten"}
_UNITS_ES = {"m": "minutos", "h": "horas", "d": "días", "w": "semanas", "mo": "meses"}
_UNITS_FR = {"m": "minutes", "h": "heures", "d": "jours", "w": "semaines", "mo": "mois"}


@dataclass(frozen=True, slots=True)
class Value:
    """`said` stands in the sentence, `meant` in the call; `here` are names that the folder then holds."""

    said: str
    meant: str | int
    here: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def words() -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("words.toml").read_text(encoding="utf-8"))


def _split(text: str | Sequence[str]) -> list[str]:
    return text.split() if isinstance(text, str) else list(text)


def is_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % 1000 < 1000 * HELD_OUT_SHARE


class Filler:
    """Draws the values of one phrase; the same slot twice in a phrase is the same value."""

    def __init__(self, rng: random.Random, *, held_out: bool = False) -> None:
        self._rng = rng
        self._held_out = held_out
        self.lang = "en"

    def draw(self, kind: str) -> Value | None:
        """A value for a slot of this kind, or None for no slot of ours (`{print}` of an awk program)."""
        maker = _MAKERS.get(kind)
        return maker(self) if maker else None

    # --- choosing

    def one(self, options: Sequence[str] | str) -> str:
        return self._rng.choice(_split(options))

    def _kept(self, make: Callable[[], str]) -> str:
        """A made name of the right side of the split (tried a few times, then taken as it is)."""
        for _ in range(40):
            name = make()
            if is_held_out(name) == self._held_out:
                return name
        return name

    def chance(self, share: float) -> bool:
        return self._rng.random() < share

    # --- names

    def stem(self) -> str:
        w, rng = words(), self._rng
        a, b = self.one(w["stems"]), self.one(w["stems"])
        if self.lang == "zh" and self.chance(0.15):
            return rng.choice(w["cjk"])
        forms: list[tuple[float, Callable[[], str]]] = [
            (0.46, lambda: a),
            (0.12, lambda: self.one(w["joined"])),
            (0.08, lambda: f"{a}_{b}"),
            (0.07, lambda: f"{a}-{b}"),
            (0.06, lambda: f"{a}{rng.randint(1, 12)}"),
            (0.04, lambda: f"{a}-{rng.randint(2018, 2025)}"),
            (0.03, lambda: f"{a}_{rng.randint(1, 31):02d}"),
            (0.03, lambda: f"{a}.{b}"),
            (0.04, lambda: f"{a} {b}"),
            (0.02, lambda: a.upper()),
            (0.02, lambda: a.capitalize()),
            (0.02, lambda: f"{a}-{rng.randint(2019, 2025)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"),
            (0.01, lambda: rng.choice(w["cjk"])),
        ]
        return rng.choices([make for _, make in forms], [share for share, _ in forms])[0]()

    def name(self, exts: Sequence[str]) -> str:
        return self._kept(lambda: f"{self.stem()}.{self._rng.choice(exts)}")

    def file(self, *groups: str, exts: Sequence[str] = ()) -> Value:
        w = words()
        exts = exts or [ext for group in groups for ext in w["ext"][group]]
        dice = self._rng.random()
        if "text" in groups and dice < 0.05:
            return Value(*2 * (self.one(w["files"]["system"]),))
        if "text" in groups and dice < 0.08:
            return Value(*2 * (self.one(w["files"]["home"]),))
        if "text" in groups and dice < 0.13:
            name = self.one(w["files"]["plain"])
            return Value(name, name, (name,))
        name = self.name(exts)
        if dice < 0.70:
            return self._quoted(name)
        folder = self._folder(0.6, 0.12, 0.16, 0.12)
        return self._quoted(f"{folder}/{name}")

    def _bare(self) -> Value:
        """A file's name alone, wherever it may stand."""
        w = words()
        name = self.name([ext for group in w["ext"].values() for ext in group])
        return Value(self._quoted(name).said.removeprefix("./"), name)

    def _quoted(self, path: str) -> Value:
        here = () if path.startswith(("/", "~")) else (path.split("/")[0],)
        said = path
        if " " in path:
            said = self._rng.choice([path, f'"{path}"', f"'{path}'", f'"{path}"'])
        elif self.chance(0.05):
            said = self._rng.choice([f'"{path}"', f"'{path}'", f"`{path}`"])
        elif self.chance(0.02) and not path.startswith(("/", "~")):
            return Value(f"./{path}", f"./{path}", here)
        return Value(said, path, here)

    def _folder(self, relative: float, nested: float, absolute: float, home: float) -> str:
        d = words()["dirs"]
        pick = self._rng.choices(["relative", "nested", "absolute", "home"], [relative, nested, absolute, home])
        return self._kept(lambda: self.one(d[pick[0]]))

    def dir(self) -> Value:
        name = self._folder(0.55, 0.1, 0.2, 0.15)
        if self.chance(0.06):
            name = self._kept(lambda: self.stem().replace(".", "-"))
        value = self._quoted(name)
        if self.chance(0.06) and value.said == value.meant and name not in ("~", "/"):
            return Value(f"{name}/", f"{name}/", value.here)
        return value

    def near_dir(self) -> Value:
        """A folder that stands in the current one."""
        name = self._kept(lambda: self.one(words()["dirs"]["relative"]))
        return Value(name, name, (name,))

    def glob(self) -> Value:
        """A pattern as it is typed in a shell."""
        kind = self.kind()
        return Value(str(kind.meant), kind.meant, kind.here)

    def sure_dir(self) -> Value:
        """A folder that must be seen in the list of names to be understood."""
        name = self.near_dir()
        return Value(name.said, name.meant, (*name.here, "!"))

    def loose(self) -> Value:
        """A file called by its name without the ending: it must be among the names in the folder."""
        w, name = words(), ""
        name = self._kept(lambda: f"{self.one(w['stems'])}.{self._rng.choice(w['ext']['text'][:12])}")
        if self.chance(0.35):
            name = self._kept(lambda: f"{self.one(w['joined'])}.{self._rng.choice(w['ext']['text'][:5])}")
        said = re.sub(r"[-_]", " ", name.rsplit(".", 1)[0])
        return Value(said, name, (name, "!"))

    def script(self) -> Value:
        name = self._kept(lambda: f"{self.one(w_stems())}.{self._rng.choice(['sh', 'py'])}")
        folder = self.one(["", "", "scripts/", "bin/", "tools/", "./"])
        return Value(folder + name, folder + name, ((folder + name).removeprefix("./").split("/")[0],))

    def archive(self) -> Value:
        exts = ["tar.gz", "tar.gz", "zip", "zip", "tgz", "tar", "tar.xz", "tar.bz2"]
        name = self._kept(lambda: f"{self.stem()}.{self._rng.choice(exts)}")
        folder = self.one(["", "", "", "", "~/Downloads/", "/tmp/", "backups/", "/srv/backup/"]) if self.chance(0.3) else ""
        return self._quoted(folder + name)

    def kind(self, table: str = "kinds") -> Value:
        said = self._rng.choice(list(words()[table]))
        meant = words()[table][said]
        if self.chance(0.25):
            said = meant[1:]
        here = tuple(f"{self.one(w_stems())}{meant[1:]}" for _ in range(self._rng.randint(0, 3)))
        return Value(said, meant, here)

    def ext(self) -> Value:
        w = words()["ext"]
        ext = self._rng.choice(w["text"] + w["code"] + w["binary"])
        return Value(ext, ext, tuple(f"{self.one(w_stems())}.{ext}" for _ in range(self._rng.randint(0, 3))))

    # --- numbers, sizes, times

    def number(self, low: int, high: int, worded: float) -> Value:
        n = self._rng.randint(low, high)
        if worded and self.chance(worded) and n <= 10:
            if self.lang == "zh":
                return Value(_NUMBERS_ZH[n - 1], n)
            if self.lang == "en":
                return Value(_NUMBERS[n - 1], n)
        return Value(str(n), n)

    def lines(self) -> Value:
        n = self._rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 1000])
        if self.chance(0.2):
            n = self._rng.randint(2, 300)
        if n <= 12 and n > 1 and self.chance(0.3) and self.lang == "en":
            return Value(_NUMBERS[n - 1], n)
        return Value(str(n), n)

    def size(self) -> Value:
        unit = self._rng.choice("KMMMGGB" if self.chance(0.2) else "KMMMGG")
        n = self._rng.choice([1, 2, 3, 4, 5, 8, 10, 12, 15, 16, 20, 25, 30, 32, 50, 64, 75, 100, 128, 150, 200, 250, 256, 300, 400, 500, 512, 700, 750, 800, 1024, 2048])
        if unit == "G":
            n = self._rng.choice([1, 1, 2, 3, 4, 5, 8, 10, 16, 20, 50, 100])
        if unit in "MG" and self.chance(0.1):
            half = f"{self._rng.choice([0.5, 1.5, 2.5, 1.2, 4.7, 3.2, 7.5])}"
            return Value(self._said_size(half, unit, plural=True), f"{half}{unit}")
        if self.lang == "en" and self.chance(0.05):
            return self._rng.choice([Value("half a gigabyte", "512M"), Value("half a gig", "512M"), Value("a megabyte", "1M"), Value("a gigabyte", "1G"), Value("a gig", "1G"), Value("a kilobyte", "1K"), Value("one meg", "1M"), Value("a hundred megabytes", "100M"), Value("two gigs", "2G"), Value("a couple of gigabytes", "2G"), Value("half a megabyte", "512K"), Value("a terabyte", "1T")])
        return Value(self._said_size(str(n), unit, plural=n != 1), f"{n}{unit}")

    def _said_size(self, n: str, unit: str, *, plural: bool) -> str:
        s = "s" if plural else ""
        long = {"B": "byte", "K": "kilobyte", "M": "megabyte", "G": "gigabyte"}[unit]
        short = {"B": "B", "K": "KB", "M": "MB", "G": "GB"}[unit]
        if self.lang == "zh":
            zh = {"B": "字节", "K": "KB", "M": "MB", "G": "GB"}[unit]
            return self._rng.choice([f"{n} {zh}", f"{n}{zh}", f"{n}{unit}" if unit != "B" else f"{n}字节", f"{n}{'兆' if unit == 'M' else zh}"])
        if unit == "B":
            return f"{n} byte{s}"
        forms = [f"{n} {short}", f"{n}{short}", f"{n}{unit}", f"{n} {unit}", f"{n} {short.lower()}", f"{n}{short.lower()}", f"{n}{unit.lower()}", f"{n} {unit}iB", f"{n}{unit}iB"]
        if self.lang == "en":
            forms += [f"{n} {long}{s}"] * 3 + ([f"{n} {'meg' if unit == 'M' else 'gig'}{s}"] if unit in "MG" else [])
        return self._rng.choice(forms)

    def duration(self, *, after_the: bool = False) -> Value:
        """A time span; `after_the` as it stands after "the last": "week" where else "a week" is said."""
        unit = self._rng.choices(["m", "h", "d", "w", "mo", "y", "s"], [12, 18, 30, 18, 12, 7, 1])[0]
        n = self._rng.choice({"m": [5, 10, 15, 20, 30, 45, 60, 90], "h": [1, 1, 2, 3, 4, 6, 8, 12, 24, 36, 48, 72], "d": [1, 2, 3, 4, 5, 7, 10, 14, 20, 30, 45, 60, 90, 100, 120, 180, 200, 365], "w": [1, 1, 2, 3, 4, 6, 8], "mo": [1, 1, 2, 3, 6], "y": [1, 1, 2, 3, 5], "s": [30, 60, 90]}[unit])
        meant = f"{7 * n}d" if unit == "w" else f"{30 * n}d" if unit == "mo" else f"{n}{unit}"
        return Value(self._said_duration(n, unit, after_the), meant)

    def _said_duration(self, n: int, unit: str, after_the: bool) -> str:
        if self.lang == "zh":
            digits = _NUMBERS_ZH[n - 1] if n <= 10 and self.chance(0.5) else str(n)
            if n == 1 and unit == "mo":
                return "一个月"
            return f"{digits}{'个' if unit == 'h' and self.chance(0.5) else ''}{_UNITS_ZH[unit]}" if digits != str(n) else f"{n} {_UNITS_ZH[unit]}"
        for lang, units in (("de", _UNITS_DE), ("es", _UNITS_ES), ("fr", _UNITS_FR)):
            if self.lang == lang and unit in units:
                return f"{max(n, 2)} {units[unit]}" if n > 1 else {"de": {"m": "einer Minute", "h": "einer Stunde", "d": "einem Tag", "w": "einer Woche", "mo": "einem Monat"}, "es": {"m": "un minuto", "h": "una hora", "d": "un día", "w": "una semana", "mo": "un mes"}, "fr": {"m": "une minute", "h": "une heure", "d": "un jour", "w": "une semaine", "mo": "un mois"}}[lang][unit]
        word = _UNITS[unit]
        if n == 1:
            return word if after_the else self._rng.choice([f"{'an' if unit == 'h' else 'a'} {word}", f"one {word}", f"1 {word}"])
        digits = _NUMBERS[n - 1] if n <= 12 and self.chance(0.4) else str(n)
        if self.chance(0.1) and digits == str(n) and unit in "hdw":
            return f"{n}{unit}"
        if unit == "m" and self.chance(0.3):
            word = "min"
            return f"{digits} {word}"
        return f"{digits} {word}s"

    # --- texts

    def quotable(self, text: str, *, bare: float) -> Value:
        """Text that is quoted in the sentence unless it is one plain word (or by chance `bare`)."""
        if self.lang == "zh" and self.chance(0.3) and "“" not in text:
            return Value(f"“{text}”", text)
        plain = re.fullmatch(r"[\w.:/#@=-]+", text)
        if self.chance(0.65 if plain else bare):
            return Value(text, text)
        marks = [mark for mark in ("'", '"', '"', "'") if mark not in text] or ["`"]
        mark = self._rng.choice(marks)
        return Value(f"{mark}{text}{mark}", text)

    def pattern(self) -> Value:
        w = words()["search"]
        text = self._kept(lambda: self.one(w["words"]) if self.chance(0.72) else self._rng.choice(w["phrases"]))
        return self.quotable(text, bare=0.12)

    def content(self) -> Value:
        w = words()["edit"]
        pool = w["texts_zh"] if self.lang == "zh" and self.chance(0.6) else w["texts"]
        text = self._kept(lambda: self._rng.choice(pool))
        if self.chance(0.35) and self.lang != "zh":
            text = self._made_text()
        return self.quotable(text, bare=0.0)

    def tail_text(self) -> Value:
        """Text that ends the sentence, so that it needs no quotes."""
        w = words()["edit"]
        pool = w["texts_zh"] if self.lang == "zh" and self.chance(0.6) else w["texts"]
        text = self._made_text() if self.chance(0.35) and self.lang != "zh" else self._kept(lambda: self._rng.choice(pool))
        return Value(text, text)

    def _made_text(self) -> str:
        who = self.one("Anna Ben Chris Dora Eli Finn Gina Hugo Ida Jan Kim Leo Mia Noah Olga Paul Rita Sam Tess Uwe".split())
        thing = self.one("report invoice parcel meeting dinner rent server backup ticket flight taxi key book car dog garden".split())
        day = self.one("Monday Tuesday Wednesday Thursday Friday Saturday Sunday tomorrow tonight".split())
        n = self._rng.randint(1, 99)
        return self._rng.choice([f"call {who} about the {thing}", f"{thing} on {day}", f"{who}: {n}", f"remind {who} {day}", f"{thing}_count={n}", f"{n} x {thing}", f"The {thing} is ready.", f"bring the {thing} to {who}", f"{thing} = \"{who}\"", f"{day}: {thing} with {who}", f"{who},{n},{thing}", f"- {thing} ({n})", f"set {thing} {n}", f"{who.upper()}_{thing.upper()}={n}"])

    def machine(self, key: str) -> Value:
        word = self._kept(lambda: self.one(words()["machine"][key]))
        return Value(word, word)

    def regex(self) -> Value:
        said, meant = self._rng.choice(words()["search"]["regexes"])
        return Value(said, meant)


def w_stems() -> list[str]:
    return _split(words()["stems"])


def _pair(filler: Filler) -> tuple[str, str]:
    old, new = filler._rng.choice(words()["edit"]["pairs"])
    return (new, old) if filler.chance(0.3) else (old, new)


def _text_files(*exts: str) -> Callable[[Filler], Value]:
    return lambda f: f.file(exts=exts)


_MAKERS: dict[str, Callable[[Filler], Value]] = {
    "file": lambda f: f.file("text", "code"),
    "any": lambda f: f.file("text", "code", "binary"),
    "bare": lambda f: f._bare(),
    "bin": lambda f: f.file("binary"),
    "txt": _text_files("txt", "md", "txt", "rst"),
    "log": _text_files("log"),
    "csv": _text_files("csv"),
    "tsv": _text_files("tsv"),
    "json": _text_files("json"),
    "py": _text_files("py"),
    "conf": _text_files("conf", "ini", "cfg", "yaml", "toml", "env"),
    "img": _text_files("jpg", "png", "jpeg", "gif"),
    "video": _text_files("mp4", "mkv", "mov", "avi"),
    "song": _text_files("mp3", "flac", "wav", "ogg"),
    "new": lambda f: Value(*2 * (f.name(words()["ext"]["text"][:12]),)),
    "newdir": lambda f: Value(*2 * (f._kept(lambda: f.one(words()["dirs"]["relative"]) if f.chance(0.6) else f.stem().replace(".", "-").replace(" ", "_")),)),
    "loose": lambda f: f.loose(),
    "script": lambda f: f.script(),
    "archive": lambda f: f.archive(),
    "tgz": lambda f: Value(*2 * (f._kept(lambda: f"{f.stem()}.{f.one(['tar.gz', 'tgz', 'tar.gz', 'zip', 'zip', 'tar.xz', 'tar'])}".replace(" ", "_")),)),
    "dir": lambda f: f.dir(),
    "near": lambda f: f.near_dir(),
    "absdir": lambda f: Value(*2 * (f.one(words()["dirs"]["absolute"]),)),
    "kind": lambda f: f.kind(),
    "glob": lambda f: f.glob(),
    "here": lambda f: f.sure_dir(),
    "media": lambda f: f.kind("media"),
    "ext": lambda f: f.ext(),
    "stem": lambda f: Value(*2 * (f.one(words()["stems"]),)),
    "n": lambda f: f.number(2, 10, 0.5),
    "num": lambda f: f.number(2, 30, 0.3),
    "depth": lambda f: f.number(2, 4, 0.6),
    "col": lambda f: f.number(2, 6, 0.0),
    "lines": lambda f: f.lines(),
    "size": lambda f: f.size(),
    "dur": lambda f: f.duration(),
    "ago": lambda f: f.duration(after_the=True),
    "pat": lambda f: f.pattern(),
    "word": lambda f: Value(*2 * (f._kept(lambda: f.one(words()["search"]["words"])),)),
    "regex": lambda f: f.regex(),
    "text": lambda f: f.content(),
    "tail": lambda f: f.tail_text(),
    "remove": lambda f: f.quotable(f._rng.choice(words()["edit"]["removals"]), bare=0.3),
    "proc": lambda f: f.machine("programs"),
    "cmd": lambda f: f.machine("commands"),
    "pid": lambda f: Value(str(n := f._rng.choice([f._rng.randint(100, 9999), f._rng.randint(1000, 99999), f._rng.randint(100000, 4000000)])), n),
    "port": lambda f: Value(str(n := f._rng.choice([22, 25, 53, 80, 443, 631, 3000, 3306, 5000, 5432, 6379, 8000, 8080, 8081, 8443, 8888, 9000, 9090, 9200, 27017, 11434, f._rng.randint(1024, 65535)])), n),
    "user": lambda f: f.machine("users"),
    "host": lambda f: f.machine("hosts"),
    "svc": lambda f: f.machine("services"),
    "pkg": lambda f: f.machine("packages"),
    "cont": lambda f: f.machine("containers"),
    "image": lambda f: f.machine("images"),
    "vol": lambda f: f.machine("volumes"),
    "net": lambda f: f.machine("networks"),
    "iface": lambda f: f.machine("interfaces"),
    "percent": lambda f: Value(str(n := f._rng.choice([5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 90])), n),
    "mode": lambda f: Value(*2 * (f.one(["644", "755", "600", "700", "640", "750", "664", "775", "444", "400"]),)),
    "url": lambda f: Value(*2 * (f"https://{f.one(['example.com', 'files.example.org', 'cdn.example.net', 'dl.example.io'])}/{f.one(w_stems())}.{f.one(['tar.gz', 'zip', 'json', 'csv', 'iso', 'txt', 'pdf'])}",)),
}  # fmt: skip


class Filling:
    """The slots of one phrase, drawn once each."""

    def __init__(self, filler: Filler, lang: str) -> None:
        self._filler, filler.lang = filler, lang
        self._values: dict[str, Value] = {}
        self._pair: tuple[Value, Value] | None = None

    def value(self, name: str, number: str) -> Value | None:
        key = name + number
        if key not in self._values:
            made = self._edit(name) if name in ("from", "into") else self._fresh(name)
            if made is None:
                return None
            self._values[key] = made
        return self._values[key]

    def _fresh(self, name: str) -> Value | None:
        """A value that no other slot of the phrase has."""
        made = self._filler.draw(name)
        taken = {str(value.meant) for value in self._values.values()}
        for _ in range(20):
            if made is None or str(made.meant) not in taken:
                break
            made = self._filler.draw(name)
        return made

    def _edit(self, name: str) -> Value:
        if self._pair is None:
            old, new = _pair(self._filler)
            self._pair = self._filler.quotable(old, bare=0.1), self._filler.quotable(new, bare=0.1)
        return self._pair[name == "into"]

    def say(self, text: str) -> str:
        said = SLOT.sub(lambda m: v.said if (v := self.value(m[1], m[2])) else m[0], text)
        return re.sub(r"(?<![:/])//(?=\w)", "/", said)

    @property
    def here(self) -> tuple[str, ...]:
        return tuple(name for value in self._values.values() for name in value.here)

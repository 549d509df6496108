"""What a slot of a phrase is filled with: a wording for the sentence and the value it means.

`{size}` may be said "two gigabytes" and means `2G`; `{file}` is the same in both. `{file2}` is another file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from llmos.tune.data import amounts
from llmos.tune.data.names import Filler, Value, words

SLOT = re.compile(r"\{([a-z]+)(\d?)\}")


def draw(filler: Filler, kind: str) -> Value | None:
    """A value for a slot of this kind, or None for no slot of ours (`{print}` of an awk program)."""
    maker = _MAKERS.get(kind)
    return maker(filler) if maker else None


def _with(*exts: str) -> Callable[[Filler], Value]:
    return lambda filler: filler.file(exts=exts)


def _machine(key: str) -> Callable[[Filler], Value]:
    return lambda filler: filler.machine(key)


def _listed(table: str, key: str) -> Callable[[Filler], Value]:
    """One of a list of words.toml, of this side of the split."""
    return lambda filler: Value.same(filler.kept(lambda: filler.one(words()[table][key])))


def _url(filler: Filler) -> Value:
    table = words()["amounts"]
    return Value.same(
        f"https://{filler.one(table['sites'])}/{filler.word()}.{filler.one(table['downloads'])}"
    )


def _regex(filler: Filler) -> Value:
    return Value(*filler.rng.choice(words()["search"]["regexes"]))


_MAKERS: Mapping[str, Callable[[Filler], Value]] = {
    # files and folders
    "file": lambda f: f.file("text", "code"),
    "any": lambda f: f.file("text", "code", "binary"),
    "bare": Filler.bare,
    "bin": lambda f: f.file("binary"),
    "txt": _with("txt", "md", "txt", "rst"),
    "log": _with("log"),
    "csv": _with("csv"),
    "tsv": _with("tsv"),
    "json": _with("json"),
    "py": _with("py"),
    "sh": _with("sh"),
    "conf": _with("conf", "ini", "cfg", "yaml", "toml", "env"),
    "img": _with("jpg", "png", "jpeg", "gif"),
    "video": _with("mp4", "mkv", "mov", "avi"),
    "new": lambda f: Value.same(f.name(words()["ext"]["text"][:12])),
    "loose": Filler.loose,
    "script": Filler.script,
    "archive": Filler.archive,
    "tgz": Filler.new_archive,
    "dir": Filler.dir,
    "near": Filler.near_dir,
    "here": lambda f: f.near_dir(sure=True),
    "newdir": Filler.new_dir,
    "absdir": lambda f: Value.same(f.one(words()["dirs"]["absolute"])),
    "kind": Filler.kind,
    "media": lambda f: f.kind("media"),
    "glob": Filler.glob,
    "ext": Filler.ext,
    "stem": lambda f: Value.same(f.word()),
    # amounts
    "n": lambda f: amounts.number(f, 2, 10, worded=0.5),
    "num": lambda f: amounts.number(f, 2, 30, worded=0.3),
    "depth": lambda f: amounts.number(f, 2, 4, worded=0.6),
    "measure": _listed("columns", "measures"),
    "label": _listed("columns", "labels"),
    "col": lambda f: amounts.number(f, 2, 6, worded=0.0),
    "lines": amounts.lines,
    "size": amounts.size,
    "ram": amounts.memory,
    "dur": amounts.duration,
    "ago": lambda f: amounts.duration(f, after_the=True),
    "pid": lambda f: amounts.pid(f.rng),
    "port": lambda f: amounts.port(f.rng),
    "percent": lambda f: amounts.one_of(f.rng, "percents"),
    "mode": lambda f: Value.same(f.one(words()["amounts"]["modes"])),
    # texts
    "pat": Filler.pattern,
    "word": _listed("search", "words"),
    "regex": _regex,
    "text": lambda f: f.quotable(f.text(), bare=0.0),
    "tail": lambda f: Value.same(f.text()),
    "remove": lambda f: f.quotable(f.one(words()["edit"]["removals"]), bare=0.3),
    # the machine
    "proc": _machine("programs"),
    "cmd": _machine("commands"),
    "user": _machine("users"),
    "host": _machine("hosts"),
    "svc": _machine("services"),
    "pkg": _machine("packages"),
    "cont": _machine("containers"),
    "image": _machine("images"),
    "vol": _machine("volumes"),
    "net": _machine("networks"),
    "iface": _machine("interfaces"),
    "url": _url,
}


class Filling:
    """The slots of one phrase, drawn once each."""

    def __init__(self, filler: Filler, lang: str) -> None:
        self._filler, filler.lang = filler, lang
        self._values: dict[str, Value] = {}

    def value(self, name: str, number: str) -> Value | None:
        key = name + number
        if key not in self._values:
            if name in ("from", "into"):  # one is chosen with the other
                self._values["from"], self._values["into"] = self._filler.edit()
            elif made := self._fresh(name):
                self._values[key] = made
        return self._values.get(key)

    def _fresh(self, name: str) -> Value | None:
        """A value that no other slot of the phrase has."""
        taken = {str(value.meant) for value in self._values.values()}
        made = draw(self._filler, name)
        for _ in range(20):
            if made is None or str(made.meant) not in taken:
                break
            made = draw(self._filler, name)
        return made

    def say(self, text: str) -> str:
        said = SLOT.sub(lambda m: v.said if (v := self.value(m[1], m[2])) else m[0], text)
        return re.sub(r"(?<![:/])//(?=\w)", "/", said)

    @property
    def here(self) -> tuple[str, ...]:
        return tuple(name for value in self._values.values() for name in value.here)

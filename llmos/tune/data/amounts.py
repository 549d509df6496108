"""Numbers, sizes and spans of time: as digits or in words, in any unit, in five languages."""

from __future__ import annotations

import random

from llmos.tune.data.names import Filler, Value, words

_ENGLISH = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_CHINESE = "一两三四五六七八九十"
_SIZE_NAMES = {"B": "byte", "K": "kilobyte", "M": "megabyte", "G": "gigabyte"}


def number(filler: Filler, low: int, high: int, *, worded: float) -> Value:
    """A small number, by the chance `worded` in words."""
    return _said(filler, filler.rng.randint(low, high), worded)


def lines(filler: Filler) -> Value:
    """A number of lines: mostly a round one."""
    n = filler.rng.randint(2, 300) if filler.chance(0.2) else filler.rng.choice(words()["amounts"]["lines"])
    return _said(filler, n, 0.3 if filler.lang == "en" and n > 1 else 0.0)


def _said(filler: Filler, n: int, worded: float) -> Value:
    if n <= 10 and filler.chance(worded):
        if filler.lang == "zh":
            return Value(_CHINESE[n - 1], n)
        if filler.lang == "en":
            return Value(_ENGLISH[n - 1], n)
    return Value(str(n), n)


def one_of(rng: random.Random, key: str) -> Value:
    """One of a list of numbers in words.toml."""
    n = rng.choice(words()["amounts"][key])
    return Value(str(n), n)


def pid(rng: random.Random) -> Value:
    n = rng.randint(*rng.choice([(100, 9_999), (1_000, 99_999), (100_000, 4_000_000)]))
    return Value(str(n), n)


def port(rng: random.Random) -> Value:
    n = rng.randint(1024, 65535) if rng.random() < 0.06 else rng.choice(words()["amounts"]["ports"])
    return Value(str(n), n)


# --- sizes


def size(filler: Filler) -> Value:
    """A size as people say it (`2 gigs`, `500kb`) and as a call has it (`2G`, `500K`)."""
    table, rng = words()["amounts"], filler.rng
    if filler.lang == "en" and filler.chance(0.05):
        return Value(*rng.choice(table["worded_sizes"]))
    unit = rng.choice("KKMMMMMMMGGGGG" if filler.chance(0.95) else "B")
    if unit in "MG" and filler.chance(0.1):
        n = str(rng.choice(table["halves"]))
    else:
        n = str(rng.choice(table["gigabytes" if unit == "G" else "sizes"]))
    return Value(_said_size(filler, n, unit), f"{n}{unit}")


def memory(filler: Filler) -> Value:
    """A size that a program can run in, said as any size."""
    table, rng = words()["amounts"], filler.rng
    if filler.lang == "en" and filler.chance(0.05):
        return Value(*rng.choice(table["worded_memory"]))
    unit = rng.choice("MG")
    n = str(rng.choice(table["memory"][unit]))
    return Value(_said_size(filler, n, unit), f"{n}{unit}")


def _said_size(filler: Filler, n: str, unit: str) -> str:
    plural = "" if n == "1" else "s"
    if filler.lang == "zh":
        name = {"B": "字节", "M": filler.one(["MB", "M", "兆", "MB"])}.get(unit, f"{unit}B")
        return f"{n}{filler.one(['', ' '])}{name}" if name else ""
    if unit == "B":
        return f"{n} byte{plural}"
    short = filler.rng.choice([f"{unit}B", f"{unit}B", unit, f"{unit}iB", f"{unit}B".lower(), unit.lower()])
    if filler.lang == "en" and filler.chance(0.35):
        spoken = {"M": "meg", "G": "gig"}.get(unit) if filler.chance(0.3) else None
        return f"{n} {spoken or _SIZE_NAMES[unit]}{plural}"
    return n + filler.rng.choice(["", " "]) + short


# --- spans of time


def duration(filler: Filler, *, after_the: bool = False) -> Value:
    """A time span; `after_the` as it stands after "the last": "week" where else "a week" is said."""
    spans = words()["amounts"]["spans"]
    unit = filler.rng.choices(["m", "h", "d", "w", "mo", "y"], [12, 18, 30, 18, 12, 7])[0]
    n = filler.rng.choice(spans[unit])
    meant = {"w": f"{7 * n}d", "mo": f"{30 * n}d"}.get(unit, f"{n}{unit}")
    said = (
        _said_english(filler, n, unit, after_the) if filler.lang == "en" else _said_foreign(filler, n, unit)
    )
    return Value(said, meant)


def _said_english(filler: Filler, n: int, unit: str, after_the: bool) -> str:
    name = words()["units"]["en"][unit]
    if n == 1:
        return name if after_the else filler.one(["a", "one", "1"]).replace("a", _article(name)) + f" {name}"
    if unit in "hdw" and filler.chance(0.06):
        return f"{n}{unit}"
    name = "min" if unit == "m" and filler.chance(0.3) else f"{name}s"
    return f"{_ENGLISH[n - 1] if n <= 12 and filler.chance(0.4) else n} {name}"


def _article(name: str) -> str:
    return "an" if name == "hour" else "a"


def _said_foreign(filler: Filler, n: int, unit: str) -> str:
    name = words()["units"][filler.lang][unit]
    if filler.lang != "zh":
        return str(name[0]) if n == 1 else f"{n} {name[1]}"
    if n <= 10 and filler.chance(0.5):
        digit = "一" if n == 1 else _CHINESE[n - 1]
        return f"{digit}{filler.one(['个', '']) if unit == 'h' else ''}{name}"
    return f"{n} {name}"

"""How people really type: politeness, small and capital letters, missing marks, typing errors.

Only words that no argument holds are touched: what has to be copied stays as it was.
"""

from __future__ import annotations

import random
import re

from llmos.tune.data.names import forms

_POLITE = forms()["polite"]
_VERBS = frozenset(_POLITE["en_verbs"].split())
_ZH_VERB = re.compile(rf"^(?:{'|'.join(_POLITE['zh_verbs'].split())})")
_WORD = re.compile(r"(?<![\w./~*'\"`:@#$%+=<>|\\-])[a-z]{4,}(?![\w/*'\"`:@#$%+=<>|\\-]|\.\w)")
# The keys beside each letter on a keyboard.
_KEYS = dict(pair.split(":") for pair in _POLITE["keys"].split())
_NUMBER_WORDS = {"three", "four", "five", "seven", "eight", "nine", "eleven", "twelve"}


def is_order(say: str, lang: str) -> bool:
    """Whether a sentence begins with a verb that tells what to do."""
    if lang == "zh":
        return bool(_ZH_VERB.match(say))
    return lang != "en" or say.split(" ", 1)[0].lower() in _VERBS


def wrap(say: str, lang: str, rng: random.Random) -> str:
    """A request put politely, or in passing; questions and noun phrases stay."""
    if not is_order(say, lang) or say.endswith(("?", "？", "吗")):
        return say
    dice = rng.random()
    if lang == "en" and dice < 0.2:
        form = str(rng.choice(_POLITE["before"]))
        asked = form.startswith(("can", "could", "would", "will")) and rng.random() < 0.4
        return form.format(say[0].lower() + say[1:]) + ("?" if asked else "")
    if lang == "en" and dice < 0.27 and ": " not in say:
        return str(rng.choice(_POLITE["after"])).format(say)
    if lang == "zh" and dice < 0.22:
        return str(rng.choice(_POLITE["zh"])).format(say)
    return say + str(_POLITE["please"][lang]) if lang in _POLITE["please"] and dice < 0.15 else say


def letters(say: str, kept: str, rng: random.Random) -> str:
    """Capital at the start, a full stop, all small letters, or none of that."""
    if re.search(r"(^|\s)-\w", say):  # options: -P is not -p
        return say
    dice = rng.random()
    first = re.match(r"[A-Za-z]+", say)
    if dice < 0.22 and first and first[0] not in kept:
        say = say[0].upper() + say[1:]
    elif (
        dice < 0.26
        and say.lower() != say
        and not any(w in kept for w in re.findall(r"[\w./~@-]*[A-Z][\w./~@-]*", say))
    ):
        say = say.lower()
    if rng.random() < 0.05 and say[-1].isalpha() and not kept.rstrip('"}').endswith(say[-4:]):
        say += "." if say[-1].isascii() else "。"
    elif rng.random() < 0.25 and say.endswith("?"):
        say = say[:-1].rstrip()
    elif rng.random() < 0.02 and say[-1] not in "?.!。？":
        say += " !" if rng.random() < 0.3 else "!"
    return say


def typos(say: str, kept: str, rng: random.Random, *, share: float = 0.11) -> str:
    """One typing error, seldom two, in words that no argument holds."""
    for _ in range(1 if rng.random() < share else 0):
        for _ in range(2 if rng.random() < 0.2 else 1):
            spots = [m for m in _WORD.finditer(say) if m[0] not in _NUMBER_WORDS and m[0] not in kept.lower()]
            if not spots:
                return say
            spot = rng.choice(spots)
            say = say[: spot.start()] + _mistyped(spot[0], rng) + say[spot.end() :]
    return say


def _mistyped(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)
    match rng.choice(["swap", "drop", "double", "near", "swap", "drop"]):
        case "swap":
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        case "drop":
            return word[:at] + word[at + 1 :]
        case "double":
            return word[:at] + word[at] + word[at:]
        case _:
            return word[:at] + str(rng.choice(_KEYS[word[at]])) + word[at + 1 :]


def vary(say: str, lang: str, kept: str, rng: random.Random) -> str:
    """All of it; `kept` is the text of the calls."""
    return typos(letters(wrap(say, lang, rng), kept, rng), kept, rng)

"""How people really type: politeness, small and capital letters, missing marks, typing errors.

Only words that no argument holds are touched: what has to be copied stays as it was.
"""

from __future__ import annotations

import random
import re

_VERBS = set(
    """list show print display give find locate search look open read view delete remove erase copy move rename
    make create add append write put save replace change substitute count compare sort zip pack compress unpack
    extract unzip untar start run launch stop kill end terminate quit close check tell get fetch download set
    turn convert join merge concatenate clear empty throw go let peek dump output enumerate duplicate clone back
    fix correct strip pick filter grep archive bundle build resolve ping stage commit push pull switch stash
    install restart limit suspend resume mount unmount schedule cancel send turn dim play pause translate book""".split()
)
_BEFORE = ["please {}", "can you {}", "could you {}", "could you please {}", "would you {}", "can you please {}", "pls {}", "i want you to {}", "i need you to {}", "hey, {}", "hi, {}", "now {}", "ok, {}", "just {}", "i'd like you to {}", "go ahead and {}", "next, {}", "kindly {}", "quick: {}", "hey can u {}", "llmos, {}", "so, {}", "will you {}", "let's {}", "be so kind and {}"]  # fmt: skip
_AFTER = ["{} please", "{} for me", "{}, please", "{} pls", "{} thanks", "{}, thanks", "{} plz", "{} now", "{}, will you", "{}, thank you", "{} if you can", "{}, would you?", "{} asap", "{} thx"]  # fmt: skip
_ZH_BEFORE = ["请{}", "帮我{}", "麻烦{}", "请帮我{}", "请你{}", "能不能{}", "可以{}吗", "我想{}", "给我{}", "现在{}", "麻烦你{}", "劳驾{}"]
_ZH_VERB = re.compile(r"^(把|将|显示|查看|打开|列出|查找|找出|搜索|删除|删掉|复制|移动|新建|创建|压缩|解压|统计|在|用|启动|停止|结束|关闭|后台|计算|比较|对比|运行|执行|下载|看看|看一下|往|给|合并|重启|提取|设置|限制)")
_WORD = re.compile(r"(?<![\w./~*'\"`:@#$%+=<>|\\-])[a-z]{4,}(?![\w/*'\"`:@#$%+=<>|\\-]|\.\w)")
_KEYS = {"a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk", "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "w", "r": "et", "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x"}  # fmt: skip
_NUMBER_WORDS = {"three", "four", "five", "seven", "eight", "nine", "eleven", "twelve"}


def wrap(say: str, lang: str, rng: random.Random) -> str:
    """A request put politely, or in passing; questions and noun phrases stay."""
    first = say.split(" ", 1)[0].lower()
    if lang == "en" and first in _VERBS:
        dice = rng.random()
        if dice < 0.2:
            form = rng.choice(_BEFORE)
            say = say[0].lower() + say[1:]
            asked = form.startswith(("can", "could", "would", "will")) and rng.random() < 0.4 and not say.endswith("?")
            return form.format(say) + ("?" if asked else "")
        if dice < 0.27 and not say.endswith("?") and ": " not in say:
            return rng.choice(_AFTER).format(say)
    elif lang == "zh" and _ZH_VERB.match(say) and rng.random() < 0.22:
        form = rng.choice(_ZH_BEFORE)
        return say if form.startswith("可以") and say.endswith(("吗", "？")) else form.format(say)
    elif lang in ("de", "es", "fr") and rng.random() < 0.15 and not say.endswith("?"):
        return say + {"de": " bitte", "es": " por favor", "fr": " s'il te plaît"}[lang]
    return say


def letters(say: str, kept: str, rng: random.Random) -> str:
    """Capital at the start, a full stop, all small letters, or none of that."""
    dice = rng.random()
    first = re.match(r"[A-Za-z]+", say)
    if dice < 0.22 and first and first[0] not in kept:
        say = say[0].upper() + say[1:]
    elif dice < 0.26 and say.lower() != say and not any(w in kept for w in re.findall(r"[\w./~@-]*[A-Z][\w./~@-]*", say)):
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
            return word[:at] + rng.choice(_KEYS[word[at]]) + word[at + 1 :]


def vary(say: str, lang: str, kept: str, rng: random.Random) -> str:
    """All of it; `kept` is the text of the calls."""
    return typos(letters(wrap(say, lang, rng), kept, rng), kept, rng)

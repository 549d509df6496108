"""Requests of several steps, put together from single ones: each step becomes a call, in their order."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from llmos.tune.data import augment, phrases
from llmos.tune.data.names import Filler, forms
from llmos.tune.data.phrases import Said, Template

_STEPS = forms()["steps"]
_NAMES = {2: "two", 3: "three", 4: "four"}
_SHELLISH = re.compile(
    r"^(ls|cat|rm|mv|cp|mkdir|touch|grep|head|tail|wc|tar|unzip|zip|kill|pkill|chmod|sort|df|du|ps|git|free) "
)


def usable(template: Template) -> bool:
    """A single order (no question, no text that runs on to the end) without piped data."""
    if template.lang not in ("en", "zh") or template.data or template.files or len(template.tools) > 1:
        return False
    if (
        template.tools[0] in ("answer", "ask")
        or "{tail}" in template.say
        or template.say.rstrip(")").endswith("?")
    ):
        return False
    if any(
        word in template.say
        for word in (", not ", "no, ", "i mean", "sorry", " then ", "don't", ": {", "不对", "说错")
    ):
        return False
    say = phrases.choose(template.say, random.Random(0))
    return _order(say, template.lang)


def compose(templates: Sequence[Template], filler: Filler, rng: random.Random) -> tuple[Said, str, str]:
    """A request of two to four steps, its id and language. `templates` are usable ones."""
    while True:
        count = rng.choices([2, 3, 4], [72, 23, 5])[0]
        lang = "zh" if rng.random() < 0.16 else "en"
        picked = [rng.choice(templates) for _ in range(count)]
        if any(template.lang != lang for template in picked):
            picked = _same_language(templates, lang, count, rng)
        said = [phrases.fill(template, filler, rng) for template in picked]
        says = [re.sub(r"[?!\s]+$", "", each.say) for each in said]
        if not all(_order(say, lang) for say in says):
            continue
        calls = tuple(call for each in said for call in each.calls)
        text = _form(says, lang, rng).format(*says)
        here = tuple(name for each in said for name in each.here)
        return Said(text, calls, here), "+".join(template.id for template in picked), lang


def _same_language(
    templates: Sequence[Template], lang: str, count: int, rng: random.Random
) -> list[Template]:
    picked: list[Template] = []
    while len(picked) < count:
        one = rng.choice(templates)
        if one.lang == lang:
            picked.append(one)
    return picked


def _order(say: str, lang: str) -> bool:
    """Whether the wording that came out is an order (a choice may have made a noun phrase of it)."""
    return augment.is_order(say, lang) or bool(_SHELLISH.match(say))


def _form(says: Sequence[str], lang: str, rng: random.Random) -> str:
    if lang == "zh":
        return str(rng.choice(_STEPS[f"zh_{_NAMES[len(says)]}"]))
    if len(says) == 2 and all(_SHELLISH.match(say) for say in says):
        return str(rng.choice(_STEPS["commands"]))
    return str(rng.choice(_STEPS[_NAMES[len(says)]]))

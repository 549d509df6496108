"""Questions about commands, answered with what the manual pages of this machine say, quoted and named.

    read the question -> search -> weigh -> quote with source        no model has a part in it

An entry counts when it has nearly all that the question says (by how rare its words are, synonyms included),
and among those everyday and installed programs come first. Where nothing does, nothing is answered: a passage
that only shares a word would be worse than none. What is quoted is others' text: it is shown, never followed.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmos.explain import command, pages, questions
from llmos.explain.manual import Entry, Manual
from llmos.explain.questions import Question, content, stem
from llmos.guard.grammar import grammars

ENOUGH = 0.74  # of what the question says must stand in the entry
ENOUGH_OF_ONE = 0.6  # in the pages of the program it names
MOST = 3
NEAR = 0.2  # further ones must be so near to the best
# Of `features`. `llmos tune answers` measures them, beside learnt ones.
WEIGHTS = (1.0, 0.15, 0.6, 0.12, 0.12, 0.12, 0.2, -0.03, -0.2)
HelpOf = Callable[[tuple[str, ...]], str]

_SAYS_LITTLE = 0.5
_VAGUE = frozenset(map(stem, questions.LISTS["vague"].split()))


def _alike() -> dict[str, frozenset[str]]:
    """A stem's own group or groups, itself among them."""
    found: dict[str, frozenset[str]] = {}
    for group in questions.LISTS["alike"]:
        stems = frozenset(map(stem, group.split()))
        for word in stems:
            found[word] = found.get(word, frozenset()) | stems
    return found


_ALIKE = _alike()


@dataclass(frozen=True, slots=True)
class Quote:
    """What is said where: `grep -i, --ignore-case`, `Ignore case …`, `grep(1)`."""

    head: str
    text: str
    source: str


def answer(
    text: str, help_of: HelpOf, *, manual: Manual | None = None, entries: Collection[str] = ()
) -> tuple[Quote, ...] | None:
    """Quotes, the best first; none of them where the pages do not tell; None where it is no such question."""
    asked = questions.read(text, entries)
    if asked is None:
        return None
    manual = manual or Manual()
    if asked.others:
        found = [quote for name in asked.others if (quote := _summary(name, manual, help_of))]
        return tuple(found) if len(found) == len(asked.others) else ()
    if asked.command:
        return taken_apart(asked.command, help_of)
    if asked.program and not asked.words:
        quote = _summary(asked.program, manual, help_of)
        return (quote,) if quote else None  # "what is running?" is no question about a program
    if asked.program:
        return _of_program(asked, manual, help_of)
    return _searched(asked.words, manual)


def told(quotes: Iterable[Quote]) -> str:
    """As it is shown: what is quoted stands as it was written, its source behind it."""
    return "\n".join(f"{quote.head}: {quote.text} [{quote.source}]" for quote in quotes)


# --- one program -------------------------------------------------------------------------------------


def _summary(name: str, manual: Manual, help_of: HelpOf) -> Quote | None:
    if entry := manual.page(name):
        return Quote(name, entry.about, entry.source)
    if name not in grammars() or not shutil.which(name):
        return None
    page = pages.from_help(f"{name} --help", help_of((name,)))
    return Quote(name, page.summary, page.source) if page.summary else None


def _of_program(asked: Question, manual: Manual, help_of: HelpOf) -> tuple[Quote, ...]:
    name, words = asked.program, asked.words
    page = pages.man(name)
    if page is None or not page.options:
        text = help_of((name,)) if name in grammars() and shutil.which(name) else ""
        page = pages.from_help(f"{name} --help", text) if text else page
    if page is not None and (quotes := _options(name, words, page)):
        return quotes
    if quotes := _searched((*words, name), manual, of=name):
        return quotes
    quote = _summary(name, manual, help_of)
    return (quote,) if quote else _searched((*words, name), manual)


def _options(name: str, words: Sequence[str], page: pages.Page) -> tuple[Quote, ...]:
    tags = dict(page.options.values())
    weights = rarities(words, [f"{tag} {about}" for tag, about in tags.items()])
    scored = sorted(
        ((_in_page(weights, tag, about), tag, about) for tag, about in tags.items()), reverse=True
    )
    best = [one for one in scored if one[0] >= ENOUGH_OF_ONE]
    return tuple(Quote(f"{name} {tag}", about, page.source) for _, tag, about in best[:MOST])


def _in_page(weights: Mapping[str, float], tag: str, about: str) -> float:
    """An option that is named like it comes first: of `create`, --create."""
    score = covered(weights, f"{tag} {about}")
    return score and score + 0.2 * covered(weights, tag) - len(about) / 2000


def taken_apart(text: str, help_of: HelpOf) -> tuple[Quote, ...]:
    """Of a command line every part that something is known of; nothing unless the program itself is known."""
    parts = [part for part in command.explain(text, help_of) if part.about]
    if not any(part.kind == "program" and part.source for part in parts):
        return ()
    return tuple(Quote(part.text, part.about, part.source or "the shell's own words") for part in parts)


# --- any program -------------------------------------------------------------------------------------


def candidates(words: Sequence[str], manual: Manual) -> tuple[dict[str, float], list[Entry]]:
    """What each word of the question weighs, and the entries that say enough of it."""
    alike = [other for word in words for other in (word, *sorted(_ALIKE.get(stem(word), ())))]
    found = manual.search(tuple(dict.fromkeys(alike)), limit=400)
    weights = rarities(words, [_text(entry) for entry in found])
    return weights, [entry for entry in found if covered(weights, _text(entry)) >= ENOUGH]


def _searched(words: Sequence[str], manual: Manual, of: str = "") -> tuple[Quote, ...]:
    """`of`: among the pages for the parts of this program (`git-commit`)."""
    weights, found = candidates(words, manual)
    found = [entry for entry in found if not of or entry.name.startswith(f"{of}-")]
    scored = sorted(((_score(weights, entry), -number) for number, entry in enumerate(found)), reverse=True)
    kept: dict[str, Quote] = {}
    for score, number in scored:
        entry = found[-number]
        if score >= scored[0][0] - NEAR and len(kept) < MOST:
            kept.setdefault(entry.name, Quote(f"{entry.name} {entry.tag}".strip(), entry.about, entry.source))
    return tuple(kept.values())


def _text(entry: Entry) -> str:
    return f"{entry.name} {entry.tag} {entry.about}"


def features(weights: Mapping[str, float], entry: Entry) -> tuple[float, ...]:
    """What the ranking goes by, in the order of `WEIGHTS`."""
    about = {stem(word) for word in content(entry.about)}
    alike = set(weights).union(*(_ALIKE.get(word, frozenset()) for word in weights))
    return (
        covered(weights, _text(entry)),
        covered(weights, f"{entry.name} {entry.tag}"),
        len(about & alike) / (2 + len(about)),  # how much else it says
        float(entry.name in grammars()),
        float(shutil.which(entry.name) is not None),
        float(not entry.tag),
        float(entry.section in ("1", "8")),
        float(entry.name.count("-")),
        len(entry.about) / 240,
    )


def _score(weights: Mapping[str, float], entry: Entry) -> float:
    return sum(weight * value for weight, value in zip(WEIGHTS, features(weights, entry), strict=True))


def rarities(words: Iterable[str], texts: Sequence[str]) -> dict[str, float]:
    """How much each word of the question says, by how few of these texts have it."""
    seen = Counter(word for text in texts for word in {stem(one) for one in content(text)})
    stems = {stem(word) for word in words}
    return {
        word: (_SAYS_LITTLE if word in _VAGUE else 1.0)
        * math.log(2 + len(texts) / (1 + max(seen[other] for other in (_ALIKE.get(word, {word}) | {word}))))
        for word in stems
    }


def covered(weights: Mapping[str, float], text: str) -> float:
    """The share of the question that the text has, a synonym for nine tenths."""
    have = {stem(word) for word in content(text)}
    total = sum(weights.values()) or 1.0
    got = sum(
        weight * (1.0 if word in have else 0.9 if have & _ALIKE.get(word, frozenset()) else 0.0)
        for word, weight in weights.items()
    )
    return got / total

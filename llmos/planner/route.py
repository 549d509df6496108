"""Where a request is thought about: a pure choice from measured facts, each part of it explained.

    local -> larger local models, in order -> cloud      climbed only when the lower step is measurably unsure

A person's word counts first (`--local`, `--cloud`, `--backend`), then what may not leave, then what fits,
then how sure the local model was. It decides nothing that the broker would not check again: consent, budget
and policy are facts here, and are enforced where the connection is made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from llmos.messages import Route

Kind = Literal["call", "question", "document", "script", "steps", "translate"]
Where = Literal["local", "larger", "cloud", "keep", "refuse"]
Consent = Literal["given", "can be asked", "nobody to ask"]

CHARS_PER_TOKEN = 3.2
SHOWN_DATA_CHARS = 600  # of piped data, in a prompt of the local model
PIECE_CHARS = 4000  # of a text that is read in pieces: a third of the default window
MAX_PIECES = 40  # minutes, on two cores
_DOCUMENT = re.compile(
    r"(?i)\b(?:summar|tl;?dr|explain|describe|review|translat|proofread|rewrite"
    r"|what (?:does|do|is|are|went|happen)|which (?:errors?|warnings?|problems?)|why)"
    r"|总结|概括|摘要|解释|翻译|说明|什么|为什么"
)
_SCRIPT = re.compile(r"(?i)\b(?:script|program|function|dockerfile|playbook|unit file|makefile)\b|脚本|程序")
_STEPS = re.compile(r"(?i)(?:,| and)? then |\bafter that\b|\bfinally\b|;\s|，?然后|接着|最后")
_QUESTION = re.compile(
    r"(?i)^(?:what|who|why|when|how does|is it|explain|什么|谁|为什么)\b.*\?\s*$|[?？]\s*$"
)


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """One backend, for this request. `problem`: why it is not to be asked; empty when it may be."""

    name: str
    fits: bool
    window: int
    ceiling_usd: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Larger:
    """A larger local model. `problem`: why it cannot be asked; `loaded`: its memory is taken already."""

    name: str
    num_bytes: int = 0  # of memory, about, once it is loaded
    loaded: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a local model made of it: how sure it was (0..1), or why it gave nothing."""

    where: Literal["local", "larger"]
    confidence: float = 0.0
    problem: str = ""
    model: str = ""  # which of the larger ones

    @property
    def title(self) -> str:
        return f"the larger model {self.model}" if self.model else "the local model"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the choice goes by."""

    kind: Kind
    prompt_tokens: int  # estimated, the list of tools included
    reply_tokens: int
    window: int  # of the local model
    want: Route = "auto"
    backend: str = ""
    may_not_leave: str = ""  # the label that forbids it, and why
    consent: Consent = "nobody to ask"
    min_confidence: float = 0.5
    larger: tuple[Larger, ...] = ()  # local models, in the order in which they are asked
    pieces: int = 0  # of a text that the local model would read in pieces
    backends: tuple[BackendFacts, ...] = ()
    tried: tuple[Tried, ...] = ()
    free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """`keep`: the local answer that is there already. `order`: the backends to ask, first one first, or the
    one larger model."""

    where: Where
    order: tuple[str, ...] = ()
    why: tuple[str, ...] = field(default=())


def kind_of(text: str, *, has_data: bool, translate: bool = False) -> Kind:
    """What kind of request it is, by its words: cheap, and good enough to ask for consent by kind."""
    if translate:
        return "translate"
    if has_data and _DOCUMENT.search(text):
        return "document"
    if _SCRIPT.search(text):
        return "script"
    if _STEPS.search(text):
        return "steps"
    return "question" if _QUESTION.search(text) else "call"


def pieces(num_chars: int) -> int:
    """How many pieces a text of that size is read in; 0 where a prompt shows all of it."""
    return 0 if num_chars <= SHOWN_DATA_CHARS else -(-num_chars // PIECE_CHARS)


def tokens(num_chars: int) -> int:
    """An estimate, where no tokenizer is at hand."""
    return round(num_chars / CHARS_PER_TOKEN)


def choose(facts: Facts) -> Choice:
    """The next place to ask, with the reasons in the order they counted."""
    if facts.want == "cloud" or facts.backend:
        return _cloud_wanted(facts)
    if not facts.tried:
        return _first(facts)
    last = facts.tried[-1]
    if _is_sure(last, facts):
        return Choice("keep", why=(f"{last.title} is sure: {last.confidence:.2f}",))
    return _climb(facts, last)


def _cloud_wanted(facts: Facts) -> Choice:
    why = [f"you said {'--backend ' + facts.backend if facts.backend else '--cloud'}"]
    if facts.may_not_leave:
        return Choice("refuse", why=(*why, facts.may_not_leave))
    order, problems = _usable(facts)
    if order:
        return Choice("cloud", order, (*why, *problems))
    known = ", ".join(one.name for one in facts.backends)
    if facts.backend and facts.backend not in (one.name for one in facts.backends):
        problems = (f"there is no backend {facts.backend}" + (f" (there is: {known})" if known else ""),)
    return Choice("refuse", why=(*why, *(problems or ("no backend is configured",))))


def _first(facts: Facts) -> Choice:
    need = facts.prompt_tokens + facts.reply_tokens
    size = f"about {facts.prompt_tokens} + {facts.reply_tokens} tokens"
    if facts.want == "local":
        return Choice("local", why=("you said --local", *_in_pieces(facts)))
    if need <= facts.window:
        fit = f"{size} fit the local window of {facts.window}"
        return Choice("local", why=(fit, "local is private and free", *_in_pieces(facts)))
    too_long = f"{size} exceed the local window of {facts.window}"
    order, problems = _leaving(facts)
    if order:
        return Choice("cloud", order, (too_long, *problems))
    return Choice("local", why=(too_long, *problems, *_in_pieces(facts)))


def _in_pieces(facts: Facts) -> tuple[str, ...]:
    """How the local model gets to know a text that no prompt of it holds."""
    if not facts.pieces:
        return ()
    if facts.pieces > MAX_PIECES:
        return (f"it would be read in {facts.pieces} pieces, and at most {MAX_PIECES} are",)
    return (f"where it is answered in words, the text is read in {facts.pieces} pieces, and these combined",)


def _climb(facts: Facts, last: Tried) -> Choice:
    unsure = last.problem or f"{last.title} is unsure: {last.confidence:.2f} < {facts.min_confidence:g}"
    larger, passed_over = _next_larger(facts)
    if larger:
        return Choice("larger", (larger,), (unsure, *passed_over, f"{larger} is there, larger and local"))
    if facts.want == "local":
        return Choice("keep", why=(unsure, *passed_over, "you said --local"))
    order, problems = _leaving(facts)
    return Choice("cloud" if order else "keep", order, (unsure, *passed_over, *problems))


def _next_larger(facts: Facts) -> tuple[str, tuple[str, ...]]:
    """The next larger local model that can be asked, or none; and why those before it cannot."""
    tried = {one.model for one in facts.tried}
    passed_over: list[str] = []
    for one in facts.larger:
        if one.name in tried:
            passed_over.clear()  # told when it was asked
        elif problem := one.problem or _no_room(one, facts.free_bytes):
            passed_over.append(problem)
        else:
            return one.name, tuple(passed_over)
    return "", tuple(passed_over)


def _no_room(one: Larger, free_bytes: int) -> str:
    """Why its weights do not fit the memory that is left; empty where they do."""
    if one.loaded or one.num_bytes <= free_bytes:
        return ""
    needed, free = one.num_bytes / 1e9, free_bytes / 1e9
    return f"{one.name} takes about {needed:.1f} GB of memory, and {free:.1f} are free"


def _is_sure(tried: Tried, facts: Facts) -> bool:
    return not tried.problem and tried.confidence >= facts.min_confidence


def _leaving(facts: Facts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The backends to ask where nobody said so, or none and why."""
    if not facts.backends:
        return (), ("no backend is configured",)
    if facts.may_not_leave:
        return (), (facts.may_not_leave,)
    order, problems = _usable(facts)
    if order and facts.consent == "nobody to ask":
        return (), (*problems, "nobody is there to ask, and neither --yes nor --cloud was given")
    return order, (*problems, f"consent {facts.consent}") if order else problems


def _usable(facts: Facts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Backends in the order of the configuration, and what keeps others out."""
    order, problems = [], []
    for one in facts.backends:
        if facts.backend not in ("", one.name):
            continue
        if problem := one.problem or ("" if one.fits else f"it does not fit the window of {one.window}"):
            problems.append(f"{one.name}: {problem}")
        else:
            order.append(one.name)
    return tuple(order), tuple(problems)

"""What must not leave is replaced by placeholders, and put back in what comes home.

    mail bob@example.com the log in /home/alice   ->   mail EMAIL_1 the log in /home/USER_1
    mail.send {"to": "EMAIL_1"}                   ->   mail.send {"to": "bob@example.com"}

One `Redactor` serves one request: the same value has the same placeholder throughout, so that a model can
still tell two people apart. Secrets come from finders (the journal's table and a maintained detector); what
is personal is found here: mail addresses, telephone numbers, names of this machine and its users, private
networks.

What it does not protect against: a secret of a shape that no finder knows, a name that only a reader
would recognise, and what the sentence itself gives away. The person is shown the text before it goes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

Finder = Callable[[str], Iterable[str]]  # the secrets in a text

MIN_SECRET_CHARS = 2  # a single letter stands in too many innocent places to be replaced everywhere
# Accounts that every machine has: they tell nothing, and replacing them would spoil sentences.
COMMON_NAMES = frozenset(
    (
        *("root", "user", "admin", "administrator", "guest", "test", "ubuntu", "debian", "pi", "nobody"),
        *("daemon", "www-data", "localhost", "home"),
    )
)
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
# International with +, or written in the groups of a North American number; plain digits are rather sizes.
_PHONE = re.compile(
    r"(?<![\w+.])\+\d{1,3}[ ./-]?\(?\d{1,4}\)?(?:[ ./-]?\d{2,4}){2,4}(?!\w)"
    r"|(?<![\w./-])(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w.-])"
)
_PRIVATE_ADDRESS = re.compile(
    r"(?<![\w.])(?:10(?:\.\d{1,3}){3}|192\.168(?:\.\d{1,3}){2}|172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})(?![\w.])"
    r"|(?<![\w:])f[cd][0-9a-f]{2}:[0-9a-f:]{2,35}(?![\w:])"
)
_INNER_HOST = re.compile(
    r"(?<![\w.-])(?:[a-z0-9][a-z0-9-]{0,62}\.){1,6}(?:local|lan|internal|intranet|corp|localdomain)(?![\w-])",
    re.IGNORECASE,
)
_HOME = re.compile(r"/(?:home|Users)/([A-Za-z0-9._-]{1,32})")
_WORDS = r"(?:SECRET|EMAIL|PHONE|ADDRESS|HOST|USER|HOME)_\d{1,6}"
# Bare where it is a word of its own; in brackets that no text has where letters stand right beside it.
_PLACEHOLDER = re.compile(rf"⟦(?P<inner>{_WORDS})⟧|(?<![A-Za-z0-9])(?P<bare>{_WORDS})(?![A-Za-z0-9])")


class Redactor:
    """`hide` texts, then `restore` what was answered. `known`: (kind, value) to hide everywhere."""

    def __init__(self, finders: Sequence[Finder], known: Iterable[tuple[str, str]] = ()) -> None:
        self._finders = tuple(finders)
        self._placeholders: dict[str, str] = {}  # value -> placeholder
        self._values: dict[str, str] = {}  # placeholder -> value
        self._kinds: dict[str, str] = {}  # placeholder -> kind
        self._next: Counter[str] = Counter()
        self._taken: set[str] = set()  # words of the text that look like placeholders already
        self._seen: set[str] = set()  # placeholders that stand in a text that was hidden
        self._known = [(kind, value) for kind, value in known if _telling(value)]

    def hide(self, text: str) -> str:
        """The text as it may leave."""
        self._taken.update(_word(match) for match in _PLACEHOLDER.finditer(text))
        for kind, value in self._found(text):
            self._name(kind, value)
        hidden = text
        for value in sorted(self._placeholders, key=len, reverse=True):
            hidden = self._without(value, hidden)
        return hidden

    def restore(self, value: Any) -> Any:
        """Placeholders in strings at any depth become what they stand for; unknown ones stay."""
        if isinstance(value, str):
            return _PLACEHOLDER.sub(lambda match: self._values.get(_word(match), match[0]), value)
        if isinstance(value, dict):
            return {self.restore(key): self.restore(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.restore(item) for item in value]
        return value

    def counts(self) -> dict[str, int]:
        """How many different values of each kind were hidden: `{"secret": 2, "email": 1}`."""
        return dict(Counter(self._kinds[placeholder].lower() for placeholder in sorted(self._seen)))

    def _found(self, text: str) -> Iterator[tuple[str, str]]:
        for find in self._finders:
            yield from (("SECRET", secret) for secret in find(text) if len(secret) >= MIN_SECRET_CHARS)
        yield from (("EMAIL", match[0]) for match in _EMAIL.finditer(text))
        yield from (("PHONE", match[0]) for match in _PHONE.finditer(text))
        yield from (("ADDRESS", match[0]) for match in _PRIVATE_ADDRESS.finditer(text))
        yield from (("HOST", match[0]) for match in _INNER_HOST.finditer(text))
        yield from (("USER", match[1]) for match in _HOME.finditer(text) if _telling(match[1]))
        yield from ((kind, value) for kind, value in self._known if value in text)

    def _name(self, kind: str, value: str) -> None:
        if value in self._placeholders or _PLACEHOLDER.fullmatch(value):
            return
        while True:
            self._next[kind] += 1
            placeholder = f"{kind}_{self._next[kind]}"
            if placeholder not in self._taken:
                break
        self._placeholders[value] = placeholder
        self._values[placeholder] = value.removeprefix("/")  # of a path, the slash stays in sight
        self._kinds[placeholder] = kind

    def _without(self, value: str, text: str) -> str:
        """A secret is hidden wherever it stands (`-phunter2`), a name only where it is a word.

        Looked for without a pattern: to compile one for each value would take most of the time.
        """
        is_secret = self._placeholders[value].startswith("SECRET")
        parts, copied, at = [], 0, text.find(value)
        while at >= 0:
            end = at + len(value)
            before, after = text[max(0, at - 1) : at], text[end : end + 1]
            if is_secret or _is_word(value, before, after):
                parts += [text[copied:at], self._use(value, before + after)]
                copied = end
            at = text.find(value, max(copied, at + 1))
        return "".join([*parts, text[copied:]])

    def _use(self, value: str, around: str) -> str:
        placeholder = self._placeholders[value]
        self._seen.add(placeholder)
        slash = "/" if value.startswith("/") else ""
        return slash + (f"⟦{placeholder}⟧" if any(map(str.isalnum, around)) and not slash else placeholder)


def _word(match: re.Match[str]) -> str:
    return match["inner"] or match["bare"]


def _telling(value: str) -> bool:
    return len(value) > 2 and value.lower() not in COMMON_NAMES


def _is_word(value: str, before: str, after: str) -> bool:
    """Whether it stands there as a word: `al` is not hidden in `algebra`. `_` and `-` part words."""
    if value[0] == "/" and (before.isalnum() or before in ("_", ".", "-")):
        return False  # the middle of another path
    begins = not (value[0].isalnum() and _is_letter(before))
    return begins and not (value[-1].isalnum() and _is_letter(after))


def _is_letter(char: str) -> bool:
    """Or a digit; of other scripts no word ends by."""
    return char.isascii() and char.isalnum()

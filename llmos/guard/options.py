"""A program's words split into options and arguments, as getopt_long(3) does but without abbreviations.

Pure. Raises Opaque for an option that the grammar does not list: it knows nothing else about programs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmos.guard.characters import Opaque
from llmos.guard.grammar import Grammar

Option = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Parsed:
    options: tuple[Option, ...]
    args: tuple[str, ...]

    def names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.options)

    def written(self) -> tuple[str, ...]:
        """The options as they are spelt: `-r`, `--force`."""
        names = dict.fromkeys(name for name, _ in self.options)
        return tuple(map(_spelt, names))


def _spelt(name: str) -> str:
    if name.startswith("-"):
        return name
    return f"-{name}" if len(name) == 1 else f"--{name}"


def parse(name: str, words: Sequence[str], grammar: Grammar, *, stop: bool = False) -> Parsed:
    """Options and arguments. `stop` ends the options at the first argument, as wrappers do."""
    options: list[Option] = []
    args: list[str] = []
    queue = list(words)
    if grammar.bundled and queue and not queue[0].startswith("-"):
        options += _bundle(name, queue.pop(0), queue, grammar)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return Parsed(tuple(options), (*args, *queue))
        if word in grammar.exact:
            options.append((word.lstrip("-"), None))
            continue
        if word in grammar.values and word.startswith("-"):  # openssl's -in FILE
            options.append((word, take(name, word, queue)))
            continue
        if re.fullmatch(r"-{3,}", word):  # a line to look at: no option anywhere
            args.append(word)
            continue
        if grammar.numeric and re.fullmatch(r"-\d+", word):
            continue
        if word.startswith("--"):
            options.append(_long(name, word[2:], queue, grammar))
        elif word.startswith("-") and len(word) > 1:
            options += _short(name, word[1:], queue, grammar)
        elif stop:
            return Parsed(tuple(options), (word, *queue))
        else:
            args.append(word)
    return Parsed(tuple(options), tuple(args))


def _long(name: str, text: str, queue: list[str], grammar: Grammar) -> Option:
    option, equals, value = text.partition("=")
    if len(option) > 1 and option in grammar.values:
        if grammar.values[option].endswith("+"):  # a name, then the value
            take(name, f"--{option}", queue)
        return option, value if equals else take(name, f"--{option}", queue)
    if len(option) > 1 and option in grammar.optional and (equals or option not in grammar.long):
        return option, value
    if option in grammar.long and not equals:
        return option, None
    raise Opaque(f"the option --{option} of {name} is not known")


def _short(name: str, cluster: str, queue: list[str], grammar: Grammar) -> list[Option]:
    found: list[Option] = []
    for at, char in enumerate(cluster):
        rest = cluster[at + 1 :]
        if char in grammar.values:
            return [*found, (char, rest or take(name, f"-{char}", queue))]
        if char in grammar.optional:
            return [*found, (char, rest)]
        if char not in grammar.flags:
            raise Opaque(f"the option -{char} of {name} is not known")
        found.append((char, None))
    return found


def _bundle(name: str, cluster: str, queue: list[str], grammar: Grammar) -> list[Option]:
    """tar's oldest style, without a dash: values follow the bundle, one for each letter that takes one."""
    found: list[Option] = []
    for char in cluster:
        if char not in grammar.flags and char not in grammar.values:
            raise Opaque(f"the option -{char} of {name} is not known")
        found.append((char, take(name, f"-{char}", queue) if char in grammar.values else None))
    return found


def take(name: str, option: str, queue: list[str]) -> str:
    """The next word, as the value of an option."""
    if not queue:
        raise Opaque(f"the option {option} of {name} lacks its value")
    return queue.pop(0)

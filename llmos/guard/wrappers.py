"""Programs that start others: followed to what they start, which is judged as if it stood alone.

`nice`, `timeout`, `env`, `sudo` and their like, `xargs`, and find(1) with its expression. Raises Opaque for
what cannot be followed; what was gathered until then stays, so that a denial for a known part holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from llmos.guard import places
from llmos.guard.characters import Opaque
from llmos.guard.found import Found
from llmos.guard.grammar import Grammar, grammars
from llmos.guard.options import Parsed, parse, take

Judge = Callable[[Sequence[str]], list[str]]  # one argv judged, and the argv to run
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def follow(argv: Sequence[str], grammar: Grammar, found: Found, judge: Judge) -> tuple[Parsed, list[str]]:
    """A wrapper's own options, then its command. Returns the options and the argv to run."""
    name = argv[0]
    parsed = parse(name, argv[1:], grammar, stop=True)
    for option, value in parsed.options:
        found.add(grammar.values.get(option, "text"), value or "")
    own = len(grammar.args)
    if len(parsed.args) <= own:
        raise Opaque(f"{name} has no command to start")
    inner = parsed.args[own:]
    if name == "env" and _ASSIGNMENT.match(inner[0]):
        judge(inner[next((at for at, word in enumerate(inner) if not _ASSIGNMENT.match(word)), -1) :])
        raise Opaque("it sets a variable for a program")
    head = list(argv[: len(argv) - len(inner)])
    if name == "xargs":
        return parsed, head + _xargs(inner, found, judge)
    rest = judge(inner)
    if grammar.opaque:
        raise Opaque(grammar.opaque)
    return parsed, head + rest


def _xargs(inner: Sequence[str], found: Found, judge: Judge) -> list[str]:
    """The arguments come from a pipe: only a program that can do no harm with any is understood.

    Names starting with a dash would be options, so the program must be innocent of every option. The
    files it reads are not known here: `commandline` looks at where the names come from.
    """
    if judge(inner) != list(inner):
        raise Opaque(f"xargs would start {inner[0]} itself, without the options that make it safe")
    name = os.path.basename(inner[0])
    if not grammars()[name].shallow:
        found.check_depth([path for path in found.reads if places.is_folder(path)])
    if not grammars()[name].innocent:
        raise Opaque(f"xargs gives {inner[0]} arguments that are not known before it runs")
    return list(inner)


def find(argv: Sequence[str], grammar: Grammar, found: Found, judge: Judge) -> tuple[str, ...]:
    """find(1): options, roots, then an expression of exact words. Returns the tests and actions used."""
    words = list(argv[1:])
    while words and words[0] in ("-H", "-L", "-P"):
        words.pop(0)
    roots: list[str] = []
    while words and not words[0].startswith(("-", "(", "!")):
        roots.append(words.pop(0))
    roots = roots or ["."]
    found.reads += [found.path(root) for root in roots]
    used: list[str] = []
    while words:
        word = words.pop(0)
        kind = grammar.expression.get(word)
        if kind is None:
            raise Opaque(f"the expression {word} of find is not known")
        used.append(word)
        if kind == "delete":
            found.deletes += [found.path(root) for root in roots]
        elif kind == "exec":
            words = _exec(words, roots, found, judge)
        elif kind:
            found.add(kind, take("find", word, words))
    return tuple(dict.fromkeys(used))


def _exec(words: list[str], roots: list[str], found: Found, judge: Judge) -> list[str]:
    """Judge -exec's command with each root for `{}`; return the words behind it."""
    end = next((at for at, word in enumerate(words) if _ends_exec(words, at, word)), None)
    if not end:
        raise Opaque("find -exec lacks its end")
    inner = words[:end]
    if any("{}" in word and word != "{}" for word in inner) or inner[0] == "{}":
        raise Opaque("find -exec uses {} inside a word")
    name = os.path.basename(inner[0])
    if name not in grammars() or not grammars()[name].shallow:
        found.check_depth(roots)
    for root in roots:
        command = [root if word == "{}" else word for word in inner]
        if judge(command) != command:
            raise Opaque(f"find would start {inner[0]} itself, without the options that make it safe")
    return words[end + 1 :]


def _ends_exec(words: Sequence[str], at: int, word: str) -> bool:
    return word == ";" or (word == "+" and at > 0 and words[at - 1] == "{}")

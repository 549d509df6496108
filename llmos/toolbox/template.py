"""argv templates: `{arg}` becomes a value, and never more words, another word, or an option.

    ["ls", "-l", ["?hidden", "-A"], ["--sort", "{sort}"], "--", "{path}"]

- `{arg}` stands for a whole word or a part of one. The value is never split.
- A word that is just `{arg}` of a list type becomes one word for each item.
- An inner list is a group: dropped when an argument it names has no value. Its first word may be
  `?arg`, which is not passed on: the group is then kept only when that argument is true (or not empty).
- A value that would make a word begin with `-` is made safe: a path becomes `./-x`; anything else is
  refused, unless the literal word `--` stands before it.
- The program itself is literal. Braces are written `{{` and `}}`.

Not protected against: a program that reads a harmless word as code (`sh -c {x}`): the sandbox holds that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from llmos.errors import UsageError
from llmos.toolbox.context import Args, Context

Element = str | Sequence[str]
_PART = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_]*)\}|[{}]")
_WHOLE = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class Typed(Protocol):
    """What a template needs to know of an argument's declaration."""

    @property
    def type(self) -> str: ...


def names(words: Iterable[str]) -> set[str]:
    """Arguments these words refer to."""
    return {match[1] for word in words for match in _PART.finditer(word) if match[1]}


def problems(argv: Sequence[Element], args: Mapping[str, Typed], surely: frozenset[str]) -> Iterator[str]:
    """What is wrong with a template, in sentences. `surely`: arguments that always have a value."""
    if not argv or not isinstance(argv[0], str) or not argv[0] or argv[0][0] in "-{":
        yield "the program, the first word, is written out"
    for element in argv:
        group = not isinstance(element, str)
        condition, words = _group(element) if not isinstance(element, str) else ("", (element,))
        used = names(words) | ({condition} if condition else set())
        yield from (f"there is no argument `{name}`" for name in sorted(used - set(args)))
        if not group:
            missing = sorted(used & set(args) - surely)
            yield from (f'`{name}` may be absent: put it in a group, ["…", "{{{name}}}"]' for name in missing)
        yield from (f"stray brace in `{word}`" for word in words if _stray(word))
        yield from _list_problems(words, args)


def _list_problems(words: Sequence[str], args: Mapping[str, Typed]) -> Iterator[str]:
    for word in words:
        for name in names([word]):
            if name in args and args[name].type.startswith("list-of") and not _WHOLE.fullmatch(word):
                yield f"the list `{name}` must be a word of its own"


def _stray(word: str) -> bool:
    return any(match[0] in "{}" for match in _PART.finditer(word))


def _group(element: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    if element and element[0].startswith("?"):
        return element[0][1:], tuple(element[1:])
    return "", tuple(element)


def fill(
    argv: Sequence[Element], args: Args, types: Mapping[str, Typed], context: Context
) -> tuple[str, ...]:
    """The argv for these (checked) arguments; raises UsageError for a value that would read as an option."""
    done: list[str] = []
    for element in argv:
        for word in _kept(element, args):
            done += _words(word, args, types, context, ended="--" in done)
    return tuple(done)


def _kept(element: Element, args: Args) -> Sequence[str]:
    if isinstance(element, str):
        return (element,)
    condition, words = _group(element)
    if condition and not args.get(condition):
        return ()
    return () if any(args.get(name) is None for name in names(words)) else words


def _words(
    word: str, args: Args, types: Mapping[str, Typed], context: Context, *, ended: bool
) -> Iterator[str]:
    whole = _WHOLE.fullmatch(word)
    value = args.get(whole[1]) if whole else None
    if whole and isinstance(value, list | tuple):
        yield from (_safe(_text(item, whole[1], types, context), word, types, ended) for item in value)
    else:
        yield _safe(_PART.sub(lambda m: _part(m, args, types, context), word), word, types, ended)


def _part(match: re.Match[str], args: Args, types: Mapping[str, Typed], context: Context) -> str:
    return _text(args[match[1]], match[1], types, context) if match[1] else match[0][0]


def _text(value: Any, name: str, types: Mapping[str, Typed], context: Context) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return context.word(str(value)) if types[name].type.endswith("path") else str(value)


def _safe(result: str, word: str, types: Mapping[str, Typed], ended: bool) -> str:
    if not result.startswith("-") or word.startswith("-") or ended:
        return result
    if (first := _PART.match(word)) and first[1] and types[first[1]].type.endswith("path"):
        return f"./{result}"
    raise UsageError(
        f"{result!r} begins with `-` and would be read as an option", "Give a value that begins otherwise."
    )


def effects(
    templates: Sequence[str], args: Args, types: Mapping[str, Typed], context: Context, *, paths: bool
) -> tuple[str, ...]:
    """Effect templates filled in; those that name an absent argument are dropped. Paths become absolute."""
    found: list[str] = []
    for word in templates:
        if any(args.get(name) is None for name in names([word])):
            continue
        whole = _WHOLE.fullmatch(word)
        value = args[whole[1]] if whole else None
        items = value if isinstance(value, list | tuple) else [_plain(word, args)]
        found += [context.absolute(str(item)) if paths else str(item) for item in items]
    return tuple(dict.fromkeys(found))


def _plain(word: str, args: Args) -> str:
    return _PART.sub(lambda match: str(args[match[1]]) if match[1] else match[0][0], word)

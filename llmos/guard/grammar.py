"""The tables of programs: policies/programs/*.toml read into grammars, loud about every mistake.

A grammar names the options a program takes and what each one, and each argument, makes it do. Options
that are not listed make a command opaque, so what is dangerous is kept out by leaving it out. Kinds of
values and keys are explained at the head of policies/programs/looking.toml.

What it does not protect against: a program that does not do what its manual says. The sandbox does.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from llmos import parsed, paths
from llmos.errors import ConfigError
from llmos.messages import Message


class Mode(Message):
    """What changes when one of these options is given."""

    when: tuple[str, ...]
    args: tuple[str, ...] | None = None
    values: dict[str, str] = Field(default_factory=dict)
    writes: tuple[str, ...] | None = None
    opaque: str = ""


class Grammar(Message):
    """One program's options and arguments."""

    flags: str = ""
    long: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # --color[=WHEN], -i[SUFFIX]
    values: dict[str, str] = Field(default_factory=dict)
    exact: tuple[str, ...] = ()  # options that are whole words behind one dash: ip -br
    numeric: bool = False  # head -5
    args: tuple[str, ...] = ()
    default: tuple[str, ...] = ()  # read when no file is named
    piped: bool = False  # what is piped to it stands in for that
    unless: tuple[str, ...] = ()  # options that stand in for the first argument
    writes: tuple[str, ...] = ()
    mode: tuple[Mode, ...] = ()
    needs: tuple[str, ...] = ()  # options that must be given: without them it does not end, or asks
    operands: dict[str, str] = Field(default_factory=dict)  # dd's name=value
    expression: dict[str, str] = Field(default_factory=dict)  # find's -name PATTERN
    only: tuple[str, ...] = ()  # nothing but one of these words alone
    about: tuple[str, ...] = ()  # words that, alone, make it tell of itself: "version --client"
    builtin: bool = False  # a command of the shell without a program of the same meaning: a shell runs it
    endless: bool = False  # it goes on until nobody reads it: known in front of head alone
    bundled: bool = False  # tar xzf
    follow: bool = False  # the arguments after `args` are a command
    deep: tuple[str, ...] = ()  # options that make it read all below a folder; "*": it always does
    shallow: bool = False  # it looks at names and properties, never at contents
    innocent: bool = False  # no option of it, listed or not, can write or start anything
    repository: bool = False  # git: what the repository's own settings could start is looked at
    network: str = ""
    hosts: bool = False  # its arguments name the machines; where they are not understood it may be any
    opaque: str = ""
    insert: tuple[str, ...] = ()  # options of ours that switch off what could start programs
    instead: str = ""  # the program that is run in its place, with the arguments alone
    check: str = ""  # a further check of the words, by name (checks.py)
    shared: bool = False  # subcommands take these options as well
    sub: dict[str, Grammar] = Field(default_factory=dict)
    alias: tuple[str, ...] = ()


Grammar.model_rebuild()


@functools.cache
def grammars(folder: Path | None = None) -> Mapping[str, Grammar]:
    """The tables, by program name; raises ConfigError naming file and key."""
    found: dict[str, Grammar] = {}
    for file in sorted((folder or paths.builtin_policy_dir() / "programs").glob("*.toml")):
        for name, grammar in _read(file):
            if name in found:
                raise ConfigError(f"{name} is described twice", "Remove one.", where=f"{file}: {name}")
            found[name] = grammar
    return found


def _read(file: Path) -> Iterator[tuple[str, Grammar]]:
    try:
        raw = parsed.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(str(error), "Mend or reinstall it.", where=str(file)) from error
    for name, values in raw.items():
        try:
            grammar = _with_aliases(Grammar.model_validate(values))
        except ValidationError as error:
            key = ".".join(map(str, (name, *error.errors()[0]["loc"])))
            raise ConfigError(
                error.errors()[0]["msg"], "Correct that key.", where=f"{file}: {key}"
            ) from error
        for other in (name, *grammar.alias):
            yield other, grammar


def _with_aliases(grammar: Grammar) -> Grammar:
    """Subcommands under every name they go by, with the options they share."""
    sub = {name: _with_aliases(_sharing(grammar, found)) for name, found in grammar.sub.items()}
    sub |= {other: found for found in list(sub.values()) for other in found.alias}
    return grammar.model_copy(update={"sub": sub})


def _sharing(grammar: Grammar, sub: Grammar) -> Grammar:
    if not grammar.shared:
        return sub
    return sub.model_copy(update={
        "flags": sub.flags + grammar.flags, "long": sub.long + grammar.long,
        "optional": sub.optional + grammar.optional, "values": {**grammar.values, **sub.values},
    })  # fmt: skip

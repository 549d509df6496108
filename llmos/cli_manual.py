"""`llmos.1`, the manual page in roff's man macros, from the tables that `--help` is made of. Pure.

It tells what the command line takes; how things work stands in docs/. There is one for every
language that has a catalogue.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable

from llmos import __version__, cli_args, errors
from llmos.cli_parser import Parser
from llmos.console import words

Tell = Callable[[str], str]  # a sentence, in a language

_FILES = (
    ("$XDG_RUNTIME_DIR/llmos.sock, /run/llmos/llmos.sock", "the daemon's socket: your own, the system's"),
    ("~/.config/llmos/config.toml, /etc/llmos/config.toml", "settings"),
    ("~/.config/llmos/tools/, ~/.config/llmos/policies/", "tools and rules of your own"),
    ("~/.local/state/llmos/audit.jsonl", "the journal; see: llmos audit"),
)
_ENVIRONMENT = (
    ("LLMOS_SOCKET", "the socket to speak to, and the only one"),
    ("LLMOS_AUTOSTART", "0: do not start a daemon when none answers"),
    ("LLMOS_MODELS_DIR", "where weights lie"),
    ("LC_ALL, LC_MESSAGES, LANG, LANGUAGE", "the language of questions and messages: English or Chinese"),
    ("NO_COLOR", "when set and not empty: no colours"),
)
_DESCRIPTION = """\
A small language model on this machine turns a sentence into a typed call, a policy judges it, a kernel
sandbox carries it out, and a journal records it. What would change something is tried on a copy first, shown,
and asked about; changes can be taken back. Without words it is an interactive shell; a first word that is a
verb does what the verb says; everything else is a request."""


def page(tell: Tell = str) -> str:
    """The whole page."""
    titles = ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS OF A REQUEST", "VERBS", "EXIT STATUS",
              "ENVIRONMENT", "FILES", "SEE ALSO")  # fmt: skip
    sections = (
        [f"llmos \\- {_text(tell('say what you want done on this machine'))}"],
        _synopsis(),
        [_text(tell(_DESCRIPTION))],
        _arguments(cli_args.parser("ask", "llmos"), tell),
        [line for name in verbs() for line in _verb(name, tell)],
        _terms(_codes(), tell),
        _terms(_ENVIRONMENT, tell),
        _terms(_FILES, tell),
        [".BR systemd (1),", ".BR docker (1),", ".BR bash (1),", ".BR zsh (1)"],
    )
    head = f'.TH LLMOS 1 "" "llmos {__version__}" "User Commands"'
    told = (_section(_text(tell(title)), *lines) for title, lines in zip(titles, sections, strict=True))
    return "\n".join([head, *told]) + "\n"


def pages() -> dict[str, str]:
    """Every language's page, by its place below `share/`."""
    found = {"man/man1/llmos.1": page()}
    for file in sorted(words.FOLDER.glob("*.po")):
        found[f"man/{file.stem}/man1/llmos.1"] = page(words.teller(file))
    return found


def verbs() -> list[str]:
    return [name for name, verb in cli_args.VERBS.items() if not verb.hidden]


def _section(title: str, *lines: str) -> str:
    return "\n".join([f".SH {title}", *lines])


def _synopsis() -> Iterable[str]:
    for rest in ("", '[OPTIONS] "TEXT"', "VERB …"):
        yield f".B llmos\n{_escaped(rest)}\n.br" if rest else ".B llmos\n.br"


def _verb(name: str, tell: Tell) -> Iterable[str]:
    verb, parser = cli_args.VERBS[name], cli_args.parser(name, f"llmos {name}")
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    yield f'.SS "llmos {name}"'
    summary = tell(verb.summary)
    yield _text(f"{summary[:1].upper()}{summary[1:]}{'.' if summary.isascii() else '。'}")
    yield f".PP\n{_text(usage)}"
    yield from _arguments(parser, tell)
    examples = (parser.epilog or "").partition("\n")[2]
    yield (
        ".PP\n.nf\n"
        + "\n".join(f".RS 2\n{_text(line.strip())}\n.RE" for line in examples.split("\n"))
        + "\n.fi"
    )


def _arguments(parser: Parser, tell: Tell) -> Iterable[str]:
    actions = [action for action in parser._actions if action.dest != "help"]
    return _terms(((_names(action), _about(action)) for action in actions), tell)


def _names(action: argparse.Action) -> str:
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    if action.choices:
        value = "|".join(map(str, action.choices))
    shown = " ".join(value) if isinstance(value, tuple) else value
    return f"{', '.join(action.option_strings)} {shown}".strip()


def _about(action: argparse.Action) -> str:
    return action.help if action.help and action.help != argparse.SUPPRESS else "what it is about"


def _terms(pairs: Iterable[tuple[str, str]], tell: Tell) -> list[str]:
    return [f".TP\n.B {_escaped(term)}\n{_text(' '.join(tell(about).split()))}" for term, about in pairs]


def _codes() -> list[tuple[str, str]]:
    """The contract's numbers, from the tree of errors."""
    told = {
        "0": "done", "2": "usage: a wrong flag, an empty or unusable request", "3": "denied by policy",
        "4": "needs approval, and nobody was there to give it", "5": "a call failed", "6": "not understood",
        "7": "the daemon cannot be reached", "8": "no sandbox can be had", "9": "over budget",
    }  # fmt: skip
    known = {str(kind.exit_code) for kind in errors.kinds().values()}
    return [(code, about) for code, about in told.items() if code == "0" or code in known]


def _text(text: str) -> str:
    return "\n".join(_escaped(line) for line in text.split("\n"))


def _escaped(text: str) -> str:
    r"""For roff: backslashes and dashes as they are, plain ASCII, and no line that begins like a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    return re.sub(r"^([.'])", r"\\&\1", text)

"""The command line's grammar: which verb, with which options. It parses; it does nothing.

    llmos                      the shell            llmos VERB …      one verb
    llmos [OPTIONS] TEXT …     one request, its words quoted or not

The first word decides: a known verb without a space in it is a verb, everything else is a request. So
that a typing error does not become a request, one lone word that is nearly a verb is refused with a
suggestion.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence

from llmos import cli_args_cloud, cli_args_machine, cli_args_programs, cli_args_scripts, cli_args_shells
from llmos.cli_parser import Parser, Verb, count, grants, in_quotes, json_option, seconds
from llmos.errors import UsageError

_VALUE_OPTIONS = ("--write", "--timeout", "--policy", "--backend")  # may stand before the verb or the text


# --- options of the verbs ------------------------------------------------------------------------


def _text(parser: Parser) -> None:
    parser.add_argument("text", nargs="*", metavar="TEXT", help="what you want, in your words")


def _ask(parser: Parser) -> None:
    json_option(parser)
    grants(parser)
    cli_args_cloud.routing(parser)
    parser.add_argument("--plan", action="store_true", help="show what it would change; change nothing")
    _text(parser)


def _plan(parser: Parser) -> None:
    _ask(parser)
    parser.set_defaults(plan=True)


def _translate(parser: Parser) -> None:
    json_option(parser)
    cli_args_cloud.routing(parser)
    parser.add_argument("--timeout", metavar="SECONDS", type=seconds, default=0.0, help="give up after that")
    _text(parser)


def _call(parser: Parser) -> None:
    json_option(parser)
    grants(parser)
    parser.add_argument("--plan", action="store_true", help="show what it would change; change nothing")
    parser.add_argument("--args", metavar="JSON", default="{}", help="the arguments, one JSON object")
    parser.add_argument(
        "--then",
        nargs=2,
        action="append",
        metavar=("TOOL", "JSON"),
        help="and after that; one plan",
    )
    parser.add_argument("tool", metavar="TOOL", help="a tool's name (llmos tools)")


def _policy(parser: Parser) -> None:
    json_option(parser)
    actions = ("check", "explain", "test", "replay", "list", "remembered", "forget")
    parser.add_argument("action", choices=actions, help="; ".join(_POLICY_HELP))
    parser.add_argument(
        "words", nargs="*", metavar="COMMAND", help="after --: the command; or the files, or what to forget"
    )
    parser.add_argument(
        "--call", nargs=2, metavar=("TOOL", "JSON"), help="check, explain: a call instead of a command"
    )
    parser.add_argument("--policy", metavar="FILE|SET", default="", help="with these further rules")
    parser.add_argument(
        "--write", metavar="PATH", action="append", default=[], help="check, explain: as with that write root"
    )
    parser.add_argument("--unattended", action="store_true", help="check, explain: as if nobody were there")
    parser.add_argument(
        "--file", metavar="FILE", action="append", default=[], help="replay: with that file too"
    )
    parser.add_argument("--policy-dir", metavar="DIR", help="replay: DIR in place of your own policy folder")
    parser.add_argument("--set", metavar="SET", help="replay: default, readonly or unattended")
    parser.add_argument("--since", metavar="WHEN", default="", help="replay: 2h, 7d or 2026-01-31")
    parser.add_argument("--journal", metavar="FILE", help="replay: another journal than your own")
    parser.epilog = """example:
  llmos policy check -- rm -r build
  llmos policy check --call file.delete '{"path": "build"}'
  llmos policy explain -- 'cat ~/.ssh/id_rsa'
  llmos policy test                      every example of every rule in force
  llmos policy test stricter.toml        a file before it is put into /etc/llmos/policies
  llmos policy replay --file stricter.toml --since 7d
  llmos policy list"""


_POLICY_HELP = (
    "check: the verdict on a command (exit 0 allow, 4 ask, 3 deny)",
    "explain: and how it came about",
    "test: run the rules' examples (exit 5: some fail)",
    "replay: judge the journal again under a changed policy",
    "list: the rules in force",
    "remembered, forget: answers given for good",
)


def _history(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("-n", metavar="COUNT", type=count, default=20, help="how many (default 20)")


def _audit(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("action", choices=("tail", "show", "verify", "export", "key"))
    parser.add_argument("id", nargs="?", metavar="ID", default="", help="show: the request")
    parser.add_argument("-n", metavar="COUNT", type=count, default=20, help="tail: how many (default 20)")
    parser.add_argument("-f", "--follow", action="store_true", help="tail: go on with new lines")
    parser.add_argument("--key", metavar="FILE", default="", help="verify: with the key that was moved there")
    parser.add_argument(
        "--mark", action="store_true", help="verify: note in FILE how far the journal reached"
    )
    parser.add_argument("--since", metavar="WHEN", default="", help="export: 2026-11-25, '… 14:30', 3d, 2h")
    parser.add_argument("--until", metavar="WHEN", default="", help="export: the same")
    parser.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="export: default jsonl")
    parser.add_argument("--move", metavar="FILE", default="", help="key: move the verification key there")
    parser.add_argument(
        "--remove", metavar="KEY-ID", default="", help="key: delete it here, once it is stored"
    )


def _tools(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this tool's arguments and examples")


def _daemon(parser: Parser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("stop", "reload"),
        help="stop the running daemon; or have it read settings, tools and policies anew",
    )  # fmt: skip
    parser.add_argument("--socket", metavar="PATH", help="listen there instead of the usual place")
    parser.add_argument("--launcher", action="store_true", help=argparse.SUPPRESS)  # by units of systemd
    parser.add_argument("--planner", action="store_true", help=argparse.SUPPRESS)


def _service(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("action", choices=("install", "uninstall", "status"))
    parser.add_argument("--user", action="store_true", help="for you alone, by your own service manager")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--plan", action="store_true", help="show what would be done; do nothing")
    parser.epilog = """example:
  llmos service install --plan         what it would do
  sudo llmos service install           for all users in the group llmos
  llmos service install --user         for you alone, on a machine where it is not installed for all
  llmos service status
  sudo llmos service uninstall         the journal and what undo keeps stay in /var/lib/llmos"""


def _undo(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--plan", action="store_true", help="show what would come back; touch nothing")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=0.0, help="cancel the request after that long"
    )
    parser.add_argument("undo_id", nargs="?", metavar="ID", help="the newest change when left out")


def _model(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="list|pull|use|rm|show")


def _tune(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="data|train|pretrain")


VERBS: dict[str, Verb] = {
    "ask": Verb("do one request", 'llmos ask --yes "remove the empty folders here"', _ask),
    "plan": Verb("show what a request would do", 'llmos plan "tidy ~/Downloads"', _plan),
    "call": Verb(
        "one typed call, without the model",
        """llmos call file.list --args '{"path": "/var/log"}' --json
  llmos call file.mkdir --args '{"path": "old"}' --then file.move '{"path": "a", "to": "old/a"}'""",
        _call,
    ),
    "translate": Verb(
        "the one shell command that would do it, not run",
        'llmos translate "how much memory is free"',
        _translate,
    ),
    "policy": Verb(
        "what the policy says to a command and why; test and replay it; answers given for good",
        "llmos policy check -- rm -r build",
        _policy,
    ),
    "history": Verb("what was done", "llmos history -n 5", _history),
    "audit": Verb("the journal: tail, show, verify, export, key", "llmos audit verify", _audit),
    "undo": Verb("take back a change, or have it again", "llmos undo", _undo),
    "tools": Verb("the tools, or one of them", "llmos tools file.find", _tools),
    "model": Verb("weights: list, pull, use, rm, show", "llmos model pull default", _model),
    "tune": Verb(
        "training: data, adapters, models from scratch",
        "llmos tune pretrain --text ~/notes --out ~/models/mine --max-seconds 600",
        _tune,
        module="cli_tune",
    ),
    "status": Verb("the running daemon", "llmos status --json", json_option),
    "doctor": Verb("what is missing, and how to mend it", "llmos doctor", json_option),
    "service": Verb(
        "llmos as a service of systemd: install, uninstall, status",
        "llmos service install --plan",
        _service,
        module="cli_unit",
    ),
    **cli_args_machine.VERBS,
    **cli_args_scripts.VERBS,
    **cli_args_cloud.VERBS,
    **cli_args_shells.VERBS,
    **cli_args_programs.VERBS,
    "daemon": Verb(
        "run the daemon in the foreground, stop it, or have it reload", "llmos daemon stop", _daemon
    ),
}

OPTIONS_HELP = """\
options of a request:
  --json            print exactly one JSON object on stdout
  -y, --yes         approve what the policy asks about (never what it denies)
  --plan            try it on a copy and show what would change; change nothing
  --write PATH      allow writing there too (repeatable)
  --policy FILE|SET further rules for this request: a policy file, or readonly, unattended
  --local           think about it on this machine only
  --cloud, --backend NAME   have a cloud backend think about it: what is needed for that leaves, redacted
  --timeout SECONDS cancel the request after that long
  --no-stdin        do not read piped stdin as the request's data
  --version, --help
exit codes: 0 done, 2 usage, 3 denied by policy, 4 needs approval, 5 failed, 6 not understood,
  7 daemon unreachable, 8 no sandbox can be had, 9 over budget
"""


def overview() -> str:
    """The text of `llmos --help`."""
    from llmos.console.words import tr

    lines = [f"  {name:<10} {tr(verb.summary)}\n" for name, verb in VERBS.items()]
    return (
        tr("Say what you want done on this machine; see it judged, sandboxed and recorded.")
        + f"\n\n{tr('usage: ')}llmos                 {tr('the shell')}\n"
        + f'       llmos [OPTIONS] "TEXT"  {tr("do one request here")}\n'
        + f"       llmos VERB …          {tr('(llmos VERB --help has an example)')}\n\n{tr('verbs:')}\n"
        + "".join(lines)
        + f"\n{tr(OPTIONS_HELP)}\n{tr('examples:')}\n"
        + '  llmos "what are the three largest files in this folder?"\n'
        + '  journalctl -b | llmos "which errors are in this log?"\n'
    )


# --- from words to a verb ------------------------------------------------------------------------


def parse(words: Sequence[str]) -> tuple[str, argparse.Namespace]:
    """(verb, options) of a command line; raises UsageError. Help and version are the caller's."""
    flags, rest = split_head(words)
    name = rest[0] if rest else ""
    if name in VERBS and not (flags and flags[-1] == "--"):
        return name, _read_verb(name, [*flags, *rest[1:]])
    if not (flags and flags[-1] == "--"):
        _refuse_near_verbs(rest)
    return "ask", _with_dashes(parser("ask", "llmos"), [*flags, *rest])


def split_head(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Leading options (with their values), and the rest from the verb or the first word of text on."""
    flags: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        flags.append(rest.pop(0))
        if flags[-1] == "--":
            break
        if flags[-1] in _VALUE_OPTIONS and rest:
            flags.append(rest.pop(0))
    return flags, rest


def _read_verb(name: str, words: list[str]) -> argparse.Namespace:
    if name in ("model", "tune"):  # they have a command line of their own: passed on as it is
        return argparse.Namespace(words=words)
    return _with_dashes(parser(name, f"llmos {name}"), words)


def _with_dashes(parser: Parser, words: list[str]) -> argparse.Namespace:
    """What stands after the first `--` is taken as it is, dashes and all, whatever argparse's version."""
    if "--" not in words:
        return parser.read(words)
    cut = words.index("--")
    found = parser.read(words[:cut])
    for name in ("text", "words"):
        if hasattr(found, name):
            setattr(found, name, [*getattr(found, name), *words[cut + 1 :]])
            return found
    return parser.read(words)


def parser(name: str, prog: str) -> Parser:
    verb = VERBS[name]
    made = Parser(prog=prog, description=f"{verb.summary}.", epilog=f"example:\n  {verb.example}")
    verb.build(made)
    return made


def _refuse_near_verbs(rest: Sequence[str]) -> None:
    """Lone words that are nearly a verb are not silently taken as requests."""
    if not rest or " " in rest[0]:
        return
    word, sentence = rest[0], " ".join(rest)
    plainly = f"To ask it in plain words: llmos ask {word}" if len(rest) == 1 else in_quotes(sentence)
    near = difflib.get_close_matches(word, VERBS, 1, 0.7)
    if near and (len(rest) == 1 or rest[1].startswith("-")):
        raise UsageError(f"there is no verb {word!r}", f"Did you mean: llmos {near[0]}?  {plainly}")

"""The command lines of automation: scripts, pinned plans, triggers and what waits for a person."""

from __future__ import annotations

import argparse

from llmos.cli_parser import Parser, Verb, count, json_option, seconds

_FORMS = """
A FILE has one request a line, as typed in the shell: a sentence, !COMMAND, /call TOOL JSON, cd FOLDER; # is a
comment. FILE.toml is structured:

  [inputs]
  folder = "/var/log/app"                    # --input folder=…

  [[step]]
  id = "old"
  call = "file.find"                         # or: ask = "a sentence", command = "ls -l", parallel = [ … ]
  args = { path = "${{ inputs.folder }}", older_than = "7d" }

  [[step]]
  when = "steps.old.stdout"                  # only if something was found
  command = "gzip ${{ steps.old.stdout.splitlines() }}"      # each value becomes one quoted word
  timeout_s = 60
  on_failure = "continue"                    # stop (default), continue, ignore, or [[step.on_failure]] steps
"""


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError("write it so: --input NAME=VALUE")
    return name, value


def _script(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="the script; - is stdin")
    parser.add_argument(
        "--input", metavar="NAME=VALUE", type=_pair, action="append", default=[], help="an input; repeatable"
    )
    parser.add_argument(
        "--write", metavar="PATH", action="append", default=[], help="allow writing there too; repeatable"
    )
    parser.add_argument("--policy", metavar="FILE|SET", default="", help="further rules: ask and deny only")
    parser.add_argument("--lock", metavar="LOCK", default="", help="the lock file, if it is not FILE.lock")


def _run(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object a step, as JSON lines")
    parser.add_argument("-y", "--yes", action="store_true", help="approve what the policy asks about")
    parser.add_argument(
        "--plan", "--dry-run", action="store_true", help="show what each step would do; change nothing"
    )
    parser.add_argument("--resume", action="store_true", help="go on where the last run was cut off")
    parser.add_argument("-k", "--keep-going", action="store_true", help="go on after a step that failed")
    parser.add_argument(
        "--locked", action="store_true", help="replay FILE.lock without a model; stop if anything has changed"
    )
    _script(parser)
    parser.epilog = (parser.epilog or "") + "\n" + _FORMS


def _compile(parser: Parser) -> None:
    _script(parser)


def _trigger(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument(
        "--write", metavar="PATH", action="append", default=[], help="allow writing there too; repeatable"
    )
    parser.add_argument("--policy", metavar="FILE|SET", default="", help="further rules: ask and deny only")


def _watch(parser: Parser) -> None:
    _trigger(parser)
    parser.add_argument("-r", "--recursive", action="store_true", help="what changes below the folder, too")
    parser.add_argument(
        "--quiet", metavar="SECONDS", type=seconds, default=1.0, help="wait until nothing has changed so long"
    )
    parser.add_argument("--per-hour", metavar="COUNT", type=count, default=60, help="at most so many runs")
    parser.add_argument(
        "words", nargs="*", metavar='PATH "TEXT"', help="or: list, pause ID, resume ID, remove ID"
    )
    parser.epilog = (parser.epilog or "") + _UNATTENDED


def _schedule(parser: Parser) -> None:
    _trigger(parser)
    parser.add_argument(
        "words", nargs="*", metavar='"WHEN" "TEXT"', help="or: list, pause ID, resume ID, remove ID, run ID"
    )
    parser.epilog = (parser.epilog or "") + _UNATTENDED


_UNATTENDED = """
TEXT is a sentence, or !COMMAND. It is done in this folder, as you, with nobody there: only what the policy
allows without asking. The rest waits in `llmos inbox`, where you approve it from any terminal."""


def _inbox(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="approve: exactly what was listed, unasked")
    parser.add_argument(
        "--plan", action="store_true", help="approve: show what it would change; change nothing"
    )
    parser.add_argument(
        "words", nargs="*", metavar="ACTION ID", help="list, show ID, approve ID, reject ID; or all"
    )


VERBS: dict[str, Verb] = {
    "run": Verb("a script of requests, or its locked plan", "llmos run nightly.toml --json", _run, "cli_run"),
    "compile": Verb(
        "pin a script's exact calls in a lock file to be reviewed",
        "llmos compile nightly.toml && llmos run --locked nightly.toml",
        _compile,
        "cli_run",
    ),
    "watch": Verb(
        "a request whenever a file or folder changes",
        'llmos watch ~/Downloads "which files here are larger than 1 GB?"',
        _watch,
        "cli_triggers",
    ),
    "schedule": Verb(
        "a request at times, by systemd's timers",
        'llmos schedule "every weekday at 2 am" "how full are the disks?"',
        _schedule,
        "cli_triggers",
    ),
    "inbox": Verb("what waits for your approval", "llmos inbox approve all", _inbox, "cli_triggers"),
}

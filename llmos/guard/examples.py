"""A rule's `match` and `not_match` examples, run: each must, or must not, be matched by its rule.

Examples are shell commands, or tables with effects; they are judged as of a person whose home is
/home/person, working in /home/person/work, which is also the only write root, on a Monday at noon.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llmos.errors import ConfigError
from llmos.guard import commandline, following
from llmos.guard.facts import MAX_JUDGED, WEEKDAYS, Facts
from llmos.guard.rulefile import Example, Rule
from llmos.messages import Effects, Plan, Shell, ToolCall

HOME = "/home/person"
CWD = "/home/person/work"
_MONDAY = datetime.datetime(2024, 1, 1)

Matched = Callable[[Plan, Facts], frozenset[str]]  # the ids of all rules that match some effect


def failures(rules: Iterable[Rule], matched: Matched) -> Iterator[ConfigError]:
    """An error for each example that goes against its rule."""
    for rule in rules:
        for key, expected in (("match", True), ("not_match", False)):
            for number, example in enumerate(rule.match if expected else rule.not_match):
                plan, facts = as_plan(example)
                if (rule.id in matched(plan, facts)) is not expected:
                    said = (
                        repr(example) if isinstance(example, str) else example.model_dump(exclude_unset=True)
                    )
                    wrong = "is not matched by the rule" if expected else "is matched by the rule"
                    yield ConfigError(
                        f"the example {said} {wrong} {rule.id}",
                        "Correct the rule's `when`, or the example.",
                        where=f"{rule.where}: {key}.{number}",
                    )


def as_plan(example: str | Example) -> tuple[Plan, Facts]:
    """An example as a plan of an imagined person; paths are counted from their folder."""
    if isinstance(example, str):
        example = Example(command=example)
    day = _MONDAY + datetime.timedelta(days=WEEKDAYS.index(example.weekday), hours=example.hour)
    facts = Facts(
        uid=1000, home=HOME, cwd=CWD, write_roots=(CWD,), unattended=example.unattended, user=example.user,
        groups=example.groups, session=example.session, now=day, hosts=frozenset(example.granted_hosts),
    )  # fmt: skip
    plan = _of_command(example.command) if example.command else _of_effects(example)
    if example.too_many:  # nobody looks at them
        names = tuple(f"{CWD}/f{number}" for number in range(MAX_JUDGED + 1))
        return plan.model_copy(update={"effects": Effects(reads=names)}), facts
    return plan.model_copy(update={"effects": following.resolved(plan.effects, CWD, HOME)}), facts


def _of_command(text: str) -> Plan:
    found = commandline.analyse(text, cwd=CWD, home=HOME)
    call = ToolCall(tool="shell.run", args={"command": text})
    steps = (Shell(text=text),)
    return Plan(call=call, command=text, effects=found.effects, steps=steps, read_only=found.read_only)


def _of_effects(example: Example) -> Plan:
    def absolute(words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Path(CWD, word)) for word in words)

    effects = Effects(
        reads=absolute(example.reads), writes=absolute(example.writes), deletes=absolute(example.deletes),
        programs=example.programs, network=example.network, signals=example.signals, uses=example.uses,
        opaque=example.opaque, resources=example.resources, units=example.units,
        containers=example.containers, settings=example.settings, packages=example.packages,
    )  # fmt: skip
    return Plan(
        call=ToolCall(tool=example.tool),
        command=example.tool,
        effects=effects,
        steps=(),
        read_only=example.read_only,
        reply=example.reply,
    )

"""`${{ … }}` in scripts: expressions over `inputs`, `vars` and `steps`, evaluated by jinja2's sandbox.

A text that is one expression keeps its type (an integer stays one). In a command each value becomes one
shell word, quoted. What steps printed never becomes part of a sentence: `check` refuses it there, because a
request that is read out of data must not be carried out. Expressions see no files, environment or functions.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from llmos.errors import ConfigError

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

_OPEN = "${{"
_WHOLE = re.compile(r"\s*\$\{\{(?P<expression>(?:(?!\}\}).)*)\}\}\s*", re.DOTALL)
# What an expression may run into, beside what jinja2 itself raises.
_EVALUATION = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
_NEVER = "\x00"  # no text of a script holds it, so that blocks and comments cannot be written
NAMES = frozenset({"inputs", "vars", "steps"})


@cache
def _environment(quoting: bool = False) -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(
        variable_start_string=_OPEN,
        variable_end_string="}}",
        block_start_string=_NEVER + "b",
        block_end_string=_NEVER + "B",
        comment_start_string=_NEVER + "c",
        comment_end_string=_NEVER + "C",
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=_word if quoting else None,
    )
    made.globals.clear()
    return made


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return shlex.join(str(item) for item in value)
    return shlex.quote(str(value))


# --- checking, before anything runs ------------------------------------------------------------------


def check(value: Any, where: str, *, outcomes: bool = True) -> None:
    """Every text in `value` is well-formed and names what there is; raises ConfigError."""
    if isinstance(value, dict):
        for key, item in value.items():
            check(item, f"{where}.{key}", outcomes=outcomes)
    elif isinstance(value, list | tuple):
        for item in value:
            check(item, where, outcomes=outcomes)
    elif isinstance(value, str) and _OPEN in value:
        _check_names(value, where, outcomes)


def check_condition(text: str, where: str) -> None:
    _check_names(f"{_OPEN} {bare(text)} }}}}", where, outcomes=True)


def _check_names(text: str, where: str, outcomes: bool) -> None:
    for name in names(text, where):
        if name not in NAMES:
            raise ConfigError(
                f"there is no {name}", "Names: inputs.NAME, vars.NAME, steps.ID.stdout.", where=where
            )
        if name == "steps" and not outcomes:
            raise ConfigError(
                "what a step printed is data and cannot be part of this text",
                'Pipe it in instead: data = "${{ steps.ID.stdout }}", or use it in `args` or `command`.',
                where=where,
            )


def names(text: str, where: str = "") -> frozenset[str]:
    """The names that the expressions of a text begin with; raises ConfigError when it is not well-formed."""
    from jinja2 import TemplateError, meta

    try:
        return frozenset(meta.find_undeclared_variables(_environment().parse(text)))
    except TemplateError as error:
        raise ConfigError(
            f"in ${{{{ … }}}}: {error}", 'As in: "${{ inputs.folder }}"', where=where
        ) from error


def uses_outcomes(value: Any) -> bool:
    """Whether a value can only be known once earlier steps have run."""
    if isinstance(value, dict):
        return any(uses_outcomes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(uses_outcomes(item) for item in value)
    return isinstance(value, str) and _OPEN in value and "steps" in names(value)


# --- evaluating --------------------------------------------------------------------------------------


def fill(value: Any, known: Mapping[str, Any], where: str, *, quoting: bool = False) -> Any:
    """`value` with every expression in it evaluated; raises ConfigError for a name that has no value."""
    if isinstance(value, dict):
        return {key: fill(item, known, f"{where}.{key}", quoting=quoting) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill(item, known, where, quoting=quoting) for item in value]
    if not isinstance(value, str) or _OPEN not in value:
        return value
    whole = _WHOLE.fullmatch(value)
    if whole and not quoting:
        return _evaluate(whole["expression"], known, where)
    from jinja2 import TemplateError

    try:
        return _environment(quoting).from_string(value).render(known)
    except (TemplateError, *_EVALUATION) as error:
        raise ConfigError(str(error), "See what the step it names gave.", where=where) from error


def holds(condition: str, known: Mapping[str, Any], where: str) -> bool:
    """Whether a step's `when` is true; raises ConfigError."""
    return bool(_evaluate(bare(condition), known, where))


def bare(condition: str) -> str:
    """A condition may be written with or without the braces."""
    whole = _WHOLE.fullmatch(condition)
    return whole["expression"] if whole else condition


def _evaluate(expression: str, known: Mapping[str, Any], where: str) -> Any:
    from jinja2 import TemplateError, Undefined

    try:
        found = _environment().compile_expression(expression, undefined_to_none=False)(**known)
        if isinstance(found, Undefined):
            str(found)  # raises UndefinedError with the name
    except (TemplateError, *_EVALUATION) as error:
        step = "A step that did not run has the status `skipped` and nothing else."
        raise ConfigError(f"{expression.strip()}: {error}", step, where=where) from error
    return found

"""Templates into messages: Jinja2 in an immutable sandbox, where row text is only ever a value.

A template sees `row` (the question's inputs), `lookup`, and for case studies × criteria `case_study` and `criterion`.
Any other name, and an input that its question does not declare, is found before a run (`checking_templates`); what only
a row can show is an undefined value at rendering, and refuses that row's question.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from traceback import extract_tb
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.stages.querying import Message, Question

__all__ = ["RENDER_ERRORS", "TemplateSyntaxError", "condition", "messages", "repair_messages", "template_line"]

RENDER_ERRORS = (UndefinedError, SecurityError, TypeError, ValueError, ArithmeticError, LookupError)
LONGEST_REPEAT = 10_000


class _Sandbox(ImmutableSandboxedEnvironment):
    """No globals, no loader, and no `'a' * 10**9`: a template can't take the step's memory by one operator."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        plain = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or not (plain or _is_short_repeat(left, right)):
            raise SecurityError(f"`{operator}` of these values is not allowed in a template")
        return super().call_binop(context, operator, left, right)


def _is_short_repeat(left: Any, right: Any) -> bool:
    text, times = (left, right) if isinstance(left, str) else (right, left)
    return isinstance(text, str) and isinstance(times, int) and len(text) * times <= LONGEST_REPEAT


def _sandbox() -> _Sandbox:
    environment = _Sandbox(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.clear()
    return environment


ENVIRONMENT = _sandbox()


@lru_cache(maxsize=1024)
def _compiled(source: str) -> Template:
    return ENVIRONMENT.from_string(source)


def messages(question: Question, values: Mapping[str, Json], lookup: Json) -> list[Message]:
    """The messages that ask a question about a row. Raises one of RENDER_ERRORS when a template can't be filled."""
    row = {name: values[column] for name, column in question.inputs.items()}
    context = {"row": row, "lookup": lookup, **question.context}
    asked = [{"role": "user", "content": _compiled(question.template).render(context)}]
    if question.system is not None:
        asked.insert(0, {"role": "system", "content": _compiled(question.system).render(context)})
    return asked


def template_line(error: BaseException) -> str:
    """Where in a template an error came up, as a part of a sentence. (What it says may quote the row's text.)"""
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f" in line {frames[-1].lineno}" if frames else ""


def repair_messages(asked: list[Message], reply: str, reason: str) -> list[Message]:
    """The same conversation, with the refused reply and why it was refused."""
    again = f"That reply was refused: {reason} Reply again with one JSON object that mends this, and nothing else."
    return [*asked, {"role": "assistant", "content": reply}, {"role": "user", "content": again}]


@lru_cache(maxsize=64)
def condition(expression: str) -> Any:
    """A `when` expression as a function of `row`. Raises TemplateSyntaxError."""
    return ENVIRONMENT.compile_expression(expression, undefined_to_none=False)

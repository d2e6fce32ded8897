"""Which key of a spec each question comes from, and what is wrong with the questions as such."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.spec import AssessmentSpec, KeyPath, Problem
from elspeth_dagster.stages.querying import Question, questions


@dataclass(frozen=True)
class Asked:
    """A question, and the keys that declare it: itself, its files and its answer fields."""

    question: Question
    label: str
    key_path: KeyPath
    template_at: KeyPath
    system_at: KeyPath
    fields_at: KeyPath


def all_asked(assessment: Assessment) -> list[Asked]:
    """Every question of an assessment with its place in the spec, in order."""
    spec = assessment.spec
    found = iter(questions(assessment))
    products = [_from_product(next(found), spec, i) for i, _ in product(range(len(spec.case_studies)), spec.criteria)]
    return [*products, *(_from_query(next(found), spec, i) for i in range(len(spec.queries)))]


def _from_product(question: Question, spec: AssessmentSpec, i: int) -> Asked:
    label = f"case study {spec.case_studies[i].name}"
    return Asked(question, label, ("case_studies", i), ("prompt", "template"), ("prompt", "system"), ("answer",))


def _from_query(question: Question, spec: AssessmentSpec, i: int) -> Asked:
    query, here = spec.queries[i], ("queries", i)
    system_at = (*here, "system") if query.system else ("prompt", "system")
    fields_at = (*here, "answer") if query.answer else ("answer",)
    return Asked(question, f"query {query.name}", here, (*here, "template"), system_at, fields_at)


def question_problems(spec: AssessmentSpec, asked: Sequence[Asked]) -> Iterator[Problem]:
    """Questions that can't be made, and settings that no question uses."""
    yield from _incomplete(spec)
    yield from _without_answer(spec)
    yield from _unused_settings(spec)
    repeated = list(_repeated_names(spec))
    yield from repeated or _repeated_keys(asked)


def _incomplete(spec: AssessmentSpec) -> Iterator[Problem]:
    if not (spec.case_studies or spec.criteria or spec.queries):
        yield Problem((), "No question is asked. Declare `case_studies` and `criteria`, or `queries`.")
    if spec.case_studies and not spec.criteria:
        yield Problem(("case_studies",), "There are no criteria to judge them by. Add `criteria`, or ask by `queries`.")
    if spec.criteria and not spec.case_studies:
        yield Problem(("criteria",), "There are no case studies to be judged. Add `case_studies`, or ask by `queries`.")
    if spec.case_studies and spec.criteria and not spec.prompt.template:
        yield Problem(("prompt", "template"), "Case studies × criteria are asked by a template. Name a Jinja2 file.")


def _without_answer(spec: AssessmentSpec) -> Iterator[Problem]:
    if spec.answer:
        return
    if spec.case_studies and spec.criteria:
        yield Problem(("answer",), "Case studies × criteria need at least one answer field. Declare it.")
    for i, query in enumerate(spec.queries):
        if not query.answer:
            yield Problem(
                ("queries", i, "answer"), "The query has no answer fields, and neither has the assessment. Declare one."
            )


def _unused_settings(spec: AssessmentSpec) -> Iterator[Problem]:
    if spec.case_studies or spec.criteria or not spec.queries:
        return
    if spec.prompt.template:
        yield Problem(("prompt", "template"), "Only case studies × criteria use it, and there are none. Take it out.")
    if spec.prompt.system and all(query.system for query in spec.queries):
        yield Problem(("prompt", "system"), "Every query has a system message of its own. Take it out.")
    if spec.answer and all(query.answer for query in spec.queries):
        yield Problem(("answer",), "Every query has answer fields of its own. Take it out.")


def _repeated_names(spec: AssessmentSpec) -> Iterator[Problem]:
    parts = {
        "case_studies": [one.name for one in spec.case_studies],
        "criteria": [one.name for one in spec.criteria],
        "queries": [one.name for one in spec.queries],
    }
    for part, names in parts.items():
        for i, name in enumerate(names):
            if name in names[:i]:
                yield Problem(
                    (part, i, "name"), f"The name `{name}` is taken by {part}[{names.index(name)}]. Rename one."
                )


def _repeated_keys(asked: Sequence[Asked]) -> Iterator[Problem]:
    first: dict[str, Asked] = {}
    for one in asked:
        other = first.setdefault(one.question.key, one)
        if other is not one:
            yield Problem(
                (*one.key_path, "name"),
                f"Its question `{one.question.key}` has the same key as one of {other.label}. Rename one of them.",
            )

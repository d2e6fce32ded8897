"""What an assessment asks by beside its declaration, with a version of each: its templates, its lookup, its criteria.

Such an ingredient is versioned by what is made of it, so nothing has changed when nothing else is asked: a template by
its text whatever ends its lines, a lookup by its data whatever comments it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import ordered_json, sha256
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.stages.checking_templates import named_templates

Place = tuple[str, ...]
CRITERIA: Place = ("criteria",)
FILES = "files"
ABOVE = "above"
NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9_.-]")


def ingredients(assessment: Assessment) -> dict[Place, str]:
    """The version of each ingredient, by its place among the assessment's assets."""
    spec, at = assessment.spec, places(assessment.spec)
    found = {at[file]: sha256(text.encode()) for file, text in sorted(assessment.templates.items())}
    if spec.prompt.lookup:
        found[at[spec.prompt.lookup]] = sha256(ordered_json(assessment.lookup))
    if spec.criteria:
        found[CRITERIA] = sha256(ordered_json([one.model_dump(mode="json") for one in spec.criteria]))
    return found


def places(spec: AssessmentSpec) -> dict[str, Place]:
    """Where each file that a spec names stands among the assets: `files`, then the parts of its path."""
    files = {file for _, file in named_templates(spec)} | ({spec.prompt.lookup} if spec.prompt.lookup else set())
    found: dict[str, Place] = {}
    for file in sorted(files):
        found[file] = _unlike(_parts(file), found.values())
    return found


def _parts(file: str) -> Place:
    parts = (part for part in PurePosixPath(file).parts if part not in ("/", "."))
    return (FILES, *(ABOVE if part == ".." else NOT_IN_A_KEY.sub("_", part) for part in parts))


def _unlike(place: Place, taken: Iterable[Place]) -> Place:
    """The place, or one like it that Dagster's names tell from those that are taken."""
    names = {_name(other) for other in taken}
    while _name(place) in names:
        place = (*place[:-1], f"{place[-1]}_")
    return place


def _name(place: Place) -> str:
    return re.sub(r"[.-]", "_", "__".join(place))


def declared_alone(assessment: Assessment) -> Assessment:
    """The assessment without its ingredients: what is left decides answers too, and is versioned as code."""
    return Assessment(assessment.spec.model_copy(update={"criteria": []}))

"""The sample assessment as it stands in defs/case_studies, and the rows of its slices."""

from __future__ import annotations

from pathlib import Path

import yaml

import elspeth_dagster
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.stages.reading import Record, Rejection, read_records

PROJECT = Path(elspeth_dagster.__file__).parents[1]
FOLDER = PROJECT / "elspeth_dagster" / "defs" / "case_studies"
WEIGHTS_CACHE = PROJECT / ".cache" / "models"
SLICES = ("2026-01-05", "2026-01-06", "2026-01-07")


def sample_assessment() -> Assessment:
    """The assessment of defs/case_studies with its files."""
    spec = AssessmentSpec(**yaml.safe_load((FOLDER / "defs.yaml").read_text())["attributes"])
    names = [name for name in (spec.prompt.system, spec.prompt.template) if name]
    lookup = yaml.safe_load((FOLDER / (spec.prompt.lookup or "")).read_text())
    return Assessment(spec, {name: (FOLDER / name).read_text() for name in names}, lookup)


def sample_records(partition: str) -> list[Record | Rejection]:
    """What one slice holds."""
    source = sample_assessment().spec.source
    path = PROJECT / (source.path or "").format(partition=partition)
    with path.open("rb") as stream:
        return list(read_records(stream, path.name, source))

"""What the command `estimate` works on: an assessment as it is declared in a file, or as a run had it on record.

Dagster is not asked: a defs.yaml in which Dagster has to fill in a `{{ … }}` can't be read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import yaml
from pydantic import ValidationError

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import LandscapeError, NotOnRecordError, SpecError
from elspeth_dagster.core.pooling import Capacity, capacity, endpoints_in
from elspeth_dagster.core.pricing import with_deployment_price
from elspeth_dagster.core.settings import Settings
from elspeth_dagster.core.source_spec import SourceSpec
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.estimating import Deployment, Estimate, estimate, plan_of_source
from elspeth_dagster.landscape import experience, payloads
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.schema import nodes, runs
from elspeth_dagster.stages.checking import check, named_files
from elspeth_dagster.stages.estimating import Experience
from elspeth_dagster.stages.planning import RANGE, between, partition_keys

__all__ = ["Estimate", "estimate_of"]

COMPONENT = "MultiQueryAssessment"
ROOT_MARKS = ("pyproject.toml", "dg.toml")


class Declared(NamedTuple):
    """An assessment, and the folder at which its relative source path starts."""

    assessment: Assessment
    root: Path


def estimate_of(
    declared: str,
    *,
    source: str | None,
    partitions: Sequence[str],
    all_partitions: bool,
    env: Mapping[str, str],
    url: str,
) -> Estimate:
    """The estimate for the assessment in a defs.yaml or its folder, or with a name that is on record.

    `partitions` are keys, or ranges of them; with none, and without `all_partitions`, there is one slice.
    """
    settings = Settings.from_env(env)
    found = _in_file(Path(declared)) if Path(declared).exists() else _on_record(url, declared)
    spec = with_deployment_price(found.assessment.spec, settings.prices_path)
    root = found.root
    if source is not None:
        spec, root = _with_source(spec, source), Path.cwd()
    assessment = Assessment(spec, found.assessment.templates, found.assessment.lookup)
    endpoints = spec.llm.endpoints or endpoints_in(settings.endpoints_path)
    alone = Capacity(settings.max_concurrency, settings.requests_per_minute, settings.tokens_per_minute)
    deployment = Deployment(settings.provider, *capacity(endpoints, alone), endpoints)
    keys = partition_keys(spec, datetime.now(UTC).date()) if all_partitions else _named(spec, partitions)
    plan, load = plan_of_source(assessment, root, keys or [None], deployment)
    return estimate(assessment, plan, load, _experience(url, spec), deployment)


def _named(spec: AssessmentSpec, partitions: Sequence[str]) -> list[str]:
    """Each key once, in the order in which they are named; of a range, in theirs."""
    named: dict[str, None] = {}
    for one in partitions:
        keys = between(partition_keys(spec, datetime.now(UTC).date()), one) if RANGE in one else [one]
        named.update(dict.fromkeys(keys))
    return list(named)


def _with_source(spec: AssessmentSpec, path: str) -> AssessmentSpec:
    try:
        other = SourceSpec(path=path, key=spec.source.key, columns=spec.source.columns)
    except ValidationError as error:
        raise SpecError(f"{path}: {error.errors()[0]['msg']}") from None
    return spec.model_copy(update={"source": other})


def _experience(url: str, spec: AssessmentSpec) -> Experience:
    """What the landscape knows; nothing, where there is none yet."""
    try:
        with Landscape.open(url, create=False) as landscape, landscape.read() as connection:
            return experience.of(connection, spec.name, spec.llm.model_name)
    except LandscapeError:
        return Experience()


def _in_file(path: Path) -> Declared:
    file = path / "defs.yaml" if path.is_dir() else path
    spec = _spec(file)
    files = {name: _content(file.parent / name) for name in named_files(spec)}
    checked = check(spec, files)
    if checked.problems:
        first = checked.problems[0]
        raise SpecError(f"{file}, {'.'.join(map(str, first.key_path))}: {first.message}")
    return Declared(checked.assessment, _project_root(file.parent.resolve()))


def _spec(file: Path) -> AssessmentSpec:
    try:
        documents = [one for one in yaml.safe_load_all(file.read_text("utf-8")) if _is_assessment(one)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{file} can't be read: {' '.join(str(error).split())}") from None
    if len(documents) != 1:
        raise SpecError(f"{file} declares {len(documents)} assessments; one is needed. Name one that is on record.")
    if where := next(_to_be_filled_in(documents[0]["attributes"], ""), None):
        raise SpecError(f"{file}, {where}: Dagster fills this in. Name the assessment instead, once it has run.")
    try:
        return AssessmentSpec.model_validate(documents[0]["attributes"])
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"{file}, {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None


def _is_assessment(document: Any) -> bool:
    return isinstance(document, dict) and str(document.get("type")).endswith(COMPONENT) and "attributes" in document


def _to_be_filled_in(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _to_be_filled_in(part, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from _to_be_filled_in(part, f"{where}.{place}")
    elif isinstance(value, str) and "{{" in value:
        yield where


def _content(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def _project_root(folder: Path) -> Path:
    marked = (one for one in (folder, *folder.parents) if any((one / mark).is_file() for mark in ROOT_MARKS))
    return next(marked, folder)


def _on_record(url: str, name: str) -> Declared:
    newest = (
        sa.select(nodes.c.config_ref)
        .join(runs, runs.c.run_id == nodes.c.run_id)
        .where(nodes.c.assessment == name, nodes.c.op_name == "ask_batches")
        .order_by(runs.c.started_at.desc())
        .limit(1)
    )
    with Landscape.open(url, create=False) as landscape, landscape.read() as connection:
        ref = connection.scalar(newest)
        if ref is None:
            raise NotOnRecordError(f"{name} is no file, and no assessment on record is called so")
        return Declared(Assessment.load(payloads.read_json(connection, ref)), Path.cwd())

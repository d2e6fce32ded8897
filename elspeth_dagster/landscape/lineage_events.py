"""A run as OpenLineage events (https://openlineage.io/spec): a START and an end for the run and each assessment in it.

    run ── assessment: source ─► results, answers, failures, rejections

They name what went in and came out, and by column what it was made of. They hold no text of rows, prompts or replies,
and prove nothing: that is what an export is for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.errors import ErasedError
from elspeth_dagster.landscape import payloads, runs, schema
from elspeth_dagster.landscape.finding import find_run
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.proving import new_file
from elspeth_dagster.landscape.records import Artifact, Run, RunEnd
from elspeth_dagster.landscape.words import RunStatus

PRODUCER = "https://pypi.org/project/elspeth-dagster/"
NAMESPACE = "elspeth-dagster"
SPEC = "https://openlineage.io/spec"
EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
ENDS = {RunStatus.COMPLETED: "COMPLETE", RunStatus.FAILED: "FAIL", RunStatus.INTERRUPTED: "ABORT"}


def export(landscape: Landscape, run_id: str, to: Path) -> str:
    """Write a run's events to a new file, one a line; return the run's whole id.

    Raises NotOnRecordError where there is no such run, SettingsError where the file can't be made.
    """
    with landscape.read() as connection, new_file(to) as file:
        run = find_run(connection, run_id)
        file.writelines(canonical_json(event) + b"\n" for event in events(connection, run))
    return run.run_id


def events(connection: sa.Connection, run: Run) -> Iterator[dict[str, Json]]:
    """The events of a run; without its end, where it goes on."""
    end = runs.end_of(connection, run.run_id)
    whole = {"run": {"runId": str(_uuid(run.run_id))}, "job": {"namespace": NAMESPACE, "name": run.job_name}}
    yield from _pair(run, end, {**whole, "inputs": [], "outputs": []})
    for assessment in sorted(json.loads(run.assessments)):
        yield from _pair(run, end, _of_assessment(connection, run, assessment, whole))


def _uuid(run_id: str) -> UUID:
    """Dagster's ids of runs are UUIDs."""
    with suppress(ValueError):
        return UUID(run_id)
    return uuid5(NAMESPACE_URL, f"{NAMESPACE}:{run_id}")


def _pair(run: Run, end: RunEnd | None, told: dict[str, Json]) -> Iterator[dict[str, Json]]:
    about = {"producer": PRODUCER, "schemaURL": EVENT}
    yield {**about, **told, "outputs": [], "eventType": "START", "eventTime": run.started_at.isoformat()}
    if end is not None:
        yield {**about, **told, "eventType": ENDS[end.status], "eventTime": end.ended_at.isoformat()}


def _of_assessment(connection: sa.Connection, run: Run, assessment: str, whole: dict[str, Json]) -> dict[str, Json]:
    spec = _spec(connection, run.run_id, assessment)
    parent = _facet("ParentRunFacet", "1-2-0", **whole)
    source = _source(spec)
    return {
        "run": {"runId": str(uuid5(_uuid(run.run_id), assessment)), "facets": {"parent": parent}},
        "job": {"namespace": NAMESPACE, "name": f"{run.job_name}.{assessment}"},
        "inputs": [{**source, "facets": {}}],
        "outputs": [_output(artifact, spec, source) for artifact in _artifacts(connection, run.run_id, assessment)],
    }


def _facet(name: str, version: str, **told: Json) -> dict[str, Json]:
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{version}/{name}.json#/$defs/{name}", **told}


def _spec(connection: sa.Connection, run_id: str, assessment: str) -> dict[str, Json]:
    """The recorded spec, which may be of an older form than today's."""
    nodes = schema.nodes
    of_it = sa.select(nodes.c.config_ref).where(nodes.c.run_id == run_id, nodes.c.assessment == assessment)
    ref = connection.scalar(of_it.order_by(nodes.c.node_id).limit(1))
    try:
        config = payloads.read_json(connection, ref) if ref else {}
    except (ErasedError, ValueError):
        config = {}
    spec = config.get("spec") if isinstance(config, dict) else None
    return spec if isinstance(spec, dict) else {}


def _source(spec: dict[str, Json]) -> dict[str, Json]:
    declared = spec.get("source") or {}
    if path := declared.get("path"):
        return _dataset(str(path))
    return {"namespace": NAMESPACE, "name": str(declared.get("asset") or "source")}


def _dataset(uri: str) -> dict[str, Json]:
    """A file by the naming rules of OpenLineage: what its scheme and host are, and the path below; never a password."""
    parts = urlsplit(uri)
    if not parts.scheme or parts.scheme == "file":
        return {"namespace": "file", "name": parts.path}
    host = parts.netloc.rpartition("@")[2]
    return {"namespace": f"{parts.scheme}://{host}", "name": parts.path.lstrip("/") or "/"}


def _artifacts(connection: sa.Connection, run_id: str, assessment: str) -> Iterator[Artifact]:
    artifacts, states, nodes = schema.artifacts, schema.node_states, schema.nodes
    written = (
        artifacts.select()
        .join(states, states.c.state_id == artifacts.c.state_id)
        .join(nodes, (nodes.c.run_id == states.c.run_id) & (nodes.c.node_id == states.c.node_id))
        .where(artifacts.c.run_id == run_id, nodes.c.assessment == assessment)
        .order_by(artifacts.c.written_at, artifacts.c.artifact_id)
    )
    yield from (Artifact(*row) for row in connection.execute(written))


def _output(artifact: Artifact, spec: dict[str, Json], source: dict[str, Json]) -> dict[str, Json]:
    version = _facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=artifact.content_hash)
    facets = {"version": version}
    if artifact.asset_key.rpartition("/")[2] == "results":
        facets["columnLineage"] = _facet("ColumnLineageDatasetFacet", "1-2-0", fields=_made_of(spec, source))
    statistics = _facet("OutputStatisticsOutputDatasetFacet", "1-0-2", rowCount=artifact.row_count, size=artifact.size)
    return {**_dataset(artifact.uri), "facets": facets, "outputFacets": {"outputStatistics": statistics}}


def _made_of(spec: dict[str, Json], source: dict[str, Json]) -> dict[str, Json]:
    """For each column of the results the source's columns that it was made of."""
    columns: dict[str, list[str]] = {name: [name] for name in (spec.get("source") or {}).get("columns") or {}}
    for case in spec.get("case_studies") or []:
        for criterion in spec.get("criteria") or []:
            for field in spec.get("answer") or {}:
                columns[f"{case['name']}_{criterion['name']}_{field}"] = sorted(
                    set((case.get("inputs") or {}).values())
                )
    for query in spec.get("queries") or []:
        for field in query.get("answer") or spec.get("answer") or {}:
            columns[f"{query['name']}_{field}"] = sorted(set((query.get("inputs") or {}).values()))
    return {
        column: {"inputFields": [{**source, "field": name} for name in inputs]} for column, inputs in columns.items()
    }

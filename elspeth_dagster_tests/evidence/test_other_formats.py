"""Lineage events and provenance keep to the rules that their formats publish, and carry nobody's text."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from elspeth_dagster.landscape import lineage_events, provenance
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.evidence.conftest import Sealed, by_hand
from elspeth_dagster_tests.landscape.sample import an_open_run

URI = re.compile(r"[a-z][a-z0-9+.-]*:\S+")


@pytest.fixture(scope="module")
def events(sealed: Sealed, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    to = tmp_path_factory.mktemp("events") / "lineage.jsonl"
    with Landscape.open(sealed.url, create=False) as landscape:
        lineage_events.export(landscape, sealed.second, to)
    return [json.loads(line) for line in to.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def document(sealed: Sealed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    to = tmp_path_factory.mktemp("provenance") / "prov.json"
    with Landscape.open(sealed.url, create=False) as landscape:
        provenance.export(landscape, sealed.second, to)
    return dict(json.loads(to.read_bytes()))


# OpenLineage: https://openlineage.io/spec/2-0-2/OpenLineage.json -----------------------------------------------------


def test_every_event_has_what_the_schema_requires(events: list[dict[str, Any]]) -> None:
    for event in events:
        assert {"eventTime", "producer", "schemaURL", "run", "job", "eventType"} <= set(event)
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        assert URI.fullmatch(event["producer"]) and URI.fullmatch(event["schemaURL"])
        assert event["eventType"] in {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}
        UUID(event["run"]["runId"])
        for dataset in [event["job"], *event["inputs"], *event["outputs"]]:
            assert dataset["namespace"] and dataset["name"]


def test_every_facet_says_who_made_it_and_by_which_schema(events: list[dict[str, Any]]) -> None:
    found = [facet for event in events for facet in facets_of(event)]
    assert found
    for name, facet in found:
        schema, _, pointer = facet["_schemaURL"].partition("#/$defs/")
        assert URI.fullmatch(facet["_producer"]) and schema.endswith(f"/{pointer}.json")
        assert pointer == FACETS[name]


FACETS = {
    "parent": "ParentRunFacet",
    "version": "DatasetVersionDatasetFacet",
    "columnLineage": "ColumnLineageDatasetFacet",
    "outputStatistics": "OutputStatisticsOutputDatasetFacet",
}


def facets_of(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, list):
        for each in value:
            yield from facets_of(each)
    if isinstance(value, dict):
        for key, each in value.items():
            if key in ("facets", "inputFacets", "outputFacets"):
                yield from each.items()
            else:
                yield from facets_of(each)


def test_each_run_has_one_start_and_one_end(events: list[dict[str, Any]], sealed: Sealed) -> None:
    by_run: dict[str, list[str]] = {}
    for event in events:
        by_run.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert len(by_run) == 2 and set(map(tuple, by_run.values())) == {("START", "COMPLETE")}
    assert sealed.second in by_run
    assert events[2]["run"]["facets"]["parent"]["run"] == {"runId": sealed.second}


def test_it_tells_which_column_was_made_of_which(events: list[dict[str, Any]]) -> None:
    [results] = [one for one in events[-1]["outputs"] if one["name"].endswith("trial/results.parquet")]
    made_of = results["facets"]["columnLineage"]["fields"]
    assert [one["field"] for one in made_of["cs2_depth_score"]["inputFields"]] == ["cs2_text"]
    assert made_of["cs2_depth_score"]["inputFields"][0]["name"] == events[-1]["inputs"][0]["name"] == "data/rows.csv"
    assert made_of["id"]["inputFields"][0]["field"] == "id"
    assert results["outputFacets"]["outputStatistics"]["rowCount"] == 4


def test_a_run_that_failed_or_was_interrupted_or_goes_on_is_said_to_have(
    landscape: Landscape, sealed: Sealed, sqlite_url: str, tmp_path: Path
) -> None:
    lineage_events.export(landscape, sealed.first, tmp_path / "first")
    assert b'"eventType":"ABORT"' in (tmp_path / "first").read_bytes()
    with Landscape.open(sqlite_url) as other:
        other.write(*by_hand(an_open_run("r1")))
        lineage_events.export(other, "r1", tmp_path / "open")
        provenance.export(other, "r1", tmp_path / "open.json")
    types = [json.loads(line)["eventType"] for line in (tmp_path / "open").read_bytes().splitlines()]
    assert types == ["START", "START"]
    assert "prov:endTime" not in json.loads((tmp_path / "open.json").read_bytes())["activity"]["elspeth:run/r1"]


def test_no_password_of_a_place_is_in_a_name() -> None:
    found = lineage_events._dataset("s3://user:secret@host:9000/bucket/x.parquet")
    assert found == {"namespace": "s3://host:9000", "name": "bucket/x.parquet"}


# PROV-JSON: https://www.w3.org/submissions/prov-json/ ----------------------------------------------------------------

SECTIONS = {
    "prefix", "entity", "activity", "agent", "wasGeneratedBy", "used", "wasInformedBy", "wasStartedBy", "wasEndedby",
    "wasInvalidatedBy", "wasDerivedFrom", "wasAttributedTo", "wasAssociatedWith", "actedOnBehalfOf", "wasInfluencedBy",
    "specializationOf", "alternateOf", "hadMember", "bundle",
}  # fmt: skip
REQUIRED = {
    "wasGeneratedBy": {"prov:entity": "entity", "prov:activity": "activity"},
    "used": {"prov:entity": "entity", "prov:activity": "activity"},
    "wasInformedBy": {"prov:informant": "activity", "prov:informed": "activity"},
    "wasDerivedFrom": {"prov:generatedEntity": "entity", "prov:usedEntity": "entity"},
    "wasAssociatedWith": {"prov:activity": "activity", "prov:agent": "agent"},
}
NAME = re.compile(r"elspeth:[A-Za-z]+(/[A-Za-z0-9._~%-]+)?")


def test_it_has_the_sections_and_values_that_the_schema_has(document: dict[str, Any]) -> None:
    assert set(document) <= SECTIONS
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", name) and URI.fullmatch(uri) for name, uri in document["prefix"].items())
    for section in set(document) - {"prefix"}:
        assert document[section], section
        for attributes in document[section].values():
            assert all(":" in name and is_value(value) for name, value in attributes.items())
            times = [value for name, value in attributes.items() if name in TIMES]
            assert all(datetime.fromisoformat(time).tzinfo is not None for time in times)


TIMES = {"prov:time", "prov:startTime", "prov:endTime"}


def is_value(value: Any) -> bool:
    """A string, number, boolean, or a typed literal."""
    return isinstance(value, str | int | bool) or (set(value) == {"$", "type"} and isinstance(value["$"], str))


@pytest.mark.parametrize("relation", REQUIRED)
def test_every_relation_leads_from_something_told_to_something_told(document: dict[str, Any], relation: str) -> None:
    for attributes in document[relation].values():
        for name, section in REQUIRED[relation].items():
            assert attributes[name] in document[section] or is_of_an_earlier_run(document, attributes[name]), attributes


def is_of_an_earlier_run(document: dict[str, Any], name: str) -> bool:
    return name.startswith("elspeth:run/") and name not in document["activity"]


def test_names_are_qualified_and_plain(document: dict[str, Any]) -> None:
    for section in ("entity", "activity", "agent"):
        assert all(NAME.fullmatch(name) for name in document[section])


def test_an_answer_is_traced_to_its_reply_and_the_model(document: dict[str, Any]) -> None:
    told = document["entity"]
    answer = next(name for name in told if told[name].get("elspeth:question") == "cs1_clarity")
    derived = document["wasDerivedFrom"].values()
    [reply] = [one["prov:usedEntity"] for one in derived if one["prov:generatedEntity"] == answer]
    assert reply.startswith("elspeth:bytes/hmac-sha256%3A")


def test_neither_holds_texts_or_keys_of_rows(events: list[dict[str, Any]], document: dict[str, Any]) -> None:
    for told in (json.dumps(events), json.dumps(document)):
        assert not re.search(r"of row \d|You judge|Because of|\"R\d\"", told)

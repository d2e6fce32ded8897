"""Every key that is accepted changes something that can be observed: one test for each, and none is left out."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetNode

from elspeth_dagster import LLMResource
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.spec import EndpointList
from elspeth_dagster.resources.llm import on_record
from elspeth_dagster.stages.batching import aggregate, rows_per_step, shards
from elspeth_dagster.stages.distributing import ranking
from elspeth_dagster.stages.merging import merge
from elspeth_dagster.stages.prompting import messages
from elspeth_dagster.stages.querying import questions, request, result_fields
from elspeth_dagster.stages.reading import read_records
from elspeth_dagster.stages.tabling import results_schema
from elspeth_dagster_tests.components.test_schema import SCHEMA, keys
from elspeth_dagster_tests.project import ATTRIBUTES, Project
from elspeth_dagster_tests.stages.declared import QUERY, assessment

ROWS: list[dict[str, Any]] = [
    {"id": f"R{n}", "region": region, "cs1_text": "one", "cs2_text": "two"} for n, region in enumerate("nsnnss")
]
FILES = {
    "ask.j2": b"{{ case_study }}{{ criterion }}{{ row }}{{ lookup }}",
    "terse.j2": b"{{ criterion }}{{ row }}{{ lookup }}",
    "other.j2": b"You are strict.",
    "other.yaml": b"CLEAR: 1",
}
CSV = b"id,region,cs1_text,cs2_text\n1,n,a,b\n1,s,c,d\n"

Observe = Callable[[Assessment], object]
Change = dict[str, Any]


def requests(asked: Assessment) -> object:
    """The requests that are sent about a row."""
    return [
        request(asked.spec, question, messages(question, ROWS[0], asked.lookup), bounded_schema=True).body
        for question in questions(asked)
    ]


def columns(asked: Assessment) -> object:
    """The columns that answers fill."""
    return list(result_fields(questions(asked)))


def results(asked: Assessment) -> object:
    """The columns of `results`."""
    return results_schema(asked.spec, questions(asked)).names


def records(asked: Assessment) -> object:
    """What is read from a source."""
    return list(read_records(io.BytesIO(CSV), "rows", asked.spec.source))


def steps(asked: Assessment) -> object:
    """The batches, and the step that asks each."""
    flushes = aggregate(((row["id"], row) for row in ROWS), asked.spec.aggregate)
    return list(shards(flushes, rows_per_step(asked.spec.rows_per_step, len(ROWS))))


def fate(asked: Assessment) -> object:
    """What becomes of a row with a refused answer."""
    first, *others = questions(asked)
    values = {question.key: dict.fromkeys(question.fields, 1) for question in others}
    return merge(questions(asked), values, {first.key: "truncated"}, asked.spec.errors.row).fate


IN_QUERY: Change = {"queries": [QUERY]}
NUMBER: Change = {"answer.share": {"type": "number"}}
LEVEL: Change = {"answer.level": {"type": "enum", "values": ["low", "high"]}}
STAGES: dict[str, tuple[Observe, Change, Change]] = {
    "source.format": (records, {}, {"source.format": "jsonl"}),
    "source.key": (records, {}, {"source.key": ["id", "region"]}),
    "source.columns": (records, {}, {"source.columns.id": "int"}),
    "aggregate.rows": (steps, {}, {"aggregate": {"rows": 2}}),
    "aggregate.group_by": (steps, {}, {"aggregate": {"group_by": ["region"]}}),
    "aggregate.when": (steps, {}, {"aggregate": {"when": "row.region == 's'"}}),
    "rows_per_step": (steps, {"aggregate": {"rows": 2}}, {"aggregate": {"rows": 2}, "rows_per_step": 2}),
    "llm.model_name": (requests, {}, {"llm.model_name": "other"}),
    "llm.temperature": (requests, {}, {"llm.temperature": 0}),
    "llm.max_tokens": (requests, {}, {"llm.max_tokens": 9}),
    "llm.seed": (requests, {}, {"llm.seed": 7}),
    "llm.options": (requests, {}, {"llm.options": {"top_p": 0.5}}),
    "prompt.system": (requests, {}, {"prompt.system": "other.j2"}),
    "prompt.template": (requests, {}, {"prompt.template": "terse.j2"}),
    "prompt.lookup": (requests, {}, {"prompt.lookup": "other.yaml"}),
    "case_studies.name": (columns, {}, {"case_studies.0.name": "other"}),
    "case_studies.description": (requests, {}, {"case_studies.0.description": "another"}),
    "case_studies.inputs": (requests, {}, {"case_studies.0.inputs": {"text": "cs2_text"}}),
    "criteria.name": (columns, {}, {"criteria.0.name": "other"}),
    "criteria.code": (requests, {}, {"criteria.0.code": "OTHER"}),
    "criteria.description": (requests, {}, {"criteria.0.description": "another"}),
    "criteria.subcriteria": (requests, {}, {"criteria.0.subcriteria": ["another"]}),
    "queries.name": (columns, IN_QUERY, {"queries": [{**QUERY, "name": "other"}]}),
    "queries.system": (requests, IN_QUERY, {"queries": [{**QUERY, "system": "other.j2"}]}),
    "queries.template": (requests, IN_QUERY, {"queries": [{**QUERY, "template": "plain.j2"}]}),
    "queries.inputs": (requests, IN_QUERY, {"queries": [{**QUERY, "inputs": {"text": "cs2_text"}}]}),
    "queries.answer": (columns, IN_QUERY, {"queries": [{**QUERY, "answer": {"other": {"type": "string"}}}]}),
    "answer.type": (requests, {}, {"answer.why": {"type": "boolean"}}),
    "answer.minimum": (requests, NUMBER, {"answer.share": {"type": "number", "minimum": 0}}),
    "answer.maximum": (requests, NUMBER, {"answer.share": {"type": "number", "maximum": 1}}),
    "answer.max_length": (requests, {}, {"answer.why.max_length": 9}),
    "answer.values": (requests, LEVEL, {"answer.level": {"type": "enum", "values": ["low", "mid"]}}),
    "answer.description": (requests, {}, {"answer.why.description": "In one word."}),
    "structured_output": (requests, {}, {"structured_output": "none"}),
    "review": (results, {}, {"review": True}),
    "errors.row": (fate, {}, {"errors": {"row": "keep_partial"}}),
}
PAIRS: Change = {"multi": {"date": {"daily": "2026-01-01"}, "region": {"static": ["north", "south"]}}}
DEFINITIONS: dict[str, Change] = {
    "name": {"name": "other"},
    "source.asset": {"source": {**ATTRIBUTES["source"], "path": None, "asset": "trial_upstream"}},
    "partitions.daily": {"partitions": {"daily": "2026-01-02"}},
    "partitions.until": {"partitions": {"daily": "2026-01-01", "until": "2026-01-09"}},
    "partitions.static": {"partitions": {"static": ["north"]}},
    "partitions.dynamic": {"partitions": {"dynamic": "tenders"}},
    "partitions.multi.daily": {"partitions": {"multi": PAIRS["multi"] | {"date": {"daily": "2026-01-02"}}}},
    "partitions.multi.until": {
        "partitions": {"multi": PAIRS["multi"] | {"date": {"daily": "2026-01-01", "until": "2026-01-09"}}}
    },
    "partitions.multi.static": {"partitions": {"multi": PAIRS["multi"] | {"region": {"static": ["north"]}}}},
    "partitions.multi.dynamic": {"partitions": {"multi": PAIRS["multi"] | {"region": {"dynamic": "regions"}}}},
    "backfill": {"partitions": {"daily": "2026-01-01"}, "backfill": "single_run"},
    "schedule": {"schedule": "0 7 * * *"},
    "automation.condition": {"schedule": None, "automation": {"condition": "eager"}},
    "automation.cron": {"schedule": None, "automation": {"condition": "on_cron", "cron": "0 7 * * *"}},
    "owners": {"owners": ["team:admissions"]},
    "freshness.fail_hours": {"freshness": {"fail_hours": 36}},
    "freshness.warn_hours": {"freshness": {"fail_hours": 36, "warn_hours": 26}},
    **{f"checks.{name}.blocking": {"checks": {name: {"blocking": False}}} for name in ("accounted", "linked")},
    "checks.within_bounds.blocking": {"checks": {"within_bounds": {"blocking": False}}},
    **{
        f"checks.{name}.blocking": {"checks": {name: {"severity": "error", "blocking": True}}}
        for name in ("failure_rate", "drift", "verified")
    },
    "checks.failure_rate.max": {"checks": {"failure_rate": {"max": 0.5}}},
    "checks.drift.window": {"checks": {"drift": {"window": 3}}},
    "sensor.every_seconds": {"sensor": {"every_seconds": 5}},
}
PRICE = {"input_mtok": 1, "output_mtok": 1}
ENDPOINTS: dict[str, Change] = {
    "name": {"name": "other"},
    "weight": {"weight": 50},
    "api_key.env": {"api_key": {"env": "OTHER"}},
    "base_url.env": {"base_url": {"env": "OTHER"}},
    "azure_endpoint.env": {"azure_endpoint": {"env": "OTHER"}},
    "azure_deployment": {"azure_deployment": "gpt-4o-sweden"},
    "azure_ad_token_provider": {"azure_ad_token_provider": "my_project.identity:token"},
    "api_version": {"api_version": "2025-01-01"},
    "organization.env": {"organization": {"env": "OTHER"}},
    "headers.env": {"headers": {"x-team": {"env": "OTHER"}}},
    "ca_file": {"ca_file": "/etc/ssl/own.pem"},
    "timeout_seconds": {"timeout_seconds": 7},
    "max_concurrency": {"max_concurrency": 99},
    "min_concurrency": {"min_concurrency": 2},
    "requests_per_minute": {"requests_per_minute": 60},
    "tokens_per_minute": {"tokens_per_minute": 6000},
    **{f"price.{name}": {"price": {**PRICE, name: 2}} for name in (*PRICE, "cache_read_mtok", "requests_kcount")},
}
"""The keys of one of two endpoints: which resource it is, how many rows it is first for, what the record says of it."""
IN_TICKS = {
    *("sensor.settled_seconds", "sensor.marker", "sensor.changed"),
    *("source.inbox", "sensor.files", "sensor.max_age_seconds"),
}
"""What a tick of a sensor shows: test_watching and test_emptying."""
IN_RUNS = {
    *("checks.drift.threshold", "checks.drift.distance", "preview_rows"),
    *(f"checks.{name}.severity" for name in ("accounted", "linked", "within_bounds")),
    *(f"checks.{name}.severity" for name in ("failure_rate", "drift", "verified")),
    *("source.path", "source.missing", "errors.repair", "errors.retry_seconds", "errors.on_unknown"),
    *("errors.max_failures", "budget.max_cost_usd", "budget.max_calls"),
    *("llm.price.input_mtok", "llm.price.output_mtok", "llm.price.cache_read_mtok", "llm.price.requests_kcount"),
}
"""What only a run can show, in walk: presenting, sealing, sources, partitions, replies, reuse, failing, budgets."""


def leaves() -> set[str]:
    """The keys of a spec that have no keys of their own."""
    known = {path for path, _ in keys(SCHEMA)}
    groups = {path.rsplit(".", 1)[0] for path in known if "." in path}
    own_answer = {path for path in known if path.startswith("queries.answer.")}  # the same fields as under `answer`
    return (known - groups - own_answer) | {"queries.answer"}


def test_no_key_is_left_out() -> None:
    of_endpoints = {f"llm.endpoints.{key}" for key in ENDPOINTS}
    assert leaves() == {*STAGES, *DEFINITIONS, *IN_TICKS, *IN_RUNS, *of_endpoints}


@pytest.mark.parametrize("key", ENDPOINTS)
def test_a_key_changes_what_an_endpoint_is(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "http://other.example/v1")
    is_changed = endpoint({"price": PRICE, **ENDPOINTS[key]})
    assert is_changed != endpoint({"price": PRICE})


def endpoint(settings: Change) -> object:
    """What an endpoint comes to, beside another one."""
    declared = EndpointList.model_validate([{"name": "first", **settings}, {"name": "second"}]).root
    [first, _] = LLMResource(provider="azure", api_key="ours", azure_endpoint="http://ours").members(declared)
    weighted = [(one.name, one.weight) for one in declared]
    rows_first = sum(ranking(f"R{n}", weighted)[0] == 0 for n in range(200))
    return first.llm.model_dump(), rows_first, on_record(first.declared)


@pytest.mark.parametrize("key", STAGES)
def test_a_key_changes_what_is_read_asked_or_made_of_it(key: str) -> None:
    observe, before, after = STAGES[key]
    files = {**FILES, "plain.j2": b"{{ row.text }}"}
    assert observe(assessment(before, files)) != observe(assessment(after, files))


UPSTREAM = """
import dagster as dg
import pandas as pd

@dg.asset
def trial_upstream() -> pd.DataFrame: ...
"""


def observed(project: Project, **changes: Any) -> object:
    """What Dagster sees of an assessment: assets, what they stand on, partitions, schedules, sensors."""
    source = {**ATTRIBUTES["source"], "path": "data/{partition}.csv" if "partitions" in changes else "data/rows.csv"}
    project.declare(**{"source": source, **changes})
    (project.folder / "trial" / "defs" / "upstream.py").write_text(UPSTREAM)
    definitions = project.definitions()
    graph = definitions.resolve_asset_graph()
    assets = {key: seen(graph.get(key)) for key in graph.get_all_asset_keys()}
    checks = {key: (graph.get(key).blocking, graph.get(key).description) for key in graph.asset_check_keys}
    schedules = {schedule.name: schedule.cron_schedule for schedule in definitions.get_repository_def().schedule_defs}
    sensors = {sensor.name: sensor.minimum_interval_seconds for sensor in definitions.get_repository_def().sensor_defs}
    return assets, checks, schedules, sensors


def seen(asset: AssetNode) -> object:
    """What Dagster sees of an asset."""
    watched = (asset.owners, asset.freshness_policy, asset.automation_condition)
    return asset.parent_keys, asset.partitions_def, asset.backfill_policy, *watched


@pytest.mark.parametrize("key", DEFINITIONS)
def test_a_key_changes_what_dagster_sees(project: Project, key: str) -> None:
    before: Change = {"schedule": "0 6 * * *", "sensor": {} if key.startswith("sensor") else None}
    if key.startswith(("partitions", "backfill")):
        before = {"partitions": PAIRS if "multi" in key else {"daily": "2026-01-01"}}
    after = {**before, **DEFINITIONS[key]}
    folder = project.folder / "trial" / "defs" / "trial"
    first = observed(project, **before)
    (folder / "defs.yaml").unlink()
    assert observed(project, **after) != first

"""The figures: what the record, the provider and the processes disagree on, when a slice is done.

Each figure is a list of what is wrong, in words. The record is read by plain SQL, so that no code of the package
stands between it and its judge.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster_tests.project import Project, sent
from elspeth_dagster_tests.soak.acknowledging import key_columns, noted

RUNS = (
    "SELECT r.run_id, r.root_run_id, r.started_at, e.status, e.ended_at FROM runs r "
    "LEFT JOIN run_ends e ON e.run_id = r.run_id ORDER BY r.started_at"
)
FATES = (
    "SELECT t.run_id, t.token_id, t.kind, w.row_key, o.outcome FROM tokens t "
    "LEFT JOIN rows w ON w.row_id = t.row_id LEFT JOIN token_outcomes o ON o.token_id = t.token_id"
)
CALLS = (
    "SELECT c.call_id, r.root_run_id, c.query_key, c.sent_at, w.row_key, p.outcome, p.received_at "
    "FROM calls c JOIN runs r ON r.run_id = c.run_id JOIN tokens t ON t.token_id = c.token_id "
    "JOIN rows w ON w.row_id = t.row_id LEFT JOIN replies p ON p.call_id = c.call_id"
)
OPEN_STATES = (
    "SELECT s.state_id, s.node_id FROM node_states s LEFT JOIN node_state_ends e ON e.state_id = s.state_id "
    "WHERE e.state_id IS NULL"
)
ARTIFACTS = (
    "SELECT a.asset_key, a.content_hash FROM artifacts a JOIN run_ends e ON e.run_id = a.run_id "
    "WHERE e.status = 'completed'"
)
TABLES = ("results", "answers", "failures", "rejections")
FINAL = ("assessed", "partial", "failed")


@dataclass
class Evidence:
    """What each witness says of one slice.

    `torn` is what was seen between the launches.
    """

    expected_keys: set[str]
    undisturbed: bytes | None
    requests: list[dict[str, Any]]
    acknowledged: list[tuple[str, tuple[Any, ...]]]
    runs: list[dict[str, Any]]
    fates: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    open_states: list[dict[str, Any]]
    tables: dict[str, bytes | None]
    artifacts: set[tuple[str, bytes]]
    keys: dict[str, set[tuple[Any, ...]]]
    torn: list[str] = field(default_factory=list)

    @property
    def completed(self) -> list[str]:
        """The runs that completed: one, or more where steps went on without their worker."""
        return [run["run_id"] for run in self.runs if run["status"] == "completed"]

    @property
    def billed(self) -> list[dict[str, Any]]:
        """The requests that the provider answered with 200."""
        return [request for request in self.requests if request["status"] == 200]


def gather(
    project: Project, folder: Path, requests: list[dict[str, Any]], expected_keys: set[str], undisturbed: bytes | None
) -> Evidence:
    """Read what there is of a slice that is done."""
    calls = project.facts(CALLS)
    hashes = sent(project)
    for call in calls:
        call["request_hash"] = hashes[call["call_id"]]
    acknowledged = list(noted(folder))
    return Evidence(
        expected_keys=expected_keys,
        undisturbed=undisturbed,
        requests=requests,
        acknowledged=acknowledged,
        runs=project.facts(RUNS),
        fates=project.facts(FATES),
        calls=calls,
        open_states=project.facts(OPEN_STATES),
        tables={name: table(project, name) for name in TABLES},
        artifacts={(row["asset_key"], bytes(row["content_hash"])) for row in project.facts(ARTIFACTS)},
        keys={name: _keys(project, name) for name in {name for name, _ in acknowledged}},
    )


def _keys(project: Project, name: str) -> set[tuple[Any, ...]]:
    columns = ", ".join(key_columns(metadata.tables[name]))
    return {tuple(row.values()) for row in project.facts(f"SELECT {columns} FROM {name}")}


def tables_folder(project: Project) -> Path:
    """Where the tables of the assessment are."""
    return project.home / "storage" / "trial"


def table(project: Project, name: str) -> bytes | None:
    """The bytes of a table; None when there is none."""
    path = tables_folder(project) / f"{name}.parquet"
    return path.read_bytes() if path.exists() else None


def torn_tables(project: Project) -> list[str]:
    """The tables in their place that are no whole Parquet file."""
    return [path.name for path in tables_folder(project).glob("[!.]*.parquet") if not _is_whole(path)]


def _is_whole(path: Path) -> bool:
    try:
        pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def is_done(project: Project) -> bool:
    """Whether the last run of the slice completed, by the record.

    A step that outlives its worker may end its run, or begin it, when the next launch has begun or is over.
    """
    return [run["status"] for run in project.facts(RUNS)][-1:] == ["completed"]


# What must be nothing ------------------------------------------------------------------------------------------------


def rows_without_one_outcome(evidence: Evidence) -> list[str]:
    """Source rows that don't have exactly one final outcome in a run that completed, and tokens of any ended run that
    don't have exactly one outcome."""
    ended = {run["run_id"] for run in evidence.runs if run["status"] is not None}
    decided = [fate for fate in evidence.fates if fate["outcome"] is not None]
    finals = Counter((fate["run_id"], fate["row_key"]) for fate in decided if fate["outcome"] in FINAL)
    wanted = [(run_id, key) for run_id in evidence.completed for key in sorted(evidence.expected_keys)]
    rows = [f"row {key} in {run_id}: {finals[run_id, key]}" for run_id, key in wanted if finals[run_id, key] != 1]
    of_token = Counter(fate["token_id"] for fate in decided)
    tokens = {fate["token_id"]: fate["kind"] for fate in evidence.fates if fate["run_id"] in ended}
    return rows + [f"{kind} {token}: {of_token[token]}" for token, kind in tokens.items() if of_token[token] != 1]


def acknowledged_and_lost(evidence: Evidence) -> list[str]:
    """Facts that a process was told are durable, and that are not in the database."""
    return [f"{name} {key}" for name, key in evidence.acknowledged if key not in evidence.keys[name]]


def billed_without_intent(evidence: Evidence) -> list[str]:
    """Requests answered with 200 that no call on record stands for."""
    known = {call["call_id"] for call in evidence.calls}
    return [_name(request) for request in evidence.billed if _name(request) not in known]


def requests_without_intent(evidence: Evidence) -> list[str]:
    """Requests of any fate that no call on record stands for, or that share their call with another one."""
    known = {call["call_id"] for call in evidence.calls}
    times = Counter(_name(request) for request in evidence.requests)
    return [f"{name}: {count} requests" for name, count in times.items() if name not in known or count > 1]


def billed_again_after_recorded(evidence: Evidence) -> list[str]:
    """Calls billed although a whole reply to the same request for the same row and question was on record, from the
    same lineage, before they were sent."""
    answered = defaultdict(list)
    for call in evidence.calls:
        if call["outcome"] == "success":
            answered[_about(call)].append(call)
    billed = {_name(request) for request in evidence.billed}
    return [
        f"{call['call_id']} after {earlier['call_id']}"
        for call in evidence.calls
        for earlier in answered[_about(call)]
        if call["call_id"] in billed and earlier is not call and earlier["received_at"] < call["sent_at"]
    ]


def _about(call: dict[str, Any]) -> tuple[str, ...]:
    return call["root_run_id"], call["row_key"], call["query_key"], call["request_hash"]


def billed_twice_and_not_listed(evidence: Evidence) -> list[str]:
    """Requests billed to a lineage more often than one plus its calls for them that are on record as unknown."""
    root = {call["call_id"]: call["root_run_id"] for call in evidence.calls}
    bills = Counter((root.get(_name(request)), request["sha256"]) for request in evidence.billed)
    unknown = Counter(_asked(call) for call in evidence.calls if call["outcome"] == "unknown")
    return [f"{asked}: {n} bills, {unknown[asked]} unknown" for asked, n in bills.items() if n > 1 + unknown[asked]]


def _asked(call: dict[str, Any]) -> tuple[str, str]:
    return call["root_run_id"], call["request_hash"]


def lineages_broken(evidence: Evidence) -> list[str]:
    """Runs that ask everything anew although the run of the slice before them had not completed when they began."""
    in_turn = pairwise(evidence.runs)
    return [run["run_id"] for before, run in in_turn if _stands_alone(run) and not _is_over(before, run["started_at"])]


def _stands_alone(run: dict[str, Any]) -> bool:
    return bool(run["root_run_id"] == run["run_id"])


def _is_over(run: dict[str, Any], when: int) -> bool:
    return run["status"] == "completed" and run["ended_at"] <= when


def replies_made_up(evidence: Evidence) -> list[str]:
    """Whole replies on record for which the provider has no request that it answered with 200."""
    billed = {_name(request) for request in evidence.billed}
    return [
        call["call_id"] for call in evidence.calls if call["outcome"] == "success" and call["call_id"] not in billed
    ]


def calls_left_open(evidence: Evidence) -> list[str]:
    """Calls that have neither a reply nor count as unknown."""
    return [call["call_id"] for call in evidence.calls if call["outcome"] is None]


def states_left_open(evidence: Evidence) -> list[str]:
    """Node states without an end."""
    return [f"{state['node_id']} {state['state_id']}" for state in evidence.open_states]


def runs_left_open(evidence: Evidence) -> list[str]:
    """Runs without an end, and a slice of which no run completed."""
    open_ = [run["run_id"] for run in evidence.runs if run["status"] is None]
    return open_ if evidence.completed else [*open_, "no run completed"]


def tables_torn(evidence: Evidence) -> list[str]:
    """Files in a table's place that were not whole, after any launch."""
    return evidence.torn


def results_differ(evidence: Evidence) -> list[str]:
    """`results` that are not, byte for byte, those of a run of the same slice that nobody disturbed."""
    return [] if evidence.tables["results"] == evidence.undisturbed else ["results.parquet"]


def tables_not_on_record(evidence: Evidence) -> list[str]:
    """Tables that are missing, or whose bytes are not those of an artifact of the run that completed."""
    return [
        name
        for name, data in evidence.tables.items()
        if data is None or (f"trial/{name}", hashlib.sha256(data).digest()) not in evidence.artifacts
    ]


MUST_BE_NOTHING: tuple[Callable[[Evidence], list[str]], ...] = (
    rows_without_one_outcome,
    acknowledged_and_lost,
    billed_without_intent,
    requests_without_intent,
    billed_again_after_recorded,
    billed_twice_and_not_listed,
    lineages_broken,
    replies_made_up,
    calls_left_open,
    states_left_open,
    runs_left_open,
    tables_torn,
    tables_not_on_record,
    results_differ,
)


# What is counted -----------------------------------------------------------------------------------------------------


def counts(evidence: Evidence) -> dict[str, int]:
    """What there was: facts acknowledged, calls on record, requests the provider saw to their end, bills; calls listed
    as unknown, bills beyond the first for a request of a lineage, and those for a request that another lineage had
    been billed for: a launch after a run that completed, if only by a step without its worker, asks anew."""
    root = {call["call_id"]: call["root_run_id"] for call in evidence.calls}
    in_lineages = Counter((root.get(_name(request)), request["sha256"]) for request in evidence.billed)
    in_all = {request["sha256"] for request in evidence.billed}
    return {
        "rows": len(evidence.expected_keys),
        "runs": len(evidence.runs),
        "runs_completed": len(evidence.completed),
        "facts_acknowledged": len(evidence.acknowledged),
        "attempts_on_record": len(evidence.calls),
        "requests_received": len(evidence.requests),
        "billed": len(evidence.billed),
        "unknown_listed": sum(call["outcome"] == "unknown" for call in evidence.calls),
        "billed_twice": in_lineages.total() - len(in_lineages),
        "billed_anew_by_another_lineage": len(in_lineages) - len(in_all),
    }


def wrong(evidence: Evidence) -> dict[str, list[str]]:
    """Every figure that must be nothing, by name."""
    return {figure.__name__: figure(evidence) for figure in MUST_BE_NOTHING}


def _name(request: dict[str, Any]) -> str:
    return str(request["headers"].get("x-client-request-id"))


def dump(found: dict[str, list[str]]) -> str:
    """The first of what is wrong, for a person."""
    return json.dumps({name: what[:5] for name, what in found.items() if what}, indent=1)

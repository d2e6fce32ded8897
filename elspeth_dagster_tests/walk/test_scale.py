"""What a larger run may not cost: an event per row, a query per question, a slice in memory."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from elspeth_dagster import aggregating, collecting, paging
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts


def events(result: dg.ExecuteInProcessResult) -> Counter[str]:
    """How many events of each type a run has; those that tell of a template for the first time are left out."""
    counted = Counter(event.event_type_value for event in result.all_events)
    del counted["ASSET_OBSERVATION"]
    return counted


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL that is executed while the block runs."""
    seen: list[str] = []

    def see(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        seen.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", see)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", see)


def looked_up(seen: list[str]) -> int:
    """How many statements looked replies up."""
    return sum(one.startswith("SELECT calls.call_id") and "JOIN node_states" in one for one in seen)


def test_a_step_has_as_many_events_for_a_thousand_rows_as_for_ten(sqlite_project: Project) -> None:
    sqlite_project.declare(criteria=[{"name": "clarity"}])
    sqlite_project.write_rows(rows_of_texts(10))
    few = sqlite_project.run()
    sqlite_project.write_rows(rows_of_texts(1000))
    many = sqlite_project.run(reuse="none")
    assert few.success and many.success
    assert sqlite_project.fact("SELECT count(*) FROM calls") == 2020
    assert events(many) == events(few)


def test_a_run_that_goes_on_looks_replies_up_many_at_a_time(project: Project, server: FaultServer) -> None:
    project.declare()
    project.write_rows(rows_of_texts(30))
    assert project.run().success
    server.reset()
    with statements() as seen:
        assert project.run(reuse="lineage").success
    assert server.stats()["received"] == 0
    assert looked_up(seen) == 2  # those that each of the two runs made


@pytest.mark.parametrize("bounds", [{"QUESTIONS_A_PAGE": 4, "PAGES_KEPT": 1}, {"BYTES_A_PAGE": 10}])
def test_a_reply_that_is_on_no_page_is_found_all_the_same(
    project: Project, server: FaultServer, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, int]
) -> None:
    project.declare()
    project.write_rows(rows_of_texts(6))
    assert project.run().success
    recorded = project.table("results")
    server.reset()
    for name, value in bounds.items():
        monkeypatch.setattr(paging, name, value)
    assert project.run(reuse="lineage").success
    assert server.stats()["received"] == 0
    assert project.table("results").equals(recorded)


def test_tables_are_the_same_whatever_is_read_at_a_time(
    sqlite_project: Project, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(7))
    assert sqlite_project.run().success
    recorded = sqlite_project.table("results")
    monkeypatch.setattr(collecting, "ANSWERS_AT_ONCE", 1)
    with statements() as seen:
        assert sqlite_project.run(reuse="lineage").success
    assert sqlite_project.table("results").equals(recorded)
    assert sum("FROM answers" in one for one in seen) > 7


def test_small_batches_are_put_on_record_together(sqlite_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregating, "ROWS_AT_ONCE", 4)
    sqlite_project.declare(aggregate={"rows": 1})
    sqlite_project.write_rows(rows_of_texts(9))
    with statements() as seen:
        assert sqlite_project.run().success
    assert sum(one.startswith("INSERT INTO batches") for one in seen) == 3
    assert sqlite_project.fact("SELECT count(*) FROM batches") == 9

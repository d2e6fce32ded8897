"""A plan says what the walk then does: the same batches, the same steps, and the partitions that there are."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from elspeth_dagster.core.errors import SpecError
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.stages import estimating
from elspeth_dagster.stages.estimating import Load, load_of
from elspeth_dagster.stages.planning import Rejected, between, partition_keys, run_plan, slice_of
from elspeth_dagster_tests.stages.declared import assessment

ROW: dict[str, Any] = {"id": "R1", "region": "n", "cs1_text": "one", "cs2_text": "two"}
TODAY = date(2026, 2, 3)


def with_partitions(**partitions: Any) -> AssessmentSpec:
    path = "{date}/{region}.csv" if "multi" in partitions else "{partition}.csv"
    return assessment({"partitions": partitions, "source.path": path}).spec


def test_records_are_cut_as_the_walk_cuts_them() -> None:
    asked = assessment({"aggregate": {"rows": 4, "group_by": ["region"]}, "rows_per_step": 6})
    south = {**ROW, "region": "s"}
    records = [*[ROW] * 9, Rejected(), *[south] * 3]
    one, two = (slice_of(asked, key, records, bounded_schema=False) for key in ("a", "b"))
    assert (one.sizes.tolist(), one.rejections, one.load.calls) == ([4, 4, 1, 3], 1, 48)
    plan = run_plan(asked.spec, [one, two])
    assert plan.partitions == ("a", "b") and plan.missing == ()
    assert (plan.rows, plan.rejections, plan.batches, plan.steps, plan.calls) == (24, 2, 8, 6, 96)


def test_a_million_rows_make_some_32_steps() -> None:
    asked = assessment({"aggregate": {"rows": 7}})
    of_rows = slice_of(asked, None, [ROW] * 70, bounded_schema=False)
    many = slice_of(asked, None, (), bounded_schema=False)
    many.sizes.extend([7] * (1_000_000 // 7))
    object.__setattr__(many, "load", Load(1_000_000, 0, 0))
    assert run_plan(asked.spec, [of_rows]).steps == 1
    assert run_plan(asked.spec, [many]).steps == 33


def test_a_trigger_that_cant_be_evaluated_is_told_with_its_row() -> None:
    asked = assessment({"aggregate": {"when": "row.region > 3"}})
    with pytest.raises(SpecError, match="row 1 "):
        slice_of(asked, None, [ROW], bounded_schema=False)


def test_of_many_rows_some_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = assessment()
    whole = load_of(asked, [ROW] * 40, bounded_schema=False)
    monkeypatch.setattr(estimating, "ROWS_SEEN_WHOLE", 10)
    monkeypatch.setattr(estimating, "ROWS_FOR_ONE", 5)
    put = []
    measured = estimating._size
    monkeypatch.setattr(estimating, "_size", lambda *words: put.append(1) or measured(*words))
    assert load_of(asked, [ROW] * 40, bounded_schema=False) == whole
    assert len(put) == 4 * (10 + 7)


def test_rows_that_come_late_are_not_taken_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "ROWS_SEEN_WHOLE", 10)
    asked, longer = assessment(), {**ROW, "cs1_text": "long " * 100}
    rows = [*[ROW] * 10, *[longer] * 1000]
    exact = sum(load_of(asked, [row] * number, bounded_schema=False).request_bytes for row, number in ((ROW, 10),))
    exact += 100 * load_of(asked, [longer] * 10, bounded_schema=False).request_bytes
    assert load_of(asked, rows, bounded_schema=False) == Load(1010, 4040, exact)


def test_all_partitions_are_those_that_there_are_today() -> None:
    assert partition_keys(with_partitions(static=["n", "s"]), TODAY) == ["n", "s"]
    days = ["2026-01-31", "2026-02-01", "2026-02-02"]
    assert partition_keys(with_partitions(daily="2026-01-31"), TODAY) == days
    assert partition_keys(with_partitions(daily="2026-01-31", until="2026-02-01"), TODAY) == days[:2]
    assert partition_keys(with_partitions(daily="2026-03-01"), TODAY) == []
    both = with_partitions(multi={"region": {"static": ["n", "s"]}, "date": {"daily": "2026-02-01"}})
    assert partition_keys(both, TODAY) == ["2026-02-01|n", "2026-02-01|s", "2026-02-02|n", "2026-02-02|s"]


def test_a_range_has_both_of_its_ends() -> None:
    assert between(["a", "b", "c", "d"], "b...c") == ["b", "c"]
    with pytest.raises(SpecError, match="'e'"):
        between(["a", "b"], "a...e")


def test_partitions_that_only_dagster_knows_are_to_be_named() -> None:
    with pytest.raises(SpecError, match="name each by --partition"):
        partition_keys(with_partitions(dynamic="tenders"), TODAY)
    with pytest.raises(SpecError, match="no partitions"):
        partition_keys(assessment().spec, TODAY)

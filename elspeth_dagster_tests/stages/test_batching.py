"""Rows into batches, batches into shards: nothing is lost, nothing is doubled, and the trigger told is the one."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from elspeth_dagster.core.spec import AggregateSpec
from elspeth_dagster.stages.batching import STEPS_A_RUN, Flush, aggregate, rows_per_step, shards

Row = tuple[str, dict[str, object]]
rows = st.lists(st.fixed_dictionaries({"region": st.sampled_from(["n", "s"]), "last": st.booleans()}), max_size=30).map(
    lambda values: [(f"T{n}", value) for n, value in enumerate(values)]
)
specs = st.builds(
    AggregateSpec,
    rows=st.integers(1, 5),
    group_by=st.sampled_from([[], ["region"], ["region", "last"]]),
    when=st.sampled_from([None, "row.last", "row['last'] and row.region == 'n'"]),
)


def says(when: str | None, values: dict[str, object]) -> bool:
    """What the expressions above come to, by hand."""
    return when is not None and bool(values["last"]) and (when == "row.last" or values["region"] == "n")


@given(rows, specs)
def test_every_row_is_in_one_batch_in_source_order(rows: list[Row], spec: AggregateSpec) -> None:
    flushes = list(aggregate(rows, spec))
    assert sorted((token for flush in flushes for token in flush.tokens), key=lambda t: int(t[1:])) == [
        t for t, _ in rows
    ]
    for flush in flushes:
        places = [int(token[1:]) for token in flush.tokens]
        assert places == sorted(places)
        assert 1 <= len(places) <= spec.rows


@given(rows, specs)
def test_a_batch_only_holds_rows_of_one_group(rows: list[Row], spec: AggregateSpec) -> None:
    values = dict(rows)
    for flush in aggregate(rows, spec):
        assert len({tuple(values[token][column] for column in spec.group_by) for token in flush.tokens}) == 1


@given(rows, specs)
def test_the_trigger_that_fired_is_told(rows: list[Row], spec: AggregateSpec) -> None:
    values = dict(rows)
    for flush in aggregate(rows, spec):
        *before, last = flush.tokens
        assert not any(says(spec.when, values[token]) for token in before)
        match flush.trigger:
            case "when":
                assert says(spec.when, values[last])
            case "rows":
                assert len(flush.tokens) == spec.rows and not says(spec.when, values[last])
            case rest:
                assert rest == ("group_by" if spec.group_by else "end_of_slice")
                assert len(flush.tokens) < spec.rows and not says(spec.when, values[last])


@given(rows, specs)
def test_without_groups_batches_follow_each_other(rows: list[Row], spec: AggregateSpec) -> None:
    flushes = list(aggregate(rows, spec.model_copy(update={"group_by": []})))
    assert [token for flush in flushes for token in flush.tokens] == [token for token, _ in rows]
    assert all(flush.trigger in ("rows", "when") for flush in flushes[:-1])


def test_no_rows_make_no_batch() -> None:
    assert list(aggregate([], AggregateSpec(rows=1, group_by=["region"]))) == []


def test_rows_are_taken_one_by_one() -> None:
    taken = []

    def source() -> object:
        for token in ("T0", "T1", "T2"):
            taken.append(token)
            yield token, {}

    first = next(aggregate(source(), AggregateSpec(rows=2)))  # type: ignore[arg-type]
    assert first == Flush(("T0", "T1"), "rows") and taken == ["T0", "T1"]


def test_an_expression_that_a_row_cant_answer_raises() -> None:
    with pytest.raises(UndefinedError):
        list(aggregate([("T0", {"region": None})], AggregateSpec(when="row.region.name == 'n'")))


sizes = st.lists(st.integers(1, 8), max_size=30)


def flushes_of(sizes: list[int]) -> list[Flush]:
    return [Flush(tuple(f"T{n}_{i}" for i in range(size)), "rows") for n, size in enumerate(sizes)]


@given(sizes, st.integers(1, 20))
def test_shards_hold_all_batches_in_order_and_as_many_as_fit(sizes: list[int], most: int) -> None:
    flushes = flushes_of(sizes)
    planned = list(shards(flushes, most))
    assert [flush for _, flush in planned] == flushes
    held = [(key, [len(flush.tokens) for _, flush in group]) for key, group in groupby(planned, key=lambda one: one[0])]
    assert [key for key, _ in held] == [f"shard_{n:05d}" for n in range(1, len(held) + 1)]
    assert all(sum(shard) <= most or len(shard) == 1 for _, shard in held)
    assert all(sum(shard) + after[0] > most for (_, shard), (_, after) in pairwise(held))


@given(st.integers(1, 10**7), st.integers(0, 10**7))
def test_a_step_takes_as_many_rows_as_declared(declared: int, count: int) -> None:
    assert rows_per_step(declared, count) == declared


@given(st.integers(0, 10**7))
def test_by_itself_a_run_has_few_steps_that_each_are_worth_their_price(count: int) -> None:
    size = rows_per_step(None, count)
    assert size >= 1000
    assert -(-count // size) <= STEPS_A_RUN

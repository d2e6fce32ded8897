"""The quick part of the soak: a dozen kills on each database, the attempts, and that each fault put in is seen."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from elspeth_dagster_tests.soak.breaking import VARIANTS
from elspeth_dagster_tests.soak.checking import MUST_BE_NOTHING
from elspeth_dagster_tests.soak.failpoints import POINTS
from elspeth_dagster_tests.soak.kills import Kill, at_point
from elspeth_dagster_tests.soak.slices import Form
from elspeth_dagster_tests.soak.soaking import Soak, figures

SEED = 20261124
DOZEN = 12
NAMES = list(POINTS)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Which database; one after the other, each with one server."""
    return str(request.param)


@pytest.fixture(scope="session")
def soak(database_kind: str) -> Iterator[Soak]:
    with Soak.on(database_kind, SEED) as soak:
        yield soak


@pytest.fixture(scope="session")
def sqlite_soak() -> Iterator[Soak]:
    with Soak.on("sqlite", SEED) as soak:
        yield soak


def test_whatever_is_killed_the_launches_after_it_set_right(soak: Soak, database_kind: str) -> None:
    draw = random.Random(SEED)
    # In walk order, since later launches find on record what earlier ones asked; the databases share the points.
    kills = [at_point(draw, name) for name in NAMES[database_kind == "postgresql" :: 2]]
    kills += [Kill("moment", after=draw.uniform(0.5, 1.0)) for _ in range(DOZEN - len(kills))]
    tally = soak.run(kills, per_slice=(4, 4))
    assert len(tally.kills) == DOZEN
    assert tally.is_fine, figures(tally)


def test_attempts_on_record_are_the_requests_that_came(soak: Soak) -> None:
    tally = soak.run_undisturbed(Form(50, 1000, 20, 50))
    assert tally.is_fine, figures(tally)
    assert tally.counts["attempts_on_record"] == tally.counts["requests_received"] > 200


SEEN_BY = {
    "ack_before_commit": ("group_not_committed:15", ["acknowledged_and_lost"]),
    "send_before_record": ("reply_here_unrecorded:5", ["billed_without_intent", "requests_without_intent"]),
    "forget_replies": ("answer_on_record:9", ["billed_again_after_recorded"]),
    "hide_unknown": ("reply_here_unrecorded:5", ["billed_twice_and_not_listed", "calls_left_open"]),
    "leave_dead_runs": ("answer_on_record:3", ["runs_left_open", "states_left_open"]),
    "leave_tokens_without_fate": ("answer_on_record:3", ["rows_without_one_outcome"]),
    "write_in_place": ("half_a_table:1", ["tables_torn"]),
    "resume_by_halves": ("rows_admitted:1", ["results_differ", "rows_without_one_outcome"]),
    "forget_what_was_before": ("answer_on_record:3", ["lineages_broken"]),
    "make_replies_up": ("answer_on_record:9", ["replies_made_up"]),
    "lose_artifacts": ("table_on_record:1", ["tables_not_on_record"]),
}


@pytest.mark.parametrize("variant", SEEN_BY)
def test_a_fault_put_in_is_seen(sqlite_soak: Soak, variant: str) -> None:
    point, seen_in = SEEN_BY[variant]
    tally = sqlite_soak.run([Kill("point", where=point)], broken=variant)
    assert not tally.is_fine
    assert all(tally.wrong[figure] > 0 for figure in seen_in), figures(tally)


def test_a_retry_in_secret_is_seen(sqlite_soak: Soak) -> None:
    tally = sqlite_soak.run_undisturbed(Form(20, 1000, 20, 50), broken="retry_in_secret")
    assert tally.counts["requests_received"] > tally.counts["attempts_on_record"]
    assert tally.wrong["requests_without_intent"] > 0


def test_no_fault_is_left_out_and_no_figure() -> None:
    assert {*SEEN_BY, "retry_in_secret"} == VARIANTS.keys()
    assert {figure for _, seen_in in SEEN_BY.values() for figure in seen_in} == {
        figure.__name__ for figure in MUST_BE_NOTHING
    }

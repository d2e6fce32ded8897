"""The quick part of the soak: a dozen kills on each database, the attempts, and that each fault put in is seen."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from elspeth_dagster_tests.soak.breaking import VARIANTS
from elspeth_dagster_tests.soak.failpoints import POINTS
from elspeth_dagster_tests.soak.kills import Kill, at_point
from elspeth_dagster_tests.soak.slices import Form
from elspeth_dagster_tests.soak.soaking import Soak, Tally, figures

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
    "ack_before_commit": ("group_not_committed:15", "acknowledged_and_lost"),
    "send_before_record": ("reply_here_unrecorded:5", "billed_without_intent"),
    "forget_replies": ("answer_on_record:9", "billed_again_after_recorded"),
    "hide_unknown": ("reply_here_unrecorded:5", "billed_twice_and_not_listed"),
    "leave_dead_runs": ("answer_on_record:3", "runs_left_open"),
    "leave_tokens_without_fate": ("answer_on_record:3", "rows_without_one_outcome"),
    "write_in_place": ("half_a_table:1", "tables_torn"),
    "resume_by_halves": ("rows_admitted:1", "results_differ"),
}


@pytest.mark.parametrize(("variant", "point", "figure"), [(variant, *seen) for variant, seen in SEEN_BY.items()])
def test_a_fault_put_in_is_seen(sqlite_soak: Soak, variant: str, point: str, figure: str) -> None:
    tally = sqlite_soak.run([Kill("point", where=point)], broken=variant)
    assert not tally.is_fine
    assert tally.wrong[figure] > 0, figures(tally)


def test_a_retry_in_secret_is_seen(sqlite_soak: Soak) -> None:
    tally = sqlite_soak.run_undisturbed(Form(20, 1000, 20, 50), broken="retry_in_secret")
    assert tally.counts["requests_received"] > tally.counts["attempts_on_record"]
    assert tally.wrong["requests_without_intent"] > 0


def test_every_fault_is_put_in_by_a_test() -> None:
    assert {*SEEN_BY, "retry_in_secret"} == VARIANTS.keys()


def test_without_a_fault_the_same_kills_leave_nothing_wrong(sqlite_soak: Soak) -> None:
    points = sorted({point for point, _ in SEEN_BY.values()} - {"half_a_table:1"})
    tally: Tally = sqlite_soak.run([Kill("point", where=point) for point in points])
    assert tally.is_fine, figures(tally)

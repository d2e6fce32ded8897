"""A row keeps to its endpoint while that is well, rows are spread by weight, and nobody waits where nothing comes."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.stages.distributing import Standing, choose, ranking

WEIGHTS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=6)
KEYS = st.text(max_size=20)
STANDINGS = st.lists(st.builds(Standing, st.booleans(), st.booleans()), min_size=1, max_size=6)


def pool(weights: list[float]) -> list[tuple[str, float]]:
    return [(f"endpoint{place}", weight) for place, weight in enumerate(weights)]


@given(KEYS, WEIGHTS)
def test_a_row_ranks_every_endpoint_once(key: str, weights: list[float]) -> None:
    assert sorted(ranking(key, pool(weights))) == list(range(len(weights)))


@given(KEYS, WEIGHTS, st.data())
def test_an_endpoint_that_is_taken_out_moves_only_its_own_rows(
    key: str, weights: list[float], data: st.DataObject
) -> None:
    endpoints = pool(weights)
    gone = data.draw(st.integers(0, len(weights) - 1))
    before = [endpoints[place] for place in ranking(key, endpoints) if place != gone]
    left = [endpoint for place, endpoint in enumerate(endpoints) if place != gone]
    assert [left[place] for place in ranking(key, left)] == before


@given(KEYS, WEIGHTS, st.data())
def test_more_weight_never_makes_a_row_like_an_endpoint_less(
    key: str, weights: list[float], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(weights) - 1))
    heavier = [weight * 3 if one == place else weight for one, weight in enumerate(weights)]
    assert ranking(key, pool(heavier)).index(place) <= ranking(key, pool(weights)).index(place)


def test_a_row_keeps_its_endpoint_in_any_process_and_release() -> None:
    endpoints = [("sweden", 1.0), ("france", 2.0), ("japan", 1.0)]
    known = {"S-1001": "france", "S-1002": "japan", "S-1003": "france", "S-1004": "japan", "": "france"}
    assert {key: endpoints[ranking(key, endpoints)[0]][0] for key in known} == known


def test_rows_are_spread_by_weight_also_where_the_first_is_left_out() -> None:
    weights, rows = [1.0, 2.0, 5.0], 20_000
    ranked = [ranking(f"R{number}", pool(weights)) for number in range(rows)]
    for firsts, among in (
        ([one[0] for one in ranked], (0, 1, 2)),
        ([next(place for place in one if place != 2) for one in ranked], (0, 1)),
    ):
        for place in among:
            part = weights[place] / sum(weights[one] for one in among)
            assert abs(firsts.count(place) - rows * part) < 5 * math.sqrt(rows * part * (1 - part))


@given(STANDINGS, st.booleans(), st.data())
def test_only_one_that_is_well_is_chosen_and_one_is_where_any_is(
    standings: list[Standing], patient: bool, data: st.DataObject
) -> None:
    ranked = data.draw(st.permutations(range(len(standings))))
    tried = data.draw(st.sets(st.integers(0, len(standings) - 1)))
    place = choose(ranked, standings, tried, is_patient=patient)
    assert (place is None) == (not any(one.is_well for one in standings))
    if place is None:
        return
    assert standings[place].is_well
    untried = [one for one in ranked if standings[one].is_well and one not in tried]
    if untried and (patient or not any(one.is_well and one.has_room for one in standings)):
        assert place == untried[0]


@given(STANDINGS, st.data())
def test_a_patient_row_keeps_to_its_endpoint_and_an_impatient_one_goes_where_room_is(
    standings: list[Standing], data: st.DataObject
) -> None:
    ranked = data.draw(st.permutations(range(len(standings))))
    well = [place for place in ranked if standings[place].is_well]
    roomy = [place for place in well if standings[place].has_room]
    if well:
        assert choose(ranked, standings, is_patient=True) == well[0]
        assert choose(ranked, standings, is_patient=False) == (roomy or well)[0]

"""When a file that arrives is complete, and which files leave an inbox together."""

from __future__ import annotations

from elspeth_dagster.core.timing_spec import SensorSpec
from elspeth_dagster.stages.settling import Sighting, Version, complete, flushes, kept, looked, remembered

OLD, NEW = Version(5, "1"), Version(9, "2")


def whole(
    seen: dict[str, Sighting], found: dict[str, Version], now: float, marked: tuple[str, ...] = (), **sensor: object
) -> list[str]:
    return list(complete(looked(seen, found, now), marked, SensorSpec.model_validate(sensor), now))


def test_a_file_is_complete_when_it_has_stayed_the_same_for_long_enough() -> None:
    seen = looked({}, {"a": OLD}, 100)
    assert whole(seen, {"a": OLD}, 109, settled_seconds=10) == []
    assert whole(seen, {"a": OLD}, 110, settled_seconds=10) == ["a"]


def test_a_file_that_changes_begins_to_settle_anew() -> None:
    seen = looked({}, {"a": OLD}, 100)
    for changed in (NEW, Version(OLD.size, "2"), Version(6, OLD.stamp)):
        again = looked(seen, {"a": changed}, 109)
        assert whole(again, {"a": changed}, 111, settled_seconds=10) == []
        assert whole(again, {"a": changed}, 119, settled_seconds=10) == ["a"]


def test_a_file_that_went_and_came_back_begins_anew_and_one_that_is_gone_is_forgotten() -> None:
    seen = looked(looked({}, {"a": OLD}, 100), {}, 105)
    assert seen == {}
    assert whole(seen, {"a": OLD}, 111) == []


def test_an_old_file_is_seen_twice_too_since_its_own_time_may_be_its_original_s() -> None:
    assert whole({}, {"a": OLD}, 1_000_000) == []


def test_an_empty_file_is_about_to_be_written() -> None:
    empty = Version(0, "1")
    assert whole({"a": Sighting(empty, 0)}, {"a": empty}, 1000) == []
    assert whole({}, {"a": empty}, 1000, ("a",), marker=".done") == ["a"]


def test_with_a_marker_only_that_counts() -> None:
    found = {"a": OLD, "b": OLD}
    assert whole({"a": Sighting(OLD, 0), "b": Sighting(OLD, 0)}, found, 1000, ("b",), marker=".done") == ["b"]


def test_what_was_seen_is_the_same_after_it_was_kept() -> None:
    seen = looked({}, {"a": OLD, "b": NEW}, 100.5)
    assert remembered(kept(seen)) == seen


def waiting(**since: float) -> dict[str, Sighting]:
    return {name: Sighting(OLD, at) for name, at in since.items()}


def test_as_many_files_as_were_declared_leave_at_once_and_the_rest_waits() -> None:
    sensor = SensorSpec(files=2, max_age_seconds=60)
    assert flushes(waiting(a=1, b=2, c=3, d=4, e=5), sensor, 50, 1000) == [["a", "b"], ["c", "d"]]
    assert flushes(waiting(a=1), sensor, 50, 1000) == []


def test_the_rest_leaves_when_the_oldest_of_it_has_waited_long_enough() -> None:
    sensor = SensorSpec(files=2, max_age_seconds=60)
    assert flushes(waiting(a=1, b=2, c=3), sensor, 62, 1000) == [["a", "b"]]
    assert flushes(waiting(a=1, b=2, c=3), sensor, 63, 1000) == [["a", "b"], ["c"]]


def test_without_a_number_age_alone_counts_and_no_group_is_too_large() -> None:
    sensor = SensorSpec(max_age_seconds=60)
    assert flushes(waiting(a=1, b=2), sensor, 60, 1000) == []
    assert flushes(waiting(a=1, b=2), sensor, 61, 1000) == [["a", "b"]]
    assert flushes(waiting(a=1, b=2, c=3), sensor, 60, 2) == [["a", "b"]]

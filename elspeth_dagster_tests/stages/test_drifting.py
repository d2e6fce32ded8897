"""What can't be told apart has not drifted."""

from elspeth_dagster.stages.drifting import compare


def test_of_one_number_against_one_nothing_can_be_said() -> None:
    [one] = compare([("score", [100], [1])])
    assert (one.distance, one.p_value) == (1.0, 1.0)

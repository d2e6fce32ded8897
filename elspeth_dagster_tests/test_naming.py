"""How many names are told in a sentence."""

import pytest

from elspeth_dagster.core.naming import in_order


@pytest.mark.parametrize(
    ("names", "told"),
    [([], ""), (["north"], "north"), (list("abcde"), "a, b, c, d, e"), (list("abcdef"), "a … f (6)")],
)
def test_of_many_names_in_order_the_first_and_the_last_are_told(names: list[str], told: str) -> None:
    assert in_order(names) == told

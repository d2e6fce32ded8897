"""The provider's settings are refused where they can't work, by name and before anything runs."""

import pytest
from pydantic import ValidationError

from elspeth_dagster import LLMResource


@pytest.mark.parametrize("name", ["max_concurrency", "min_concurrency", "requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("value", [0, -1, 10**10])
def test_a_limit_of_nothing_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValidationError, match=name):
        LLMResource(provider="openai", **{name: value})


@pytest.mark.parametrize(
    ("provider", "bounds"),
    [
        ("openai", {"min_concurrency": 5, "max_concurrency": 4}),
        ("openai", {"min_concurrency": 65}),
        ("local", {"min_concurrency": 2}),
    ],
)
def test_bounds_that_leave_nothing_between_them_are_refused_by_both_names(
    provider: str, bounds: dict[str, int]
) -> None:
    with pytest.raises(ValidationError, match=r"min_concurrency is \d+, more than max_concurrency"):
        LLMResource(provider=provider, **bounds)


def test_how_many_at_a_time_follows_from_who_is_asked() -> None:
    assert LLMResource(provider="openai").concurrency == 64
    assert LLMResource(provider="local").concurrency == 1
    assert LLMResource(provider="local", max_concurrency=4).concurrency == 4

"""Costs are those of the price list, to the nano-dollar."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import genai_prices
import pytest
from genai_prices.data import providers
from hypothesis import given, settings
from hypothesis import strategies as st

from elspeth_dagster.core.spec import PriceSpec
from elspeth_dagster.llm.prices import bound_nanousd, cost_nanousd, listing_of
from elspeth_dagster.stages.calling import Usage

MODELS = [
    (provider.id, model.id) for provider in providers if provider.id in ("openai", "azure") for model in provider.models
]
TOKENS = st.integers(min_value=0, max_value=2_000_000)


def test_a_known_model_costs_what_its_listed_rates_multiply_to() -> None:
    model = next(
        model
        for provider in providers
        if provider.id == "openai"
        for model in provider.models
        if model.id == "gpt-4o-mini"
    )
    rates = model.prices
    assert isinstance(rates, genai_prices.types.ModelPrice)
    dollars_per_million = rates.input_mtok * 990 + rates.cache_read_mtok * 10 + rates.output_mtok * 100  # type: ignore[operator]
    assert cost_nanousd("openai", "gpt-4o-mini", Usage(1000, 100, 10)) == dollars_per_million * 1000


def test_a_dated_model_name_is_the_same_model() -> None:
    usage = Usage(1234, 56)
    assert cost_nanousd("openai", "gpt-4o-mini-2024-07-18", usage) == cost_nanousd("openai", "gpt-4o-mini", usage)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODELS), TOKENS, TOKENS, st.floats(0, 1))
def test_every_listed_model_costs_what_the_library_says(
    listed: tuple[str, str], prompt: int, completion: int, share: float
) -> None:
    provider, model = listed
    cached = int(prompt * share)
    cost = cost_nanousd(provider, model, Usage(prompt, completion, cached))
    if cost is not None:
        usage = genai_prices.Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
        dollars = genai_prices.calc_price(usage, model, provider_id=provider).total_price
        assert cost == int((dollars * 10**9).to_integral_value(ROUND_HALF_EVEN))


def test_most_listed_models_have_a_cost() -> None:
    costs = [cost_nanousd(provider, model, Usage(1000, 1000, 0)) for provider, model in MODELS]
    assert sum(cost is not None and cost > 0 for cost in costs) > 0.7 * len(costs)


def test_a_long_prompt_pays_its_tier() -> None:
    tiered = genai_prices.types.TieredPrices
    provider, model = next(
        (provider.id, model.id)
        for provider in providers
        for model in provider.models
        if isinstance(model.prices, genai_prices.types.ModelPrice) and isinstance(model.prices.input_mtok, tiered)
    )
    short, long = (cost_nanousd(provider, model, Usage(tokens, 0)) for tokens in (1000, 1_000_000))
    assert short is not None
    assert long is not None
    assert long > 1000 * short


@pytest.mark.parametrize("model", ["", "my-deployment", "gpt", "llama.gguf", "\x00", "é" * 300])
def test_an_unknown_model_has_no_cost_rather_than_none_at_all(model: str) -> None:
    assert cost_nanousd("openai", model, Usage(1000, 100)) is None


def test_an_unknown_provider_has_no_cost() -> None:
    assert cost_nanousd("nobody", "gpt-4o-mini", Usage(1000, 100)) is None


@pytest.mark.parametrize(
    "usage",
    [
        None,
        Usage(None, 100),
        Usage(1000, None),
        Usage(-1, 100),
        Usage(1000, -1),
        Usage(10, 1, 11),
        Usage(10, 1, -1),
    ],
)
def test_usage_that_is_not_reported_or_impossible_has_no_cost(usage: Usage | None) -> None:
    assert cost_nanousd("openai", "gpt-4o-mini", usage) is None


def test_a_local_model_costs_nothing() -> None:
    assert cost_nanousd("local", "gpt-4o-mini", Usage(1000, 100)) == 0
    assert cost_nanousd("local", "anything", None) == 0


def test_half_a_nano_dollar_is_rounded_to_even() -> None:
    entry = genai_prices.calc_price(genai_prices.Usage(), "command-r7b", provider_id="cohere")
    rate = entry.model_price.input_mtok
    assert isinstance(rate, Decimal)
    exact = [Fraction(rate) * 1000 * tokens for tokens in range(1, 9)]
    assert any(nano.denominator == 2 for nano in exact)
    assert [cost_nanousd("cohere", "command-r7b", Usage(tokens, 0)) for tokens in range(1, 9)] == [
        round(nano) for nano in exact
    ]


def test_usage_that_lies_costs_nothing_that_is_known() -> None:
    assert cost_nanousd("openai", "gpt-4o", Usage(2**53 - 2, 1)) is None


def test_a_bound_holds_for_a_prompt_that_a_dear_cache_knows() -> None:
    own = listing_of(PriceSpec(input_mtok=1, output_mtok=1, cache_read_mtok=5))
    bound, cost = bound_nanousd("openai", "m", 1000, 10, own), cost_nanousd("openai", "m", Usage(1000, 10, 1000), own)
    assert bound is not None and cost is not None and bound >= cost

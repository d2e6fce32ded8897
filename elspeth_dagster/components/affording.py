"""Whether a budget can be kept at all in this deployment: known before a run, by its provider and its prices."""

import os
from collections.abc import Iterator

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.pooling import endpoints_in, prices
from elspeth_dagster.core.settings import Settings
from elspeth_dagster.core.spec import Problem
from elspeth_dagster.stages.estimating import cheapest_request

MAX_COST = ("budget", "max_cost_usd")
NANO = 10**9


def deployment_settings() -> Settings:
    """The environment's settings: a budget is judged by the provider that they name."""
    return Settings.from_env(os.environ)


def budget_problems(assessment: Assessment, settings: Settings) -> Iterator[Problem]:
    """Why a money budget can't be kept with this model, or pays for no call. The assessment itself must be sound."""
    budget, llm = assessment.spec.budget, assessment.spec.llm
    if budget is None or budget.max_cost_usd is None:
        return
    # Here, because few assessments have a money budget, and the price list is slow to import.
    from elspeth_dagster.llm.prices import bound_nanousd, listing_of

    provider = settings.provider
    endpoints = llm.endpoints or endpoints_in(settings.endpoints_path)
    listings = [listing_of(price) for price, _ in prices(endpoints, llm.price)]
    cheapest = cheapest_request(assessment, bounded_schema=provider == "local")
    if None in (bound_nanousd(provider, llm.model_name, 0, 0, one) for one in listings):
        yield Problem(MAX_COST, f"No price of {provider} is known for `{llm.model_name}` (llm.model_name), so nobody "
                      "can say what is spent. Give `llm.price`, or limit `max_calls` instead.")  # fmt: skip
        return
    asked = provider, llm.model_name, len(cheapest.body), cheapest.max_tokens
    bounds = [bound for one in listings if (bound := bound_nanousd(*asked, one)) is not None]
    if len(bounds) < len(listings):
        yield Problem(MAX_COST, "A call can cost anything while its reply may have any length. Give `llm.max_tokens`, "
                      "or `max_completion_tokens` in `llm.options`.")  # fmt: skip
    elif (bound := max(bounds)) > budget.max_cost_usd * NANO:
        yield Problem(MAX_COST, f"It pays for no call: one can cost ${bound / NANO:.6f} before any row's text. Raise "
                      "it, or lower `llm.max_tokens`.")  # fmt: skip

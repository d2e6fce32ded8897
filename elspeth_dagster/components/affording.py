"""What an assessment's model costs in this deployment, and whether its budget can be kept at all.

A deployment's price becomes part of the assessment's configuration, so that the record says by which price a call was
counted.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.settings import ProviderName, Settings
from elspeth_dagster.core.spec import AssessmentSpec, PriceList, Problem
from elspeth_dagster.stages.estimating import cheapest_request

MAX_COST = ("budget", "max_cost_usd")
NANO = 10**9


def deployment_settings() -> Settings:
    """The environment's settings: a budget is judged by the provider that they name."""
    return Settings.from_env(os.environ)


def with_deployment_price(spec: AssessmentSpec, prices_path: str | None) -> AssessmentSpec:
    """The spec with the deployment's price for its model, where it declares none itself.

    Raises SettingsError when the price list can't be read.
    """
    if prices_path is None:
        return spec
    price = _price_list(Path(prices_path)).root.get(spec.llm.model_name)
    if spec.llm.price is not None or price is None:
        return spec
    return spec.model_copy(update={"llm": spec.llm.model_copy(update={"price": price})})


def _price_list(path: Path) -> PriceList:
    try:
        return PriceList.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise SettingsError(f"ELSPETH_PRICES: {path}, {where}: {first['msg']}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"ELSPETH_PRICES: {path} can't be read: {' '.join(str(error).split())}") from None


def budget_problems(assessment: Assessment, provider: ProviderName) -> Iterator[Problem]:
    """Why a money budget can't be kept with this model, or pays for no call. The assessment itself must be sound."""
    budget, llm = assessment.spec.budget, assessment.spec.llm
    if budget is None or budget.max_cost_usd is None:
        return
    # Here, because few assessments have a money budget, and the price list is slow to import.
    from elspeth_dagster.llm.prices import bound_nanousd, listing_of

    price, cheapest = listing_of(llm.price), cheapest_request(assessment, bounded_schema=provider == "local")
    if bound_nanousd(provider, llm.model_name, 0, 0, price) is None:
        yield Problem(MAX_COST, f"No price of {provider} is known for `{llm.model_name}` (llm.model_name), so nobody "
                      "can say what is spent. Give `llm.price`, or limit `max_calls` instead.")  # fmt: skip
        return
    bound = bound_nanousd(provider, llm.model_name, len(cheapest.body), cheapest.max_tokens, price)
    if bound is None:
        yield Problem(MAX_COST, "A call can cost anything while its reply may have any length. Give `llm.max_tokens`, "
                      "or `max_completion_tokens` in `llm.options`.")  # fmt: skip
    elif bound > budget.max_cost_usd * NANO:
        yield Problem(MAX_COST, f"It pays for no call: one can cost ${bound / NANO:.6f} before any row's text. Raise "
                      "it, or lower `llm.max_tokens`.")  # fmt: skip

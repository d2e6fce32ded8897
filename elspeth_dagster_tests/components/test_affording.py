"""A budget that can't be kept, or pays for nothing, is refused when definitions are loaded: the key and a remedy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elspeth_dagster.core.errors import SettingsError, SpecError
from elspeth_dagster_tests.project import Project

OWN = {"model_name": "gpt-4o-eu", "max_tokens": 100}
KNOWN = {"model_name": "gpt-4o-mini", "max_tokens": 100}
PRICE = {"input_mtok": 2.5, "output_mtok": 10}


def refusal(project: Project, **changes: Any) -> str:
    project.declare(**changes)
    with pytest.raises(Exception) as refused:
        project.definitions()
    error: BaseException | None = refused.value
    while error is not None and not isinstance(error, SpecError | SettingsError):
        error = error.__cause__ or error.__context__
    assert error is not None, refused.value
    return str(error)


def test_money_without_a_price_is_refused(project: Project) -> None:
    told = refusal(project, llm=OWN, budget={"max_cost_usd": 5})
    assert "attributes.budget.max_cost_usd" in told and "gpt-4o-eu" in told and "llm.price" in told


def test_money_is_fine_where_the_price_is_declared_listed_or_nothing(project: Project) -> None:
    project.declare(llm={**OWN, "price": PRICE}, budget={"max_cost_usd": 5})
    project.definitions()
    project.declare(llm=KNOWN, budget={"max_cost_usd": 5})
    project.definitions()
    project.env["ELSPETH_LLM"] = "local"
    project.declare(llm={"model_name": "own-model"}, budget={"max_cost_usd": 5})
    project.definitions()


def test_calls_need_no_price(project: Project) -> None:
    project.declare(llm={"model_name": "gpt-4o-eu"}, budget={"max_calls": 5})
    project.definitions()


def test_money_for_replies_of_any_length_is_refused(project: Project) -> None:
    told = refusal(project, llm={"model_name": "gpt-4o-mini"}, budget={"max_cost_usd": 5})
    assert "attributes.budget.max_cost_usd" in told and "llm.max_tokens" in told
    project.declare(
        llm={"model_name": "gpt-4o-mini", "options": {"max_completion_tokens": 9}}, budget={"max_cost_usd": 5}
    )
    project.definitions()


def test_a_budget_below_one_call_is_refused(project: Project) -> None:
    told = refusal(project, llm=KNOWN, budget={"max_cost_usd": 0.0000001})
    assert "attributes.budget.max_cost_usd: It pays for no call" in told


@pytest.mark.parametrize(
    ("budget", "key"),
    [
        ({"max_cost_usd": 0}, "budget.max_cost_usd"),
        ({"max_cost_usd": -1}, "budget.max_cost_usd"),
        ({"max_cost_usd": float("inf")}, "budget.max_cost_usd"),
        ({"max_calls": 0}, "budget.max_calls"),
        ({"max_calls": 1.5}, "budget.max_calls"),
        ({}, "budget"),
    ],
)
def test_a_budget_of_nothing_is_refused(project: Project, budget: dict[str, Any], key: str) -> None:
    assert f"attributes.{key}: " in refusal(project, llm=KNOWN, budget=budget)


@pytest.mark.parametrize("most", [-0.1, 1.5, "many"])
def test_failures_are_a_share_or_a_count(project: Project, most: object) -> None:
    assert "attributes.errors.max_failures: " in refusal(project, errors={"max_failures": most})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "can't be read"),
        ("gpt: {input_mtok: -1, output_mtok: 1}", "gpt.input_mtok"),
        ("gpt: {input_mtok: 1}", "gpt.output_mtok"),
        ("gpt: {input: 1}", "gpt"),
        ("{", "can't be read"),
    ],
)
def test_a_price_list_that_cant_be_read_is_named(project: Project, text: str | None, told: str) -> None:
    prices = project.folder / "prices.yaml"
    if text is not None:
        prices.write_text(text)
    project.env["ELSPETH_PRICES"] = str(prices)
    found = refusal(project)
    assert "ELSPETH_PRICES" in found and str(prices) in found and told in found


def test_the_dearest_endpoint_of_a_deployment_decides_whether_a_budget_can_be_kept(project: Project) -> None:
    file = project.folder / "endpoints.yaml"
    project.env["ELSPETH_ENDPOINTS"] = str(file)
    file.write_text(json.dumps([{"name": "a", "price": PRICE}, {"name": "b", "price": PRICE}]))
    project.declare(llm=OWN, budget={"max_cost_usd": 5})
    project.definitions()
    file.write_text(json.dumps([{"name": "a", "price": PRICE}, {"name": "b"}]))
    assert "gpt-4o-eu" in refusal(project, llm=OWN, budget={"max_cost_usd": 5})
    file.write_text(
        json.dumps([{"name": "a", "price": PRICE}, {"name": "b", "price": {**PRICE, "output_mtok": 10**6}}])
    )
    assert "It pays for no call" in refusal(project, llm=OWN, budget={"max_cost_usd": 5})


@pytest.mark.parametrize(
    ("endpoints", "told"),
    [
        ([], "attributes.llm.endpoints: The list is empty"),
        ([{"name": "a"}, {"name": "a"}], "attributes.llm.endpoints: Two endpoints are called `a`"),
        ([{"name": "a", "weight": 0}], "attributes.llm.endpoints[0].weight: "),
        ([{"name": "a", "model_name": "other"}], "attributes.llm.endpoints[0]: Take `model_name` out"),
        ([{"name": "a", "api_key": "sk-canary"}], "attributes.llm.endpoints[0].api_key: A secret is given by"),
    ],
)
def test_endpoints_that_make_no_pool_are_refused_by_key(
    project: Project, endpoints: list[dict[str, Any]], told: str
) -> None:
    found = refusal(project, llm={**OWN, "endpoints": endpoints})
    assert told in found and "canary" not in found


def test_what_decides_no_answer_changes_no_code_version(project: Project) -> None:
    def version() -> object:
        graph = project.definitions().resolve_asset_graph()
        return {str(key): graph.get(key).code_version for key in graph.get_all_asset_keys()}

    project.declare(llm=OWN)
    before = version()
    project.declare(
        llm={**OWN, "price": PRICE}, budget={"max_calls": 9}, errors={"retry_seconds": 10, "max_failures": 1}
    )
    assert version() == before
    project.declare(llm={**OWN, "endpoints": [{"name": "a", "api_key": {"env": "A"}}]})
    assert version() == before
    project.declare(llm={**OWN, "seed": 1})
    assert version() != before

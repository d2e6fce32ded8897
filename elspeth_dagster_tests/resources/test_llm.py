"""The provider's settings are refused where they can't work, by name and before anything runs."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from pydantic import ValidationError

from elspeth_dagster import LLMResource
from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.pooling import check_accounts, endpoints_in
from elspeth_dagster.core.spec import EndpointList


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


# Several endpoints ----------------------------------------------------------------------------------------------------

TWO = [{"name": "a", "base_url": "http://a/v1", "api_key": {"env": "KEY_A"}}, {"name": "b", "requests_per_minute": 60}]


def test_an_endpoint_is_the_resource_with_settings_of_its_own_but_no_credential_for_another_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY_A", "key-of-a")
    ours = {"api_key": "ours", "organization": "org", "headers": {"x": "secret"}, "timeout_seconds": 7}
    llm = LLMResource(provider="openai", tokens_per_minute=900, endpoints=TWO, **ours)
    a, b = (member.llm for member in llm.members(None))
    assert (a.api_key, a.organization, a.headers, a.base_url) == ("key-of-a", None, {}, "http://a/v1")
    assert (a.timeout_seconds, a.tokens_per_minute, a.requests_per_minute) == (7, 900, None)
    assert (b.api_key, b.organization, b.headers, b.requests_per_minute) == ("ours", "org", {"x": "secret"}, 60)


def test_a_variable_may_be_named_by_dagsters_own_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_A", "key-of-a")
    [member] = LLMResource(provider="openai", endpoints=[{"name": "a", "api_key": dg.EnvVar("KEY_A")}]).members(None)
    assert member.llm.api_key == "key-of-a"


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_told_by_endpoint_key_and_name(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEY_A", raising=False)
    if value is not None:
        monkeypatch.setenv("KEY_A", value)
    with pytest.raises(SettingsError, match=r"llm\.endpoints\.a\.api_key: the environment variable KEY_A is not set"):
        LLMResource(provider="openai", endpoints=TWO).members(None)


def test_bounds_that_only_an_endpoint_and_the_deployment_together_break_are_told_by_the_endpoint() -> None:
    llm = LLMResource(provider="openai", min_concurrency=8, endpoints=[{"name": "a", "max_concurrency": 4}])
    with pytest.raises(SettingsError, match=r"llm\.endpoints\.a: .*min_concurrency is 8, more than max_concurrency"):
        llm.members(None)


def test_several_bear_what_they_bear_together_and_without_a_limit_of_one_there_is_none_of_all() -> None:
    limited = [{"name": name, "requests_per_minute": 60 * place} for place, name in enumerate("ab", start=1)]
    llm = LLMResource(provider="openai", max_concurrency=10, tokens_per_minute=100, endpoints=limited)
    assert llm.capacity() == (20, 180, 200)
    assert LLMResource(provider="openai", endpoints=TWO).capacity() == (128, None, None)
    own = EndpointList.model_validate([{"name": "c", "max_concurrency": 3}]).root
    assert llm.capacity(own) == (3, None, 100)


@pytest.mark.parametrize(
    ("endpoints", "told"),
    [
        ([], "the list is empty"),
        ([{"name": "a"}, {"name": "a"}], "two endpoints are called `a`"),
        ([{"name": "a", "weight": 0}], r"0\.weight: Input should be greater than 0"),
        ([{"name": "a", "weight": -1}], r"0\.weight: "),
        ([{"name": "a", "weight": float("nan")}], r"0\.weight: "),
        ([{"name": "a", "model_name": "gpt-4o"}], "several accounts of one model.*azure_deployment"),
        ([{"name": "a"}, {"name": "b", "provider": "azure"}], r"1: take `provider` out"),
        (
            [{"name": "a", "min_concurrency": 5, "max_concurrency": 4}],
            "min_concurrency is 5, more than max_concurrency",
        ),
        ([{"name": "a", "requests_per_minute": 0}], r"0\.requests_per_minute: "),
        ([{"name": "a", "api_key": "sk-canary"}], r"0\.api_key: a secret is given by its variable's name"),
        ([{"name": "a", "headers": {"x": {"env": 7}}}], r"0\.headers\.x: it must be a text, or `\{env: NAME\}`"),
        ([{"name": "a", "base_url": "http://u:sk-canary@a/v1"}], r"0\.base_url: an address with a query or a user"),
        ([{"name": "a", "wait": 3}], r"0\.wait: "),
        ([{}], r"0\.name: "),
    ],
)
def test_endpoints_that_make_no_pool_are_refused_by_key_and_without_a_secret(
    endpoints: list[dict[str, Any]], told: str, tmp_path: Path
) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text(yaml.safe_dump(endpoints))
    with pytest.raises(SettingsError, match=rf"ELSPETH_ENDPOINTS: .*endpoints\.yaml, .*{told}") as of_file:
        endpoints_in(str(file))
    with pytest.raises(ValidationError, match=told) as of_resource:
        LLMResource(provider="openai", endpoints=endpoints)
    assert "canary" not in f"{of_file.value}{of_resource.value}"


@pytest.mark.parametrize("text", [None, "- {name: a, api_key: [sk-canary", "\ufffe"])
def test_a_file_of_endpoints_that_can_not_be_read_is_told_by_its_variable(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "endpoints.yaml"
    if text is not None:
        file.write_bytes(text.encode("utf-16-le"))
    with pytest.raises(SettingsError, match="ELSPETH_ENDPOINTS: ") as raised:
        endpoints_in(str(file))
    assert "canary" not in str(raised.value)


def test_deployments_of_azure_differ_in_their_address_and_their_accounts() -> None:
    ours = {"azure_endpoint": "https://ours", "api_key": "k", "api_version": "2024-10-21"}
    endpoints = [{"name": "a", "azure_deployment": "one"}, {"name": "b", "azure_deployment": "two"}]
    members = LLMResource(provider="azure", endpoints=endpoints, **ours).members(None)

    async def heads() -> list[tuple[str, str]]:
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(one.llm.wire("gpt-4o", one.declared)) for one in members]
            return [(json.loads(wire.head.evidence)["url"], wire.head.account) for wire in wires]

    (first, account), (second, other) = asyncio.run(heads())
    assert "/openai/deployments/one/chat/completions" in first and "/openai/deployments/two/" in second
    check_accounts({"a": account, "b": other})


def test_two_endpoints_that_are_the_same_account_are_refused_by_their_names() -> None:
    endpoints = [{"name": "a", "weight": 1}, {"name": "b", "weight": 2}]
    members = LLMResource(provider="openai", api_key="k", endpoints=endpoints).members(None)

    async def enter_all() -> None:
        async with AsyncExitStack() as stack:
            heads = {
                one.declared.name: (await stack.enter_async_context(one.llm.wire("m", one.declared))).head
                for one in members
            }
            assert {name: json.loads(head.evidence)["endpoint"] for name, head in heads.items()} == {"a": "a", "b": "b"}
            check_accounts({name: head.account for name, head in heads.items()})

    with pytest.raises(SettingsError, match=r"llm\.endpoints: a and b are the same account"):
        asyncio.run(enter_all())


def test_what_is_wrong_with_a_resource_is_told_without_its_key() -> None:
    with pytest.raises(ValidationError, match="min_concurrency is 9") as refused:
        LLMResource(provider="openai", api_key="sk-canary", min_concurrency=9, max_concurrency=3)
    assert "canary" not in str(refused.value)

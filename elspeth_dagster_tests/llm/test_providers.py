"""Settings that can't work are refused by name, and never shown."""

from __future__ import annotations

import dataclasses

import pytest
from openai import AsyncAzureOpenAI

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.llm.providers import ProviderSettings, openai_client

KEY = "sk-canary-0123456789"
OPENAI = ProviderSettings("openai", api_key=KEY)
AZURE = ProviderSettings("azure", api_key=KEY, azure_endpoint="https://team.openai.azure.com", api_version="2024-10-21")
LOCAL = ProviderSettings("local", base_url="http://127.0.0.1:8080/v1")


@pytest.mark.parametrize("settings", [OPENAI, AZURE, LOCAL])
def test_the_client_never_tries_again_by_itself(settings: ProviderSettings) -> None:
    assert openai_client(settings).max_retries == 0


def test_openai_is_asked_at_its_own_address_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.example/v1")
    assert str(openai_client(OPENAI).base_url) == "https://api.openai.com/v1/"


def test_azure_is_asked_by_its_own_client() -> None:
    assert isinstance(openai_client(AZURE), AsyncAzureOpenAI)


def test_organization_and_project_come_from_the_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-environment")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-environment")
    client = openai_client(dataclasses.replace(OPENAI, organization="org-settings"))
    assert (client.organization, client.project) == ("org-settings", None)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dataclasses.replace(OPENAI, api_key=None), "OPENAI_API_KEY is not set"),
        (dataclasses.replace(OPENAI, api_key=""), "OPENAI_API_KEY is not set"),
        (dataclasses.replace(OPENAI, api_key=KEY + "\n"), "OPENAI_API_KEY holds"),
        (dataclasses.replace(OPENAI, api_key=KEY + " x"), "OPENAI_API_KEY holds"),
        (dataclasses.replace(OPENAI, api_key=KEY + "é"), "OPENAI_API_KEY holds"),
        (dataclasses.replace(OPENAI, base_url="api.openai.com/v1"), "OPENAI_BASE_URL"),
        (dataclasses.replace(OPENAI, base_url="ftp://host/v1"), "OPENAI_BASE_URL"),
        (dataclasses.replace(OPENAI, base_url="https:///v1"), "OPENAI_BASE_URL"),
        (dataclasses.replace(OPENAI, base_url="https://host:port/v1"), "OPENAI_BASE_URL"),
        (dataclasses.replace(OPENAI, base_url=f"https://user:{KEY}@host/v1"), "OPENAI_BASE_URL"),
        (dataclasses.replace(AZURE, api_key=None), "AZURE_OPENAI_API_KEY is not set"),
        (dataclasses.replace(AZURE, azure_endpoint=None), "AZURE_OPENAI_ENDPOINT is not set"),
        (dataclasses.replace(AZURE, azure_endpoint=f"https://host/?code={KEY}"), "AZURE_OPENAI_ENDPOINT"),
        (dataclasses.replace(AZURE, api_version=None), "OPENAI_API_VERSION is not set"),
        (dataclasses.replace(LOCAL, base_url=None), "OPENAI_BASE_URL is not set"),
        (dataclasses.replace(LOCAL, timeout_seconds=0), "timeout_seconds"),
        (dataclasses.replace(LOCAL, timeout_seconds=float("nan")), "timeout_seconds"),
        (dataclasses.replace(LOCAL, headers={"x-team": f"{KEY}\r\nx-more: 1"}), "x-team"),
        (dataclasses.replace(LOCAL, headers={"x team": "1"}), "x team"),
        (dataclasses.replace(LOCAL, provider="anthropic"), "ELSPETH_LLM"),  # type: ignore[arg-type]
    ],
)
def test_a_setting_that_cannot_work_is_named_and_its_secret_is_not(settings: ProviderSettings, named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        openai_client(settings)
    assert named in str(refused.value)
    assert KEY not in str(refused.value)


def test_a_local_server_needs_no_key_but_may_have_one() -> None:
    openai_client(LOCAL)
    assert openai_client(dataclasses.replace(LOCAL, api_key=KEY)).api_key == KEY


def test_the_repr_of_settings_shows_no_secret() -> None:
    settings = dataclasses.replace(
        OPENAI, base_url=f"https://host/v1?key={KEY}", headers={"x-api-key": KEY}, azure_endpoint=KEY
    )
    assert KEY not in repr(settings)

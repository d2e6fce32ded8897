"""A deployment's settings follow from its environment, and what can't be understood is refused by name."""

import pytest

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.settings import Settings


@pytest.mark.parametrize(
    ("env", "provider"),
    [
        ({}, "local"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "local"),
        ({"OPENAI_API_KEY": "k"}, "openai"),
        ({"AZURE_OPENAI_ENDPOINT": "https://x"}, "azure"),
        ({"AZURE_OPENAI_API_KEY": "k", "OPENAI_API_KEY": "k"}, "azure"),
        ({"ELSPETH_LLM": "openai", "AZURE_OPENAI_API_KEY": "k"}, "openai"),
        ({"ELSPETH_LLM": "local", "OPENAI_API_KEY": "k"}, "local"),
    ],
)
def test_the_provider_is_the_one_named_or_else_the_one_whose_key_is_set(env: dict[str, str], provider: str) -> None:
    assert Settings.from_env(env).provider == provider


def test_the_local_model_is_asked_one_question_at_a_time_on_its_usual_port() -> None:
    settings = Settings.from_env({})
    assert (settings.base_url, settings.max_concurrency) == ("http://127.0.0.1:8080/v1", 1)


def test_the_landscape_is_beside_dagsters_own_storage() -> None:
    assert (
        Settings.from_env({"DAGSTER_HOME": "/srv/dagster"}).landscape_url == "sqlite:////srv/dagster/landscape.sqlite"
    )
    assert Settings.from_env({"ELSPETH_LANDSCAPE_URL": "postgresql://db/x"}).landscape_url == "postgresql://db/x"


def test_azures_settings_are_azures_only() -> None:
    env = {"AZURE_OPENAI_ENDPOINT": "https://x", "OPENAI_API_VERSION": "2024-10-21", "OPENAI_BASE_URL": "http://y"}
    azure = Settings.from_env(env)
    assert (azure.azure_endpoint, azure.api_version, azure.base_url) == ("https://x", "2024-10-21", None)
    other = Settings.from_env({**env, "ELSPETH_LLM": "local"})
    assert (other.azure_endpoint, other.api_version, other.base_url) == (None, None, "http://y")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ELSPETH_LLM", "gpt"),
        ("ELSPETH_MAX_CONCURRENCY", "0"),
        ("ELSPETH_MAX_CONCURRENCY", "1001"),
        ("ELSPETH_MAX_CONCURRENCY", "ten"),
        ("ELSPETH_MAX_CONCURRENCY", "²"),
        ("ELSPETH_MIN_CONCURRENCY", "0"),
        ("ELSPETH_MIN_CONCURRENCY", "-1"),
        ("ELSPETH_MIN_CONCURRENCY", "1001"),
        ("ELSPETH_REQUESTS_PER_MINUTE", "0"),
        ("ELSPETH_REQUESTS_PER_MINUTE", "-60"),
        ("ELSPETH_REQUESTS_PER_MINUTE", "1.5"),
        ("ELSPETH_TOKENS_PER_MINUTE", "0"),
        ("ELSPETH_TOKENS_PER_MINUTE", "1e6"),
        ("ELSPETH_TOKENS_PER_MINUTE", "9" * 5000),
    ],
)
def test_a_setting_that_can_not_be_understood_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: value})


def test_limits_are_as_they_are_set_and_there_are_none_where_none_is() -> None:
    settings = Settings.from_env({"ELSPETH_REQUESTS_PER_MINUTE": "500", "ELSPETH_TOKENS_PER_MINUTE": "30000"})
    assert (settings.requests_per_minute, settings.tokens_per_minute) == (500, 30000)
    none = Settings.from_env({"ELSPETH_REQUESTS_PER_MINUTE": ""})
    assert (none.requests_per_minute, none.tokens_per_minute) == (None, None)


def test_a_hosted_provider_is_asked_up_to_64_questions_at_a_time() -> None:
    settings = Settings.from_env({"OPENAI_API_KEY": "k"})
    assert (settings.min_concurrency, settings.max_concurrency) == (1, 64)


def test_bounds_that_leave_nothing_between_them_are_refused_by_both_names() -> None:
    env = {"OPENAI_API_KEY": "k", "ELSPETH_MIN_CONCURRENCY": "9", "ELSPETH_MAX_CONCURRENCY": "8"}
    with pytest.raises(SettingsError, match=r"ELSPETH_MIN_CONCURRENCY is 9, more than ELSPETH_MAX_CONCURRENCY.*8"):
        Settings.from_env(env)
    assert Settings.from_env({**env, "ELSPETH_MIN_CONCURRENCY": "8"}).min_concurrency == 8


def test_the_explorers_address_is_taken_without_its_last_slash() -> None:
    assert Settings.from_env({}).explorer_url is None
    assert (
        Settings.from_env({"ELSPETH_EXPLORER_URL": "https://audit.example/x/"}).explorer_url
        == "https://audit.example/x"
    )


@pytest.mark.parametrize("address", ["audit.example", "javascript:alert(1)", "http://x/?token=secret", "http://u:p@x/"])
def test_an_address_that_could_not_be_linked_to_is_refused_by_name(address: str) -> None:
    with pytest.raises(SettingsError, match="ELSPETH_EXPLORER_URL") as refused:
        Settings.from_env({"ELSPETH_EXPLORER_URL": address})
    assert "secret" not in str(refused.value)

"""A deployment's settings, from the environment's variables.

ELSPETH_LANDSCAPE_URL     a SQLAlchemy url; default: landscape.sqlite beside Dagster's own storage in DAGSTER_HOME
ELSPETH_LLM               openai, azure or local; default: by what is set, else local
OPENAI_API_KEY            OPENAI_BASE_URL, for openai; OPENAI_BASE_URL alone is a server without a key: local
AZURE_OPENAI_API_KEY      AZURE_OPENAI_ENDPOINT, OPENAI_API_VERSION, for azure
ELSPETH_MAX_CONCURRENCY   how many requests of a step are in flight at most; default 64, for local 1
ELSPETH_MIN_CONCURRENCY   how many are in flight at least, whatever the provider refuses; default 1
ELSPETH_REQUESTS_PER_MINUTE   for each model, by all who share the landscape; default: no limit
ELSPETH_TOKENS_PER_MINUTE     the same of prompt and completion tokens
ELSPETH_PRICES            a YAML or JSON file: what models and deployments cost where no list price holds
ELSPETH_EXPLORER_URL      where `elspeth-dagster explorer` is reached: materializations link to their run's page there
ELSPETH_FINGERPRINT_KEY   key of the HMAC that stands for a credential on record
ELSPETH_SIGNING_KEY       path of the key file that seals are signed with, mode 0600
ELSPETH_ANCHORS           where checkpoints are put outside of the database: paths, fsspec urls, command:…, tsa:…
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from elspeth_dagster.core.errors import SettingsError

ProviderName = Literal["openai", "azure", "local"]
LOCAL_URL = "http://127.0.0.1:8080/v1"
API_KEY_NAMES: dict[ProviderName, str] = {
    "openai": "OPENAI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "local": "OPENAI_API_KEY",
}
DEFAULT_CONCURRENCY: dict[ProviderName, int] = {"openai": 64, "azure": 64, "local": 1}
LARGEST_CONCURRENCY, LARGEST_LIMIT = 1000, 1_000_000_000


@dataclass(frozen=True)
class Settings:
    """What the environment says; secrets only by the name of their variable."""

    landscape_url: str
    provider: ProviderName
    api_key_name: str
    base_url: str | None
    azure_endpoint: str | None
    api_version: str | None
    max_concurrency: int
    min_concurrency: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    prices_path: str | None
    explorer_url: str | None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """The settings of an environment. Raises SettingsError naming the variable that can't be understood."""
        provider = _provider(env)
        default_url = LOCAL_URL if provider == "local" else None
        most = _number(env, "ELSPETH_MAX_CONCURRENCY", LARGEST_CONCURRENCY) or DEFAULT_CONCURRENCY[provider]
        least = _number(env, "ELSPETH_MIN_CONCURRENCY", LARGEST_CONCURRENCY) or 1
        check_concurrency(least, most, "ELSPETH_MIN_CONCURRENCY", "ELSPETH_MAX_CONCURRENCY")
        return cls(
            landscape_url=env.get("ELSPETH_LANDSCAPE_URL") or default_landscape_url(env),
            provider=provider,
            api_key_name=API_KEY_NAMES[provider],
            base_url=None if provider == "azure" else env.get("OPENAI_BASE_URL") or default_url,
            azure_endpoint=env.get("AZURE_OPENAI_ENDPOINT") if provider == "azure" else None,
            api_version=env.get("OPENAI_API_VERSION") if provider == "azure" else None,
            max_concurrency=most,
            min_concurrency=least,
            requests_per_minute=_number(env, "ELSPETH_REQUESTS_PER_MINUTE", LARGEST_LIMIT),
            tokens_per_minute=_number(env, "ELSPETH_TOKENS_PER_MINUTE", LARGEST_LIMIT),
            prices_path=env.get("ELSPETH_PRICES") or None,
            explorer_url=_address(env, "ELSPETH_EXPLORER_URL"),
        )


def default_landscape_url(env: Mapping[str, str]) -> str:
    """A SQLite file in DAGSTER_HOME; without one, in the working directory."""
    home = Path(env.get("DAGSTER_HOME") or ".").expanduser().absolute()
    return f"sqlite:///{home / 'landscape.sqlite'}"


def _provider(env: Mapping[str, str]) -> ProviderName:
    named = env.get("ELSPETH_LLM")
    for known in API_KEY_NAMES:
        if named == known:
            return known
    if named:
        raise SettingsError(f"ELSPETH_LLM is {named!r}; it can be openai, azure or local")
    if env.get("AZURE_OPENAI_ENDPOINT") or env.get("AZURE_OPENAI_API_KEY"):
        return "azure"
    return "openai" if env.get("OPENAI_API_KEY") else "local"


def check_concurrency(least: int, most: int, least_name: str, most_name: str) -> None:
    """Raise SettingsError, by the settings' names, unless the bounds leave something between them."""
    if least > most:
        raise SettingsError(f"{least_name} is {least}, more than {most_name}, which is {most}; lower it, or raise that")


def _address(env: Mapping[str, str], name: str) -> str | None:
    """An address of web pages, to which paths are added; never with a token in it, since it is shown to everybody."""
    if not (text := env.get(name)):
        return None
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or not address.hostname or address.username or address.query:
        raise SettingsError(f"{name} must be an address like http://127.0.0.1:3001, without user and without token")
    return text.rstrip("/")


def _number(env: Mapping[str, str], name: str, most: int) -> int | None:
    text = env.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise SettingsError(f"{name} is {text[:40]!r}; it must be a whole number from 1 to {most}")
    return int(text)

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
ELSPETH_ENDPOINTS         a YAML file: several accounts or regions of one model, asked as one
ELSPETH_EXPLORER_URL      where `elspeth-dagster explorer` is reached: materializations link to their run's page there
ELSPETH_FINGERPRINT_KEY   key of the HMAC that stands for a credential on record
ELSPETH_SIGNING_KEY       path of the key file that seals are signed with, mode 0600
ELSPETH_ANCHORS           where checkpoints are put outside of the database: paths, fsspec urls, command:…, tsa:…
ELSPETH_STORAGE           folder or fsspec url of tables and of what steps tell each other; default: Dagster's storage
ELSPETH_EXECUTOR          celery: steps run on several hosts; default: Dagster's own choice, on this one
ELSPETH_CELERY_BROKER     the url of the Redis through which Celery hands out steps: redis://host:6379/0
ELSPETH_HOST_LOST_SECONDS after so long without a sign of life a Celery worker's steps go to another; default 300
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from elspeth_dagster.core.errors import SettingsError

ProviderName = Literal["openai", "azure", "local"]
ExecutorName = Literal["celery"]
LOCAL_URL = "http://127.0.0.1:8080/v1"
API_KEY_NAMES: dict[ProviderName, str] = {
    "openai": "OPENAI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "local": "OPENAI_API_KEY",
}
DEFAULT_CONCURRENCY: dict[ProviderName, int] = {"openai": 64, "azure": 64, "local": 1}
LARGEST_CONCURRENCY, LARGEST_LIMIT = 1000, 1_000_000_000
HOST_LOST_SECONDS, LEAST_HOST_LOST_SECONDS, MOST_HOST_LOST_SECONDS = 300, 30, 86_400


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
    endpoints_path: str | None
    explorer_url: str | None
    storage: str | None
    executor: ExecutorName | None
    host_lost_seconds: int

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """The settings of an environment. Raises SettingsError naming the variable that can't be understood."""
        provider = _provider(env)
        default_url = LOCAL_URL if provider == "local" else None
        most = _number(env, "ELSPETH_MAX_CONCURRENCY", LARGEST_CONCURRENCY) or DEFAULT_CONCURRENCY[provider]
        least = _number(env, "ELSPETH_MIN_CONCURRENCY", LARGEST_CONCURRENCY) or 1
        check_concurrency(least, most, "ELSPETH_MIN_CONCURRENCY", "ELSPETH_MAX_CONCURRENCY")
        executor = _executor(env)
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
            endpoints_path=env.get("ELSPETH_ENDPOINTS") or None,
            explorer_url=_address(env, "ELSPETH_EXPLORER_URL"),
            storage=_storage(env),
            executor=executor,
            host_lost_seconds=_host_lost_seconds(env),
        )


def default_landscape_url(env: Mapping[str, str]) -> str:
    """A SQLite file in DAGSTER_HOME; without one, in the working directory."""
    home = Path(env.get("DAGSTER_HOME") or ".").expanduser().absolute()
    return f"sqlite:///{home / 'landscape.sqlite'}"


def _executor(env: Mapping[str, str]) -> ExecutorName | None:
    """Who runs steps. Raises SettingsError where hosts could not reach what they must share."""
    named = env.get("ELSPETH_EXECUTOR")
    if not named:
        return None
    if named != "celery":
        raise SettingsError(f"ELSPETH_EXECUTOR is {named[:40]!r}; it can be celery, or left out for one host")
    check_reachable(env.get("ELSPETH_LANDSCAPE_URL") or default_landscape_url(env))
    if not env.get("ELSPETH_STORAGE"):
        raise SettingsError(
            "ELSPETH_EXECUTOR is celery, and ELSPETH_STORAGE is not set: tables and references between steps would go "
            "into DAGSTER_HOME, which each host has for itself. Set it to a folder that all hosts share, or to an url "
            "like s3://bucket/assessments"
        )
    if urlsplit(env.get("ELSPETH_CELERY_BROKER") or "").scheme not in ("redis", "rediss"):
        raise SettingsError(
            "ELSPETH_EXECUTOR is celery, and ELSPETH_CELERY_BROKER is not the url of a Redis, like redis://host:6379/0"
        )
    return "celery"


def check_reachable(landscape_url: str) -> None:
    """Raise SettingsError for a landscape that only one host can reach."""
    if landscape_url.startswith("sqlite"):
        raise SettingsError(
            "steps run on several hosts, and the landscape is a SQLite file, which only one of them can use. Set "
            "ELSPETH_LANDSCAPE_URL to a PostgreSQL database: postgresql://user:password@host/name"
        )


def _storage(env: Mapping[str, str]) -> str | None:
    if not (text := env.get("ELSPETH_STORAGE")):
        return None
    if "://" not in text and not Path(text).is_absolute():
        raise SettingsError(
            "ELSPETH_STORAGE must be the full path of a folder, or an fsspec url like s3://bucket/folder"
        )
    return text.rstrip("/")


def _host_lost_seconds(env: Mapping[str, str]) -> int:
    seconds = _number(env, "ELSPETH_HOST_LOST_SECONDS", MOST_HOST_LOST_SECONDS) or HOST_LOST_SECONDS
    if seconds < LEAST_HOST_LOST_SECONDS:
        raise SettingsError(
            f"ELSPETH_HOST_LOST_SECONDS is {seconds}; it must be {LEAST_HOST_LOST_SECONDS} at least, and more than the "
            "hosts' clocks differ"
        )
    return seconds


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

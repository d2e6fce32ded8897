"""A deployment's settings, from the environment's variables.

ELSPETH_LANDSCAPE_URL     a SQLAlchemy url; default: landscape.sqlite beside Dagster's own storage in DAGSTER_HOME
ELSPETH_LLM               openai, azure or local; default: by what is set, else local
OPENAI_API_KEY            OPENAI_BASE_URL, for openai; OPENAI_BASE_URL alone is a server without a key: local
AZURE_OPENAI_API_KEY      AZURE_OPENAI_ENDPOINT, OPENAI_API_VERSION, for azure
ELSPETH_MAX_CONCURRENCY   how many requests of a step are in flight; default 8, for local 1
ELSPETH_PRICES            a YAML or JSON file: what models and deployments cost where no list price holds
ELSPETH_FINGERPRINT_KEY   key of the HMAC that stands for a credential on record
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from elspeth_dagster.core.errors import SettingsError

ProviderName = Literal["openai", "azure", "local"]
LOCAL_URL = "http://127.0.0.1:8080/v1"
API_KEY_NAMES: dict[ProviderName, str] = {
    "openai": "OPENAI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "local": "OPENAI_API_KEY",
}
DEFAULT_CONCURRENCY: dict[ProviderName, int] = {"openai": 8, "azure": 8, "local": 1}


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
    prices_path: str | None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """The settings of an environment. Raises SettingsError naming the variable that can't be understood."""
        provider = _provider(env)
        default_url = LOCAL_URL if provider == "local" else None
        return cls(
            landscape_url=env.get("ELSPETH_LANDSCAPE_URL") or default_landscape_url(env),
            provider=provider,
            api_key_name=API_KEY_NAMES[provider],
            base_url=None if provider == "azure" else env.get("OPENAI_BASE_URL") or default_url,
            azure_endpoint=env.get("AZURE_OPENAI_ENDPOINT") if provider == "azure" else None,
            api_version=env.get("OPENAI_API_VERSION") if provider == "azure" else None,
            max_concurrency=_max_concurrency(env, DEFAULT_CONCURRENCY[provider]),
            prices_path=env.get("ELSPETH_PRICES") or None,
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


def _max_concurrency(env: Mapping[str, str], default: int) -> int:
    text = env.get("ELSPETH_MAX_CONCURRENCY") or str(default)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise SettingsError(f"ELSPETH_MAX_CONCURRENCY is {text!r}; it must be a whole number from 1 to 1000")
    return int(text)

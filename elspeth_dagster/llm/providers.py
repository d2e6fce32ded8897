"""Who is asked: a provider's settings, checked, and the openai client that knows its addresses and authentication.

    openai   api.openai.com, or any compatible service with a key (`base_url`)
    azure    a deployment of Azure OpenAI (`azure_endpoint`, `api_version`)
    local    any compatible server, with or without a key (`base_url`)

What is here is all that is sent: organization and project are not picked up from the environment behind it.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, cast
from urllib.parse import SplitResult, parse_qsl, urlsplit

import httpx2
from openai import AsyncAzureOpenAI, AsyncOpenAI

from elspeth_dagster.core.errors import SettingsError

ProviderName = Literal["openai", "azure", "local"]

OPENAI_URL = "https://api.openai.com/v1"

# The openai client refuses to exist without a key; where there is none, the wire leaves the header out.
NO_KEY = "no-key"


@dataclass(frozen=True)
class ProviderSettings:
    """A provider, and how to get in. What may hold a secret is not in the repr.

    `base_url` is for openai and local, `azure_endpoint`, `api_version` and `azure_deployment` are for azure; a query
    in `base_url` goes with every request. `azure_deployment` is the deployment where the model's name is not its name.
    `azure_ad_token_provider` names a function, `package.module:function`, that returns an Entra ID token: instead of a
    key. `timeout_seconds` is the time for one whole exchange. `headers` are sent as well. `ca_file` holds certificates
    of authorities to be trusted besides the system's. `endpoint` is what the head of a call says beside these: which of
    several endpoints it is, by `endpoint`, and at which `price`.
    """

    provider: ProviderName
    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = field(default=None, repr=False)
    azure_endpoint: str | None = field(default=None, repr=False)
    azure_deployment: str | None = None
    azure_ad_token_provider: str | None = None
    api_version: str | None = None
    organization: str | None = None
    project: str | None = None
    timeout_seconds: float = 120
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    endpoint: Mapping[str, Any] = field(default_factory=dict)


def openai_client(settings: ProviderSettings, http_client: httpx2.AsyncClient | None = None) -> AsyncOpenAI:
    """The openai client for these settings, its own retries off: each HTTP attempt is a call on record.

    Raises SettingsError, which names the setting and never its value, for settings that can't work.
    """
    check_settings(settings)
    client = _azure(settings, http_client) if settings.provider == "azure" else _openai(settings, http_client)
    # Assigned afterwards: given None, the constructor reads OPENAI_ORG_ID and OPENAI_PROJECT_ID.
    client.organization, client.project = settings.organization, settings.project
    return client


def _openai(settings: ProviderSettings, http_client: httpx2.AsyncClient | None) -> AsyncOpenAI:
    url = urlsplit(settings.base_url or OPENAI_URL)
    return AsyncOpenAI(
        api_key=settings.api_key or NO_KEY,
        base_url=url._replace(query="", fragment="").geturl(),
        default_query=dict(parse_qsl(url.query, keep_blank_values=True)),
        default_headers=settings.headers,
        timeout=settings.timeout_seconds,
        max_retries=0,
        http_client=http_client,
    )


def _azure(settings: ProviderSettings, http_client: httpx2.AsyncClient | None) -> AsyncAzureOpenAI:
    return AsyncAzureOpenAI(
        api_key=settings.api_key,
        azure_endpoint=settings.azure_endpoint or "",
        azure_deployment=settings.azure_deployment,
        azure_ad_token_provider=named_function(settings.azure_ad_token_provider),
        api_version=settings.api_version,
        default_headers=settings.headers,
        timeout=settings.timeout_seconds,
        max_retries=0,
        http_client=http_client,
    )


def named_function(name: str | None) -> Callable[[], Any] | None:
    """The function that `package.module:function` names. Raises SettingsError where there is none."""
    if name is None:
        return None
    module, colon, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"azure_ad_token_provider: {name!r} can't be imported: {error}") from error
    if not callable(found):
        raise SettingsError(f"azure_ad_token_provider: {name!r} is no function written as package.module:function")
    return cast("Callable[[], Any]", found)


def check_settings(settings: ProviderSettings) -> None:
    """Raises SettingsError for the first setting that can't work, by the name its user gave it."""
    checks = {"openai": _check_openai, "azure": _check_azure, "local": _check_local}
    if settings.provider not in checks:
        raise SettingsError(f"ELSPETH_LLM must be openai, azure or local, not {settings.provider!r}")
    checks[settings.provider](settings)
    if not (math.isfinite(settings.timeout_seconds) and settings.timeout_seconds > 0):
        raise SettingsError(f"timeout_seconds must be a number above 0, not {settings.timeout_seconds!r}")
    _check_ca_file(settings.ca_file)
    if settings.azure_ad_token_provider is not None and settings.provider != "azure":
        raise SettingsError("azure_ad_token_provider is for provider azure; the others take a key")
    for name, value in settings.headers.items():
        if not (re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and _fits_a_header(value)):
            raise SettingsError(f"headers: {name!r} is no HTTP header with a value of printable ASCII characters")


def _check_openai(settings: ProviderSettings) -> None:
    _check_key("OPENAI_API_KEY", settings.api_key)
    _check_url("OPENAI_BASE_URL", settings.base_url or OPENAI_URL)


def _check_azure(settings: ProviderSettings) -> None:
    if settings.azure_ad_token_provider is None:
        _check_key("AZURE_OPENAI_API_KEY", settings.api_key)
    elif settings.api_key:
        raise SettingsError("give either AZURE_OPENAI_API_KEY or azure_ad_token_provider, not both")
    url = _check_url("AZURE_OPENAI_ENDPOINT", settings.azure_endpoint)
    if url.query:
        raise SettingsError("AZURE_OPENAI_ENDPOINT must end with its path; the version goes into OPENAI_API_VERSION")
    if not settings.api_version:
        raise SettingsError("OPENAI_API_VERSION is not set; provider azure needs it (for example 2024-10-21)")


def _check_local(settings: ProviderSettings) -> None:
    if settings.api_key is not None:
        _check_key("OPENAI_API_KEY", settings.api_key)
    _check_url("OPENAI_BASE_URL", settings.base_url)


def _check_ca_file(path: str | None) -> None:
    if path is None:
        return
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"ca_file: {path} holds no certificates that can be read: {error}") from error


def _check_key(name: str, key: str | None) -> None:
    if not key:
        raise SettingsError(f"{name} is not set")
    if not _fits_a_header(key) or " " in key:
        raise SettingsError(f"{name} holds a space, a line end or a character that no key has")


def _check_url(name: str, url: str | None) -> SplitResult:
    if not url:
        raise SettingsError(f"{name} is not set")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"{name} is no address that begins with https:// or http:// and a host")
    if "@" in parts.netloc:
        raise SettingsError(f"{name} must not hold a user or password; put credentials into `headers`")
    return parts


def _fits_a_header(value: str) -> bool:
    return value.isascii() and value.isprintable() and value == value.strip()

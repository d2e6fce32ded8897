"""The wire: bytes go out as given, and what came back is told as it came.

The openai client builds and authenticates one request, which is caught before it leaves; its address and headers
are the head of every call. The calls themselves are plain HTTP POSTs of a body that the caller has put on record:

    Wire(settings, model)  ─ enter ─►  head           the openai client's request, but its body
    send(body, …)          ─ HTTP ───►  Exchange       never an exception for what network or provider do

Nothing is added, followed or tried again behind the caller's back: no redirects, no cookies, no netrc, no retries,
no compression. Of the environment only HTTPS_PROXY, HTTP_PROXY and NO_PROXY count, read once on entering.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self
from urllib.parse import unquote, unquote_plus, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from elspeth_dagster.core.canonical import canonical_json
from elspeth_dagster.core.errors import ProviderError, SettingsError
from elspeth_dagster.llm.connections import (
    Arrived,
    Connections,
    NoConnectionError,
    OversizedError,
    Proxy,
    ProxyRefusalError,
    Target,
)
from elspeth_dagster.llm.providers import ProviderSettings, openai_client
from elspeth_dagster.llm.secrets import PUBLIC_KEY, Redactor, fingerprint
from elspeth_dagster.stages.calling import ErrorClass, Exchange, classify_status, one_line, provider_codes

KEPT_OF_OVERSIZED = 64 * 1024

CREDENTIAL_HEADERS = frozenset(
    {"authorization", "api-key", "proxy-authorization", "cookie", "x-api-key", "ocp-apim-subscription-key"}
)
CREDENTIAL_PARAMETERS = frozenset(
    {"key", "api-key", "api_key", "apikey", "access_token", "token", "code", "sig", "subscription-key"}
)
KEPT_HEADERS = frozenset(
    {
        "content-type",
        "content-encoding",
        "retry-after",
        "retry-after-ms",
        "x-request-id",
        "apim-request-id",
        "location",
    }
)
KEPT_PREFIXES = ("x-ratelimit-", "openai-", "x-ms-")

NOTHING_THERE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})
NAMES_OF_ACCOUNT = ("authorization", "api-key", "openai-organization", "openai-project")
TOKEN_SECONDS = 60.0  # for which a token that was given out is sent; Entra ID's are good for an hour
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Head:
    """A request but its body: the same for every call of a client. `url` and `headers` are real and secret.

    `evidence` is canonical JSON of method, url and headers with each credential replaced by its fingerprint. `account`
    says whose limits a call counts against: the address, and the fingerprint of the key or the name of what gives out
    tokens. Beside these, a call carries host, content-length, its own id as x-client-request-id, and an
    idempotency-key.
    """

    method: str
    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    evidence: bytes
    account: str = ""
    begins: bytes = field(default=b"", repr=False)


class Wire:
    """The open connections to one provider for one model; an async context manager.

    At most `max_concurrency` requests are in flight, more wait in `send`, and their timeout runs. Entering raises
    SettingsError for settings that can't work.
    """

    head: Head
    """The head of the next call."""

    def __init__(
        self,
        settings: ProviderSettings,
        model: str,
        *,
        max_concurrency: int = 100,
        fingerprint_key: bytes = PUBLIC_KEY,
    ) -> None:
        self._settings = settings
        self._model = model
        self._max_concurrency = max_concurrency
        self._fingerprint_key = fingerprint_key

    async def __aenter__(self) -> Self:
        self._secrets: dict[str, None] = {}
        self._fresh_until = time.monotonic() + TOKEN_SECONDS
        proxy = await self._authenticate()
        target = _target(self.head.url, proxy, self._settings.ca_file)
        self._connections = Connections(target, self._max_concurrency)
        return self

    async def _authenticate(self) -> Proxy | None:
        """Let the openai client build the head, with the token of the moment where tokens are given out."""
        request = await self._built()
        proxy, proxy_secrets = _proxy(request.url.scheme, request.url.host)
        # Of tokens that have been replaced, replies may still be under way.
        self._secrets |= dict.fromkeys([*_secrets(request, self._settings.api_key), *proxy_secrets])
        self._redactor = Redactor(self._secrets, self._fingerprint_key)
        head = _head(request, self._settings, self._redactor, self._fingerprint_key)
        self.head = replace(head, begins=_beginning(head, request.headers["host"], proxy))
        return proxy

    async def _built(self) -> httpx2.Request:
        try:
            return await _built_request(self._settings, self._model)
        except SettingsError:
            raise
        except Exception as error:  # whatever the user's function raises
            if self._settings.azure_ad_token_provider is None:
                raise
            raise ProviderError(
                f"{self._settings.azure_ad_token_provider} gave no token ({type(error).__name__}): check the identity "
                "that this deployment runs as"
            ) from error

    async def refresh(self) -> Head:
        """The head of the next call: another one where another token is given out by now.

        Raises ProviderError where none is.
        """
        if self._settings.azure_ad_token_provider is not None and time.monotonic() > self._fresh_until:
            self._fresh_until = time.monotonic() + TOKEN_SECONDS  # the others go on with the old one meanwhile
            before = self.head
            await self._authenticate()
            if self.head.evidence == before.evidence:
                self.head = before
        return self.head

    async def __aexit__(self, *told: Any) -> None:
        await self._connections.__aexit__(*told)

    async def send(self, body: bytes, call_id: str, idempotency_key: str, head: Head | None = None) -> Exchange:
        """One POST of exactly these bytes, and what came of it; whatever network or provider do is in the Exchange.

        `call_id` names this call to the provider, `idempotency_key` what it must not do twice;
        `head` is the one that is on record for it, where another may have come meanwhile.
        Of a reply of more than 16 MiB the first 64 KiB are kept. Only cancelling and a wire that is not open raise.
        """
        started = time.monotonic_ns()
        arrived = Arrived()
        error, detail = None, ""
        names = f"x-client-request-id: {call_id}\r\nidempotency-key: {idempotency_key}\r\n"
        own = f"{names}content-length: {len(body)}\r\n\r\n"
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                await self._connections.exchange((head or self.head).begins + own.encode() + body, arrived)
        except (OSError, OversizedError) as failure:
            error, detail = _failure(failure, self._settings.timeout_seconds)
        return self._exchange(arrived, error, detail, (time.monotonic_ns() - started) // 1000)

    def _exchange(self, arrived: Arrived, error: ErrorClass | None, detail: str, latency_us: int) -> Exchange:
        """What arrived, without credentials; a bad status says more than a body that was cut."""
        if error is ErrorClass.OVERSIZED:
            del arrived.body[KEPT_OF_OVERSIZED:]
        body, in_body = self._redactor.bytes(bytes(arrived.body), cut=error is not None)
        refusal = None if arrived.status is None else classify_status(arrived.status)
        if refusal is not None:
            codes = provider_codes(body)
            error, detail = refusal, f"HTTP {arrived.status}{f': {codes}' if codes else ''}"
        headers, in_headers = self._redacted(_kept_headers(arrived.headers))
        if detail:
            detail, in_detail = self._redactor.text(detail)
            return Exchange(
                arrived.status, body, headers, error, one_line(detail), latency_us, in_body or in_detail or in_headers
            )
        return Exchange(arrived.status, body, headers, error, "", latency_us, in_body or in_headers)

    def _redacted(self, headers: dict[str, str]) -> tuple[dict[str, str], bool]:
        """The headers without credentials."""
        if not self._redactor.text("\0".join(headers.values()))[1]:
            return headers, False
        return {name: self._redactor.text(value)[0] for name, value in headers.items()}, True


# The head ------------------------------------------------------------------------------------------------------------


class _CaughtRequests(httpx2.AsyncBaseTransport):
    """A transport that keeps the request and sends nothing.

    It answers with a failure, not with a made-up reply: httpx logs the address of every request that was answered.
    """

    request: httpx2.Request

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.request = request
        raise httpx2.ConnectError("caught, not sent")


async def _built_request(settings: ProviderSettings, model: str) -> httpx2.Request:
    """The request that the openai client would send for a chat completion of this model."""
    caught = _CaughtRequests()
    async with openai_client(settings, httpx2.AsyncClient(transport=caught, trust_env=False)) as client:
        with suppress(openai.APIConnectionError):
            await client.post(
                "/chat/completions",
                body={"model": model, "messages": []},
                cast_to=httpx2.Response,
                options={"headers": _without_dummy_key(settings)},
            )
    return caught.request


def _without_dummy_key(settings: ProviderSettings) -> dict[str, str | openai.Omit]:
    has_own = bool(settings.api_key or settings.azure_ad_token_provider)
    has_given = "authorization" in {name.lower() for name in settings.headers}
    return {} if has_own or has_given else {"Authorization": openai.Omit()}


def _head(request: httpx2.Request, settings: ProviderSettings, redactor: Redactor, key: bytes) -> Head:
    url, api_key = str(request.url), settings.api_key
    headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
    headers["accept-encoding"] = "identity"
    shown = {name: _shown_header(name, value, api_key, key) for name, value in headers.items()}
    evidence: dict[str, Any] = {
        "method": request.method,
        "url": redactor.text(_shown_url(url, api_key, key))[0],
        "headers": shown,
        **settings.endpoint,
    }
    return Head(request.method, url, headers, canonical_json(evidence), _account(settings, evidence))


def _account(settings: ProviderSettings, evidence: dict[str, Any]) -> str:
    names = {name.lower(): value for name, value in evidence["headers"].items()}
    if settings.azure_ad_token_provider is not None:
        names["authorization"] = settings.azure_ad_token_provider
    known = [names[name] for name in NAMES_OF_ACCOUNT if name in names]
    return " ".join([evidence["url"].partition("?")[0], *known])


def _shown_header(name: str, value: str, api_key: str | None, key: bytes) -> str:
    """The value, or its fingerprint if it is a credential; `Bearer` and `Basic` stay readable."""
    if name not in CREDENTIAL_HEADERS and not (api_key and api_key in value):
        return value
    scheme, space, credential = value.rpartition(" ") if name.endswith("authorization") else ("", "", value)
    return scheme + space + fingerprint(credential, key)


def _shown_url(url: str, api_key: str | None, key: bytes) -> str:
    parts = urlsplit(url)
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    query = "&".join(
        name + equals + (fingerprint(unquote_plus(value), key) if _is_credential(name, value, api_key) else value)
        for name, equals, value in pairs
    )
    return parts._replace(query=query).geturl()


def _is_credential(name: str, value: str, api_key: str | None) -> bool:
    return name.lower() in CREDENTIAL_PARAMETERS or bool(api_key and api_key in unquote_plus(value))


def _secrets(request: httpx2.Request, api_key: str | None) -> Iterator[str]:
    """Every credential in a request, as the other side could echo it."""
    if api_key:
        yield api_key
    for name, value in request.headers.items():
        if name in CREDENTIAL_HEADERS:
            yield value.rpartition(" ")[2] if name.endswith("authorization") else value
    for pair in urlsplit(str(request.url)).query.split("&"):
        name, _, value = pair.partition("=")
        if _is_credential(name, value, api_key):
            yield unquote_plus(value)


def _beginning(head: Head, host: str, proxy: Proxy | None) -> bytes:
    """A request's bytes up to the headers that are its own."""
    parts = urlsplit(head.url)
    place = parts._replace(scheme="", netloc="", path=parts.path or "/").geturl()
    passed_on = proxy is not None and parts.scheme == "http"
    lines = [f"{head.method} {head.url if passed_on else place} HTTP/1.1", f"host: {host}"]
    lines += [f"{name}: {value}" for name, value in head.headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode() + (proxy.header if proxy and passed_on else b"")


def _target(url: str, proxy: Proxy | None, ca_file: str | None) -> Target:
    parts = urlsplit(url)
    return Target(parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme], proxy, ca_file)


def _proxy(scheme: str, host: str) -> tuple[Proxy | None, list[str]]:
    """The environment's proxy for an address, and the secrets in it."""
    address = getproxies().get(scheme)
    if not address or proxy_bypass(host):
        return None, []
    address = address if "://" in address else f"http://{address}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{scheme.upper()}_PROXY is no address of an HTTP proxy")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    authorization = f"Basic {basic}" if parts.username is not None else None
    proxy = Proxy(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme], authorization)
    return proxy, [password, basic]


# What came back ------------------------------------------------------------------------------------------------------


def _kept_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers worth keeping, as text that any database can hold: what kind of body, which request, which limits,
    how long to wait."""
    return {kept: value.decode("utf-8", "replace") for name, value in headers if (kept := _kept_name(name))}


@lru_cache(maxsize=256)
def _kept_name(name: bytes) -> str | None:
    lowered = name.decode("latin-1").lower()
    return lowered if lowered in KEPT_HEADERS or lowered.startswith(KEPT_PREFIXES) else None


def _failure(failure: Exception, timeout_seconds: float) -> tuple[ErrorClass, str]:
    """Which class of error a failed exchange is, and what to tell people about it."""
    if isinstance(failure, OversizedError):
        return ErrorClass.OVERSIZED, f"{failure}, the first {KEPT_OF_OVERSIZED} are kept"
    if isinstance(failure, TimeoutError):
        return ErrorClass.TIMEOUT, f"no whole reply within {timeout_seconds:g} s"
    error = ErrorClass.UNREACHABLE if _is_unreachable(failure) else ErrorClass.CONNECTION
    return error, f"{type(failure).__name__}: {failure}"


def _is_unreachable(failure: Exception) -> bool:
    """Whether there is nobody to talk to: no such name, nothing listens, no valid certificate, a proxy says no."""
    if isinstance(failure, ProxyRefusalError):
        return failure.status < 500
    cause = failure.__cause__ if isinstance(failure, NoConnectionError) else None
    if isinstance(cause, ssl.SSLError):
        return not isinstance(cause, ssl.SSLEOFError)
    return isinstance(cause, socket.gaierror | UnicodeError) or (
        isinstance(cause, OSError) and cause.errno in NOTHING_THERE
    )

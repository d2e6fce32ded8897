"""The wire: bytes go out as given, and what came back is told as it came.

The openai client builds and authenticates one request, which is caught before it leaves; its address and headers
are the head of every call. The calls themselves are plain HTTP POSTs of a body that the caller has put on record:

    Wire(settings, model)  ─ enter ─►  head           the openai client's request, but its body
    send(body, key)        ─ aiohttp ─►  Exchange      never an exception for what network or provider do

Nothing is added, followed or tried again behind the caller's back: no redirects, no cookies, no netrc, no retries,
no compression. Of the environment only HTTPS_PROXY, HTTP_PROXY and NO_PROXY count, read once on entering.
"""

from __future__ import annotations

import errno
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, unquote_plus, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import openai
from yarl import URL

from elspeth_dagster.core.canonical import canonical_json
from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.llm.providers import ProviderSettings, openai_client
from elspeth_dagster.llm.secrets import PUBLIC_KEY, Redactor, fingerprint
from elspeth_dagster.stages.calling import ErrorClass, Exchange, classify_status, one_line, provider_message

LARGEST_BODY = 16 * 1024 * 1024
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
NOBODY = (aiohttp.ClientConnectorDNSError, aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL)


@dataclass(frozen=True)
class Head:
    """A request but its body: the same for every call of a client. `url` and `headers` are real and secret.

    `evidence` is canonical JSON of method, url and headers with each credential replaced by its fingerprint. Beside
    these, a call carries host, content-length, its own id as x-client-request-id, and an idempotency-key.
    """

    method: str
    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    evidence: bytes


class Wire:
    """The open connections to one provider for one model; an async context manager.

    At most `max_concurrency` requests are in flight, more wait in `send`, and their timeout runs. Entering raises
    SettingsError for settings that can't work.
    """

    head: Head

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
        request = await _built_request(self._settings, self._model)
        proxy, proxy_secrets = _proxy(request.url.scheme, request.url.host)
        secrets = [*_secrets(request, self._settings.api_key), *proxy_secrets]
        self._redactor = Redactor(secrets, self._fingerprint_key)
        self.head = _head(request, self._settings.api_key, self._redactor, self._fingerprint_key)
        self._url = URL(self.head.url, encoded=True)
        self._proxy = proxy
        self._session = aiohttp.ClientSession(
            headers=self.head.headers,
            connector=aiohttp.TCPConnector(limit=self._max_concurrency),
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, body: bytes, call_id: str, idempotency_key: str) -> Exchange:
        """One POST of exactly these bytes, and what came of it; whatever network or provider do is in the Exchange.

        `call_id` names this call to the provider, `idempotency_key` what it must not do twice.
        Of a reply of more than 16 MiB the first 64 KiB are kept. Only cancelling and a wire that is not open raise.
        """
        started = time.monotonic_ns()
        arrived = _Arrived()
        try:
            own = {"x-client-request-id": call_id, "idempotency-key": idempotency_key}
            await self._receive(body, own, arrived)
        except (aiohttp.ClientError, OSError) as failure:
            arrived.fail(*_failure(failure, self._settings.timeout_seconds))
        return self._exchange(arrived, (time.monotonic_ns() - started) // 1000)

    async def _receive(self, body: bytes, own_headers: dict[str, str], arrived: _Arrived) -> None:
        async with self._session.request(
            self.head.method,
            self._url,
            data=body,
            headers=own_headers,
            allow_redirects=False,
            proxy=self._proxy,
        ) as response:
            arrived.status = response.status
            arrived.headers = _kept_headers(response)
            async for part in response.content.iter_any():
                arrived.body += part
                if len(arrived.body) > LARGEST_BODY:
                    return arrived.cut_short()

    def _exchange(self, arrived: _Arrived, latency_us: int) -> Exchange:
        """What arrived, without credentials; a bad status says more than a body that was cut."""
        body, in_body = self._redactor.bytes(bytes(arrived.body), cut=arrived.error is not None)
        error, detail = arrived.error, arrived.detail
        refusal = None if arrived.status is None else classify_status(arrived.status)
        if refusal is not None:
            error, detail = refusal, f"HTTP {arrived.status}: {provider_message(body)}"
        detail, in_detail = self._redactor.text(detail)
        headers, in_headers = _redacted_headers(arrived.headers, self._redactor)
        redacted = in_body or in_detail or in_headers
        return Exchange(arrived.status, body, headers, error, one_line(detail), latency_us, redacted)


@dataclass(slots=True)
class _Arrived:
    """What has come of a request so far."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    error: ErrorClass | None = None
    detail: str = ""

    def fail(self, error: ErrorClass, detail: str) -> None:
        self.error, self.detail = error, detail

    def cut_short(self) -> None:
        del self.body[KEPT_OF_OVERSIZED:]
        kept = f"more than {LARGEST_BODY} bytes came, the first {KEPT_OF_OVERSIZED} are kept"
        self.fail(ErrorClass.OVERSIZED, kept)


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
    given = {name.lower() for name in settings.headers}
    return {} if settings.api_key or "authorization" in given else {"Authorization": openai.Omit()}


def _head(request: httpx2.Request, api_key: str | None, redactor: Redactor, key: bytes) -> Head:
    url = str(request.url)
    headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
    headers["accept-encoding"] = "identity"
    shown = {name: _shown_header(name, value, api_key, key) for name, value in headers.items()}
    evidence = {
        "method": request.method,
        "url": redactor.text(_shown_url(url, api_key, key))[0],
        "headers": shown,
    }
    return Head(request.method, url, headers, canonical_json(evidence))


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


def _proxy(scheme: str, host: str) -> tuple[str | None, list[str]]:
    """The environment's proxy for an address, and the secrets in it.

    aiohttp's own `trust_env` is not used: it reads environment and netrc for every request, in a thread, and sends
    a password from netrc that would be in no evidence.
    """
    address = getproxies().get(scheme)
    if not address or proxy_bypass(host):
        return None, []
    address = address if "://" in address else f"http://{address}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{scheme.upper()}_PROXY is no address of an HTTP proxy")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return address, [password, aiohttp.encode_basic_auth(user, password).removeprefix("Basic ")]


# What came back ------------------------------------------------------------------------------------------------------


def _kept_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """The headers worth keeping: what kind of body, which request, which limits, how long to wait."""
    lowered = ((name.lower(), value) for name, value in response.headers.items())
    return {name: value for name, value in lowered if name in KEPT_HEADERS or name.startswith(KEPT_PREFIXES)}


def _redacted_headers(headers: dict[str, str], redactor: Redactor) -> tuple[dict[str, str], bool]:
    """The headers without credentials, as text that any database can hold."""
    cleaned = {name: redactor.text(value) for name, value in headers.items()}
    texts = {
        name: value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for name, (value, _) in cleaned.items()
    }
    return texts, any(redacted for _, redacted in cleaned.values())


def _failure(failure: Exception, timeout_seconds: float) -> tuple[ErrorClass, str]:
    """Which class of error an exception of aiohttp is, and what to tell people about it."""
    if isinstance(failure, TimeoutError):
        return ErrorClass.TIMEOUT, f"no whole reply within {timeout_seconds:g} s"
    error = ErrorClass.UNREACHABLE if _is_unreachable(failure) else ErrorClass.CONNECTION
    return error, f"{type(failure).__name__}: {failure}"


def _is_unreachable(failure: Exception) -> bool:
    """Whether there is nobody to talk to: no such name, nothing listens, no valid certificate, a proxy says no."""
    if isinstance(failure, aiohttp.ClientHttpProxyError):
        return failure.status < 500
    if isinstance(failure, NOBODY):
        return True
    if not isinstance(failure, aiohttp.ClientConnectorError):
        return False
    cause = failure.os_error
    handshake_refused = isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError)
    return handshake_refused or cause.errno in NOTHING_THERE

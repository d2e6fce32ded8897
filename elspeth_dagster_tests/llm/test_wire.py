"""The wire against a real server process that misbehaves: what is sent, what comes back, what never gets out."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from elspeth_dagster.core.canonical import canonical_json, sha256
from elspeth_dagster.llm.providers import ProviderSettings
from elspeth_dagster.llm.secrets import fingerprint
from elspeth_dagster.llm.wire import KEPT_OF_OVERSIZED, Wire
from elspeth_dagster.stages.calling import ErrorClass, Exchange, is_transient, retry_after_seconds
from elspeth_dagster_tests.fault_server import FaultServer

KEY = "sk-canary-0123456789abcdefghij"


def openai(server: FaultServer, **changes: Any) -> ProviderSettings:
    return dataclasses.replace(ProviderSettings("openai", KEY, server.base_url, timeout_seconds=10), **changes)


def question(text: str = "How good is it?", **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **fields}).encode()


def ask(settings: ProviderSettings, *bodies: bytes, **options: Any) -> list[Exchange]:
    """What came of sending these bodies, all at once, over one wire."""

    async def send_all() -> list[Exchange]:
        async with Wire(settings, "m", **options) as wire:
            return await asyncio.gather(*(wire.send(body, f"call-{n}", f"key-{n}") for n, body in enumerate(bodies)))

    return asyncio.run(send_all())


def ask_one(settings: ProviderSettings, body: bytes | None = None) -> Exchange:
    (exchange,) = ask(settings, question() if body is None else body)
    return exchange


def opened(settings: ProviderSettings, model: str = "m") -> Wire:
    """A wire that has been open."""

    async def open_and_close() -> Wire:
        async with Wire(settings, model) as wire:
            return wire

    return asyncio.run(open_and_close())


def self_signed_certificate(folder: Path) -> Path:
    """A PEM file with a key and a certificate for 127.0.0.1 that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(pem))
    return path


def evidence(wire: Wire) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(wire.head.evidence)
    return shown


# What is sent


@pytest.mark.parametrize(
    "body",
    [
        question(),
        b'{ "model" :"m",\n"messages":[], "z":"\xc3\xa9\\u00e9\xf0\x9f\x98\x80" }\n',
        question("x" * 300_000),
    ],
)
def test_the_server_gets_exactly_the_bytes_that_were_given(server: FaultServer, body: bytes) -> None:
    assert ask_one(openai(server), body).status == 200
    (request,) = server.stats()["requests"]
    assert request["sha256"] == sha256(body)


def test_the_server_gets_the_head_that_is_on_record_and_nothing_else(server: FaultServer) -> None:
    wire = opened(openai(server))
    ask_one(openai(server))
    (request,) = server.stats()["requests"]
    own = {
        "host": f"127.0.0.1:{server.port}",
        "content-length": str(len(question())),
        "x-client-request-id": "call-0",
        "idempotency-key": "key-0",
    }
    assert request["headers"] == wire.head.headers | own
    assert wire.head.url == server.url + request["path"]


def test_every_call_carries_its_own_idempotency_key(server: FaultServer) -> None:
    ask(openai(server), question("a"), question("b"))
    keys = {request["sha256"]: request["idempotency_key"] for request in server.stats()["requests"]}
    assert keys == {sha256(question("a")): "key-0", sha256(question("b")): "key-1"}


def test_openai_gets_the_key_as_bearer_at_chat_completions(server: FaultServer) -> None:
    ask_one(openai(server, organization="org-1", project="proj-1"))
    (request,) = server.stats()["requests"]
    assert request["path"] == "/v1/chat/completions"
    sent = request["headers"]
    assert (sent["authorization"], sent["content-type"]) == (f"Bearer {KEY}", "application/json")
    assert (sent["openai-organization"], sent["openai-project"]) == ("org-1", "proj-1")


def test_azure_gets_its_api_key_header_and_its_deployment_url(server: FaultServer) -> None:
    azure = ProviderSettings("azure", KEY, azure_endpoint=server.url, api_version="2024-10-21")
    assert ask_one(azure).status == 200
    (request,) = server.stats()["requests"]
    assert request["path"] == "/openai/deployments/m/chat/completions?api-version=2024-10-21"
    assert request["headers"]["api-key"] == KEY
    assert "authorization" not in request["headers"]


def test_azure_s_model_name_is_escaped_in_the_url() -> None:
    azure = ProviderSettings("azure", KEY, azure_endpoint="https://team.openai.azure.com/", api_version="v")
    url = "https://team.openai.azure.com/openai/deployments/my%20gpt%2F4o/chat/completions?api-version=v"
    assert opened(azure, "my gpt/4o").head.url == url


def test_azure_s_deployment_goes_before_the_model_name() -> None:
    azure = ProviderSettings(
        "azure", KEY, azure_endpoint="https://team.openai.azure.com", azure_deployment="prod", api_version="v"
    )
    url = "https://team.openai.azure.com/openai/deployments/prod/chat/completions?api-version=v"
    assert opened(azure, "gpt-4o").head.url == url


def test_a_local_server_without_a_key_gets_no_key(server: FaultServer) -> None:
    assert ask_one(ProviderSettings("local", base_url=server.base_url)).status == 200
    (request,) = server.stats()["requests"]
    assert not {"authorization", "api-key"} & request["headers"].keys()


def test_a_local_server_with_a_key_gets_it(server: FaultServer) -> None:
    server.configure(expected_key=KEY)
    assert ask_one(ProviderSettings("local", KEY, server.base_url)).status == 200


def test_the_settings_own_headers_and_query_are_sent(server: FaultServer) -> None:
    local = ProviderSettings("local", base_url=f"{server.base_url}?team=a%2Fb", headers={"Authorization": "Basic dTpw"})
    assert ask_one(local).status == 200
    server.configure(record=True)
    (request,) = server.stats()["requests"]
    assert request["path"] == "/v1/chat/completions?team=a%2Fb"
    assert request["headers"]["authorization"] == "Basic dTpw"


def test_a_redirect_is_not_followed_and_no_question_gets_past_it(server: FaultServer) -> None:
    server.configure(rules=[{"status": 307}])
    exchange = ask_one(openai(server))
    assert (exchange.status, exchange.error) == (307, ErrorClass.NOT_FOUND)
    assert exchange.headers["location"] == "/v1/elsewhere/chat/completions"
    assert server.stats()["received"] == 1


def test_cookies_are_not_sent_back(server: FaultServer) -> None:
    server.configure(headers={"set-cookie": "session=1; Path=/"}, record=True)

    # By name: cookies of a bare address are refused anyway.
    named = openai(server, base_url=f"http://localhost:{server.port}/v1")

    async def send_twice() -> None:
        async with Wire(named, "m") as wire:
            await wire.send(question(), "1", "1")
            await wire.send(question(), "2", "2")

    asyncio.run(send_twice())
    assert [request["headers"].get("cookie") for request in server.stats()["requests"]] == [None, None]


def test_a_password_in_netrc_is_not_sent(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password something\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert ask_one(openai(server)).status == 200
    assert ask_one(ProviderSettings("local", base_url=server.base_url)).status == 200
    sent = [request["headers"].get("authorization") for request in server.stats()["requests"]]
    assert sent == [f"Bearer {KEY}", None]


def test_the_environment_s_proxy_is_used_and_its_password_is_a_secret(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:{KEY}@127.0.0.1:{server.port}")
    exchange = ask_one(ProviderSettings("local", base_url="http://llm.example/v1"), question("[[echo_key]]"))
    assert exchange.status == 200
    (request,) = server.stats()["requests"]
    assert request["path"] == "http://llm.example/v1/chat/completions"
    assert request["headers"]["proxy-authorization"].startswith("Basic ")


def test_the_proxy_is_not_used_for_what_no_proxy_names(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert ask_one(openai(server)).error is ErrorClass.UNREACHABLE
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert ask_one(openai(server)).status == 200


# What comes back


def test_a_reply_comes_back_as_it_was_sent(server: FaultServer) -> None:
    exchange = ask_one(openai(server))
    reply = json.loads(exchange.body)
    assert (exchange.status, exchange.error, exchange.detail, exchange.redacted) == (200, None, "", False)
    assert set(json.loads(reply["choices"][0]["message"]["content"])) == {"score", "rationale"}
    assert exchange.headers["content-type"] == "application/json"
    assert exchange.headers["x-request-id"].startswith("req_")


def test_headers_that_say_nothing_about_the_call_are_not_kept(server: FaultServer) -> None:
    server.configure(
        headers={
            "Date": "today",
            "Set-Cookie": "a=b",
            "X-RateLimit-Remaining-Tokens": "7",
            "OpenAI-Version": "1",
        }
    )
    kept = ask_one(openai(server)).headers
    assert kept.keys() == {"content-type", "x-request-id", "x-ratelimit-remaining-tokens", "openai-version"}
    assert kept["x-ratelimit-remaining-tokens"] == "7"


def test_a_body_is_never_decoded(server: FaultServer) -> None:
    server.configure(headers={"content-encoding": "gzip"})
    exchange = ask_one(openai(server))
    assert (exchange.error, exchange.headers["content-encoding"]) == (None, "gzip")
    assert exchange.body.startswith(b'{"id"')


def test_a_header_of_odd_bytes_becomes_text_that_can_be_stored(server: FaultServer) -> None:
    server.configure(headers={"x-ratelimit-note": "caf\xe9"})
    assert ask_one(openai(server)).headers["x-ratelimit-note"] == "caf\ufffd"


def test_latency_is_in_microseconds(server: FaultServer) -> None:
    server.configure(latency_ms=80)
    assert 80_000 <= ask_one(openai(server)).latency_us < 2_000_000


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ErrorClass.BAD_REQUEST),
        (401, ErrorClass.AUTHENTICATION),
        (403, ErrorClass.PERMISSION),
        (404, ErrorClass.NOT_FOUND),
        (408, ErrorClass.TIMEOUT),
        (409, ErrorClass.CONFLICT),
        (422, ErrorClass.BAD_REQUEST),
        (429, ErrorClass.RATE_LIMITED),
        (500, ErrorClass.SERVER),
        (503, ErrorClass.SERVER),
    ],
)
def test_a_status_is_an_error_of_its_class_with_the_body_kept(
    server: FaultServer, status: int, error: ErrorClass
) -> None:
    server.configure(rules=[{"status": status, "message": "because"}])
    exchange = ask_one(openai(server))
    assert (exchange.status, exchange.error, exchange.detail) == (
        status,
        error,
        f"HTTP {status}: code {status}, type fault",
    )
    assert json.loads(exchange.body)["error"]["message"] == "because"
    assert server.stats()["received"] == 1


def test_a_400_that_speaks_of_rates_is_not_tried_again(server: FaultServer) -> None:
    server.configure(rules=[{"status": 400, "message": "Rate limit reached, please retry after 429 seconds"}])
    assert not is_transient(ask_one(openai(server)).error)


def test_how_long_to_wait_comes_with_a_429(server: FaultServer) -> None:
    server.configure(first_tries={"status": 429, "times": 1, "retry_after": "7"})
    assert retry_after_seconds(ask_one(openai(server)).headers) == 7
    assert ask_one(openai(server)).status == 200


def test_what_came_before_the_connection_was_cut_is_kept(server: FaultServer) -> None:
    server.configure(rules=[{"act": "cut"}])
    for exchange in ask(openai(server), *(question(f"number {n}") for n in range(60))):
        assert (exchange.status, exchange.error) == (200, ErrorClass.CONNECTION)
        assert exchange.body.startswith(b'{"id"')
        assert not exchange.body.endswith(b"}")
        assert len(exchange.body) > 200


def test_a_connection_that_is_reset_has_no_status(server: FaultServer) -> None:
    server.configure(rules=[{"act": "reset"}])
    exchange = ask_one(openai(server))
    assert (exchange.status, exchange.error, exchange.body) == (None, ErrorClass.CONNECTION, b"")
    assert server.stats()["received"] == 1


def test_an_answer_that_is_not_http_is_a_broken_connection(server: FaultServer) -> None:
    server.configure(rules=[{"act": "garbage"}])
    assert ask_one(openai(server)).error is ErrorClass.CONNECTION


def test_silence_ends_at_the_timeout(server: FaultServer) -> None:
    server.configure(rules=[{"act": "hang"}])
    started = time.monotonic()
    exchange = ask_one(openai(server, timeout_seconds=0.3))
    assert (exchange.status, exchange.error) == (None, ErrorClass.TIMEOUT)
    assert exchange.detail == "no whole reply within 0.3 s"
    assert 0.3 <= time.monotonic() - started < 3
    assert 300_000 <= exchange.latency_us < 3_000_000


def test_what_came_before_the_timeout_is_kept(server: FaultServer) -> None:
    server.configure(rules=[{"act": "stall"}])
    exchange = ask_one(openai(server, timeout_seconds=0.3))
    assert (exchange.status, exchange.error) == (200, ErrorClass.TIMEOUT)
    assert exchange.body.startswith(b'{"id"')


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_at_which_nothing_listens_is_unreachable(host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://{host}:{taken.getsockname()[1]}/v1"
        exchange = ask_one(ProviderSettings("openai", KEY, address))
    assert (exchange.status, exchange.error) == (None, ErrorClass.UNREACHABLE)


def test_a_name_that_does_not_exist_is_unreachable() -> None:
    assert ask_one(ProviderSettings("openai", KEY, "https://nobody.invalid/v1")).error is ErrorClass.UNREACHABLE


def test_a_server_that_does_not_speak_tls_is_unreachable_by_https(server: FaultServer) -> None:
    exchange = ask_one(openai(server, base_url=server.base_url.replace("http:", "https:")))
    assert exchange.error is ErrorClass.UNREACHABLE


def test_a_server_without_a_valid_certificate_is_unreachable(tmp_path: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(self_signed_certificate(tmp_path))

    async def send() -> Exchange:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=tls)
        async with server:
            base_url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            async with Wire(ProviderSettings("openai", KEY, base_url, timeout_seconds=5), "m") as wire:
                return await wire.send(question(), "k", "k")

    exchange = asyncio.run(send())
    assert exchange.error is ErrorClass.UNREACHABLE
    assert "certificate" in exchange.detail.lower()


def test_a_proxy_that_lets_nobody_through_is_unreachable(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", server.url)
    exchange = ask_one(ProviderSettings("openai", KEY, "https://llm.example/v1"))
    assert (exchange.error, exchange.status) == (ErrorClass.UNREACHABLE, None)


def test_of_an_oversized_reply_the_beginning_is_kept(server: FaultServer) -> None:
    exchange = ask_one(openai(server), question("[[huge]]"))
    assert (exchange.status, exchange.error) == (200, ErrorClass.OVERSIZED)
    assert len(exchange.body) == KEPT_OF_OVERSIZED
    assert "65536" in exchange.detail


@pytest.mark.parametrize("act", ["html", "empty_body", "null_content", "empty_choices", "not_json", "refusal"])
def test_a_whole_reply_is_no_error_of_the_wire_whatever_it_says(server: FaultServer, act: str) -> None:
    exchange = ask_one(openai(server), question(f"[[{act}]]"))
    assert (exchange.status, exchange.error) == (200, None)


@pytest.mark.parametrize("act", ["429", "500", "reset", "cut", "garbage", "307", "empty_body"])
def test_nothing_is_tried_again_behind_the_caller_s_back(server: FaultServer, act: str) -> None:
    server.configure(rules=[{"act": act}])

    async def send_over_kept_connections() -> None:
        async with Wire(openai(server), "m") as wire:
            for _ in range(5):
                await wire.send(question(), "again", "again")

    asyncio.run(send_over_kept_connections())
    assert server.stats()["received"] == 5


def test_a_connection_that_broke_does_not_spoil_the_next_call(server: FaultServer) -> None:
    server.configure(first_tries={"act": "reset", "times": 3})

    async def send_until_answered() -> list[int | None]:
        async with Wire(openai(server), "m", max_concurrency=1) as wire:
            return [(await wire.send(question(), "k", "k")).status for _ in range(4)]

    assert asyncio.run(send_until_answered()) == [None, None, None, 200]


Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def _exchange_with(handler: Handler, query: str = "") -> Exchange:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await handler(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1{query}"
        async with Wire(ProviderSettings("openai", KEY, base_url, timeout_seconds=5), "m") as wire:
            return await wire.send(question(), "k", "k")


HTTP_LIKE = st.lists(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 ",
            b"HTTP/9.9 99999 \xff\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n",
            b"Content-Length: 5\r\n",
            b"content-length: -1\r\n",
            b"transfer-encoding: chunked\r\n",
            b"content-encoding: br\r\n",
            b"location: http://[::1\r\n",
            b"set-cookie: \xff=;;=\r\n",
            b"content-type: ;;;\xe9\r\n",
            b"\r\n",
            b"ffffffffffffffffff\r\n",
            b"3\r\nabc\r\n0\r\n\r\n",
            b"\x00",
            b"hello",
        ]
    ),
    max_size=8,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | HTTP_LIKE)
@example(b"")
@example(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc")
def test_no_bytes_that_a_server_may_send_raise(answer: bytes) -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    exchange = asyncio.run(_exchange_with(say))
    assert exchange.error is not None or exchange.status is not None
    canonical_json([exchange.headers, exchange.detail])


# Many at once


def test_a_hundred_calls_are_in_flight_at_once_and_each_gets_its_own_reply(server: FaultServer) -> None:
    server.configure(latency_ms=200)
    bodies = [question(model=f"model-{n}") for n in range(100)]
    exchanges = ask(openai(server), *bodies, max_concurrency=100)
    assert [json.loads(exchange.body)["model"] for exchange in exchanges] == [f"model-{n}" for n in range(100)]
    stats = server.stats()
    assert (stats["paid"], stats["paid_extra"], stats["in_flight_max"]) == (100, 0, 100)


def test_no_more_are_in_flight_than_allowed(server: FaultServer) -> None:
    server.configure(latency_ms=20)
    exchanges = ask(openai(server), *(question(str(n)) for n in range(20)), max_concurrency=4)
    assert all(exchange.error is None for exchange in exchanges)
    assert server.stats()["in_flight_max"] == 4


def test_a_cancelled_call_is_cancelled(server: FaultServer) -> None:
    server.configure(rules=[{"act": "hang"}])

    async def send_and_cancel() -> None:
        async with Wire(openai(server), "m") as wire:
            call = asyncio.create_task(wire.send(question(), "k", "k"))
            await asyncio.sleep(0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(send_and_cancel())


def test_sending_over_a_closed_wire_is_a_mistake_and_raises(server: FaultServer) -> None:
    wire = opened(openai(server))
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(wire.send(question(), "k", "k"))


# What never gets out


def test_evidence_names_the_key_by_its_fingerprint(server: FaultServer) -> None:
    wire = opened(openai(server))
    shown = evidence(wire)
    assert shown["method"] == "POST"
    assert shown["url"] == f"{server.base_url}/chat/completions"
    assert shown["headers"]["authorization"] == f"Bearer {fingerprint(KEY)}"
    assert shown["headers"] | {"authorization": f"Bearer {KEY}"} == wire.head.headers
    assert wire.head.evidence == canonical_json(shown)


def test_evidence_uses_the_installation_s_fingerprint_key(server: FaultServer) -> None:
    async def evidence_with(key: bytes) -> bytes:
        async with Wire(openai(server), "m", fingerprint_key=key) as wire:
            return wire.head.evidence

    assert fingerprint(KEY, b"installation").encode() in asyncio.run(evidence_with(b"installation"))


def test_evidence_is_the_same_each_time(server: FaultServer) -> None:
    assert opened(openai(server)).head.evidence == opened(openai(server)).head.evidence


@pytest.mark.parametrize("name", ["x-api-key", "Cookie", "Ocp-Apim-Subscription-Key", "Proxy-Authorization"])
def test_a_credential_in_any_header_is_only_a_fingerprint_in_evidence(server: FaultServer, name: str) -> None:
    wire = opened(openai(server, headers={name: "another-canary-987654"}))
    assert evidence(wire)["headers"][name.lower()] == fingerprint("another-canary-987654")


def test_a_header_that_holds_the_key_is_a_credential_whatever_its_name(server: FaultServer) -> None:
    wire = opened(openai(server, headers={"x-gateway": f"key={KEY}"}))
    assert evidence(wire)["headers"]["x-gateway"] == fingerprint(f"key={KEY}")


def test_a_key_in_the_query_is_sent_but_only_a_fingerprint_in_evidence(server: FaultServer) -> None:
    local = ProviderSettings("local", base_url=f"{server.base_url}?key=q%2Fcanary&team=7")
    wire = opened(local)
    assert wire.head.url == f"{server.base_url}/chat/completions?key=q%2Fcanary&team=7"
    assert evidence(wire)["url"] == f"{server.base_url}/chat/completions?key={fingerprint('q/canary')}&team=7"


def test_nothing_of_a_wire_shows_the_key(server: FaultServer) -> None:
    wire = opened(openai(server, base_url=f"{server.base_url}?key={KEY}", headers={"x-api-key": KEY}))
    assert KEY not in repr(wire.head) + repr(wire) + wire.head.evidence.decode()


def test_a_refused_key_that_the_server_repeats_is_replaced_by_its_fingerprint(server: FaultServer) -> None:
    server.configure(expected_key="another", echo_key=True)
    exchange = ask_one(openai(server))
    assert (exchange.status, exchange.error, exchange.redacted) == (401, ErrorClass.AUTHENTICATION, True)
    assert KEY not in exchange.body.decode() + exchange.detail
    said = json.loads(exchange.body)["error"]["message"]
    assert said == f"Incorrect API key provided: {fingerprint(KEY)}"
    assert exchange.detail == "HTTP 401: code 401, type fault"


def test_a_key_in_an_answer_or_a_header_is_replaced_too(server: FaultServer) -> None:
    server.configure(headers={"x-ms-echo": f"api-key {KEY}"})
    exchange = ask_one(openai(server), question("[[echo_key]]"))
    assert (exchange.error, exchange.redacted) == (None, True)
    assert KEY.encode() not in exchange.body
    assert exchange.headers["x-ms-echo"] == f"api-key {fingerprint(KEY)}"


def test_the_beginning_of_a_key_at_which_a_body_was_cut_is_replaced() -> None:
    async def cut_within_the_key(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\nyour key: " + KEY[:20].encode())

    exchange = asyncio.run(_exchange_with(cut_within_the_key))
    assert (exchange.error, exchange.redacted) == (ErrorClass.CONNECTION, True)
    assert exchange.body == b"your key: " + fingerprint(KEY).encode()


def test_no_log_line_at_any_level_holds_the_key(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.configure(expected_key="another", echo_key=True)
    ask_one(openai(server, base_url=f"{server.base_url}?key={KEY}", headers={"x-team": KEY}))
    ask_one(openai(server, base_url=f"http://nobody.invalid/v1?key={KEY}"))
    assert KEY not in caplog.text


def test_an_address_in_an_error_s_detail_does_not_hold_the_key() -> None:
    async def nonsense(writer: asyncio.StreamWriter) -> None:
        writer.write(b"nonsense\r\n\r\n")

    exchange = asyncio.run(_exchange_with(nonsense, f"?key={KEY}"))
    assert KEY not in exchange.detail

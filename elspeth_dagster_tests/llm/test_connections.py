"""Connections against servers and proxies that keep, close, tunnel and talk too much; on both event loops."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from elspeth_dagster.core.errors import ProviderError, SettingsError
from elspeth_dagster.llm import connections, wire
from elspeth_dagster.llm.providers import ProviderSettings
from elspeth_dagster.llm.wire import Wire
from elspeth_dagster.stages.calling import ErrorClass, Exchange

KEY = "sk-canary-0123456789abcdefghij"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Run = Callable[[Any], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return asyncio.run if request.param == "asyncio" else uvloop.run


@asynccontextmanager
async def served(serve: Serve, tls: ssl.SSLContext | None = None) -> Any:
    """A server on a free port; the port, and how many connections it has had."""
    taken: list[int] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(1)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], taken
    finally:
        server.close()


async def asked(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request, its body read."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return head


def saying(*answers: bytes, close: bool = False) -> Serve:
    """A server that says these to the requests of a connection, one after the other."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await asked(reader)
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()

    return serve


def settings(port: int, scheme: str = "http", **more: Any) -> ProviderSettings:
    return ProviderSettings("openai", KEY, f"{scheme}://127.0.0.1:{port}/v1", timeout_seconds=5, **more)


def send(run: Run, serve: Serve, times: int = 1) -> tuple[list[Exchange], int]:
    """What came of sending one after the other, and over how many connections."""

    async def send_all() -> tuple[list[Exchange], int]:
        async with served(serve) as (port, taken), Wire(settings(port), "m") as open_wire:
            came = [await open_wire.send(b"{}", f"call-{n}", f"key-{n}") for n in range(times)]
            return came, len(taken)

    return run(send_all())


# Kept and closed


def test_a_connection_is_used_again(run: Run) -> None:
    came, taken = send(run, saying(OK, OK, OK), times=3)
    assert ([one.status for one in came], taken) == ([200, 200, 200], 1)


def test_one_that_was_idle_for_long_is_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
    came, taken = send(run, saying(OK, OK), times=2)
    assert ([one.status for one in came], taken) == ([200, 200], 2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        OK + b"more than was asked for",
        OK + OK,
    ],
)
def test_nor_is_one_whose_server_wants_to_close_or_says_too_much(run: Run, answer: bytes) -> None:
    came, taken = send(run, saying(answer, answer), times=2)
    assert ([one.body for one in came], taken) == ([b"{}", b"{}"], 2)


def test_nor_is_one_that_the_server_has_closed(run: Run) -> None:
    async def send_later() -> tuple[list[int | None], int]:
        async with served(saying(OK, close=True)) as (port, taken), Wire(settings(port), "m") as open_wire:
            first = await open_wire.send(b"{}", "1", "1")
            await asyncio.sleep(0.1)
            return [first.status, (await open_wire.send(b"{}", "2", "2")).status], len(taken)

    assert run(send_later()) == ([200, 200], 2)


# What a reply may look like


def test_interim_replies_are_passed_over(run: Run) -> None:
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nx-request-id: early\r\n\r\n"
    answer = hints + b"HTTP/1.1 200 OK\r\nx-request-id: late\r\ncontent-length: 2\r\n\r\n{}"
    came, taken = send(run, saying(answer, answer), times=2)
    assert [(one.status, one.body, one.headers) for one in came] == [(200, b"{}", {"x-request-id": "late"})] * 2
    assert taken == 1


def test_a_body_may_come_in_chunks(run: Run) -> None:
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    came, taken = send(run, saying(answer, answer), times=2)
    assert ([one.body for one in came], taken) == ([b"{}", b"{}"], 1)


def test_a_body_without_a_length_ends_with_its_connection(run: Run) -> None:
    ([came], _) = send(run, saying(b"HTTP/1.1 200 OK\r\n\r\n{}", close=True))
    assert (came.status, came.body, came.error) == (200, b"{}", None)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", b"HTTP/1.1 200 OK\r\nx-re"])
def test_one_that_is_cut_is_a_broken_connection(run: Run, answer: bytes) -> None:
    ([came], _) = send(run, saying(answer, close=True))
    assert came.error is ErrorClass.CONNECTION


def test_a_head_without_end_is_given_up(run: Run) -> None:
    ([came], _) = send(run, saying(b"HTTP/1.1 200 OK\r\nx-endless: " + b"y" * connections.LARGEST_HEAD))
    assert (came.status, came.error) == (None, ErrorClass.CONNECTION)
    assert str(connections.LARGEST_HEAD) in came.detail


# By TLS, and through proxies


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a key and a certificate for 127.0.0.1, which vouches for itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - timedelta(1), now + timedelta(1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("authority") / "server.pem"
    path.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(pem))
    return path


def identity(path: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context


def test_an_authority_of_one_s_own_is_trusted_where_it_is_named(run: Run, authority: Path) -> None:
    async def send_by_tls(**more: Any) -> Exchange:
        async with (
            served(saying(OK), identity(authority)) as (port, _),
            Wire(settings(port, "https", **more), "m") as open_wire,
        ):
            return await open_wire.send(b"{}", "1", "1")

    assert run(send_by_tls()).error is ErrorClass.UNREACHABLE
    assert run(send_by_tls(ca_file=str(authority))).status == 200


def test_a_ca_file_that_holds_no_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(SettingsError, match=f"ca_file: .*{name}"):
            asyncio.run(Wire(settings(1, "https", ca_file=str(tmp_path / name)), "m").__aenter__())


def test_https_goes_through_a_proxy_s_tunnel(run: Run, authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        host, _, port = heads[-1].split()[1].decode().rpartition(":")
        behind, ahead = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, ahead), pump(behind, writer))

    async def send_through() -> tuple[Exchange, int]:
        async with served(saying(OK), identity(authority)) as (port, _), served(tunnel) as (proxy, _):
            monkeypatch.setenv("https_proxy", f"http://me:{KEY}@127.0.0.1:{proxy}")
            async with Wire(settings(port, "https", ca_file=str(authority)), "m") as open_wire:
                return await open_wire.send(b"{}", "1", "1"), port

    came, port = run(send_through())
    assert came.status == 200
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n".encode())
    assert b"proxy-authorization: Basic " in heads[0]


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


# Tokens that are given out


TOKENS: Iterator[str] = iter(())


def token() -> str:
    return next(TOKENS)


def give(monkeypatch: pytest.MonkeyPatch, *ages: str) -> None:
    monkeypatch.setitem(globals(), "TOKENS", iter([f"token-{age}" for age in ages]))


def entra(port: int, name: str = f"{__name__}:token") -> ProviderSettings:
    address = f"http://127.0.0.1:{port}"
    return ProviderSettings(
        "azure", azure_endpoint=address, api_version="2024-10-21", azure_ad_token_provider=name, timeout_seconds=5
    )


def test_another_token_makes_another_head_of_the_same_account(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await asked(reader))
            writer.write(OK)

    async def send_often() -> list[wire.Head]:
        async with served(serve) as (port, _), Wire(entra(port), "m") as open_wire:
            used = []
            for _ in range(3):
                used.append(await open_wire.refresh())
                await open_wire.send(b"{}", "1", "1")
            return used

    monkeypatch.setattr(wire, "TOKEN_SECONDS", 0.0)
    give(monkeypatch, "of-then", "of-then", "of-then", "of-now")
    first, second, third = run(send_often())
    sent = [head.split(b"Bearer ")[1].split(b"\r\n")[0] for head in heads]
    assert sent == [b"token-of-then", b"token-of-then", b"token-of-now"]
    assert first is second is not third
    assert first.evidence != third.evidence and first.account == third.account
    assert b"token-of" not in first.evidence + third.evidence


def test_a_call_goes_out_by_the_head_that_it_names_although_another_has_come(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await asked(reader))
            writer.write(OK)

    async def send_late() -> None:
        async with served(serve) as (port, _), Wire(entra(port), "m") as open_wire:
            on_record = await open_wire.refresh()
            await open_wire.refresh()
            await open_wire.send(b"{}", "1", "1", on_record)

    monkeypatch.setattr(wire, "TOKEN_SECONDS", 0.0)
    give(monkeypatch, "at-first", "on-record", "of-another-call")
    run(send_late())
    assert b"Bearer token-on-record\r\n" in heads[0]


def test_no_token_is_an_error_of_the_provider(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch)
    with pytest.raises(ProviderError, match="gave no token"):
        run(Wire(entra(1), "m").__aenter__())


@pytest.mark.parametrize("name", ["nowhere:token", f"{__name__}:nothing", f"{__name__}:KEY", "token", ":token"])
def test_a_token_provider_that_is_no_function_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="azure_ad_token_provider"):
        asyncio.run(Wire(entra(1, name), "m").__aenter__())


def test_a_token_provider_is_for_azure_and_instead_of_a_key() -> None:
    for given in (
        ProviderSettings("openai", KEY, azure_ad_token_provider=f"{__name__}:token"),
        ProviderSettings(
            "azure",
            KEY,
            azure_endpoint="https://a.example",
            api_version="v",
            azure_ad_token_provider=f"{__name__}:token",
        ),
    ):
        with pytest.raises(SettingsError, match="azure_ad_token_provider"):
            asyncio.run(Wire(given, "m").__aenter__())


def test_a_host_that_no_name_server_can_be_asked_for_is_unreachable(run: Run) -> None:
    async def send() -> Exchange:
        async with Wire(ProviderSettings("openai", KEY, "http://a..b/v1", timeout_seconds=5), "m") as open_wire:
            return await open_wire.send(b"{}", "1", "1")

    assert run(send()).error is ErrorClass.UNREACHABLE

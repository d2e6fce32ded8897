"""Connections to one server: HTTP/1.1, one request at a time on each, kept open for the next.

    Connections(target)  ─ exchange(request, arrived) ─►  `arrived`, filled as the bytes come

What comes is read by httptools, the parser of Node.js. Nothing is decoded, followed, stored or tried again. A proxy is
asked for a tunnel to an https address, and to pass on what is for an http address.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

import aiohappyeyeballs
import httptools

LARGEST_BODY = 16 * 1024 * 1024
LARGEST_HEAD = 256 * 1024
IDLE_SECONDS = 15.0  # servers close what is idle, some after 20 s; a request sent at that moment would be lost
NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305 §5
CUT_OFF = "the connection was closed before the whole reply had come"


class NoConnectionError(ConnectionError):
    """A connection could not be made; the cause says why."""


class ProxyRefusalError(ConnectionError):
    """A proxy answered with another status than 200 when it was asked for a tunnel."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the proxy refused a tunnel: HTTP {status}")
        self.status = status


class OversizedError(Exception):
    """The reply's body has more than 16 MiB."""


@dataclass(slots=True)
class Arrived:
    """What has come of a reply so far. Names and values of headers are as they came."""

    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy; `authorization` is the value of its header, where it wants one."""

    scheme: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def header(self) -> bytes:
        """The header that lets us in."""
        return f"proxy-authorization: {self.authorization}\r\n".encode() if self.authorization else b""


@dataclass(frozen=True)
class Target:
    """Where requests go: a server, by TLS or not, straight or through a proxy."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None = None
    ca_file: str | None = None

    def trusted(self) -> ssl.SSLContext:
        """Whom TLS trusts: the system's authorities, or those of SSL_CERT_FILE, and those of `ca_file`."""
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context


class Connections:
    """At most so many connections to a target; an async context manager. More requests wait for one."""

    def __init__(self, target: Target, at_most: int) -> None:
        self._target = target
        self._places = asyncio.Semaphore(at_most)
        self._idle: deque[_Connection] = deque()
        self._tls = target.trusted() if "https" in (target.scheme, target.proxy and target.proxy.scheme) else None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()
        await asyncio.sleep(0)  # for the transports to close

    async def exchange(self, request: bytes, arrived: Arrived) -> None:
        """Send a request, and return when its reply is whole.

        Raises NoConnectionError, ProxyRefusalError, another ConnectionError where the connection broke or what came is
        no HTTP, OversizedError; `arrived` then holds what had come. Raises RuntimeError when closed.
        """
        if self._is_closed:
            raise RuntimeError("the wire is closed")
        async with self._places:
            connection = self._kept() or await self._made()
            try:
                await connection.exchange(request, arrived)
            finally:
                self._keep(connection)

    def _kept(self) -> _Connection | None:
        """The connection that was used last, if the server may still listen to it."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and time.monotonic() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        if connection.is_usable and not self._is_closed:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    async def _made(self) -> _Connection:
        target, proxy = self._target, self._target.proxy
        if proxy is None:
            return await self._connected(target.host, target.port, tls=target.scheme == "https")
        connection = await self._connected(proxy.host, proxy.port, tls=proxy.scheme == "https")
        return connection if target.scheme == "http" else await self._tunnelled(connection, proxy)

    async def _connected(self, host: str, port: int, *, tls: bool) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            reached = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS)
            _, connection = await loop.create_connection(
                _Connection, sock=reached, ssl=self._tls if tls else None, server_hostname=host if tls else None
            )
        except (OSError, UnicodeError) as error:  # of a name that no name server can be asked for
            raise NoConnectionError(f"no connection to {host}:{port}: {error}") from error
        return connection

    async def _tunnelled(self, connection: _Connection, proxy: Proxy) -> _Connection:
        """The connection, through the proxy and by TLS to the target behind it."""
        host = f"[{self._target.host}]" if ":" in self._target.host else self._target.host
        place, arrived = f"{host}:{self._target.port}", Arrived()
        try:
            await connection.exchange(
                f"CONNECT {place} HTTP/1.1\r\nhost: {place}\r\n".encode() + proxy.header + b"\r\n",
                arrived,
                head_only=True,
            )
            if arrived.status != 200:
                raise ProxyRefusalError(arrived.status or 0)
            await connection.secure(self._tls, self._target.host)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError) and not isinstance(error, ProxyRefusalError):
                raise NoConnectionError(f"no connection to {place} through the proxy: {error}") from error
            raise
        return connection


class _Connection(asyncio.Protocol):
    """One connection. Its methods with `on_` are called by the parser, while `data_received` feeds it."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._whole: asyncio.Future[None] | None = None
        self._arrived = Arrived()
        self._is_spoilt = False

    @property
    def is_usable(self) -> bool:
        """Whether another request can be sent: it is open, and the last reply ended where it had to."""
        return not self._is_spoilt and self._whole is None

    async def exchange(self, request: bytes, arrived: Arrived, *, head_only: bool = False) -> None:
        """Send, and return when the reply, or its head, is whole."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._arrived, self._head_only, self._has_length, self._head_bytes = arrived, head_only, False, 0
        self._whole = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._whole
        except BaseException:
            self._is_spoilt = True
            raise
        finally:
            self._whole = None

    async def secure(self, context: ssl.SSLContext | None, host: str) -> None:
        """Go on by TLS."""
        assert self._transport is not None and context is not None
        loop = asyncio.get_running_loop()
        self._transport = await loop.start_tls(self._transport, self, context, server_hostname=host)

    def close(self) -> None:
        """Close it, without waiting."""
        self._is_spoilt = True
        if self._transport is not None:
            self._transport.abort()

    # What asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # as uvloop's are too, without saying so

    def data_received(self, data: bytes) -> None:
        if self._whole is None:  # nobody has asked for anything
            return self.close()
        if self._arrived.status is None:
            self._head_bytes += len(data)
            if self._head_bytes > LARGEST_HEAD:
                return self._fail(ConnectionError(f"more than {LARGEST_HEAD} bytes came before a reply's body"))
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if not self._head_only:
                self._fail(ConnectionError("the server changed to another protocol"))
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"what came is not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._is_spoilt = True
        ends_with_it = self._arrived.status is not None and not self._has_length and not self._head_only
        if error is None and ends_with_it and self._whole is not None and not self._whole.done():
            self._whole.set_result(None)
        self._fail(error if isinstance(error, OSError) else ConnectionResetError(CUT_OFF))

    # What the parser tells

    def on_message_begin(self) -> None:
        if self._whole is None or self._whole.done():  # more than we asked for
            self._is_spoilt = True
        else:
            self._arrived.headers.clear()
            self._has_length = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_wanted:
            self._arrived.headers.append((name, value))
            self._has_length = self._has_length or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self._is_wanted:
            self._arrived.status = status
            if self._head_only and self._whole is not None:
                self._whole.set_result(None)

    def on_body(self, part: bytes) -> None:
        if self._is_wanted:
            self._arrived.body += part
            if len(self._arrived.body) > LARGEST_BODY:
                self._fail(OversizedError(f"more than {LARGEST_BODY} bytes came"))

    def on_message_complete(self) -> None:
        if self._arrived.status is not None and self._is_wanted and self._whole is not None:
            self._is_spoilt = self._is_spoilt or not self._parser.should_keep_alive()
            self._whole.set_result(None)

    @property
    def _is_wanted(self) -> bool:
        return self._whole is not None and not self._whole.done()

    def _fail(self, error: Exception) -> None:
        self._is_spoilt = True
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(error)

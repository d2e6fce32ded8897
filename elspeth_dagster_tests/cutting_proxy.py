"""A proxy before a real PostgreSQL that cuts a connection at its next COMMIT, at a moment of one's choice.

    proxy.cut(Moment.AFTER)      the server has committed and said so, but nobody hears it
    proxy.cut(Moment.BEFORE)     the server never sees the COMMIT
    proxy.cut(Moment.LATE)       the client is cut off first; the server sees the COMMIT half a second later

`proxy.away()` is a server that takes no connections for a while.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from types import TracebackType
from typing import Self

import sqlalchemy as sa

LATE_SECONDS = 0.5
COMMIT = b"COMMIT\0"


class Moment(Enum):
    AFTER = auto()
    BEFORE = auto()
    LATE = auto()


Meanwhile = Callable[[], object]


class CuttingProxy:
    """Listens on 127.0.0.1; `url` is that of the server, by way of it."""

    def __init__(self, url: str) -> None:
        self._server = sa.make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = self._server.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        self.cuts = 0
        self._next: deque[tuple[Moment, Meanwhile] | None] = deque()
        self._is_away = False
        self._links: list[_Link] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, moment: Moment, meanwhile: Meanwhile = lambda: None) -> None:
        """Cut the next COMMIT; before the client notices, do something else."""
        self._next.append((moment, meanwhile))

    def let_pass(self) -> None:
        """Don't cut the next COMMIT, but perhaps the one after it."""
        self._next.append(None)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Every connection is cut, and new ones are closed at once."""
        self._is_away = True
        self._cut_all()
        yield
        self._is_away = False

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_away:
                    client.close()
                else:
                    link = _Link(client, self._connect(), self._next_cut)
                    self._links.append(link)
                    link.start()

    def _connect(self) -> socket.socket:
        folder = self._server.query.get("host")
        if folder is None:
            return socket.create_connection((self._server.host or "127.0.0.1", self._server.port or 5432))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{folder}/.s.PGSQL.{self._server.port or 5432}")
        return server

    def _next_cut(self) -> tuple[Moment, Meanwhile] | None:
        cut = self._next.popleft() if self._next else None
        self.cuts += cut is not None
        return cut

    def _cut_all(self) -> None:
        for link in self._links:
            link.cut()
        self._links.clear()


class _Link:
    """One connection, passed on in both directions."""

    def __init__(
        self, client: socket.socket, server: socket.socket, next_cut: Callable[[], tuple[Moment, Meanwhile] | None]
    ) -> None:
        self._client = client
        self._server = server
        self._next_cut = next_cut
        self._deaf = threading.Event()  # what the server says is dropped
        self._answered = threading.Event()  # it has said something then

    def start(self) -> None:
        for work in (self._pass_to_server, self._pass_to_client):
            threading.Thread(target=work, daemon=True).start()

    def cut(self) -> None:
        _cut(self._client)
        _cut(self._server)

    def _pass_to_server(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(65536):
                if COMMIT in data and (cut := self._next_cut()):
                    self._cut_at(*cut, data)
                    break
                self._server.sendall(data)
        self.cut()

    def _cut_at(self, moment: Moment, meanwhile: Meanwhile, commit: bytes) -> None:
        self._deaf.set()
        if moment is Moment.LATE:
            _cut(self._client)
            time.sleep(LATE_SECONDS)
        if moment is not Moment.BEFORE:
            self._server.sendall(commit)
            self._answered.wait(timeout=30)
        _cut(self._server)
        meanwhile()

    def _pass_to_client(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(65536):
                if self._deaf.is_set():
                    self._answered.set()
                else:
                    self._client.sendall(data)
        if not self._deaf.is_set():
            self.cut()


def _cut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()

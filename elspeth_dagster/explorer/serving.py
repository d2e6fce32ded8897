"""How the explorer is served: on this machine alone, unless a token is set."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
import uvicorn
from starlette.applications import Starlette

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.explorer.application import explorer
from elspeth_dagster.explorer.looking import Looking
from elspeth_dagster.landscape.ledger import Landscape

PATIENCE = 5.0  # seconds for which a busy database is waited for: a reader waits
SHORTEST_TOKEN = 16


class Serving(NamedTuple):
    """Where the explorer is served, to whom, and where Dagster's own pages are."""

    host: str
    port: int
    token: str | None = None
    names: tuple[str, ...] = ()
    dagster_url: str | None = None
    hides_token: bool = False

    @property
    def address(self) -> str:
        """What a reader opens first; it holds the token, unless that is to be hidden."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        shown = "" if self.token is None or self.hides_token else f"?token={quote(self.token, safe='')}"
        return f"http://{host}:{self.port}/{shown}"


def check(serving: Serving) -> None:
    """Raise SettingsError for what would let anybody in, or can't work."""
    if serving.token is not None and (len(serving.token) < SHORTEST_TOKEN or not serving.token.isascii()):
        raise SettingsError(f"--token must have {SHORTEST_TOKEN} ASCII characters or more: a key, not a word")
    if serving.token is None and not _is_loopback(serving.host):
        raise SettingsError(
            f"--host {serving.host} lets other machines in, and these pages have no login: "
            "set a --token (or ELSPETH_EXPLORER_TOKEN), or leave --host away"
        )
    if serving.dagster_url is not None and urlsplit(serving.dagster_url).scheme not in ("http", "https"):
        raise SettingsError("--dagster-url must begin with http:// or https://")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def serve(url: str, serving: Serving, say: Callable[[str], None]) -> None:
    """Serve the landscape at a SQLAlchemy url until interrupted; `say` is told the address, once.

    Raises SettingsError, and what opening the landscape raises, before anybody is answered.
    """
    check(serving)
    with Landscape.look_at(url, patience=PATIENCE) as landscape, _listening(serving) as listening:
        looking = Looking(landscape, landscape_name(url), (serving.dagster_url or "").rstrip("/") or None)
        app = explorer(looking, names=(serving.host, *serving.names), token=serving.token)
        address = serving._replace(port=listening.getsockname()[1]).address
        say(f"The explorer of {looking.name} is at {address} (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            server_of(app).run(sockets=[listening])


def _listening(serving: Serving) -> socket.socket:
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    try:
        return socket.create_server((serving.host, serving.port), family=family)
    except OSError as error:
        raise SettingsError(
            f"--host {serving.host} --port {serving.port} can't be listened at: {error.strerror}; give another --port"
        ) from None


def server_of(app: Starlette) -> uvicorn.Server:
    """A server without an access log: that would hold the token and the keys of rows.

    Of a proxy on this machine it takes whether a reader came by https, so that the cookie is for https alone.
    """
    return uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning", server_header=False))


def landscape_name(url: str) -> str:
    """The landscape as the pages call it: a file's or a database's name, no host and no password."""
    return (sa.make_url(url).database or "").rsplit("/", 1)[-1]

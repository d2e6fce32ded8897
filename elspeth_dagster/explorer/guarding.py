"""Who may read, and what a browser may do with what it reads. Every request comes through here, every answer too.

GET and HEAD only: there is nothing to change
Host: an address, localhost, or a name we were told, so that no foreign name can be made to point here
the token, where one is set: once in the URL, then as a cookie; or as a bearer
headers: no script but ours, no frame, nothing loaded from or sent to elsewhere, nothing kept by caches
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Headers:
    """Every answer carries our headers, errors too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class Guard:
    """Lets through who may read. `names` are the hosts we answer to besides addresses and localhost."""

    def __init__(self, app: ASGIApp, names: Collection[str] = (), token: str | None = None) -> None:
        self._app = app
        self._names = {name.lower() for name in names}
        self._token = Token(token) if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: Any = self._app
        if scope["type"] == "http":
            request = Request(scope)
            self._refuse(request)
            answer = (self._token and self._token.answer(request)) or self._app
        await answer(scope, receive, send)

    def _refuse(self, request: Request) -> None:
        if request.method not in METHODS:
            allow = {"Allow": ", ".join(METHODS)}
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, "These pages can only be read.", allow)
        if "\0" in request.url.path or b"%00" in request.scope["query_string"]:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "No name on record holds a NUL character.")
        if not self._is_ours(request.headers.get("host", "")):
            told = "This explorer does not answer to that name: start it with --name and the name you use for it."
            raise HTTPException(HTTPStatus.MISDIRECTED_REQUEST, told)

    def _is_ours(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return name.lower() in {"localhost", *self._names} or _is_address(name.strip("[]"))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Token:
    """What one must know to read. The cookie holds not the token but what only who knows it can make."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._session = hmac.digest(self._token, b"explorer", "sha256").hex()
        self._cookie = f"elspeth_{self._session[:8]}"  # cookies don't tell ports apart, the name must

    def answer(self, request: Request) -> Response | None:
        """The answer to a request that brings the token in its URL, None for one that brought it otherwise."""
        if "token" in request.query_params:
            if self._is_it(request.query_params["token"]):
                return self._go_on(request)
        elif self._is_known(request):
            return None
        raise HTTPException(HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})

    def _is_known(self, request: Request) -> bool:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        cookie = request.cookies.get(self._cookie, "").encode()
        by_bearer = kind.lower() == "bearer" and self._is_it(bearer.strip())
        return by_bearer or hmac.compare_digest(cookie, self._session.encode())

    def _is_it(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)

    def _go_on(self, request: Request) -> Response:
        """To the same page, without the token in its URL."""
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        # Relative and of one slash: //evil.example would be another host.
        path = f"/{request.url.path.lstrip('/')}"
        onward = RedirectResponse(f"{path}?{urlencode(rest)}" if rest else path, HTTPStatus.SEE_OTHER)
        onward.set_cookie(
            self._cookie, self._session, httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return onward

"""What went wrong, as a page that says what to do. None tells more than the error's own sentence."""

from __future__ import annotations

import logging
import traceback
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from elspeth_dagster.core.errors import ErasedError, LandscapeError, NotOnRecordError
from elspeth_dagster.explorer.rendering import render

logger = logging.getLogger(__name__)
TO_DO = {
    HTTPStatus.BAD_REQUEST: "Go back and change what you asked for.",
    HTTPStatus.UNAUTHORIZED: "Open the address that was printed when the explorer was started; it holds the token.",
    HTTPStatus.NOT_FOUND: "Look for it among the runs. An address may have been cut short on its way to you.",
    HTTPStatus.SERVICE_UNAVAILABLE: "If its database is away or busy, load this again in a moment. "
    "If the record was changed, tell whoever keeps it.",
}
TITLES = {
    HTTPStatus.UNAUTHORIZED: "A token is needed",
    HTTPStatus.NOT_FOUND: "Not on record",
    HTTPStatus.GONE: "Erased",
    HTTPStatus.SERVICE_UNAVAILABLE: "The landscape can't be read",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something is wrong with this page",
}


def _problem(request: Request, status: HTTPStatus, detail: str, headers: Any = None) -> Response:
    page = render(
        request,
        "problem.html",
        title=TITLES.get(status, status.phrase),
        status=status,
        http=status,
        detail=detail,
        to_do=TO_DO.get(status),
        is_locked=status is HTTPStatus.UNAUTHORIZED,
    )
    page.headers.update(headers or {})
    return page


def of_http(request: Request, error: Exception) -> Response:
    """A request that can't be answered as it is."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = "" if error.detail == status.phrase else error.detail
    return _problem(request, status, detail, error.headers)


def of_absence(request: Request, error: Exception) -> Response:
    """What was asked for is not on record."""
    return _problem(request, HTTPStatus.NOT_FOUND, str(error))


def of_erasure(request: Request, error: Exception) -> Response:
    """What was asked for has been erased."""
    return _problem(request, HTTPStatus.GONE, str(error))


def of_landscape(request: Request, error: Exception) -> Response:
    """The database can't be read, or holds other bytes than it should."""
    return _problem(request, HTTPStatus.SERVICE_UNAVAILABLE, str(error))


def of_ours(request: Request, error: Exception) -> Response:
    """A mistake of ours: logged by its kind and place, since its text may hold a row's."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("%s at %s:%s", type(error).__name__, place.filename, place.lineno)
    return _problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "")


HANDLERS: dict[Any, Any] = {
    HTTPException: of_http,
    NotOnRecordError: of_absence,
    ErasedError: of_erasure,
    LandscapeError: of_landscape,
}

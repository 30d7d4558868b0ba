"""Every error as a problem document (RFC 9457); no traceback and no echo of the input ever reaches a client."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tierd.errors import InvalidRequest, NotFound, TierdError, Unauthorized
from tierd.serve.headers import add_security_headers
from tierd.serve.schemas import Fault, Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
_MAX_FAULTS = 20

Responses = dict[int | str, dict[str, Any]]

log = logging.getLogger(__name__)


def responses(*statuses: int) -> Responses:
    """What to write into a route's `responses` for the problems that it can answer with.

    Those that every route can have (not authenticated, not allowed, not understood, broken, not available) are
    always among them.
    """
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}}
        for status in sorted({401, 403, 422, 500, 503, *statuses})
    }


def problem(
    error: TierdError, *, instance: str, faults: list[Fault] | None = None, status: int | None = None
) -> Problem:
    """The problem document of an error."""
    doc = (type(error).__doc__ or "").partition("\n")[0]
    return Problem(
        type=f"urn:tierd:problem:{error.code}",
        title=doc.rstrip("."),
        status=status or error.http_status,
        code=error.code,
        detail=_printable(error.message),
        hint=None if error.hint is None else _printable(error.hint),
        instance=_printable(instance),
        faults=faults,
    )


def answer(
    error: TierdError,
    *,
    instance: str,
    faults: list[Fault] | None = None,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The HTTP response for an error."""
    document = problem(error, instance=instance, faults=faults, status=status)
    all_headers = dict(headers or {})
    if document.status == HTTPStatus.SERVICE_UNAVAILABLE:
        all_headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    content = document.model_dump(mode="json", exclude=None if faults else {"faults"})
    response = JSONResponse(content, status_code=document.status, headers=all_headers, media_type=MEDIA_TYPE)
    if isinstance(error, Unauthorized):
        # A line each: browsers look only at the first way of a line, and need the one they know.
        response.headers.append("WWW-Authenticate", 'Basic realm="tierd", charset="UTF-8"')
        response.headers.append("WWW-Authenticate", 'Bearer realm="tierd"')
    return response


def install(app: FastAPI) -> None:
    """Make the application answer every kind of error with a problem document."""
    app.add_exception_handler(TierdError, _on_tierd_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)


async def _on_tierd_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TierdError)
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request failed: %s", error, extra={"action": "request_failed", "code": error.code})
    return answer(error, instance=request.url.path)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Only where and what: the value itself may be long, secret or hostile.
    faults = [
        Fault(where=_printable(".".join(map(str, e.get("loc", ())))), problem=_printable(str(e.get("msg", ""))))
        for e in error.errors()[:_MAX_FAULTS]
    ]
    first = f"{faults[0].where}: {faults[0].problem}" if faults else "the request does not match its schema"
    return answer(
        InvalidRequest(f"invalid request: {first}", hint="The expected shape is in /openapi.json."),
        instance=request.url.path,
        faults=faults,
    )


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, headers = request.url.path, dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = _allowed(request) or headers
    if error.status_code == HTTPStatus.NOT_FOUND:
        hint = "The routes are listed in /openapi.json."
        return answer(NotFound(f"there is nothing at {path}", hint=hint), instance=path, headers=headers)
    phrase = HTTPStatus(error.status_code).phrase.lower()
    what = InvalidRequest(f"{request.method} {path}: {phrase}", hint="The expected shape is in /openapi.json.")
    # A body that is no text at all is as invalid as one that is not JSON.
    status = None if error.status_code == HTTPStatus.BAD_REQUEST else error.status_code
    return answer(what, instance=path, status=status, headers=headers)


def _allowed(request: Request) -> dict[str, str]:
    """All methods of a path: its routes know only their own each."""
    path = str(getattr(request.scope.get("route"), "path", ""))
    methods = sorted(method.upper() for method in request.app.openapi()["paths"].get(path, ()))
    return {"Allow": ", ".join(methods)} if methods else {}


async def _on_bug(request: Request, error: Exception) -> Response:
    # The server logs the traceback itself; this response is made outside all middleware.
    broken = TierdError("the request could not be carried out", hint="The daemon's log says what went wrong.")
    response = answer(broken, instance=request.url.path)
    add_security_headers(response.headers)
    return response


def _printable(text: str) -> str:
    """Text that JSON can carry: file names that are not UTF-8 are shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

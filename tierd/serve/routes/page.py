"""The operator's page and its files. Not part of the API's schema: it is for people."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from tierd.errors import NotFound
from tierd.serve.asking import Reader
from tierd.serve.headers import PAGE_POLICY
from tierd.serve.parts import Have

router = APIRouter(include_in_schema=False)

_HEADERS = {"Content-Security-Policy": PAGE_POLICY}


@router.get("/")
def page(have: Have, _: Reader) -> HTMLResponse:
    """The whole page."""
    return HTMLResponse(have.page.whole(), headers=_HEADERS)


@router.get("/page")
def content(have: Have, _: Reader) -> HTMLResponse:
    """The part of the page that changes; the page asks for it again and again."""
    return HTMLResponse(have.page.content(), headers=_HEADERS)


@router.get("/static/{name}")
def static(name: str, request: Request, have: Have) -> Response:
    """A file that belongs to the page. Needs no token: it says nothing about this server."""
    file = have.page.file(name)
    if file is None:
        raise NotFound(f"there is no file {name!r}")
    headers = {"Cache-Control": "no-cache", "ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)

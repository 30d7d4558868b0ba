"""The operator's page and its files. Not part of the API's schema: it is for people.

What changes something is a form that was first shown with what will happen, and carries the proof that it was.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from tierd.errors import Forbidden, InvalidRequest, NotFound, TierdError, Unauthorized
from tierd.model.transfer import TransferId
from tierd.serve.asking import Id, Named, Reader
from tierd.serve.auth import Caller
from tierd.serve.headers import PAGE_POLICY
from tierd.serve.parts import Have, Parts
from tierd.serve.sessions import COOKIE, LASTS
from tierd.serve.snapshot_page import ACTIONS, carry_out
from tierd.serve.table import Query

# With no referrer at all browsers send "Origin: null" with our own forms.
_HEADERS = {"Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "same-origin"}
_MAX_FIELDS = 20


class _PageRoute(APIRoute):
    """Answers a browser with a page also when something is wrong; programs get the API's problem documents."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_for_people(request: Request) -> Response:
            try:
                return await handle(request)
            except TierdError as error:
                if "text/html" not in request.headers.get("accept", ""):
                    raise
                have: Parts = request.app.state.parts
                needs_token = isinstance(error, Unauthorized)
                text = have.page.problem(error, signs_in=needs_token)
                more = {"WWW-Authenticate": 'Bearer realm="tierd"'} if needs_token else {}
                return HTMLResponse(text, status_code=error.http_status, headers=_HEADERS | more)

        return handle_for_people


router = APIRouter(include_in_schema=False, route_class=_PageRoute)


async def _form(request: Request) -> Mapping[str, str]:
    """The fields of a form; the last of equal names counts."""
    try:
        text = (await request.body()).decode("utf-8")
        fields = parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except (ValueError, ClientDisconnect) as e:
        raise InvalidRequest("the form cannot be read", hint="Go back, load the page again and repeat it.") from e
    return {name: values[-1] for name, values in fields.items()}


Form = Annotated[Mapping[str, str], Depends(_form)]


def _check(have: Parts, request: Request, form: Mapping[str, str]) -> None:
    if not have.sessions.is_form_token(form.get("form_token", ""), have.gate.subject(request)):
        raise Forbidden("the form is not from this page, or too old", hint="Load the page again and repeat it.")


def _token(have: Parts, request: Request) -> str:
    return have.sessions.form_token(have.gate.subject(request))


@router.get("/")
def page(request: Request, have: Have, caller: Reader) -> HTMLResponse:
    """The whole page."""
    query = Query.of(request.query_params)
    return HTMLResponse(have.page.whole(query, caller), headers=_HEADERS)


@router.get("/page")
def content(have: Have, _: Reader) -> HTMLResponse:
    """The tiers and what moves; the page asks for it when something changed."""
    return HTMLResponse(have.page.content(), headers=_HEADERS)


@router.get("/page/rest")
def rest(have: Have, _: Reader) -> HTMLResponse:
    """What comes next, what is held, and what happened."""
    return HTMLResponse(have.page.rest(), headers=_HEADERS)


@router.get("/page/snapshots")
def snapshots(request: Request, have: Have, _: Reader) -> HTMLResponse:
    """The table of snapshots."""
    return HTMLResponse(have.page.table(Query.of(request.query_params)), headers=_HEADERS)


@router.get("/page/changes")
async def changes(have: Have, _: Reader) -> StreamingResponse:
    """Tells, at most once a second, that something changed. The browser then asks for what it shows."""
    return StreamingResponse(have.page.listen(have.watch), media_type="text/event-stream")


@router.get("/snapshots/{dataset}/{snapshot}")
def snapshot(ref: Named, have: Have, caller: Reader) -> HTMLResponse:
    """The story of one snapshot."""
    return HTMLResponse(have.page.shell(str(ref), have.snapshot_page.content(ref, caller), caller), headers=_HEADERS)


@router.get("/page/snapshots/{dataset}/{snapshot}")
def snapshot_content(ref: Named, have: Have, caller: Reader) -> HTMLResponse:
    """The part of a snapshot's page that changes."""
    return HTMLResponse(have.snapshot_page.content(ref, caller), headers=_HEADERS)


@router.get("/snapshots/{dataset}/{snapshot}/{action}")
def preview(request: Request, ref: Named, action: str, have: Have, caller: Reader) -> HTMLResponse:
    """What an action will do, before it is done."""
    text = have.snapshot_page.preview(ref, _known(action), caller, _token(have, request))
    return HTMLResponse(have.page.shell(f"{action} {ref}", text, caller), headers=_HEADERS)


@router.post("/snapshots/{dataset}/{snapshot}/{action}")
async def act(request: Request, ref: Named, action: str, have: Have, caller: Reader, form: Form) -> Response:
    """Do it, and show the snapshot."""
    _check(have, request, form)
    _needs(caller, _known(action))
    await have.writers.run(partial(carry_out, have.wishes, have.warming, ref, action, caller.name, form))
    return _see(f"/snapshots/{quote(ref.dataset, safe='')}/{quote(ref.name or 'self', safe='')}")


@router.get("/transfers/{transfer_id}/cancel")
def preview_cancel(request: Request, transfer_id: Id, have: Have, caller: Reader) -> HTMLResponse:
    """What a cancel will do."""
    text = have.snapshot_page.preview_cancel(TransferId(transfer_id), caller, _token(have, request))
    return HTMLResponse(have.page.shell(f"cancel {transfer_id}", text, caller), headers=_HEADERS)


@router.post("/transfers/{transfer_id}/cancel")
async def cancel(request: Request, transfer_id: Id, have: Have, caller: Reader, form: Form) -> Response:
    """Cancel it, and show what there is."""
    _check(have, request, form)
    _needs(caller, "cancel")
    await have.writers.run(partial(have.wishes.cancel, TransferId(transfer_id)))
    return _see("/")


@router.get("/docs")
def docs(request: Request, have: Have) -> HTMLResponse:
    """The API, for people. As open as its schema."""
    return HTMLResponse(have.page.docs(request.app.openapi()), headers=_HEADERS)


@router.get("/login")
def login(have: Have) -> HTMLResponse:
    """Where a browser shows its token."""
    return HTMLResponse(have.page.sign_in(), headers=_HEADERS)


@router.post("/login")
async def sign_in(request: Request, have: Have, form: Form) -> Response:
    """Sign in: the cookie stands for the token."""
    digest = await run_in_threadpool(have.gate.sign_in, form.get("token", "").strip())
    response, is_tls = _see("/"), request.url.scheme == "https"
    cookie = have.sessions.cookie(digest)
    lasts = int(LASTS.total_seconds())
    response.set_cookie(COOKIE, cookie, max_age=lasts, httponly=True, samesite="strict", secure=is_tls)
    return response


@router.post("/logout")
async def sign_out() -> Response:
    """Forget the cookie. Other pages cannot ask for it: the guard refuses them."""
    response = _see("/login")
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


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


def _see(path: str) -> Response:
    return RedirectResponse(path, status_code=303, headers=_HEADERS)


def _known(action: str) -> str:
    if action not in ACTIONS:
        raise NotFound(f"there is no action {action!r}", hint=f"There are: {', '.join(ACTIONS)}.")
    return action


def _needs(caller: Caller, action: str) -> None:
    role = ACTIONS[action] if action in ACTIONS else ACTIONS["pin"]
    if caller.role < role:
        raise Forbidden(
            f"this needs the role {role.name.lower()}, the caller has {caller.role.name.lower()}",
            hint="Sign in with a token that has the role.",
        )

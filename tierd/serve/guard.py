"""The shell of the application: security headers on every response, no changes from other origins, no large bodies."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tierd.errors import Forbidden, InvalidRequest
from tierd.serve.headers import add_security_headers, is_cross_site
from tierd.serve.problems import answer

MAX_BODY_BYTES = 64 * 1024


class Guard:
    """ASGI middleware. Does not buffer, so streams pass through."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_security_headers(MutableHeaders(scope=message))
            await send(message)

        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if is_cross_site(scope["method"], headers):
            await self._refuse(scope, receive, send_with_headers)
        elif declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
            await _too_large(scope)(scope, receive, send_with_headers)
        else:
            await self.app(scope, _limited(receive), send_with_headers)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = Forbidden("the request comes from a page of another origin", hint="Use the page of this daemon.")
        await answer(error, instance=scope["path"])(scope, receive, send)


def _too_large(scope: Scope) -> Response:
    error = InvalidRequest(f"the body is larger than {MAX_BODY_BYTES} bytes", hint="No request needs that much.")
    return answer(error, instance=scope["path"], status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def _limited(receive: Receive) -> Receive:
    """For bodies that do not say how long they are."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    return receive_limited

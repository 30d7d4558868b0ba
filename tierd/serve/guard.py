"""The outermost shell of the application: security headers on every response, no changes from other origins."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tierd.errors import Forbidden
from tierd.serve.headers import add_security_headers, is_cross_site
from tierd.serve.problems import answer


class SecurityHeaders:
    """ASGI middleware: sets the headers, refuses cross-site changes. Does not buffer, so streams pass through."""

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

        if is_cross_site(scope["method"], Headers(scope=scope)):
            await self._refuse(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = Forbidden("the request comes from a page of another origin", hint="Use the page of this daemon.")
        await answer(error, instance=scope["path"])(scope, receive, send)

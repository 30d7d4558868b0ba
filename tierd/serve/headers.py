"""Security headers for every response, and the same-origin rule for what changes state."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

NOTHING_ALLOWED = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def add_security_headers(headers: MutableHeaders) -> None:
    """Set the usual headers; what a route set itself is kept."""
    headers.setdefault("Content-Security-Policy", NOTHING_ALLOWED)
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("X-Frame-Options", "DENY")
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    headers.setdefault("Cache-Control", "no-store")


def is_cross_site(method: str, headers: Headers) -> bool:
    """Whether a browser sends this state-changing request for a page of somebody else.

    Programs send neither header and pass. A browser that remembers the token (basic authentication) adds it to
    requests of any page, so the token alone does not prove who asks.
    """
    if method in _SAFE_METHODS:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()

"""One request to a receiver, within a time that it cannot stretch, and that a stop cuts short."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from tierd.model.webhook import Webhook

_MOST_BYTES = 4096
"""Of an answer that are read at all."""
_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP; None where there was no answer.
        message: for people; never has the URL.
        retry_after_s: for how long the receiver wants to be left alone.
    """

    status: int | None
    message: str
    retry_after_s: float | None = None

    @property
    def is_taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_refusal(self) -> bool:
        """The same request will hardly be taken later either."""
        return self.status is not None and 300 <= self.status < 500 and self.status not in (408, 425, 429)


class Request:
    """One request, which another thread may abort."""

    def __init__(self, webhook: Webhook) -> None:
        self._webhook = webhook
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._is_over = False

    def send(self, content: bytes, headers: Mapping[str, str], now: datetime) -> Answer:
        """Send it, once. Takes no longer than the timeout, however slowly an answer drips."""
        timeout_s = self._webhook.timeout_s
        timer = threading.Timer(timeout_s, self.abort)
        timer.daemon = True
        timer.start()
        try:
            return self._send(content, headers, now)
        except (httpx.TimeoutException, TimeoutError):
            return Answer(status=None, message=f"no answer within {timeout_s:g} s")
        except httpx.HTTPError as error:
            is_late = self._is_over
            return Answer(status=None, message=f"no answer within {timeout_s:g} s" if is_late else _why(error))
        except (OSError, ValueError, httpx.InvalidURL) as error:  # a CA bundle that is none, a name that is no host
            return Answer(status=None, message=_why(error))
        finally:
            timer.cancel()
            self._let_go()

    def _send(self, content: bytes, headers: Mapping[str, str], now: datetime) -> Answer:
        bundle = self._webhook.ca_bundle
        verify = True if bundle is None else ssl.create_default_context(cafile=bundle)
        with (
            httpx.Client(verify=verify, timeout=self._webhook.timeout_s, follow_redirects=False) as client,
            client.stream(
                "POST", self._webhook.url, content=content, headers=dict(headers), extensions={"trace": self._trace}
            ) as response,
        ):
            begin = b""
            with suppress(httpx.HTTPError):  # the status is there, and what counts
                for chunk in response.iter_raw(_MOST_BYTES):
                    begin += chunk
                    if len(begin) >= _MOST_BYTES:
                        break
            return Answer(
                status=response.status_code,
                message=_told(response.status_code, response.reason_phrase, begin),
                retry_after_s=_retry_after(response.headers.get("retry-after"), now),
            )

    def _trace(self, name: str, info: Mapping[str, object]) -> None:
        if name == "connection.connect_tcp.complete":
            found = getattr(info.get("return_value"), "get_extra_info", lambda _: None)("socket")
            if isinstance(found, socket.socket):
                with self._lock:
                    self._fd = os.dup(found.fileno())
                if self._is_over:
                    self.abort()

    def abort(self) -> None:
        """Cut the connection; the thread that waits for it goes on with a failure."""
        with self._lock:
            self._is_over = True
            if self._fd is None:
                return
            with suppress(OSError), socket.socket(fileno=os.dup(self._fd)) as line:
                line.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None


def _why(error: Exception) -> str:
    """The reason, without the URL: only connections and protocols fail here, and name hosts at most."""
    return _printable(str(error) or type(error).__name__)[:_SHOWN]


def _told(status: int, phrase: str, content: bytes) -> str:
    line = f"HTTP {status} {_printable(phrase)[:60]}".rstrip()
    said = _printable(" ".join(content.decode("utf-8", "replace").split()))[:_SHOWN]
    return f"{line}: {said}" if said and not 200 <= status < 300 else line


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds, from a number of them or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    with suppress(ValueError, TypeError):
        at = parsedate_to_datetime(value)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
    return None

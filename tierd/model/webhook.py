"""Webhooks: who is told of events by HTTP, and how that goes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from tierd.model.event import BAD, Event

OWN_KINDS = "webhook."
"""Begins the kinds of events about webhooks themselves."""


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A receiver of events.

    Attributes:
        url: may hold a secret in its path or query; people see `origin`.
        secret_file: with what requests are signed, one secret a line.
        events: shell patterns of kinds of events.
        timeout_s: seconds that one request may take.
        give_up_after_s: events that could not be delivered for so long are dropped.
        ca_bundle: certificates that are trusted in place of the system's.
    """

    name: str
    url: str
    secret_file: Path
    events: tuple[str, ...] = tuple(f"*.{word}" for word in sorted(BAD))
    timeout_s: float = 10.0
    give_up_after_s: float = 86_400.0
    ca_bundle: Path | None = None

    @property
    def origin(self) -> str:
        """The URL as far as it can be shown."""
        url = urlsplit(self.url)
        return f"{url.scheme}://{url.netloc}" + ("/…" if url.path.strip("/") or url.query else "")

    def wants(self, event: Event) -> bool:
        """Whether an event goes there; never one about this webhook's own failure, which would follow itself."""
        if event.kind.startswith(OWN_KINDS) and event.detail.get("webhook") == self.name:
            return False
        return any(fnmatchcase(event.kind, pattern) for pattern in self.events)


class WebhookState(StrEnum):
    WORKING = "working"
    FAILING = "failing"
    """The last request failed; it is tried again."""
    DISABLED = "disabled"
    """The receiver said that it is gone for good."""


@dataclass(frozen=True, kw_only=True)
class WebhookStatus:
    """How one webhook is doing. Counts begin with the daemon.

    Attributes:
        delivered, missed: events that were taken, and that were given up.
        failures: requests that failed.
        pending: events that wait, since `oldest_pending_at`.
    """

    webhook: Webhook
    state: WebhookState = WebhookState.WORKING
    delivered: int = 0
    missed: int = 0
    failures: int = 0
    pending: int = 0
    oldest_pending_at: datetime | None = None
    last_success_at: datetime | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class WebhookTest:
    """What came back for a test event. `status`: of HTTP; None where there was no answer."""

    webhook: str
    is_delivered: bool
    message: str
    took_s: float
    status: int | None = None

"""What a receiver gets: the events as JSON, and a signature as Standard Webhooks define it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime

from tierd import __version__
from tierd.model.event import Event

_VERSION = 1
EVENTS, TEST = "tierd.events", "tierd.test"


def body(kind: str, webhook: str, events: Sequence[Event], *, made_at: datetime, missed: int = 0) -> bytes:
    """The document. Events look as they do in `/v1/events`."""
    document = {
        "type": kind,
        "timestamp": _time(made_at),
        "version": _VERSION,
        "webhook": webhook,
        "host": os.uname().nodename,
        "missed": missed,
        "events": [_event(e) for e in events],
    }
    # Escaped throughout: names of snapshots are from a file system, and half a surrogate pair is no UTF-8.
    return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode()


def headers(delivery: str, sent_at: datetime, content: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers of one attempt: the id stays, the time and with it the signature are of the attempt."""
    stamp = str(int(sent_at.timestamp()))
    signed = f"{delivery}.{stamp}.".encode() + content
    signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return {
        "content-type": "application/json",
        "user-agent": f"tierd/{__version__}",
        "accept-encoding": "identity",
        "webhook-id": delivery,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _event(event: Event) -> dict[str, object]:
    return {
        "id": event.id,
        "at": _time(event.at),
        "kind": event.kind,
        "ref": None if event.ref is None else str(event.ref),
        "transfer_id": event.transfer_id,
        "message": event.message,
        "detail": dict(event.detail),
    }


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")

"""Webhooks: how each is doing, and a test event now."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path

from tierd.model.webhook import WebhookStatus
from tierd.serve import schemas as out
from tierd.serve.asking import Admin, Reader
from tierd.serve.parts import Have
from tierd.serve.problems import responses

router = APIRouter(tags=["webhooks"])

Name = Annotated[str, Path(min_length=1, max_length=100, description="Name of the webhook.")]


@router.get("/v1/webhooks", responses=responses())
def webhooks(have: Have, _: Reader) -> out.WebhooksOut:
    """The webhooks of the configuration. Of a URL only the host is shown: the rest may be a secret."""
    return out.WebhooksOut(items=[_shown(status) for status in have.ports.webhook_statuses()])


@router.post("/v1/webhooks/{name}/test", responses=responses(404))
async def test(name: Name, have: Have, _: Admin) -> out.WebhookTestOut:
    """Send one test event now, signed as all others are, and say what the receiver answered."""
    # Its receiver may hang: these are the threads that may wait for somebody else.
    found = await have.measurers.run(partial(have.ports.test_webhook, name))
    return out.WebhookTestOut(
        webhook=found.webhook,
        is_delivered=found.is_delivered,
        status=found.status,
        message=found.message,
        took_s=round(found.took_s, 3),
    )


def _shown(status: WebhookStatus) -> out.WebhookOut:
    return out.WebhookOut(
        name=status.webhook.name,
        url=status.webhook.origin,
        events=list(status.webhook.events),
        state=status.state,
        delivered=status.delivered,
        missed=status.missed,
        failures=status.failures,
        pending=status.pending,
        oldest_pending_at=status.oldest_pending_at,
        last_success_at=status.last_success_at,
        last_error=status.last_error,
        last_error_at=status.last_error_at,
        next_attempt_at=status.next_attempt_at,
    )

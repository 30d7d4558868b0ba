"""Metrics of webhooks: what was delivered, what fails, and how far behind each is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tierd.model.webhook import WebhookState, WebhookStatus

_LABELS = ("webhook",)


def webhook_metrics(statuses: Sequence[WebhookStatus]) -> Iterator[Metric]:
    """All families, also without webhooks: alerts name them."""
    delivered = CounterMetricFamily("tierd_webhook_delivered", "Events delivered since the start.", labels=_LABELS)
    missed = CounterMetricFamily("tierd_webhook_missed", "Events given up since the start.", labels=_LABELS)
    failures = CounterMetricFamily("tierd_webhook_failures", "Requests that failed since the start.", labels=_LABELS)
    failing = GaugeMetricFamily(
        "tierd_webhook_failing", "1 while the last request failed, or the receiver said it is gone.", labels=_LABELS
    )
    pending = GaugeMetricFamily("tierd_webhook_pending_events", "Events that wait to be delivered.", labels=_LABELS)
    oldest = GaugeMetricFamily(
        "tierd_webhook_oldest_pending_timestamp_seconds",
        "When the oldest event that waits happened; absent where none waits.",
        labels=_LABELS,
    )
    for status in statuses:
        label = (status.webhook.name,)
        delivered.add_metric(label, status.delivered)
        missed.add_metric(label, status.missed)
        failures.add_metric(label, status.failures)
        failing.add_metric(label, int(status.state is not WebhookState.WORKING))
        pending.add_metric(label, status.pending)
        if status.oldest_pending_at is not None:
            oldest.add_metric(label, status.oldest_pending_at.timestamp())
    yield from (delivered, missed, failures, failing, pending, oldest)

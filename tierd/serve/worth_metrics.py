"""Metrics of promises and regret: deadlines, waiting, and moves that turned out to be in vain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tierd.model.plan import View

_COUNTERS = (
    ("rewarmed", "tierd_regret_rewarmed", "Recalls of snapshots that the policy had released within a week before."),
    ("rewarmed_bytes", "tierd_regret_rewarmed_bytes", "Bytes of those."),
    ("warmed_unread", "tierd_regret_warmed_unread", "Releases of snapshots that nobody read since they were warmed."),
    ("warmed_unread_bytes", "tierd_regret_warmed_unread_bytes", "Bytes of those."),
    ("warms", "tierd_warms", "Recalls that somebody asked for, when they arrived."),
    ("warm_wait_s", "tierd_warm_wait_seconds", "Time from asking to arrival, summed over those: possible stall."),
    ("cold_uses", "tierd_cold_uses", "Uses that began while the snapshot was not on flash."),
    ("cold_use_bytes", "tierd_cold_use_bytes", "Bytes of those snapshots: an upper bound of what was read cold."),
)
_OUTCOMES = ("met", "missed", "refused")


def worth_metrics(view: View, counters: Mapping[str, float], late: int) -> Iterator[Metric]:
    """All families; a counter that never counted is 0."""
    deadlines = CounterMetricFamily(
        "tierd_deadlines", "Warms with a deadline, by what became of it.", labels=("outcome",)
    )
    for outcome in _OUTCOMES:
        deadlines.add_metric((outcome,), counters.get(f"deadlines_{outcome}", 0))
    yield deadlines
    yield GaugeMetricFamily(
        "tierd_transfers_late", "Recalls that will miss their deadline as things stand.", value=late
    )
    for counter, name, text in _COUNTERS:
        yield CounterMetricFamily(name, text, value=counters.get(counter, 0))
    rates = GaugeMetricFamily(
        "tierd_tier_recall_bytes_per_second", "Measured rate of recalls of large files, by source.", labels=("tier",)
    )
    for tier, cost in view.costs.items():
        if cost.samples and cost.s_per_byte > 0:
            rates.add_metric((tier,), 1 / cost.s_per_byte)
    yield rates

"""The metrics of the daemon, read from the catalog, the tiers and the tracker at each scrape.

Base units, and labels that are bounded by the configuration: tier, dataset (the first DATASETS by name, the rest
together), kind, state, result. No snapshot, user or path is ever a label.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from tierd import __version__
from tierd.catalog import Catalog, CatalogCounts
from tierd.decide import timetable
from tierd.model.placement import Residency
from tierd.model.plan import View
from tierd.model.s3 import Counts, Prices, money
from tierd.model.tier import Tier, TierName, TierUsage
from tierd.model.transfer import LIVE, TransferKind, TransferState
from tierd.serve.health_metrics import health_metrics
from tierd.serve.look import live_transfers, reserved_bytes
from tierd.serve.ports import Clock, Ports
from tierd.serve.tally import Tally
from tierd.serve.views import Views
from tierd.serve.webhook_metrics import webhook_metrics
from tierd.serve.worth_metrics import worth_metrics

DATASETS = 60
OTHERS = "(others)"
_RESULTS = (TransferState.DONE, TransferState.FAILED, TransferState.CANCELLED)
_ENDINGS = frozenset(f"transfer.{state}" for state in _RESULTS)
_DURATIONS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_BATCH = 500


def registry(catalog: Catalog, ports: Ports, views: Views, clock: Clock) -> CollectorRegistry:
    """A registry with everything but the API's own counters. One per application: nothing is global."""
    # Creation times double the number of series and tell nothing that the rates do not.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library annotates it nowhere
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    made.register(TierdCollector(catalog, ports, views, clock))
    made.register(TransferDurations(catalog))
    return made


class TierdCollector:
    """Reads everything that has a present value. A counter here is a sum over the catalog's history."""

    def __init__(self, catalog: Catalog, ports: Ports, views: Views, clock: Clock) -> None:
        self._catalog, self._ports, self._views, self._clock = catalog, ports, views, clock

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the catalog."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, from one view and one set of counts."""
        (view, tally), counts = self._views.summed_up(), self._catalog.counts()
        label = _labels(tally)
        yield InfoMetricFamily("tierd_build", "The version that runs.", value={"version": __version__})
        yield from _tiers(view)
        yield from _snapshots(tally, label)
        yield from health_metrics(tally, self._catalog, self._ports, label=label)
        yield from _transfers(counts)
        yield from self._holds(counts)
        yield from self._busy()
        yield from self._tracking()
        yield from _stores(view, self._ports.asked())
        yield from webhook_metrics(self._ports.webhook_statuses())
        late = timetable.late(timetable.recalls(view, self._clock()), self._clock())
        yield from worth_metrics(view, self._catalog.counters(), len(late))

    def _holds(self, counts: CatalogCounts) -> Iterator[Metric]:
        yield GaugeMetricFamily("tierd_leases", "Leases that have not ended.", value=counts.leases)
        yield GaugeMetricFamily("tierd_pins", "Pins.", value=counts.pins)
        yield GaugeMetricFamily(
            "tierd_snapshots_with_problem",
            "Snapshots that are not looked after because something about them is wrong.",
            value=counts.snapshots_with_problem,
        )
        yield GaugeMetricFamily(
            "tierd_transfers_paused", "1 while all transfers are paused.", value=int(self._catalog.all_paused)
        )

    def _busy(self) -> Iterator[Metric]:
        busy = self._ports.busy()
        # Absent where the kernel does not tell, not 0: nobody shall take that for idle disks.
        pressure = GaugeMetricFamily(
            "tierd_io_pressure_ratio", "Share of time in which others wait for the disks.", labels=()
        )
        if busy.io_pressure is not None:
            pressure.add_metric((), busy.io_pressure)
        yield pressure
        slowed = "Transfers that go slower because the disks are busy."
        yield GaugeMetricFamily("tierd_transfers_slowed", slowed, value=busy.slowed)

    def _tracking(self) -> Iterator[Metric]:
        tracker, scanned_at = self._ports.tracker_status(), self._ports.last_scan_at()
        seen, lost = tracker.events_seen, tracker.events_lost
        yield CounterMetricFamily("tierd_tracker_events", "Access events seen since the start.", value=seen)
        yield CounterMetricFamily("tierd_tracker_events_lost", "Access events known to be lost.", value=lost)
        degraded = GaugeMetricFamily(
            "tierd_tracker_degraded", "1 while access tracking misses something, by back end.", labels=("tracker",)
        )
        degraded.add_metric((tracker.name,), int(tracker.is_degraded))
        yield degraded
        # 0 before the first one, so that an alert on its age fires.
        yield GaugeMetricFamily(
            "tierd_last_successful_scan_timestamp_seconds",
            "When the last full scan of all datasets succeeded; 0 before the first.",
            value=0 if scanned_at is None else scanned_at.timestamp(),
        )


class TransferDurations:
    """How long transfers took, observed from the events of their endings: each once, whoever scrapes how often."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._fed = catalog.last_event_id()
        self._histogram = Histogram(
            "tierd_transfer_duration_seconds",
            "Time from a transfer's first step to its end, for transfers that ended since the daemon started.",
            ("kind", "result"),
            buckets=_DURATIONS,
            registry=None,
        )
        for kind in TransferKind:
            for result in _RESULTS:
                self._histogram.labels(kind, result)

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the catalog."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The histogram, fed with what ended since the last scrape."""
        with self._lock:
            self._feed()
            return list(self._histogram.collect())

    def _feed(self) -> None:
        while self._fed < self._catalog.last_event_id():
            events = self._catalog.events(after=self._fed, limit=_BATCH)
            for event in events:
                if event.kind in _ENDINGS and event.transfer_id is not None:
                    transfer = self._catalog.transfer(event.transfer_id)
                    if transfer.started_at is not None and transfer.finished_at is not None:
                        # Never negative, although the clock may have jumped back in between.
                        took = max(0.0, (transfer.finished_at - transfer.started_at).total_seconds())
                        self._histogram.labels(transfer.kind, transfer.state).observe(took)
                self._fed = event.id
            if len(events) < _BATCH:
                return


def _tiers(view: View) -> Iterator[Metric]:
    reserved = reserved_bytes(live_transfers(view))

    usable = {name: usage for name, usage in view.usage.items() if usage.is_online}

    def family(name: str, text: str, value: Callable[[Tier], float]) -> GaugeMetricFamily:
        made = GaugeMetricFamily(f"tierd_tier_{name}", text, labels=("tier",))
        for tier in view.tiers:
            made.add_metric((tier.name,), value(tier))
        return made

    def sizes(name: str, text: str, value: Callable[[TierUsage], float]) -> GaugeMetricFamily:
        made = GaugeMetricFamily(f"tierd_tier_{name}", text, labels=("tier",))
        # An offline tier has no sizes: absent, not 0, so that nobody computes with them.
        for tier, usage in usable.items():
            made.add_metric((tier,), value(usage))
        return made

    yield sizes("capacity_bytes", "Bytes the tier may hold.", lambda u: u.capacity_bytes)
    yield sizes("used_bytes", "Bytes in use on the tier.", lambda u: u.used_bytes)
    yield sizes("free_bytes", "Bytes that can still be written to the tier.", lambda u: u.free_bytes)
    yield sizes("capacity_inodes", "Inodes of the tier; 0 where there is no limit.", lambda u: u.capacity_inodes)
    yield sizes("used_inodes", "Inodes in use on the tier.", lambda u: u.used_inodes)
    yield sizes("used_ratio", "Used share of the scarcer of bytes and inodes.", lambda u: u.used_ratio)
    yield family("reserved_bytes", "Bytes promised to live transfers.", lambda t: reserved.get(t.name, 0))
    yield family("online", "1 while the tier can be used.", lambda t: int(t.name in usable))
    yield family("high_watermark_ratio", "Used share above which release begins.", lambda t: t.high)
    yield family("low_watermark_ratio", "Used share at which release ends.", lambda t: t.low)


def _stores(view: View, asked: Mapping[TierName, Mapping[str, Counts]]) -> Iterator[Metric]:
    """What transfers asked of S3 tiers since the daemon started."""
    by_operation = ("tier", "operation")
    requests = CounterMetricFamily("tierd_store_requests", "Requests sent, repetitions included.", labels=by_operation)
    retries = CounterMetricFamily("tierd_store_retries", "Requests sent again after a failure.", labels=by_operation)
    errors = CounterMetricFamily("tierd_store_errors", "Operations given up.", labels=by_operation)
    moved = CounterMetricFamily("tierd_store_bytes", "Bytes of bodies.", labels=("tier", "direction"))
    cost = GaugeMetricFamily(
        "tierd_store_estimated_cost",
        "What these requests and bytes cost, storage left out; absent where a price that it depends on is not set.",
        labels=("tier", "currency"),
    )
    for tier in (t for t in view.tiers if t.s3 is not None):
        counts = asked.get(tier.name, {})
        for operation, count in counts.items():
            requests.add_metric((tier.name, operation), count.requests)
            retries.add_metric((tier.name, operation), count.retries)
            errors.add_metric((tier.name, operation), count.errors)
        everything = sum(counts.values(), Counts())
        moved.add_metric((tier.name, "up"), everything.bytes_up)
        moved.add_metric((tier.name, "down"), everything.bytes_down)
        prices = tier.s3.prices if tier.s3 is not None else Prices()
        estimate = money(counts, prices)
        if estimate is not None and prices != Prices():
            cost.add_metric((tier.name, prices.currency), estimate)
    yield from (requests, retries, errors, moved, cost)


def _labels(tally: Tally) -> Callable[[str], str]:
    """The label of a dataset."""
    named = set(sorted({name for name, _ in tally.number})[:DATASETS])
    return lambda name: name if name in named else OTHERS


def _snapshots(tally: Tally, label: Callable[[str], str]) -> Iterator[Metric]:
    number: Counter[tuple[str, Residency]] = Counter()
    size: Counter[tuple[str, Residency]] = Counter()
    for (dataset, residency), count in tally.number.items():
        number[label(dataset), residency] += count
        size[label(dataset), residency] += tally.size_bytes[dataset, residency]
    labels = ("dataset", "residency")
    counted = GaugeMetricFamily("tierd_snapshots", "Snapshots by where their bytes are.", labels=labels)
    sized = GaugeMetricFamily("tierd_snapshots_bytes", "Bytes of snapshots by where they are.", labels=labels)
    for name in sorted({name for name, _ in number}):
        for residency in Residency:
            counted.add_metric((name, residency), number[name, residency])
            sized.add_metric((name, residency), size[name, residency])
    yield counted
    yield sized


def _transfers(counts: CatalogCounts) -> Iterator[Metric]:
    known = {(c.kind, c.state): c for c in counts.transfers}
    ended = CounterMetricFamily("tierd_transfers", "Transfers that ended.", labels=("kind", "result"))
    moved = CounterMetricFamily("tierd_transfer_bytes", "Bytes of transfers that ended.", labels=("kind", "result"))
    queue = GaugeMetricFamily("tierd_transfers_live", "Transfers queued or under way.", labels=("kind", "state"))
    for kind in TransferKind:
        for result in _RESULTS:
            count = known.get((kind, result))
            ended.add_metric((kind, result), 0 if count is None else count.transfers)
            moved.add_metric((kind, result), 0 if count is None else count.bytes_done)
        for state in TransferState:
            if state in LIVE:
                count = known.get((kind, state))
                queue.add_metric((kind, state), 0 if count is None else count.transfers)
    yield from (ended, moved, queue)

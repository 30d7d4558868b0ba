"""Metrics that alerts stand on: whether the daemon can work, what fails, and what has no second copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tierd.catalog import Catalog
from tierd.model.placement import Residency
from tierd.model.plan import SnapshotView
from tierd.model.transfer import Transfer
from tierd.serve import health
from tierd.serve.ports import Ports


@dataclass(frozen=True, slots=True)
class Placed:
    """A snapshot with what several families need of it: worked out once, as there may be many thousands.

    Attributes:
        dataset: its label; of those there is a bounded number.
    """

    s: SnapshotView
    dataset: str
    residency: Residency


def health_metrics(placed: Sequence[Placed], catalog: Catalog, ports: Ports) -> Iterator[Metric]:
    """All families."""
    checks = health.ready(ports, catalog).checks
    yield GaugeMetricFamily(
        "tierd_control_loop_fresh", "1 while the control loop runs as it should.", value=int(ports.loop_is_fresh())
    )
    yield GaugeMetricFamily(
        "tierd_catalog_usable", "1 while the catalog can be read and written.", value=int(checks["catalog"] == "ok")
    )
    yield _by_code(
        "tierd_transfers_retrying",
        "Live transfers whose latest attempt failed, by the code of its error; absent where there are none.",
        (p.s.live for p in placed),
    )
    yield _by_code(
        "tierd_snapshots_failed",
        "Snapshots whose newest transfer was given up, by the code of its error; absent where there are none.",
        (p.s.last_failure for p in placed if p.s.live is None),
    )
    yield _uncopied(placed)


def _by_code(name: str, text: str, transfers: Iterable[Transfer | None]) -> Metric:
    found = Counter((t.kind, t.error_code) for t in transfers if t is not None and t.error_code is not None)
    family = GaugeMetricFamily(name, text, labels=("kind", "code"))
    for (kind, code), number in sorted(found.items()):
        family.add_metric((kind, code), number)
    return family


def _uncopied(placed: Sequence[Placed]) -> Metric:
    """What lies only on flash. A snapshot at home on a colder tier has its only copy there by design."""
    oldest: dict[str, datetime] = {}
    for p in placed:
        if p.residency is Residency.RESIDENT:
            # Files keep old times when they are copied here: it cannot be without a copy for longer than it is known.
            since = max(p.s.snapshot.changed_at, p.s.snapshot.first_seen_at)
            oldest[p.dataset] = min(since, oldest.get(p.dataset, since))
    family = GaugeMetricFamily(
        "tierd_uncopied_since_timestamp_seconds",
        "When the snapshot that is on flash alone for longest was found or changed; absent where all have a verified "
        "copy on a colder tier.",
        labels=("dataset",),
    )
    for name, since in sorted(oldest.items()):
        family.add_metric((name,), since.timestamp())
    return family

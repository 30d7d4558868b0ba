"""Metrics that alerts stand on: whether the daemon can work, what fails, and what has no second copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tierd.catalog import Catalog
from tierd.serve import health
from tierd.serve.ports import Ports
from tierd.serve.tally import ByCode, Tally


def health_metrics(tally: Tally, catalog: Catalog, ports: Ports, *, label: Callable[[str], str]) -> Iterator[Metric]:
    """All families; `label` of a dataset: of labels there is a bounded number."""
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
        tally.retrying,
    )
    yield _by_code(
        "tierd_snapshots_failed",
        "Snapshots whose newest transfer was given up, by the code of its error; absent where there are none.",
        tally.failed,
    )
    yield _uncopied(tally.uncopied_since, label)


def _by_code(name: str, text: str, found: ByCode) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("kind", "code"))
    for (kind, code), number in sorted(found.items()):
        family.add_metric((kind, code), number)
    return family


def _uncopied(oldest: Mapping[str, datetime], label: Callable[[str], str]) -> Metric:
    since: dict[str, datetime] = {}
    for name, at in oldest.items():
        since[label(name)] = min(at, since.get(label(name), at))
    family = GaugeMetricFamily(
        "tierd_uncopied_since_timestamp_seconds",
        "When the snapshot that is on flash alone for longest was found or changed; absent where all have a verified "
        "copy on a colder tier.",
        labels=("dataset",),
    )
    for name, at in sorted(since.items()):
        family.add_metric((name,), at.timestamp())
    return family

"""Makes tierd.json, the Grafana dashboard: python deploy/grafana/generate.py

In Grafana: Dashboards → New → Import → tierd.json, and choose the Prometheus that scrapes tierd. Change the panels
here, not in the file: a test compares the two, and runs every query against a daemon at work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("tierd.json")
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
_HEIGHT = 8


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query. `empty`: why a healthy system may have no result, a sentence for people; None: it always has one."""

    expr: str
    legend: str
    empty: str | None = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel; `unit` is one of Grafana's, `width` in its 24 columns."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    text: str = ""
    kind: str = "timeseries"
    stacked: bool = False
    ceiling: float | None = None
    good: float | None = None
    """Of a stat: the value that is green; every other is red."""


def _q(expr: str, legend: str, empty: str | None = None) -> Query:
    return Query(expr=expr.replace("%", 'instance=~"$instance"'), legend=legend, empty=empty)


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Now",
        (
            Panel(
                title="Daemon answers",
                kind="stat",
                width=4,
                good=1,
                queries=(_q('up{job="tierd", %}', "{{instance}}"),),
            ),
            Panel(
                title="Control loop",
                kind="stat",
                width=4,
                good=1,
                queries=(_q("tierd_control_loop_fresh{%}", "{{instance}}"),),
            ),
            Panel(
                title="Catalog",
                kind="stat",
                width=4,
                good=1,
                queries=(_q("tierd_catalog_usable{%}", "{{instance}}"),),
            ),
            Panel(
                title="Tiers online", kind="stat", width=4, good=1, queries=(_q("tierd_tier_online{%}", "{{tier}}"),)
            ),
            Panel(
                title="Tracker misses something",
                kind="stat",
                width=4,
                good=0,
                queries=(_q("tierd_tracker_degraded{%}", "{{tracker}}"),),
            ),
            Panel(
                title="Alerts",
                kind="stat",
                width=4,
                good=0,
                queries=(
                    _q(
                        'count by (alertname) (ALERTS{alertname=~"Tierd.+", alertstate="firing"})',
                        "{{alertname}}",
                        "Empty while no alert fires.",
                    ),
                ),
            ),
        ),
    ),
    (
        "Room",
        (
            Panel(
                title="Used share and watermarks: $tier",
                unit="percentunit",
                ceiling=1.0,
                width=12,
                text="Above the high watermark snapshots are released, until the low one is reached.",
                queries=(
                    _q('tierd_tier_used_ratio{%, tier=~"$tier"}', "{{tier}} used"),
                    _q('tierd_tier_high_watermark_ratio{%, tier=~"$tier"}', "{{tier}} high"),
                    _q('tierd_tier_low_watermark_ratio{%, tier=~"$tier"}', "{{tier}} low"),
                ),
            ),
            Panel(
                title="Used share in 4 hours, if it goes on like this",
                unit="percentunit",
                width=6,
                queries=(_q("predict_linear(tierd_tier_used_ratio{%}[1h], 4 * 3600)", "{{tier}}"),),
            ),
            Panel(
                title="Free, and promised to transfers",
                unit="bytes",
                width=6,
                queries=(
                    _q("tierd_tier_free_bytes{%}", "{{tier}} free"),
                    _q("tierd_tier_reserved_bytes{%}", "{{tier}} promised"),
                ),
            ),
        ),
    ),
    (
        "Snapshots",
        (
            Panel(
                title="Snapshots by residency",
                stacked=True,
                queries=(_q("sum by (residency) (tierd_snapshots{%})", "{{residency}}"),),
            ),
            Panel(
                title="Bytes by residency",
                unit="bytes",
                stacked=True,
                queries=(_q("sum by (residency) (tierd_snapshots_bytes{%})", "{{residency}}"),),
            ),
            Panel(
                title="Longest without a second copy",
                unit="s",
                width=4,
                queries=(
                    _q(
                        "time() - tierd_uncopied_since_timestamp_seconds{%}",
                        "{{dataset}}",
                        "Empty while every snapshot on flash has a verified copy on a colder tier.",
                    ),
                ),
            ),
            Panel(
                title="Held, and not looked after",
                width=4,
                queries=(
                    _q("tierd_leases{%}", "leases"),
                    _q("tierd_pins{%}", "pins"),
                    _q("tierd_snapshots_with_problem{%}", "with a problem"),
                ),
            ),
        ),
    ),
    (
        "Transfers",
        (
            Panel(
                title="Queued or under way",
                stacked=True,
                queries=(
                    _q("sum by (kind, state) (tierd_transfers_live{%})", "{{kind}} {{state}}"),
                    _q("tierd_transfers_slowed{%}", "slowed for others"),
                ),
            ),
            Panel(
                title="Ended, per hour",
                queries=(
                    _q(
                        "3600 * sum by (kind, result) (rate(tierd_transfers_total{%}[$__rate_interval]))",
                        "{{kind}} {{result}}",
                    ),
                ),
            ),
            Panel(
                title="Bytes moved",
                unit="Bps",
                text="Counted when a transfer ends.",
                queries=(
                    _q(
                        'sum by (kind) (rate(tierd_transfer_bytes_total{%, result="done"}[$__rate_interval]))',
                        "{{kind}}",
                    ),
                ),
            ),
            Panel(
                title="Failures",
                queries=(
                    _q(
                        "sum by (kind, code) (tierd_transfers_retrying{%})",
                        "tried again: {{kind}} {{code}}",
                        "Empty while no attempt fails.",
                    ),
                    _q(
                        "sum by (kind, code) (tierd_snapshots_failed{%})",
                        "given up: {{kind}} {{code}}",
                        "Empty while no transfer is given up.",
                    ),
                    _q(
                        'sum by (kind) (increase(tierd_transfers_total{%, result="failed"}[1h]))',
                        "{{kind}}, last hour",
                    ),
                ),
            ),
            Panel(
                title="Time that recalls take",
                unit="s",
                queries=(
                    _q(
                        "histogram_quantile(0.5, sum by (le) "
                        '(rate(tierd_transfer_duration_seconds_bucket{%, kind="recall", result="done"}[1h])))',
                        "half of them",
                    ),
                    _q(
                        "histogram_quantile(0.95, sum by (le) "
                        '(rate(tierd_transfer_duration_seconds_bucket{%, kind="recall", result="done"}[1h])))',
                        "95 % of them",
                    ),
                ),
            ),
            Panel(
                title="Measured rate of recalls",
                unit="Bps",
                queries=(
                    _q(
                        "tierd_tier_recall_bytes_per_second{%}",
                        "from {{tier}}",
                        "Empty until enough recalls of one tier differ in size to tell its rate.",
                    ),
                ),
            ),
        ),
    ),
    (
        "Waiting, deadlines, regret",
        (
            Panel(
                title="Mean wait for a warm",
                unit="s",
                text="From asking to arrival, of warms that ended in the last hour.",
                queries=(
                    _q(
                        "sum by (instance) (increase(tierd_warm_wait_seconds_total{%}[1h])) "
                        "/ (sum by (instance) (increase(tierd_warms_total{%}[1h])) > 0)",
                        "{{instance}}",
                        "Empty while no warm had to copy anything for an hour.",
                    ),
                ),
            ),
            Panel(
                title="Deadlines, per day",
                queries=(
                    _q("sum by (outcome) (increase(tierd_deadlines_total{%}[1d]))", "{{outcome}}"),
                    _q("tierd_transfers_late{%}", "late now"),
                ),
            ),
            Panel(
                title="Regret, per day",
                text="Recalled within a week after the policy had released it; released without having been read.",
                queries=(
                    _q("increase(tierd_regret_rewarmed_total{%}[1d])", "released, then recalled"),
                    _q("increase(tierd_regret_warmed_unread_total{%}[1d])", "warmed, never read"),
                    _q("increase(tierd_cold_uses_total{%}[1d])", "used while not on flash"),
                ),
            ),
            Panel(
                title="Regret, bytes per day",
                unit="bytes",
                queries=(
                    _q("increase(tierd_regret_rewarmed_bytes_total{%}[1d])", "released, then recalled"),
                    _q("increase(tierd_regret_warmed_unread_bytes_total{%}[1d])", "warmed, never read"),
                    _q("increase(tierd_cold_use_bytes_total{%}[1d])", "used while not on flash"),
                ),
            ),
            Panel(
                title="Recalls of what was just released",
                unit="percentunit",
                ceiling=1.0,
                queries=(
                    _q(
                        "sum by (instance) (increase(tierd_regret_rewarmed_total{%}[1d])) / (sum by (instance) "
                        '(increase(tierd_transfers_total{%, kind="recall", result="done"}[1d])) > 0)',
                        "{{instance}}",
                        "Empty while nothing was recalled for a day.",
                    ),
                ),
            ),
        ),
    ),
    (
        "API",
        (
            Panel(
                title="Requests",
                unit="reqps",
                queries=(_q("sum by (route) (rate(tierd_api_requests_total{%}[$__rate_interval]))", "{{route}}"),),
            ),
            Panel(
                title="Time to answer",
                unit="s",
                text="Without the time that a request asked to wait.",
                queries=tuple(
                    _q(
                        f"histogram_quantile({share}, sum by (le) "
                        "(rate(tierd_api_request_duration_seconds_bucket{%}[$__rate_interval])))",
                        legend,
                    )
                    for share, legend in ((0.5, "half of them"), (0.99, "99 % of them"))
                ),
            ),
            Panel(
                title="Refused, and failed",
                unit="reqps",
                queries=(
                    _q(
                        'sum by (status) (rate(tierd_api_requests_total{%, status=~"[45].."}[$__rate_interval]))',
                        "{{status}}",
                        "Empty while every request succeeds.",
                    ),
                ),
            ),
        ),
    ),
    (
        "Tracking, and the daemon itself",
        (
            Panel(
                title="Access events",
                unit="cps",
                width=6,
                queries=(
                    _q("rate(tierd_tracker_events_total{%}[$__rate_interval])", "seen"),
                    _q("rate(tierd_tracker_events_lost_total{%}[$__rate_interval])", "lost"),
                ),
            ),
            Panel(
                title="Age of the last full scan",
                unit="s",
                width=6,
                queries=(_q("time() - tierd_last_successful_scan_timestamp_seconds{%}", "{{instance}}"),),
            ),
            Panel(
                title="Others wait for the disks",
                unit="percentunit",
                ceiling=1.0,
                width=6,
                queries=(
                    _q("tierd_io_pressure_ratio{%}", "{{instance}}", "Empty where the kernel does not tell (PSI)."),
                ),
            ),
            Panel(
                title="Processor and memory of the daemon",
                width=6,
                queries=(
                    _q('rate(process_cpu_seconds_total{job="tierd", %}[$__rate_interval])', "processors"),
                    _q('process_resident_memory_bytes{job="tierd", %} / 1e9', "memory, GB"),
                ),
            ),
        ),
    ),
    (
        "S3",
        (
            Panel(
                title="Requests",
                unit="reqps",
                width=6,
                queries=(
                    _q(
                        "sum by (tier, operation) (rate(tierd_store_requests_total{%}[$__rate_interval]))",
                        "{{tier}} {{operation}}",
                        "Empty without an S3 tier, and until one is first used.",
                    ),
                ),
            ),
            Panel(
                title="Repeated, and given up",
                unit="reqps",
                width=6,
                queries=(
                    _q(
                        "sum by (tier) (rate(tierd_store_retries_total{%}[$__rate_interval]))",
                        "{{tier}} repeated",
                        "Empty without an S3 tier, and until one is first used.",
                    ),
                    _q(
                        "sum by (tier) (rate(tierd_store_errors_total{%}[$__rate_interval]))",
                        "{{tier}} given up",
                        "Empty without an S3 tier, and until one is first used.",
                    ),
                ),
            ),
            Panel(
                title="Bytes",
                unit="Bps",
                width=6,
                queries=(
                    _q(
                        "sum by (tier, direction) (rate(tierd_store_bytes_total{%}[$__rate_interval]))",
                        "{{tier}} {{direction}}",
                        "Empty without an S3 tier.",
                    ),
                ),
            ),
            Panel(
                title="Estimated cost since the start",
                width=6,
                text="Requests and traffic, storage left out.",
                queries=(
                    _q(
                        "tierd_store_estimated_cost{%}",
                        "{{tier}}, {{currency}}",
                        "Empty without an S3 tier, and where its prices are not configured.",
                    ),
                ),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it (classic JSON model)."""
    return {
        "uid": "tierd-overview",
        "title": "tierd",
        "description": "What is where, what moves, who waits, and what goes wrong. Made by deploy/grafana/generate.py.",
        "tags": ["tierd", "storage"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": list(_panels()),
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}
    return [source, _labels("instance", "Server"), _labels("tier", "Tier")]


def _labels(name: str, label: str) -> dict[str, Any]:
    query = f"label_values(tierd_tier_online, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in ROWS:
        number += 1
        place = {"h": 1, "w": _WIDTH, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        x, y = 0, y + 1
        height = _HEIGHT // 2 if all(panel.kind == "stat" for panel in panels) else _HEIGHT
        for panel in panels:
            if x + panel.width > _WIDTH:
                x, y = 0, y + height
            number += 1
            yield _panel(panel, number, {"h": height, "w": panel.width, "x": x, "y": y})
            x += panel.width
        y += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    reasons = dict.fromkeys(q.empty for q in panel.queries if q.empty is not None)
    is_stat = panel.kind == "stat"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": " ".join(filter(None, (panel.text, *reasons))),
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": _SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "range": not is_stat,
                "instant": is_stat,
            }
            for position, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _stat_look(panel) if is_stat else _series_look(panel), "overrides": []},
        "options": _STAT if is_stat else _SERIES,
    }


_SERIES = {
    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
    "tooltip": {"mode": "multi", "sort": "desc"},
}
_STAT = {
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    "colorMode": "background",
    "graphMode": "none",
    "textMode": "value_and_name",
    "justifyMode": "auto",
    "orientation": "auto",
}


def _series_look(panel: Panel) -> dict[str, Any]:
    look: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "palette-classic"},
        "custom": {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        },
    }
    return look if panel.ceiling is None else look | {"max": panel.ceiling}


def _stat_look(panel: Panel) -> dict[str, Any]:
    # Thresholds hold from a value on: green below 1 and red from there, or the other way round.
    below, above = ("green", "red") if panel.good == 0 else ("red", "green")
    steps = [{"color": below, "value": None}, {"color": above, "value": 1}]
    answers = {"0": {"text": "no", "index": 0}, "1": {"text": "yes", "index": 1}}
    mappings = [] if panel.title == "Alerts" else [{"type": "value", "options": answers}]
    return {
        "unit": panel.unit,
        "noValue": "none",
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": mappings,
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")

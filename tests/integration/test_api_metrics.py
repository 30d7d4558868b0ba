"""Metrics: named and typed as Prometheus wants them, bounded, and each ending counted once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api_world import GB, HDD, START, ApiWorld, S, api_world, client_of
from tierd.model.dataset import Dataset
from tierd.model.pressure import Busy
from tierd.model.tier import TierUsage
from tierd.model.transfer import TransferKind

MAX_SERIES = 2000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield made


def scrape(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = client.get("/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(client: httpx.Client, name: str, **labels: str) -> float | None:
    return scrape(client).get((name, frozenset(labels.items())))


def test_metrics_say_what_is_where(world: ApiWorld) -> None:
    world.add("v1", size=2 * GB)
    world.add_migrated("v2")
    world.catalog.pin(world.add("v3").id, "me", world.now)
    world.ports.usages[HDD] = TierUsage(tier=HDD, is_online=False)
    with client_of(world) as client:
        assert value(client, "tierd_tier_used_bytes", tier="flash") == 40 * GB
        assert value(client, "tierd_tier_used_bytes", tier="hdd") is None
        assert value(client, "tierd_tier_online", tier="hdd") == 0
        assert value(client, "tierd_snapshots", dataset="imagenet", residency="resident") == 2
        assert value(client, "tierd_snapshots_bytes", dataset="imagenet", residency="migrated") == GB
        assert value(client, "tierd_pins") == 1
        assert value(client, "tierd_tracker_events_lost_total") == 1
        assert value(client, "tierd_last_successful_scan_timestamp_seconds") == START.timestamp()


def test_busy_disks_are_shown_where_the_kernel_tells(world: ApiWorld) -> None:
    with client_of(world) as client:
        assert value(client, "tierd_io_pressure_ratio") is None
        assert value(client, "tierd_transfers_slowed") == 0
        world.ports.disks = Busy(io_pressure=0.35, slowed=2)
        assert value(client, "tierd_io_pressure_ratio") == 0.35
        assert value(client, "tierd_transfers_slowed") == 2


def test_a_transfer_that_ended_is_counted_once_however_often_it_is_scraped(world: ApiWorld) -> None:
    with client_of(world) as client:
        moving = world.run(world.enqueue(world.add("v1")), S.COPYING)
        assert value(client, "tierd_transfers_live", kind="migrate", state="copying") == 1
        world.catalog.set_progress(moving.id, GB, 100)
        world.later(seconds=90)
        world.run(moving, S.VERIFYING, S.COMMITTED, S.DONE)
        for _ in range(3):
            assert value(client, "tierd_transfers_total", kind="migrate", result="done") == 1
            assert value(client, "tierd_transfer_bytes_total", kind="migrate", result="done") == GB
            assert value(client, "tierd_transfer_duration_seconds_count", kind="migrate", result="done") == 1
            assert value(client, "tierd_transfer_duration_seconds_sum", kind="migrate", result="done") == 90
        assert value(client, "tierd_transfers_live", kind="migrate", state="copying") == 0


def test_requests_are_counted_by_route_not_by_what_was_asked_for(world: ApiWorld) -> None:
    transfer = world.enqueue(world.add("v1"))
    with client_of(world) as client:
        for n in range(20):
            client.get(f"/v1/snapshots/imagenet/x{n}")
            client.get(f"/nowhere/{n}")
        client.request("BREW", "/v1/status")
        client.get(f"/v1/transfers/{transfer.id}", params={"wait_s": 2.0})
        found = scrape(client)
        route = {"method": "GET", "route": "/v1/snapshots/{dataset}/{snapshot}", "status": "404"}
        assert found["tierd_api_requests_total", frozenset(route.items())] == 20
        unmatched = {"method": "GET", "route": "unmatched", "status": "404"}
        assert found["tierd_api_requests_total", frozenset(unmatched.items())] == 20
        waiting = frozenset({"method": "GET", "route": "/v1/transfers/{transfer_id}"}.items())
        assert found["tierd_api_request_duration_seconds_sum", waiting] < 1.5


def test_a_thousand_datasets_do_not_make_thousands_of_series(world: ApiWorld) -> None:
    datasets = tuple(
        Dataset(name=f"d{n:04}", path=world.root / "flash" / f"d{n:04}", home=world.config.tiers[0].name)
        for n in range(1000)
    )
    world.config = replace(world.config, datasets=datasets)
    world.catalog.configure(world.config.tiers, datasets)
    for d in datasets[:200]:
        world.add("v1", dataset=d.name)
    with client_of(world) as client:
        for path in client.get("/openapi.json").json()["paths"]:
            if path != "/v1/events/stream":
                client.get(path)
        found = scrape(client)
        assert len(found) < MAX_SERIES
        others = frozenset({"dataset": "(others)", "residency": "resident"}.items())
        assert found["tierd_snapshots", others] == 140


def test_what_fails_is_counted_by_its_error(world: ApiWorld) -> None:
    moving = world.run(world.enqueue(world.add("v1")), S.COPYING)
    again = world.now + timedelta(minutes=1)
    world.catalog.retry_later(
        moving.id, S.COPYING, error="…", error_code="source_busy", not_before=again, now=world.now
    )
    given_up = world.run(world.enqueue(world.add("v2")), S.COPYING)
    world.catalog.fail(given_up.id, S.COPYING, error="…", error_code="corrupt", now=world.now)
    with client_of(world) as client:
        assert value(client, "tierd_transfers_retrying", kind="migrate", code="source_busy") == 1
        assert value(client, "tierd_snapshots_failed", kind="migrate", code="corrupt") == 1


def test_the_oldest_snapshot_without_a_second_copy_is_known(world: ApiWorld) -> None:
    oldest = world.add("v1")
    found_at = oldest.first_seen_at
    world.later(days=3)
    world.add("v2")
    world.add_migrated("v3")
    with client_of(world) as client:
        since = value(client, "tierd_uncopied_since_timestamp_seconds", dataset="imagenet")
        assert since == found_at.timestamp()
        world.put_cold_copy(oldest)
        world.later(seconds=2)
        since = value(client, "tierd_uncopied_since_timestamp_seconds", dataset="imagenet")
        assert since == (found_at + timedelta(days=3)).timestamp()


def test_metrics_say_when_the_daemon_cannot_work(world: ApiWorld) -> None:
    with client_of(world) as client:
        assert value(client, "tierd_control_loop_fresh") == 1
        assert value(client, "tierd_catalog_usable") == 1
        world.ports.is_fresh = False
        aside = world.catalog.path.rename(world.root / "aside")
        try:
            assert value(client, "tierd_control_loop_fresh") == 0
            assert value(client, "tierd_catalog_usable") == 0
        finally:
            aside.rename(world.catalog.path)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed")
def test_promtool_has_nothing_to_say(world: ApiWorld) -> None:
    world.run(world.enqueue(world.add_migrated("v1"), TransferKind.RECALL), S.COPYING)
    world.later(seconds=timedelta(seconds=5).total_seconds())
    with client_of(world) as client:
        client.get("/v1/status")
        text = client.get("/metrics").text
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_open_metrics_is_served_to_those_who_ask_for_it(world: ApiWorld) -> None:
    with client_of(world) as client:
        response = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_a_scrape_after_a_quiet_hour_misses_nothing(world: ApiWorld) -> None:
    cold = world.add_migrated("v1")
    with client_of(world) as client:
        assert value(client, "tierd_snapshots", dataset="imagenet", residency="migrated") == 1
        world.later(hours=1)
        world.add("v2")
        assert value(client, "tierd_snapshots", dataset="imagenet", residency="resident") == 1
        world.later(hours=1)
        world.enqueue(cold, TransferKind.RECALL)
        assert value(client, "tierd_snapshots", dataset="imagenet", residency="partial") == 1
        assert value(client, "tierd_snapshots", dataset="imagenet", residency="migrated") == 0

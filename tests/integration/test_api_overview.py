"""What a live view asks for: everything at a glance, and snapshots sorted, filtered and cut on the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api_world import FLASH, GB, ApiWorld, api_world, client_of
from tierd.client import Tierd
from tierd.client.connection import Connection
from tierd.client.shapes import encode
from tierd.model.observation import AccessBatch
from tierd.model.transfer import TransferKind
from tierd.serve import page


@pytest.fixture
def world(tmp_path: Path) -> Any:
    with api_world(tmp_path) as world:
        yield world


def client(world: ApiWorld, http: Any) -> Tierd:
    return Tierd(connection=Connection("http://tierd", client=http))


def test_one_answer_has_all_there_is_to_see(world: ApiWorld) -> None:
    moving, held, _ = world.add_migrated("v1"), world.add("v2"), world.add("v3")
    transfer = world.enqueue(moving, TransferKind.RECALL)
    world.catalog.pin(held.id, "alice", world.now, note=None)
    world.later(days=30)  # past release_after
    with client_of(world) as http:
        tierd = client(world, http)
        found = tierd.overview()
        assert [t.name for t in found.status.tiers] == ["flash", "hdd"]
        assert [(t.id, t.ref) for t in found.transfers] == [(transfer.id, "imagenet/v1")]
        assert [(h.holder, h.ref) for h in found.holds] == [("alice", "imagenet/v2")]
        assert (found.holds_total, found.seconds_to_high) == (1, {})
        assert [(s.action, s.ref) for s in found.steps] == [("release", "imagenet/v3")]
        assert "unused" in found.steps[0].reason
        assert found.events[0].id > found.events[-1].id
        again = http.get("/v1/overview").json()
        assert encode(found) == again


def test_rows_are_sorted_filtered_and_cut_on_the_server(world: ApiWorld) -> None:
    world.add("b", size=9 * GB)
    small, held = world.add("a"), world.add("c", size=2 * GB)
    world.catalog.pin(held.id, "slurm:7", world.now, note=None)
    world.later(days=1)
    for _ in range(3):
        world.later(days=1)
        batch = AccessBatch(snapshot_id=small.id, read_at=world.now, reads=5)
        world.catalog.record_access([batch], now=world.now)
    with client_of(world) as http:
        tierd = client(world, http)

        def names(*text: str, **how: Any) -> list[str]:
            return [r.snapshot.name for r in tierd.rows(*text, **how).items]

        assert names() == ["a", "b", "c"]
        assert names(is_reversed=True) == ["c", "b", "a"]
        assert names(sort="size") == ["b", "c", "a"]
        assert names(sort="accessed")[0] == "a"
        assert names(sort="held")[0] == "c"
        assert names(sort="value")[0] == "a"
        values = [r.value for r in tierd.rows(sort="value").items]
        assert values == sorted(values, reverse=True)
        assert names("SLURM:7") == ["c"]
        assert names(sort="size", offset=1, limit=1) == ["c"]
        past = tierd.rows(offset=500, limit=2)
        assert ([r.snapshot.name for r in past.items], past.offset, past.matching) == (["b", "c"], 1, 3)
        nothing = tierd.rows("no such")
        assert (nothing.items, nothing.matching, nothing.total) == ([], 0, 3)
        assert tierd.rows().items[1].why


def test_when_a_tier_is_full_is_said_in_seconds(world: ApiWorld) -> None:
    app = world.app()
    trends = app.state.parts.trends
    used = world.ports.usages[FLASH].used_bytes
    for minute in range(20):
        usage = world.ports.usages[FLASH]
        world.ports.usages[FLASH] = type(usage)(**{**_values(usage), "used_bytes": used + minute * GB})
        trends.sample()
        world.later(minutes=1)
    view = app.state.parts.views.recent()
    left = trends.seconds_to_high(view, world.now)
    assert left == {FLASH: pytest.approx((90 - 59) * 60, rel=0.01)}
    assert "90%" in trends.forecast(view, world.now)[FLASH]


def _values(usage: Any) -> dict[str, Any]:
    return {name: getattr(usage, name) for name in usage.__dataclass_fields__}


def test_of_very_many_snapshots_nothing_recorded_is_missed_for_long(
    world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_MANY", 1)
    world.add("v1")
    with client_of(world) as http:
        tierd = client(world, http)

        def shown() -> tuple[int, int, bool]:
            in_table = "imagenet/v2" in http.get("/page/snapshots").text
            return tierd.overview().status.counts.by_residency["resident"], tierd.rows().total, in_table

        assert shown() == (1, 1, False)
        world.later(hours=1)
        assert shown() == (1, 1, False)
        world.add("v2")
        world.later(seconds=6)
        assert shown() == (2, 2, True)
        used = world.ports.usages[FLASH]
        world.ports.usages[FLASH] = type(used)(**{**_values(used), "used_bytes": 41 * GB})
        assert tierd.overview().status.tiers[0].used_bytes == 41 * GB

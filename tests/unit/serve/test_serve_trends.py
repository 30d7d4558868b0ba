"""The forecast: when a tier reaches its high watermark, from what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.api_world import FLASH, GB, ApiWorld, api_world
from tierd.model.plan import View
from tierd.serve.trends import Trends


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield made


def fill(world: ApiWorld, trends: Trends, minutes: int, bytes_per_minute: int) -> View:
    for _ in range(minutes + 1):
        trends.sample()
        world.later(minutes=1)
        usage = world.ports.usages[FLASH]
        world.ports.usages[FLASH] = replace(usage, used_bytes=usage.used_bytes + bytes_per_minute)
    return View(snapshots=(), tiers=world.config.tiers, usage=world.ports.usages)


def test_a_tier_that_fills_says_when_it_reaches_its_watermark(world: ApiWorld) -> None:
    trends = Trends(world.ports, world.clock)
    view = fill(world, trends, 60, GB // 10)
    # 40 GB and an hour of 0.1 GB a minute; 90 GB are the watermark.
    assert trends.forecast(view, world.now) == {FLASH: "reaches 90% in about 7h 19m at the last hours' rate"}
    assert [p.title for p in trends.pictures(view, world.now)] == ["flash used", "hdd used"]


def test_nothing_is_foreseen_from_a_few_minutes_or_for_a_tier_that_empties(world: ApiWorld) -> None:
    trends = Trends(world.ports, world.clock)
    assert trends.forecast(fill(world, trends, 5, GB), world.now) == {}
    trends = Trends(world.ports, world.clock)
    assert trends.forecast(fill(world, trends, 30, -GB), world.now) == {}

"""Rates: what transfers cost is learned from finished ones, and survives a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tierd.catalog import Catalog
from tierd.model.tier import Tier, TierName
from tierd.model.value import ASSUMED
from tierd.move.rates import Rates

FLASH, HDD, CLOUD = TierName("flash"), TierName("hdd"), TierName("cloud")
UP = (HDD, FLASH)
MB = 10**6


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(tmp_path / "tierd.db")
    opened.configure(
        [Tier(name=name, root=Path("/mnt", name), rank=n) for n, name in enumerate([FLASH, HDD, CLOUD])], []
    )
    yield opened
    opened.close()


def seconds(size_bytes: int, files: int) -> float:
    """A made-up device: half a second, 400 MB/s, 10,000 files/s."""
    return 0.5 + size_bytes / 400e6 + files / 10_000


def test_nothing_measured_is_said_to_be_an_assumption(catalog: Catalog) -> None:
    rates = Rates(catalog)
    assert rates.cost(*UP) == ASSUMED
    assert rates.estimate(*UP, 1000 * MB, 5) is None


def test_bytes_and_files_are_told_apart(catalog: Catalog) -> None:
    rates = Rates(catalog)
    for size, files in ((4000 * MB, 10), (20 * MB, 40_000), (9000 * MB, 90), (300 * MB, 100_000), (1 * MB, 3)) * 4:
        rates.learn(UP, size, files, seconds(size, files))
    for size, files in ((100_000 * MB, 1000), (500 * MB, 1_000_000), (2 * MB, 5)):
        assert rates.estimate(*UP, size, files) == pytest.approx(seconds(size, files), rel=0.1)
    assert rates.cost(*UP).samples == 20


def test_what_the_observations_leave_open_stays_positive(catalog: Catalog) -> None:
    rates = Rates(catalog)
    for _ in range(30):
        rates.learn(UP, 1000 * MB, 1000, 1.0)
    cost = rates.cost(*UP)
    assert cost.seconds(1000 * MB, 1000) == pytest.approx(1.0, rel=0.1)
    assert min(cost.start_s, cost.s_per_byte, cost.s_per_file) > 0


def test_a_device_that_became_slower_is_noticed(catalog: Catalog) -> None:
    rates = Rates(catalog)
    for _ in range(20):
        rates.learn(UP, 10_000 * MB, 10, 10.0)
    for _ in range(20):
        rates.learn(UP, 10_000 * MB, 10, 50.0)
    assert rates.estimate(*UP, 10_000 * MB, 10) == pytest.approx(50.0, rel=0.1)


def test_an_unknown_pair_is_taken_for_the_slowest_known(catalog: Catalog) -> None:
    rates = Rates(catalog)
    for _ in range(5):
        rates.learn(UP, 1000 * MB, 1, 1.0)
        rates.learn((CLOUD, FLASH), 1000 * MB, 1, 9.0)
    assert rates.cost(FLASH, HDD) == rates.cost(CLOUD, FLASH)


def test_it_is_remembered(catalog: Catalog) -> None:
    rates = Rates(catalog)
    rates.learn(UP, 1000 * MB, 100, 3.0)
    again = Rates(catalog)
    assert again.cost(*UP) == rates.cost(*UP)
    rates.learn(UP, 2000 * MB, 300, 4.0)
    assert Rates(catalog).cost(*UP) == rates.cost(*UP)

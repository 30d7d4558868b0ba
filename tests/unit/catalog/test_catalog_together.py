"""Writes that share a transaction."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tierd.catalog import Catalog
from tierd.errors import Conflict
from tierd.model.dataset import Dataset, SnapshotRef
from tierd.model.tier import Tier, TierName

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FLASH = TierName("flash")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog.open(tmp_path / "tierd.db")
    catalog.configure([Tier(name=FLASH, root=tmp_path, rank=0)], [Dataset(name="ds", path=tmp_path / "ds", home=FLASH)])
    return catalog


def _add(catalog: Catalog, name: str) -> None:
    catalog.add_snapshot(SnapshotRef("ds", name), path=Path("/x") / name, root_inode=1, home=FLASH, now=NOW)


def test_they_are_seen_when_the_block_ends(catalog: Catalog) -> None:
    with catalog.together():
        _add(catalog, "v1")
        _add(catalog, "v2")
        assert catalog.snapshots() == []
    assert [s.ref.name for s in catalog.snapshots()] == ["v1", "v2"]
    catalog.close()


def test_one_that_fails_takes_no_other_with_it(catalog: Catalog) -> None:
    with catalog.together():
        _add(catalog, "v1")
        with pytest.raises(Conflict):
            _add(catalog, "v1")
        _add(catalog, "v2")
    assert [s.ref.name for s in catalog.snapshots()] == ["v1", "v2"]
    assert [e.kind for e in catalog.events()].count("snapshot.found") == 2
    catalog.close()


def test_nothing_is_kept_of_a_block_that_fails(catalog: Catalog) -> None:
    def fail() -> None:
        with catalog.together():
            _add(catalog, "v1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert catalog.snapshots() == []
    _add(catalog, "v1")
    catalog.close()


def test_another_thread_waits_and_is_not_mixed_in(catalog: Catalog) -> None:
    done = threading.Event()

    def other() -> None:
        _add(catalog, "theirs")
        done.set()

    thread = threading.Thread(target=other)

    def fail() -> None:
        with catalog.together():
            _add(catalog, "mine")
            thread.start()
            assert not done.wait(0.2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    thread.join(10)
    assert [s.ref.name for s in catalog.snapshots()] == ["theirs"]
    catalog.close()


def test_those_who_wait_for_events_are_told_once_at_the_end(catalog: Catalog) -> None:
    before = catalog.last_event_id()
    with catalog.together():
        _add(catalog, "v1")
        assert not catalog.wait_for_event(before, 0.05)
    assert catalog.wait_for_event(before, 5)
    catalog.close()

"""The history of use: counts, episodes, weights, rankings."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.catalog.catalog_world import NOW, World, configured
from tierd.catalog import EPISODE_GAP, Catalog, RankedBy
from tierd.model.dataset import WEIGHT_DECAY, AccessSource, Snapshot, SnapshotId, decayed
from tierd.model.observation import AccessBatch, Reader, ReaderTally

ALICE = Reader(program="python3", uid=1000, job="slurm:4711")
BOB = Reader(program="rsync", uid=1001)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def read(s: SnapshotId, at: datetime, *readers: Reader, reads: int = 1) -> AccessBatch:
    tallies = tuple(ReaderTally(reader=r, first_at=at, last_at=at, reads=reads) for r in readers)
    return AccessBatch(snapshot_id=s, read_at=at, reads=reads * max(1, len(readers)), readers=tallies)


def written(s: SnapshotId, at: datetime) -> AccessBatch:
    return AccessBatch(snapshot_id=s, written_at=at, writes=1)


def record(world: World, *batches: AccessBatch, now: datetime) -> None:
    world.catalog.record_access(batches, now=now)


@pytest.fixture
def one(world: World) -> Snapshot:
    return world.add("v1")


def test_an_episode_grows_until_a_pause_and_tells_who_it_was(world: World, one: Snapshot) -> None:
    for minutes in (0, 10, 300):
        at = NOW + timedelta(minutes=minutes)
        record(world, read(one.id, at, ALICE, reads=5), now=at)
    later = NOW + timedelta(minutes=300) + EPISODE_GAP + timedelta(seconds=1)
    record(world, read(one.id, later, ALICE), now=later)
    latest, first = world.catalog.accesses(one.ref)
    assert (first.reader, first.first_at, first.last_at) == (ALICE, NOW, NOW + timedelta(minutes=300))
    assert (first.reads, first.writes, first.source) == (15, 0, AccessSource.EVENTS)
    assert (latest.first_at, latest.reads) == (later, 1)


def test_each_reader_has_an_episode_of_its_own(world: World, one: Snapshot) -> None:
    record(world, read(one.id, NOW, ALICE, BOB), now=NOW)
    record(world, AccessBatch(snapshot_id=one.id, read_at=NOW, source=AccessSource.ATIME), now=NOW)
    found = {(e.reader, e.source): e.reads for e in world.catalog.accesses(one.ref)}
    assert found == {(ALICE, "events"): 1, (BOB, "events"): 1, (Reader(), "atime"): 1}


def test_an_access_told_late_joins_the_episode_around_it(world: World, one: Snapshot) -> None:
    for at in (NOW, NOW - HOUR):
        told = read(one.id, at, ALICE)
        record(world, told, now=NOW)
    (only,) = world.catalog.accesses(one.ref)
    assert (only.first_at, only.last_at, only.reads) == (NOW - HOUR, NOW, 2)
    assert world.catalog.snapshot(one.ref).read_at == NOW


def test_a_storm_of_readers_does_not_fill_the_disk(world: World, one: Snapshot) -> None:
    for number in range(700):
        record(world, read(one.id, NOW, Reader(program=f"p{number}", uid=number)), now=NOW)
    found = world.catalog.accesses(one.ref, limit=1000)
    assert len(found) == 501
    assert sum(e.reads for e in found) == 700
    assert next(e for e in found if e.reader == Reader()).reads == 200


def test_counts_are_kept_by_hour_and_day(world: World, one: Snapshot) -> None:
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    for hours in (1, 1.5, 23, 25):
        at = midnight + hours * HOUR
        record(world, read(one.id, at, reads=2), written(one.id, at), now=at)
    days = world.catalog.spans("imagenet", since=midnight)[0]
    assert [(s.start, s.reads, s.writes) for s in days] == [(midnight, 6, 3), (midnight + DAY, 2, 1)]
    hours = world.catalog.spans("imagenet", since=midnight, by_hour=True)[0]
    assert [((s.start - midnight) // HOUR, s.reads) for s in hours] == [(1, 4), (23, 2), (25, 2)]
    assert {str(s.ref) for s in hours} == {"imagenet/v1"}


def test_rankings_add_up(world: World, one: Snapshot) -> None:
    two = world.add("v2")
    record(world, read(one.id, NOW, ALICE, reads=10), read(two.id, NOW, ALICE, BOB), now=NOW)
    record(world, read(one.id, NOW - 3 * DAY, BOB, reads=99), now=NOW)
    by_job = world.catalog.top(RankedBy.JOB, since=NOW - DAY)
    assert [(r.name, r.snapshots, r.reads) for r in by_job] == [("slurm:4711", 2, 11), (None, 1, 1)]
    by_user = world.catalog.top(RankedBy.USER, since=NOW - 7 * DAY)
    assert [(r.name, r.snapshots, r.episodes, r.reads) for r in by_user] == [("1001", 2, 2, 100), ("1000", 2, 2, 11)]
    by_snapshot = world.catalog.top(RankedBy.SNAPSHOT, since=NOW - DAY)
    assert [(r.name, r.reads) for r in by_snapshot] == [("imagenet/v1", 10), ("imagenet/v2", 2)]
    assert len(world.catalog.top(RankedBy.SNAPSHOT, since=NOW - DAY, limit=1)) == 1


def test_uses_of_several_readers_at_a_time_are_one_use(world: World, one: Snapshot) -> None:
    two = world.add("v2")
    record(world, read(one.id, NOW, ALICE), now=NOW)
    record(world, read(one.id, NOW + HOUR, BOB), read(two.id, NOW + HOUR, BOB), now=NOW + HOUR)
    later = NOW + 2 * DAY
    record(world, read(one.id, later, BOB), now=later)
    uses = [(str(u.ref), u.first_at) for u in world.catalog.uses(since=NOW - DAY, now=later)]
    assert uses == [("imagenet/v1", NOW), ("imagenet/v2", NOW + HOUR), ("imagenet/v1", later)]
    assert [u.first_at for u in world.catalog.uses(dataset="imagenet", since=NOW + DAY, now=later)] == [later]
    assert list(world.catalog.uses(dataset="other", since=NOW - DAY, now=later)) == []


def test_uses_are_read_in_pages_without_loss(world: World) -> None:
    made = [world.add(f"v{n}") for n in range(30)]
    for day in range(80):
        at = NOW + day * DAY
        record(world, *(read(s.id, at) for s in made), now=at)
    uses = list(world.catalog.uses(since=NOW, now=NOW + 80 * DAY))
    assert len(uses) == len({(u.ref, u.first_at) for u in uses}) == 2400
    assert [u.first_at for u in uses] == sorted(u.first_at for u in uses)


def test_old_history_goes_and_the_days_stay(world: World, one: Snapshot) -> None:
    record(world, read(one.id, NOW, ALICE), now=NOW)
    sum(world.catalog.prune_history(now=NOW + 30 * DAY))
    assert world.catalog.spans("imagenet", since=NOW - DAY, by_hour=True)[0]
    sum(world.catalog.prune_history(now=NOW + 800 * DAY))
    assert world.catalog.spans("imagenet", since=NOW - DAY, by_hour=True)[0] == []
    assert world.catalog.accesses(one.ref) == []
    assert [s.reads for s in world.catalog.spans("imagenet", since=NOW - DAY)[0]] == [1]


def test_a_clock_that_jumps_back_leaves_no_future_behind(world: World, one: Snapshot) -> None:
    record(world, read(one.id, NOW, ALICE), now=NOW)
    back = NOW - 10 * DAY
    world.catalog.reanchor_clock(now=back)
    (episode,) = world.catalog.accesses(one.ref)
    assert (episode.first_at, episode.last_at) == (back, back)
    assert world.catalog.spans("imagenet", since=back - DAY)[0] == []
    record(world, read(one.id, back, ALICE), now=back)
    assert [s.reads for s in world.catalog.spans("imagenet", since=back - DAY)[0]] == [1]
    assert world.catalog.snapshot(one.ref).weight_at == back


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(min_value=0.1, max_value=2000.0), min_size=1, max_size=12))
def test_the_weight_is_the_faded_sum_of_all_episodes(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[float]
) -> None:
    path = Path(tmp_path_factory.mktemp("weights")) / "tierd.db"
    with Catalog.open(path, wait_s=0) as catalog:
        world = configured(catalog, path.parent)
        one = world.add("v1")
        at, uses = NOW, list[datetime]()
        for hours in gaps:
            before, at = at, at + timedelta(hours=hours)
            if not uses or at - before > EPISODE_GAP:
                uses.append(at)
            record(world, read(one.id, at), now=at)
        found = catalog.snapshot(one.ref)
    expected = sum(math.exp(-((uses[-1] - use) / WEIGHT_DECAY)) for use in uses)
    assert math.isclose(found.weight, expected, rel_tol=1e-9)
    assert found.weight_at == uses[-1]
    assert decayed(found.weight, found.weight_at, uses[-1] + WEIGHT_DECAY) == pytest.approx(expected / math.e)


def test_a_use_told_late_counts_like_one_seen_in_time(world: World) -> None:
    """A site ships the logs of its NFS server at night: the newest line comes first, and all of them count."""
    told, seen = world.add("v1"), world.add("v2")
    days = [NOW - n * DAY for n in (1, 5, 30)]
    record(world, *(read(told.id, at, ALICE) for at in days), now=NOW)
    for at in reversed(days):
        record(world, read(seen.id, at, ALICE), now=at)
    late, in_time = world.catalog.snapshot(told.ref), world.catalog.snapshot(seen.ref)
    assert (late.episodes, late.read_at, late.weight_at) == (3, in_time.read_at, in_time.weight_at)
    assert late.weight == pytest.approx(in_time.weight)
    record(world, read(told.id, days[1] + HOUR, BOB), now=NOW)
    assert world.catalog.snapshot(told.ref).episodes == 3  # somebody used it then: not another use


def test_time_without_a_watch_is_no_use(world: World, one: Snapshot) -> None:
    record(world, read(one.id, NOW), now=NOW)
    world.catalog.note_observed(until=NOW + 10 * DAY, since=NOW + HOUR, unobserved=[one.id])
    record(world, read(one.id, NOW + 10 * DAY), now=NOW + 10 * DAY)
    assert world.catalog.snapshot(one.ref).episodes == 2


def test_a_job_that_never_pauses_does_not_lead_the_ranking_of_a_day_for_ever(world: World, one: Snapshot) -> None:
    two = world.add("v2")
    for hours in range(0, 24 * 20, 5):
        at = NOW + hours * HOUR
        record(world, read(one.id, at, ALICE, reads=10), now=at)
    record(world, read(two.id, at, BOB, reads=150), now=at)
    assert [r.name for r in world.catalog.top(RankedBy.SNAPSHOT, since=at - DAY)] == ["imagenet/v2", "imagenet/v1"]
    assert len(list(world.catalog.uses(dataset="imagenet", since=NOW, now=at))) == 2  # still one use of each
    assert world.catalog.snapshot(one.ref).episodes == 1


def test_a_whole_dataset_is_ranked_by_the_name_it_has_elsewhere(world: World) -> None:
    whole = world.add("self")
    record(world, read(whole.id, NOW), now=NOW)
    assert [r.name for r in world.catalog.top(RankedBy.SNAPSHOT, since=NOW - DAY)] == [str(whole.ref)] == ["imagenet"]


def test_reports_without_measure_break_no_sum(world: World, one: Snapshot) -> None:
    for _ in range(20):
        record(world, read(one.id, NOW, ALICE, reads=2**62), now=NOW)
    assert world.catalog.top(RankedBy.JOB, since=NOW - DAY)[0].reads == 10**12
    assert world.catalog.spans("imagenet", since=NOW - DAY)[0][0].reads == 10**12


def test_old_reports_do_not_fill_the_disk(world: World, one: Snapshot) -> None:
    long_ago = NOW - 90 * DAY
    for number in range(700):
        record(world, read(one.id, long_ago, Reader(program="p", job=f"x:{number}")), now=NOW)
    assert len(world.catalog.accesses(one.ref, limit=1000)) == 501


def test_what_was_taken_back_of_a_batch_counts_for_no_reader(world: World, one: Snapshot) -> None:
    tally = ReaderTally(reader=ALICE, first_at=NOW, last_at=NOW, reads=1, writes=9)
    record(world, AccessBatch(snapshot_id=one.id, read_at=NOW, reads=1, readers=(tally,)), now=NOW)
    assert [(e.reads, e.writes) for e in world.catalog.accesses(one.ref)] == [(1, 0)]


def test_episodes_are_listed_by_time_page_by_page(world: World, one: Snapshot) -> None:
    for days in (3, 1, 2, 9, 5):
        record(world, read(one.id, NOW - days * DAY), now=NOW)
    seen, before = list[datetime](), None
    while page := world.catalog.accesses(one.ref, before=before, limit=2):
        seen += [e.first_at for e in page]
        before = page[-1].id
    assert seen == [NOW - days * DAY for days in (1, 2, 3, 5, 9)]


def test_spans_come_in_pages(world: World) -> None:
    made = [world.add(f"v{n}") for n in range(3)]
    for day in range(4):
        record(world, *(read(s.id, NOW + day * DAY) for s in made), now=NOW + day * DAY)
    whole, rest = world.catalog.spans("imagenet", since=NOW)
    assert (len(whole), rest) == (12, None)
    paged, after = world.catalog.spans("imagenet", since=NOW, limit=5)
    while after is not None:
        page, after = world.catalog.spans("imagenet", since=NOW, limit=5, after=after)
        paged += page
    assert paged == whole
    assert [s.episodes for s in whole] == [1] * 12


def test_uses_of_years_ago_are_known_by_the_day(world: World, one: Snapshot) -> None:
    record(world, read(one.id, NOW, ALICE), now=NOW)
    later = NOW + 500 * DAY
    record(world, read(one.id, later, BOB), now=later)
    assert sum(world.catalog.prune_history(now=later)) == 2  # an hour and an episode
    old, new = world.catalog.uses(since=NOW - DAY, now=later)
    assert old.first_at.date() == NOW.date()
    assert new.first_at == later

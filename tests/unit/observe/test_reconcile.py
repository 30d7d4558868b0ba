"""Reconciling what is known with what was found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tierd.model.dataset import Snapshot, SnapshotId, SnapshotRef
from tierd.observe.discover import Discovery, Found, FoundKind, Ignored
from tierd.observe.reconcile import Appeared, Back, Change, Gone, Renamed, Replaced, reconcile

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOME = Path("/flash/imagenet")


def known(number: int, name: str, inode: int, *, gone: bool = False) -> Snapshot:
    return Snapshot(
        id=SnapshotId(number),
        ref=SnapshotRef("imagenet", name),
        key=f"{number:016x}",
        path=HOME / name,
        root_inode=inode,
        first_seen_at=NOW,
        changed_at=NOW,
        accessed_at=NOW,
        gone_at=NOW if gone else None,
    )


def tree(name: str, inode: int, born_at: datetime | None = None) -> Found:
    return Found(name=name, path=HOME / name, kind=FoundKind.DIRECTORY, root_inode=inode, born_at=born_at)


def link(name: str, target: bytes) -> Found:
    return Found(name=name, path=HOME / name, kind=FoundKind.LINK, root_inode=999, link_target=target)


def ours(target: bytes) -> SnapshotId | None:
    head, _, number = target.rpartition(b"/")
    return SnapshotId(int(number)) if head == b"/cold" else None


def changes(snapshots: list[Snapshot], *found: Found) -> list[Change]:
    return reconcile(snapshots, Discovery(found=found), ours)


def test_what_is_as_known_is_no_change() -> None:
    assert changes([known(1, "v1", 11), known(2, "v2", 12)], tree("v1", 11), link("v2", b"/cold/2")) == []


def test_a_new_directory_appears() -> None:
    assert changes([known(1, "v1", 11)], tree("v1", 11), tree("v2", 12)) == [Appeared(tree("v2", 12))]


def test_a_missing_one_is_gone_once() -> None:
    v1 = known(1, "v1", 11)
    assert changes([v1]) == [Gone(v1)]
    assert changes([known(1, "v1", 11, gone=True)]) == []


def test_an_unreadable_dataset_says_nothing() -> None:
    assert reconcile([known(1, "v1", 11)], Discovery(is_readable=False, error="missing"), ours) == []


def test_a_child_that_is_ignored_is_not_gone() -> None:
    mounted = Discovery(ignored=(Ignored(name="v1", reason="mounted over"),))
    assert reconcile([known(1, "v1", 11)], mounted, ours) == []


def test_a_rename_is_recognised_by_the_inode() -> None:
    v1 = known(1, "v1", 11)
    assert changes([v1], tree("best", 11)) == [Renamed(v1, tree("best", 11))]


def test_a_rename_while_migrated_is_recognised_by_the_link() -> None:
    v1 = known(1, "v1", 11)
    assert changes([v1], link("best", b"/cold/1")) == [Renamed(v1, link("best", b"/cold/1"))]


def test_links_that_tierd_did_not_make_are_nothing() -> None:
    v1 = known(1, "v1", 11)
    assert changes([v1], tree("v1", 11), link("latest", b"v1"), link("other", b"/cold/77")) == []


def test_a_foreign_link_in_place_of_the_tree_means_gone() -> None:
    v1 = known(1, "v1", 11)
    assert changes([v1], link("v1", b"/home/me/v1")) == [Gone(v1)]


def test_a_copied_link_is_no_second_snapshot() -> None:
    assert changes([known(1, "v1", 11)], link("v1", b"/cold/1"), link("copy", b"/cold/1")) == []


def test_another_directory_at_the_path_replaces() -> None:
    v1 = known(1, "v1", 11)
    assert changes([v1], tree("v1", 50)) == [Replaced(v1, tree("v1", 50))]


def test_replaced_and_kept_under_another_name_is_a_rename_and_a_new_one() -> None:
    v1 = known(1, "v1", 11)
    assert changes([v1], tree("v1", 50), tree("v1.old", 11)) == [
        Renamed(v1, tree("v1.old", 11)),
        Appeared(tree("v1", 50)),
    ]


def test_a_chain_of_renames_frees_names_first() -> None:
    v1, v2, v3 = known(1, "v1", 11), known(2, "v2", 12), known(3, "v3", 13)
    found = changes([v1, v2, v3], tree("v2", 11), tree("v3", 12), tree("v4", 13))
    assert found == [Renamed(v3, tree("v4", 13)), Renamed(v2, tree("v3", 12)), Renamed(v1, tree("v2", 11))]


def test_swapped_names_are_two_renames() -> None:
    v1, v2 = known(1, "v1", 11), known(2, "v2", 12)
    assert set(changes([v1, v2], tree("v1", 12), tree("v2", 11))) == {
        Renamed(v1, tree("v2", 11)),
        Renamed(v2, tree("v1", 12)),
    }


def test_a_gone_one_comes_back() -> None:
    v1 = known(1, "v1", 11, gone=True)
    assert changes([v1], tree("v1", 11)) == [Back(v1, tree("v1", 11))]
    assert changes([v1], link("v1", b"/cold/1")) == [Back(v1, link("v1", b"/cold/1"))]
    assert changes([v1], tree("best", 11)) == [Renamed(v1, tree("best", 11)), Back(v1, tree("best", 11))]


def test_another_tree_at_the_path_of_a_gone_one_is_not_it() -> None:
    v1 = known(1, "v1", 11, gone=True)
    assert changes([v1], tree("v1", 50)) == [Replaced(v1, tree("v1", 50))]


def test_who_is_there_has_the_first_claim_on_its_name() -> None:
    old, new = known(1, "v1", 11, gone=True), known(2, "v1", 50)
    assert changes([old, new], tree("v1", 50)) == []
    assert changes([old, new], tree("v1", 60)) == [Replaced(new, tree("v1", 60))]


def test_a_reused_inode_number_is_not_a_rename() -> None:
    v1 = known(1, "v1", 11)
    assert changes([v1], tree("v2", 11, NOW + HOUR)) == [Gone(v1), Appeared(tree("v2", 11, NOW + HOUR))]
    assert changes([v1], tree("v2", 11, NOW - HOUR)) == [Renamed(v1, tree("v2", 11, NOW - HOUR))]


def test_a_reused_inode_number_does_not_bring_a_gone_one_back() -> None:
    v1 = known(1, "v1", 11, gone=True)
    assert changes([v1], tree("v1", 11, NOW + HOUR)) == [Replaced(v1, tree("v1", 11, NOW + HOUR))]


def test_nothing_is_concluded_about_a_snapshot_in_transfer() -> None:
    v1 = known(1, "v1", 11)
    for found in (Discovery(), Discovery(found=(tree("v1", 50),)), Discovery(found=(link("v1", b"/elsewhere"),))):
        assert reconcile([v1], found, ours, busy={v1.id}) == []


NAMES = st.sampled_from(["a", "b", "c", "d"])
PLACES = st.dictionaries(NAMES, st.integers(10, 16), max_size=4)


@given(before=PLACES, after=PLACES, gone=st.sets(NAMES))
def test_every_place_and_every_snapshot_is_accounted_for_once(
    before: dict[str, int], after: dict[str, int], gone: set[str]
) -> None:
    snapshots = [known(i, name, inode, gone=name in gone) for i, (name, inode) in enumerate(before.items())]
    unique = {inode: name for name, inode in after.items()}  # an inode lies in one place
    found = [tree(name, inode) for inode, name in unique.items()]
    result = changes(snapshots, *found)
    placed = [c.found.name for c in result if isinstance(c, Appeared | Renamed | Replaced)]
    assert len(placed) == len(set(placed))
    told = [c.snapshot.id for c in result if isinstance(c, Gone | Renamed | Replaced)]
    assert len(told) == len(set(told))
    names = {f.name for f in found}
    left = {s.ref.name for s in snapshots if s.gone_at is None and s.id not in told}
    back = {c.found.name for c in result if isinstance(c, Back)}
    assert names == set(placed) | left | back

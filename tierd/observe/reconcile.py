"""Reconcile what is known with what was found: a pure function.

A snapshot is recognised under another name by its root's inode, or, while its path is a link, by the link's target.
Inode numbers are reused, so a directory born after the snapshot was last looked at is another directory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from tierd.model.dataset import Snapshot, SnapshotId
from tierd.observe.discover import Discovery, Found, FoundKind


@dataclass(frozen=True)
class Appeared:
    """A directory that no known snapshot accounts for."""

    found: Found


@dataclass(frozen=True)
class Renamed:
    """The snapshot lies under another name; one that was gone is reported as `Back` right after."""

    snapshot: Snapshot
    found: Found


@dataclass(frozen=True)
class Back:
    """A snapshot that was gone is there again, with the same tree or tierd's own link."""

    snapshot: Snapshot
    found: Found


@dataclass(frozen=True)
class Replaced:
    """Another directory lies at the snapshot's path (which may have been gone), and its own tree is nowhere."""

    snapshot: Snapshot
    found: Found


@dataclass(frozen=True)
class Gone:
    """Nothing that is the snapshot's lies in the dataset any more; its cold copies stay."""

    snapshot: Snapshot


Change = Appeared | Renamed | Back | Replaced | Gone


def reconcile(
    known: Sequence[Snapshot],
    discovery: Discovery,
    ours: Callable[[bytes], SnapshotId | None],
    *,
    busy: Collection[SnapshotId] = (),
) -> list[Change]:
    """Say what changed in one dataset.

    Args:
        known: the dataset's snapshots, gone ones included.
        discovery: of the same dataset.
        ours: the snapshot whose placement lies at a link's target; None for a link that tierd did not make.
        busy: snapshots that a transfer is switching right now: nothing is concluded about them, since their path
            is changed before the catalog hears of it.

    Returns:
        Gone first, then renames (a name is freed before it is taken, except in a cycle of names), then the rest.
        Nothing at all when the dataset could not be read. A child that was ignored is not gone.
    """
    if not discovery.is_readable:
        return []
    places = _match(known, discovery.found, ours)
    taken = {found.name for found in places.values()}
    by_name = {found.name: found for found in discovery.found}
    present = {item.name for item in discovery.ignored}
    gone: list[Change] = []
    renamed: list[Renamed] = []
    rest: list[Change] = []
    for snapshot in sorted(known, key=lambda s: s.gone_at is not None):  # who is there has the first claim on its name
        if snapshot.id in busy:
            taken.add(snapshot.ref.name)
            continue
        found = places.get(snapshot.id)
        if found is not None:
            if found.name != snapshot.ref.name:
                renamed.append(Renamed(snapshot, found))
            if snapshot.gone_at is not None:
                rest.append(Back(snapshot, found))
            continue
        other = by_name.get(snapshot.ref.name)
        if other is not None and other.kind is FoundKind.DIRECTORY and other.name not in taken:
            taken.add(other.name)
            rest.append(Replaced(snapshot, other))
        elif snapshot.gone_at is None and snapshot.ref.name not in present:
            gone.append(Gone(snapshot))
    appeared = [
        Appeared(found) for found in discovery.found if found.kind is FoundKind.DIRECTORY and found.name not in taken
    ]
    return [*gone, *_in_order(renamed), *rest, *appeared]


def _match(
    known: Sequence[Snapshot], found: Iterable[Found], ours: Callable[[bytes], SnapshotId | None]
) -> dict[SnapshotId, Found]:
    """Where each snapshot lies now; the best claim on a place wins, and nobody gets two places."""
    by_inode: dict[int, list[Snapshot]] = {}
    for snapshot in known:
        by_inode.setdefault(snapshot.root_inode, []).append(snapshot)
    by_id = {snapshot.id: snapshot for snapshot in known}
    claims = [(snapshot, one) for one in found for snapshot in _claimants(one, by_inode, by_id, ours)]
    claims.sort(key=lambda claim: (claim[1].name != claim[0].ref.name, claim[0].gone_at is not None))
    places: dict[SnapshotId, Found] = {}
    taken: set[str] = set()
    for snapshot, one in claims:
        if snapshot.id not in places and one.name not in taken:
            places[snapshot.id] = one
            taken.add(one.name)
    return places


def _claimants(
    one: Found,
    by_inode: dict[int, list[Snapshot]],
    by_id: dict[SnapshotId, Snapshot],
    ours: Callable[[bytes], SnapshotId | None],
) -> list[Snapshot]:
    if one.link_target is not None:
        snapshot_id = ours(one.link_target)
        return [by_id[snapshot_id]] if snapshot_id in by_id else []
    return [s for s in by_inode.get(one.root_inode, []) if not _is_another(one, s)]


def _is_another(one: Found, snapshot: Snapshot) -> bool:
    """Whether the directory was made after the snapshot's own tree was last seen, so that only the number is equal."""
    is_in_place = one.name == snapshot.ref.name and snapshot.gone_at is None
    if one.born_at is None or is_in_place:  # in place it counts as the same snapshot with other contents
        return False
    seen = (snapshot.first_seen_at, snapshot.scanned_at, snapshot.warmed_at)
    return one.born_at > max(at for at in seen if at is not None)


def _in_order(renamed: list[Renamed]) -> list[Renamed]:
    """First those whose new name nobody still holds, so that they can be applied one by one."""
    done: list[Renamed] = []
    todo = list(renamed)
    while todo:
        held = {change.snapshot.ref.name for change in todo}
        free = [change for change in todo if change.found.name not in held]
        if not free:
            return done + todo  # a cycle: the caller applies it in one go
        done += free
        todo = [change for change in todo if change not in free]
    return done

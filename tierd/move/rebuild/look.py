"""Read the tiers: which copies lie there, and what is at the paths of the configured datasets. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from tierd.config import Config
from tierd.errors import SourceChanged, TierdError, TierOffline
from tierd.fs.walk import open_root
from tierd.model.dataset import Dataset, SnapshotRef
from tierd.model.tier import Tier, TierName
from tierd.move.rebuild.values import Copy, Found, HomeTree
from tierd.observe.discover import Discovery, FoundKind, discover
from tierd.observe.discover import Found as Entry
from tierd.storage.control import Control
from tierd.storage.found import FoundCopy, Unreadable
from tierd.storage.manifest import Manifest
from tierd.storage.posix.found import find_copies as find_trees
from tierd.storage.posix.homepath import HomePath, Kind, Occupant
from tierd.storage.posix.identity import PRIVATE, read_identity
from tierd.storage.posix.prove import prove_unchanged
from tierd.storage.posix.store import side_of
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.found import find_copies as find_objects
from tierd.storage.s3.identity import read_identity as read_remote_identity
from tierd.storage.s3.lanes import Patience


def look(config: Config, control: Control) -> Found:
    """See the module.

    Raises:
        TierOffline: a tier cannot be read: what is on it would be missing from the catalog for good.
    """
    return _Look(config, control).all()


class _Look:
    def __init__(self, config: Config, control: Control) -> None:
        self._config, self._control = config, control
        self._notes: list[str] = []
        self._copies: list[Copy] = []
        self._homes: list[HomeTree] = []
        self._discoveries: dict[str, Discovery] = {}
        self._entries: dict[tuple[TierName, int], list[tuple[SnapshotRef, Entry]]] = {}

    def all(self) -> Found:
        identities = {t.name: uuid for t in self._config.tiers if (uuid := self._identity(t)) is not None}
        for dataset in self._config.datasets:
            self._discover(dataset)
        for tier in self._config.tiers:
            if tier.name in identities:
                for copy in self._described(tier):
                    self._control.checkpoint()
                    self._control.progress(bytes=0, files=1)
                    self._sort(tier, copy)
        missing = [name for name, discovery in self._discoveries.items() if _is_missing(self._dataset(name), discovery)]
        return Found(
            tiers=self._config.tiers,
            datasets=self._config.datasets,
            copies=tuple(self._copies),
            homes=tuple(self._homes),
            paths=self._paths(),
            missing=tuple(missing),
            identities=identities,
            notes=tuple(self._notes),
        )

    # -- tiers -----------------------------------------------------------------------------------------------

    def _identity(self, tier: Tier) -> str | None:
        self._control.checkpoint(f"look at tier {tier.name}")
        try:
            identity = read_remote_identity(self._bucket(tier)) if tier.s3 is not None else _local_identity(tier.root)
        except TierdError as error:
            raise TierOffline(
                f"tier {tier.name} cannot be read: {error.message}",
                hint=f"{error.hint or 'Bring it back.'} All tiers are read at once: what is missing now would be "
                "missing from the catalog. To go on without this tier, take it out of the configuration.",
            ) from error
        if identity is None:
            where = tier.root if tier.s3 is None else f"s3://{tier.s3.bucket}/{tier.s3.prefix}"
            self._notes.append(f"tier {tier.name}: nothing says that {where} was ever used by tierd; is it mounted?")
        return identity

    def _bucket(self, tier: Tier) -> Bucket:
        assert tier.s3 is not None
        return Bucket(tier.s3, on_wait=Patience(self._control))

    def _described(self, tier: Tier) -> Iterator[FoundCopy]:
        self._control.checkpoint(f"list the copies on {tier.name}")
        found: Iterable[FoundCopy | Unreadable]
        found = find_objects(self._bucket(tier)) if tier.s3 is not None else find_trees(tier.root)
        for one in found:
            if isinstance(one, Unreadable):
                self._notes.append(f"tier {tier.name}: {one.what} cannot be read: {one.reason}")
            else:
                yield one

    def _sort(self, tier: Tier, copy: FoundCopy) -> None:
        """A tree on the home tier is the dataset's own; all else are copies."""
        home = self._home_tree(tier, copy)
        if home is not None:
            self._homes.append(home)
        elif copy.location is not None:
            self._copies.append(Copy(tier=tier.name, copy=copy))

    # -- home trees --------------------------------------------------------------------------------------------

    def _home_tree(self, tier: Tier, copy: FoundCopy) -> HomeTree | None:
        for ref, entry in self._entries.get((tier.name, copy.root_inode), ()):
            if not _is_born_later(entry, copy.as_of):
                is_unchanged = self._is_unchanged(tier, copy, os.fsencode(entry.path))
                return HomeTree(tier=tier.name, ref=ref, copy=copy, is_at_path=True, is_unchanged=is_unchanged)
        if not copy.is_aside:
            return None
        slot = tier.root / PRIVATE / "aside" / copy.snapshot_key
        if copy.dataset is None or copy.name is None:
            self._notes.append(f"tier {tier.name}: the tree {slot} was put aside, and nothing says of which snapshot")
            return None
        ref = SnapshotRef(copy.dataset, copy.name)
        is_unchanged = self._is_unchanged(tier, copy, os.fsencode(slot))
        return HomeTree(tier=tier.name, ref=ref, copy=copy, is_at_path=False, is_unchanged=is_unchanged)

    def _is_unchanged(self, tier: Tier, copy: FoundCopy, tree: bytes) -> bool:
        self._control.checkpoint(f"look whether {copy.dataset or tree.decode(errors='replace')} was changed")
        fd = open_root(tree)
        try:
            with Manifest.open(tier.root / PRIVATE / "manifests" / f"{copy.snapshot_key}.db") as manifest:
                prove_unchanged(fd, manifest, stamps=side_of(manifest), control=self._control)
        except SourceChanged:
            return False
        finally:
            os.close(fd)
        return True

    # -- paths -------------------------------------------------------------------------------------------------

    def _dataset(self, name: str) -> Dataset:
        return next(d for d in self._config.datasets if d.name == name)

    def _discover(self, dataset: Dataset) -> None:
        discovery = self._discoveries[dataset.name] = discover(dataset)
        for entry in discovery.found:
            if entry.kind is FoundKind.DIRECTORY:
                ref = SnapshotRef(dataset.name, entry.name)
                self._entries.setdefault((dataset.home, entry.root_inode), []).append((ref, entry))
        if not discovery.is_readable and not _is_missing(dataset, discovery) and not _may_be_absent(dataset):
            raise TierOffline(f"dataset {dataset.name} cannot be read: {discovery.error}")

    def _paths(self) -> dict[SnapshotRef, Occupant]:
        found: dict[SnapshotRef, Occupant] = {}
        for name, discovery in self._discoveries.items():
            for entry in discovery.found:
                kind = Kind.DIRECTORY if entry.kind is FoundKind.DIRECTORY else Kind.LINK
                found[SnapshotRef(name, entry.name)] = Occupant(
                    kind=kind, inode=entry.root_inode, target=entry.link_target or b""
                )
        roots = {t.name: t.root for t in self._config.tiers}
        for held in self._copies:  # files and whatever else discovery passes over
            dataset = next((d for d in self._config.datasets if d.name == held.copy.dataset), None)
            if dataset is None or held.copy.name is None:
                continue
            ref = SnapshotRef(dataset.name, held.copy.name)
            path = os.fsencode(dataset.snapshot_path(ref.name))
            there = HomePath(path, roots[dataset.home], "", roots[dataset.home]).at_path()
            if there.kind is not Kind.MISSING:
                found.setdefault(ref, there)
        return found


def _local_identity(root: Path) -> str | None:
    if not root.is_dir():
        raise TierOffline(f"{root} does not exist", hint="Is the disk mounted?")
    found = read_identity(root)
    return None if found is None else found.uuid


def _is_born_later(entry: Entry, as_of: datetime | None) -> bool:
    """Whether the directory was made after the manifest: then only the inode's number is the same."""
    return entry.born_at is not None and as_of is not None and entry.born_at > as_of


def _may_be_absent(dataset: Dataset) -> bool:
    """Where the dataset is the snapshot, nothing need be at its path."""
    return dataset.pattern is None and not os.path.lexists(dataset.path)


def _is_missing(dataset: Dataset, discovery: Discovery) -> bool:
    above = dataset.path if dataset.pattern is not None else dataset.path.parent
    return not discovery.is_readable and not os.path.lexists(above)

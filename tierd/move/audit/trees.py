"""Auditing a posix tier: its copies, what the catalog does not know, and litter."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tierd.errors import Corrupt, SourceChanged, SourceGone, TierdError
from tierd.fs.walk import open_root, translated, walk
from tierd.model.dataset import SnapshotRef
from tierd.move.audit.values import Finding, Held, Kind, Known, Round
from tierd.storage.found import FoundCopy, Unreadable
from tierd.storage.manifest import Manifest, delete_manifest
from tierd.storage.posix.found import directory_inode, find_copies
from tierd.storage.posix.partstore import PartStore
from tierd.storage.posix.prove import prove_unchanged
from tierd.storage.posix.store import PosixStorage, side_of
from tierd.storage.posix.verify import verify_copy

_CHANGED = (
    "Where the snapshot's path leads here, this is the snapshot now, and its other copies are stale. Else copy what is "
    "wanted out of it, and remove the tree: the next migration makes a new copy."
)
_MISSING = "Is it only moved? Put it back. Else use another copy: `tierd ls` shows which there are."
_ROTTEN = "Look after that disk, and restore the file from another copy (`tierd ls` shows which there are)."
_UNKNOWN = (
    "If the catalog was lost or replaced, `tierd rebuild --dry-run` shows what belongs to it. What nobody wants any "
    "more is removed by hand."
)
_LITTER = "`tierd audit --sweep` removes it."
_KEPT = "Somebody had written to this copy before it was replaced. Copy what is wanted out of it, then remove it."


class Trees:
    """One round over a posix tier."""

    def __init__(self, this: Round) -> None:
        self._round = this
        self._store = PosixStorage(this.tier.root, this.identity)
        self._private = self._store.private

    def check(self, held: Held) -> list[Finding]:
        """What is wrong with one copy."""
        ref, size = held.snapshot.ref, held.placement.size_bytes

        def found(kind: Kind, message: str, hint: str) -> list[Finding]:
            return [self._round.find(kind, held.location, message, hint, ref=ref, size_bytes=size)]

        try:
            fd = self._store.open_tree(held.site)
        except SourceGone:
            return found(Kind.MISSING, f"no directory is at {self._round.tier.root / held.location}", _MISSING)
        try:
            manifest = self._store.manifest(held.site)
            if manifest is None:
                return found(Kind.MISSING, "its manifest is missing: nothing says what should be in it", _MISSING)
            with manifest:
                prove_unchanged(fd, manifest, stamps=side_of(manifest), control=self._round.control)
                if self._round.question.is_deep:
                    self._read(fd, manifest)
        except SourceChanged as error:
            return found(Kind.CHANGED, error.message, _CHANGED)
        except Corrupt as error:
            return found(Kind.DAMAGED, error.message, _ROTTEN)
        finally:
            os.close(fd)
        return []

    def _read(self, fd: int, manifest: Manifest) -> None:
        """Compare every byte. What a comparison writes down goes into a copy of the manifest."""
        path = self._round.scratch / "manifest.db"
        try:
            with manifest.copy_to(path) as copy:
                verify_copy(fd, copy, mode="read", control=self._round.control)
        finally:
            delete_manifest(path)

    # -- what the catalog does not name --------------------------------------------------------------------

    def others(self) -> Iterator[Finding]:
        """Copies that the catalog does not know, what was kept, and litter."""
        found = list(find_copies(self._round.tier.root))
        known = Known.read(self._round.catalog)
        locations, keys = known.locations(self._round.tier), {s.key for s in known.snapshots.values()}
        moving = known.moving_keys()
        for one in found:
            if isinstance(one, Unreadable):
                yield self._round.find(Kind.UNREADABLE, one.what, one.reason, "Look after that disk.")
            elif one.snapshot_key in moving:
                continue
            elif one.location is not None:
                if one.location not in locations and not self._is_at_home(one.location) and self._is_there(one):
                    ref = SnapshotRef(one.dataset, one.name) if one.dataset and one.name else None
                    yield self._unknown(one.location, "a copy that the catalog does not know", ref, one.size_bytes)
            elif one.is_aside and one.snapshot_key not in keys:
                where = f".tierd/aside/{one.snapshot_key}"
                yield self._unknown(where, "a tree put aside that the catalog does not know", None, one.size_bytes)
        for path in self._listed("kept"):
            where = f".tierd/kept/{path.name}"
            yield self._round.find(Kind.KEPT, where, "a stale copy that was written to", _KEPT, size_bytes=_size(path))
        yield from self._litter()

    def _unknown(self, where: str, message: str, ref: SnapshotRef | None, size: int) -> Finding:
        return self._round.find(Kind.UNKNOWN, where, message, _UNKNOWN, ref=ref, size_bytes=size)

    def _is_at_home(self, location: str) -> bool:
        path = self._round.tier.root / location
        return any(path.is_relative_to(d.path) for d in self._round.datasets if d.home == self._round.tier.name)

    def _is_there(self, copy: FoundCopy) -> bool:
        """Whether it is still there: it may have been released since it was listed."""
        return directory_inode(self._round.tier.root / (copy.location or "")) == copy.root_inode

    def _listed(self, place: str) -> list[Path]:
        directory = self._private / place
        with translated(str(directory)), contextlib.suppress(FileNotFoundError):
            return sorted(directory / name for name in os.listdir(directory))
        return []

    def _litter(self) -> Iterator[Finding]:
        staged = [("unfinished copy of a transfer that is over", path) for path in self._listed("staging")]
        trash = [("copy that was to be deleted", path) for path in self._listed("trash")]
        parts = [("part of a snapshot that nobody holds", path) for path in PartStore(self._round.tier.root).listed()]
        # Asked after it was listed: a transfer that began meanwhile is live now.
        known = Known.read(self._round.catalog)
        for what, path in [*staged, *trash, *parts]:
            if path.name.partition(".")[0] not in known.live:
                where = str(path.relative_to(self._round.tier.root))
                yield self._round.find(Kind.LITTER, where, what, _LITTER, size_bytes=_size(path))
        for path in self._stray_links(known):
            yield self._round.find(
                Kind.LITTER, f".tierd/aside/{path.name}", "link of a switch that was interrupted", _LITTER
            )

    def _stray_links(self, known: Known) -> list[Path]:
        moving = known.moving_keys()
        return [p for p in self._listed("aside") if p.is_symlink() and p.name.partition(".")[0] not in moving]

    def sweep(self, litter: list[Finding]) -> Iterator[Finding]:
        """Remove litter; yields what was removed of it."""
        control = self._round.control
        removed = set(self._store.sweep(lambda: Known.read(self._round.catalog).live, control))
        for path in self._stray_links(Known.read(self._round.catalog)):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.add(f"aside/{path.name}")
        yield from (finding for finding in litter if finding.where.removeprefix(".tierd/") in removed)


def _size(path: Path) -> int:
    """Bytes below a path, as far as they can be counted while somebody may be deleting it."""
    total = 0
    with contextlib.suppress(TierdError, OSError):
        st = path.lstat()
        if not stat.S_ISDIR(st.st_mode):
            return st.st_size
        fd = open_root(os.fsencode(path))
        try:
            for listing in walk(fd):
                total += sum(st.st_size for _, st in listing.entries if stat.S_ISREG(st.st_mode))
        finally:
            os.close(fd)
    return total

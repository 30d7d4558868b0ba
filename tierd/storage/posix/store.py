"""The posix driver: a tier that is a directory of a local file system.

    <root>/<dataset>/<snapshot>          copies of snapshots whose home is another tier: plain trees
    <root>/.tierd/tier.json              the identity
    <root>/.tierd/staging/<transfer>/    copies in the making: `tree` and `manifest.db`
    <root>/.tierd/aside/<snapshot>       the slot beside the path of a snapshot at home here
    <root>/.tierd/manifests/<snapshot>.db
    <root>/.tierd/parts/<transfer>.db    and <root>/.tierd-parts: see `partstore`
    <root>/.tierd/trash/<transfer>       authorised for deletion
    <root>/.tierd/kept/<snapshot>.<…>    stale copies, and parts, that somebody had written to: for people to look at

The order of `publish`, in which a crash at any point leaves something that the next call finishes:
 1. write into the staged manifest where the copy will go          (durable)
 2. rename the tree into place                                     (durable)
 3. rename the manifest into place                                 (durable)
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from tierd.errors import Corrupt, SourceBusy, SourceChanged, SourceGone, StorageError
from tierd.fs.linux import rename_exchange, rename_noreplace
from tierd.fs.walk import open_root, show, translate, translated
from tierd.model.dataset import SnapshotRef
from tierd.model.s3 import Counts
from tierd.storage.base import CopyLimits, Leases, Published, Site, Source, Tree
from tierd.storage.control import Control, Rate, Unlimited
from tierd.storage.manifest import Manifest, Side, delete_manifest
from tierd.storage.patterns import chosen
from tierd.storage.posix.copy import CopyOptions, copy_tree
from tierd.storage.posix.homepath import HomePath, open_below, restore_mtime
from tierd.storage.posix.identity import PRIVATE, check_identity, fsync_directory
from tierd.storage.posix.partstore import PartStore
from tierd.storage.posix.places import free_name, make_fenced, open_own
from tierd.storage.posix.proofs import prove_tree
from tierd.storage.posix.prove import prove_unchanged
from tierd.storage.posix.trash import delete_tree
from tierd.storage.posix.verify import verify_copy

TREE, MANIFEST = "tree", "manifest.db"
_PLACES = ("staging", "aside", "manifests", "parts", "trash")


class PosixStorage:
    """A tier below a directory.

    Args:
        root: the tier's root.
        identity: the uuid that must lie there.
    """

    def __init__(self, root: Path, identity: str) -> None:
        self.root = root
        self.identity = identity
        self.private = root / PRIVATE
        self.parts = PartStore(root)
        self.kept: list[str] = []
        """Where `publish` put stale copies that somebody had written to."""

    def asked(self) -> Mapping[str, Counts]:
        return {}

    def attach(self) -> None:
        check_identity(self.root, self.identity)
        try:
            for place in _PLACES:
                (self.private / place).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise translate(error, str(self.private)) from error

    # -- trees -----------------------------------------------------------------------------------------

    def home(self, site: Site) -> HomePath:
        """The snapshot's path and slot; only for sites on their home tier."""
        if site.home_path is None:
            raise StorageError(f"{site.dataset}/{site.name} is not at home on {self.root}")
        return HomePath(site.home_path, self.private / "aside", site.snapshot_key, self.root)

    def tree(self, site: Site) -> bytes:
        """Absolute path of the copy in place.

        Raises:
            SourceGone: there is none.
        """
        if site.home_path is not None:
            return self.home(site).tree()
        if site.location is None:
            raise SourceGone(f"no copy of {site.dataset}/{site.name} is on {self.root}")
        return os.fsencode(self.root / site.location)

    def open_tree(self, site: Site) -> int:
        """Open the root directory of the copy in place; the caller closes it."""
        if site.home_path is not None:
            return self.home(site).open_tree()
        return open_below(self.root, self.tree(site))

    # -- copying in --------------------------------------------------------------------------------------

    def staging(self, transfer_key: str) -> Path:
        return self.private / "staging" / transfer_key

    def prepare_reading(self, site: Site, *, now: datetime, control: Control) -> None:
        """Nothing to do: files can be read at once."""

    @contextlib.contextmanager
    def reading(self, site: Site) -> Iterator[Source]:
        fd = self.open_tree(site)
        try:
            yield Tree(fd)
        finally:
            os.close(fd)

    def receive(self, source: Source, transfer_key: str, site: Site, limits: CopyLimits, control: Control) -> Manifest:
        staging = self.staging(transfer_key)
        with translated(str(staging)):
            staging.mkdir(mode=0o700, exist_ok=True)
        if not isinstance(source, Tree):
            return source.unpack(staging, limits, control)
        only = chosen(limits.only) if limits.only else None
        options = CopyOptions(processes=limits.processes, rate=limits.rate, only=only)
        return copy_tree(source.fd, staging, options=options, control=control)

    def verify(self, transfer_key: str, mode: str, control: Control, rate: Rate | None = None) -> Manifest:
        staging = self.staging(transfer_key)
        manifest = Manifest.open(staging / MANIFEST)
        fd = open_root(os.fsencode(staging / TREE))
        try:
            verify_copy(fd, manifest, mode=mode, rate=rate, control=control)
        finally:
            os.close(fd)
        return manifest

    def needs_verification(self, transfer_key: str) -> bool:
        path = self.staging(transfer_key) / MANIFEST
        if not path.exists():
            return False
        with contextlib.closing(Manifest.open(path)) as manifest:
            return "location" not in manifest.meta or manifest.root_stamp("copy") is None

    # -- publishing --------------------------------------------------------------------------------------

    def publish(self, transfer_key: str, site: Site) -> Published:
        done = self._published(transfer_key, site)
        if done is not None:
            self.discard(transfer_key)  # what is left of it when that call died just before its end
            return done
        staging = self.staging(transfer_key)
        manifest = Manifest.open(staging / MANIFEST)
        try:
            root = manifest.root_stamp("copy")
            if root is None:
                raise Corrupt(f"the staged copy of {site.dataset}/{site.name} was never verified")
            location = self._choose_location(transfer_key, site, manifest.meta.get("location"), root.inode)
            named = {"dataset": site.dataset, "name": site.name}
            manifest.set_meta({"location": location, "transfer": transfer_key, "side": "copy", **named})
            target = self.private / "aside" / site.snapshot_key if site.home_path is not None else self.root / location
            self._place(staging / TREE, target, root.inode, transfer_key, site)
            totals = manifest.totals()
            published = Published(
                location=None if site.home_path is not None else location,
                root_inode=root.inode,
                content_id=manifest.content_id(),
                entries=totals.entries,
                size_bytes=totals.size_bytes,
            )
        finally:
            manifest.close()
        with translated(str(staging)):
            self._close_journal(site)
            (staging / MANIFEST).rename(self._manifest_path(site))
            fsync_directory(self.private / "manifests")
        self.discard(transfer_key)
        return published

    def _published(self, transfer_key: str, site: Site) -> Published | None:
        """What an earlier call of `publish` for this transfer finished, or None."""
        if (self.staging(transfer_key) / MANIFEST).exists():
            return None
        manifest = self.manifest(site)
        if manifest is None:
            return None
        with contextlib.closing(manifest):
            root = manifest.root_stamp("copy")
            if manifest.meta.get("transfer") != transfer_key or root is None:
                return None
            totals = manifest.totals()
            return Published(
                location=None if site.home_path is not None else manifest.meta["location"],
                root_inode=root.inode,
                content_id=manifest.content_id(),
                entries=totals.entries,
                size_bytes=totals.size_bytes,
            )

    def _choose_location(self, transfer_key: str, site: Site, chosen: str | None, inode: int) -> str:
        """Where people will find the copy: <dataset>/<snapshot>, with a suffix where that is taken.

        What the catalog or an earlier attempt names may belong to another snapshot by now: looked at each time.
        """
        plain = f"{site.dataset}/{site.name}"
        for location in (chosen, site.location, plain):
            if location is not None and (site.home_path is not None or self._may_take(location, site, inode)):
                return location
        return f"{plain}~{transfer_key[:8]}"

    def _may_take(self, location: str, site: Site, inode: int) -> bool:
        """Whether nothing is there, or the new copy, or a stale copy of the same snapshot (replaced in place)."""
        path = self.root / location
        return not os.path.lexists(path) or _inode(path) in (inode, self._own_inode(site) or inode)

    def _own_inode(self, site: Site) -> int | None:
        """Root inode of the copy that the manifest in place describes."""
        manifest = self._readable_manifest(site)
        if manifest is None:
            return None
        with contextlib.closing(manifest):
            root = manifest.root_stamp(side_of(manifest))
        return None if root is None else root.inode

    def _place(self, tree: Path, target: Path, inode: int, transfer_key: str, site: Site) -> None:
        """Rename the staged tree to `target`; a stale copy that is there goes to the trash."""
        with translated(str(target)):
            parent = open_own(self.root, target.parent)
            staging = open_root(os.fsencode(tree.parent))
            try:
                if _inode(tree) == inode:
                    try:
                        rename_noreplace(staging, os.fsencode(tree.name), parent, os.fsencode(target.name))
                    except OSError as error:
                        if error.errno != errno.EEXIST:
                            raise
                        if site.home_path is None and _inode(target) != self._own_inode(site):
                            raise StorageError(f"{show(os.fsencode(target))} was taken meanwhile") from error
                        before = os.stat(target.name, dir_fd=parent, follow_symlinks=False)
                        rename_exchange(staging, os.fsencode(tree.name), parent, os.fsencode(target.name))
                        if stat.S_ISDIR(before.st_mode):
                            restore_mtime(staging, os.fsencode(tree.name), before)
                if _inode(target) != inode:
                    raise Corrupt(f"the copy is not at {show(os.fsencode(target))} after it was put there")
                if os.path.lexists(tree):  # what was there before: the stale copy, or a leftover link
                    self._put_away(tree, transfer_key, site)
                os.fsync(parent)
                os.fsync(staging)
            finally:
                os.close(parent)
                os.close(staging)

    def fence(self, site: Site, like_fd: int) -> None:
        make_fenced(self.root, (self.root / (site.location or f"{site.dataset}/{site.name}")).parent, like_fd)

    def publish_part(self, transfer_key: str, site: Site, like_fd: int) -> Published:
        """Put a verified copy of some files where its holders read it; `like_fd`: see `PartStore.publish`.

        Staging is left for `discard`: with it a call that was interrupted is repeated.
        """
        staging = self.staging(transfer_key)
        with Manifest.open(staging / MANIFEST) as manifest:
            return self.parts.publish(transfer_key, site.dataset, staging / TREE, manifest, like_fd)

    def _put_away(self, stale: Path, transfer_key: str, site: Site) -> None:
        """To the trash with a stale copy that is as it was made; what somebody wrote to it is nowhere else: keep it."""
        if _inode(stale) is None or self._is_untouched(stale, site):
            os.rename(stale, free_name(self.private / "trash", f"{transfer_key}.stale"))
            return
        (self.private / "kept").mkdir(mode=0o700, exist_ok=True)
        kept = free_name(self.private / "kept", f"{site.snapshot_key}.{transfer_key}")
        os.rename(stale, kept)
        fsync_directory(kept.parent)
        fsync_directory(self.private)
        self.kept.append(str(kept))

    def _readable_manifest(self, site: Site) -> Manifest | None:
        with contextlib.suppress(Corrupt):
            return self.manifest(site)
        return None

    def _is_untouched(self, stale: Path, site: Site) -> bool:
        manifest = self._readable_manifest(site)
        if manifest is None:
            return False
        fd = open_root(os.fsencode(stale))
        try:
            prove_unchanged(fd, manifest, stamps=side_of(manifest), leases="writers", control=Unlimited())
        except (SourceChanged, SourceBusy):
            return False
        finally:
            os.close(fd)
            manifest.close()
        return True

    # -- manifests -----------------------------------------------------------------------------------------

    def _manifest_path(self, site: Site) -> Path:
        return self.private / "manifests" / f"{site.snapshot_key}.db"

    def manifest(self, site: Site) -> Manifest | None:
        path = self._manifest_path(site)
        return Manifest.open(path) if path.exists() else None

    def prove(
        self,
        site: Site,
        manifest: Manifest,
        *,
        leases: Leases | None,
        side: Side | None = None,
        control: Control,
    ) -> None:
        stamps = side or side_of(manifest)
        name = str(SnapshotRef(site.dataset, site.name))
        with self.reading(site) as tree:
            assert isinstance(tree, Tree)
            prove_tree(tree.fd, manifest, stamps=stamps, leases=leases, name=name, control=control)

    def save_manifest(self, site: Site, manifest: Manifest, side: Side) -> None:
        path = self._manifest_path(site)
        part = path.with_suffix(".part")
        with translated(str(part)):
            delete_manifest(part)
            copy = manifest.copy_to(part)
            # Whoever has nothing but this tier learns from it whose tree this is, and where it lies.
            named = {"dataset": site.dataset, "name": site.name}
            copy.set_meta({"side": side, "location": site.location, **named})
            copy.close()
            self._close_journal(site)
            part.rename(path)
            fsync_directory(path.parent)

    def _close_journal(self, site: Site) -> None:
        """The journal of a writer that was killed is found by name: it must not be played back into what comes next."""
        try:
            manifest = self.manifest(site)  # opening plays it back
        except Corrupt:
            delete_manifest(self._manifest_path(site))
            return
        if manifest is None:
            delete_manifest(self._manifest_path(site))
        else:
            manifest.close()

    # -- letting go ------------------------------------------------------------------------------------------

    def discard(self, transfer_key: str, control: Control | None = None) -> None:
        staging = self.staging(transfer_key)
        name = f"{transfer_key}.staging"
        if staging.exists():
            with translated(str(staging)):
                staging.rename(free_name(self.private / "trash", name))
        self._empty_trash(name, control or Unlimited())  # and what an earlier call left that died in the middle

    def to_trash(self, transfer_key: str, site: Site) -> None:
        trash = self.private / "trash"
        tree = self._releasable(site)
        with translated(str(trash)):
            if tree is not None and not os.path.lexists(trash / transfer_key):
                os.rename(tree, os.fsencode(trash / transfer_key))
                fsync_directory(os.path.dirname(tree))
                fsync_directory(trash)
            delete_manifest(self._manifest_path(site))
            fsync_directory(self.private / "manifests")

    def _releasable(self, site: Site) -> bytes | None:
        """The tree that may go, or None when it has gone already; never the one at the path, or another's."""
        if site.home_path is None and site.location is None:
            return None
        tree = self.home(site).slot if site.home_path is not None else self.tree(site)
        found = _inode(Path(os.fsdecode(tree)))
        return tree if found is not None and self._own_inode(site) in (None, found) else None

    def empty_trash(self, transfer_key: str, control: Control) -> None:
        self._empty_trash(transfer_key, control)

    def _empty_trash(self, prefix: str, control: Control) -> None:
        for name in sorted(os.listdir(self.private / "trash")):
            if name == prefix or name.startswith(f"{prefix}."):
                self._delete(name, control.checkpoint)

    def sweep(self, live: Callable[[], Collection[str]], control: Control) -> list[str]:
        removed = []
        check_identity(self.root, self.identity)  # another store's staging area is none of ours
        with translated(str(self.private)):
            parts, kept = self.parts.sweep(live, control)
            removed += [str(part.relative_to(self.root)) for part in parts]
            self.kept += map(str, kept)
            staged, trash = (sorted(os.listdir(self.private / place)) for place in ("staging", "trash"))
            keys = live()
            for name in staged:
                if name not in keys:
                    self.discard(name, control)
                    removed.append(f"staging/{name}")
            for name in trash:
                if (key := name.partition(".")[0]) not in keys:
                    self._delete(name, control.checkpoint)
                    if name != f"{key}.part":  # it was named as a part
                        removed.append(f"trash/{name}")
        return removed

    def _delete(self, name: str, checkpoint: object) -> None:
        trash = open_root(os.fsencode(self.private / "trash"))
        try:
            with translated(f"trash of {self.root}"):
                delete_tree(trash, os.fsencode(name), checkpoint)  # type: ignore[arg-type]
        finally:
            os.close(trash)


def _inode(path: Path) -> int | None:
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return None
    return st.st_ino if stat.S_ISDIR(st.st_mode) else None


def side_of(manifest: Manifest) -> Side:
    """Which stamps of a manifest in place belong to the tree beside it."""
    return "source" if manifest.meta.get("side") == "source" else "copy"

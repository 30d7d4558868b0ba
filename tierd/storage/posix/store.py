"""The posix driver: a tier that is a directory of a local file system.

    <root>/<dataset>/<snapshot>          copies of snapshots whose home is another tier: plain trees
    <root>/.tierd-parts/<dataset>/<transfer>  some files of a snapshot, for its holders: trees that users may enter
    <root>/.tierd/tier.json              the identity
    <root>/.tierd/staging/<transfer>/    copies in the making: `tree` and `manifest.db`
    <root>/.tierd/aside/<snapshot>       the slot beside the path of a snapshot at home here
    <root>/.tierd/manifests/<snapshot>.db
    <root>/.tierd/parts/<transfer>.db    manifests of parts: what tierd put there, and may delete
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

from tierd.errors import Corrupt, Denied, NotFound, SourceBusy, SourceChanged, SourceGone, StorageError
from tierd.fs.linux import rename_exchange, rename_noreplace
from tierd.fs.walk import open_root, show, translate, translated
from tierd.model.dataset import SnapshotRef
from tierd.model.part import PARTS, location_of
from tierd.model.s3 import Counts
from tierd.storage.base import CopyLimits, Leases, Published, Site, Source, Tree
from tierd.storage.control import Control, Rate, Unlimited
from tierd.storage.manifest import Manifest, Side, delete_manifest
from tierd.storage.patterns import chosen
from tierd.storage.posix.copy import CopyOptions, copy_tree
from tierd.storage.posix.fence import fence
from tierd.storage.posix.homepath import HomePath, open_below, restore_mtime
from tierd.storage.posix.identity import PRIVATE, check_identity, fsync_directory
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
            parent = open_root(os.fsencode(target.parent))
            if os.fstat(parent).st_uid != os.geteuid():
                os.close(parent)
                raise Denied(
                    f"{target.parent} belongs to another user, who could move copies under tierd's feet",
                    hint="Remove it, or give it to the user that runs tierd.",
                )
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
        self._fence((self.root / (site.location or f"{site.dataset}/{site.name}")).parent, like_fd)

    def _fence(self, path: Path, like_fd: int) -> None:
        with translated(str(path)):
            try:
                path.mkdir(mode=0o700)
                fsync_directory(path.parent)
            except FileExistsError:
                if not path.is_dir() or path.is_symlink():
                    raise
            fd = self._open_own(path)
            try:
                fence(fd, like_fd)
            finally:
                os.close(fd)

    def _open_own(self, path: Path) -> int:
        """Open a directory of tierd's among those of others.

        Raises:
            Denied: somebody else owns it.
            SourceGone: a link is on the way.
        """
        fd = open_below(self.root, os.fsencode(path))
        if os.fstat(fd).st_uid != os.geteuid():
            os.close(fd)
            raise Denied(
                f"{path} belongs to another user, who could move copies under tierd's feet",
                hint="Remove it, or give it to the user that runs tierd.",
            )
        return fd

    # -- parts ---------------------------------------------------------------------------------------------

    def publish_part(self, transfer_key: str, site: Site, like_fd: int) -> Published:
        """Move a verified copy of some files from staging to where its holders read it; staging's manifest stays.

        Args:
            like_fd: the directory above the snapshot's path: who may enter that may enter here, and nobody else.
        """
        staging, location = self.staging(transfer_key), location_of(site.dataset, transfer_key)
        target = self.root / location
        top = target.parent.parent
        with translated(str(top)):
            with contextlib.suppress(FileExistsError):
                top.mkdir(mode=0o711)
                fsync_directory(self.root)
            fd = self._open_own(top)
            try:
                os.fchmod(fd, 0o711)
            finally:
                os.close(fd)
        self._fence(target.parent, like_fd)
        with Manifest.open(staging / MANIFEST) as manifest:
            root = manifest.root_stamp("copy")
            if root is None:
                raise Corrupt(f"the staged part of {site.dataset}/{site.name} was never verified")
            manifest.set_meta({"location": location})
            self._save_part_manifest(transfer_key, manifest)
            parent = open_below(self.root, os.fsencode(target.parent))
            try:
                with translated(str(target)):
                    if os.path.lexists(staging / TREE):
                        source = open_root(os.fsencode(staging))
                        try:
                            rename_noreplace(source, os.fsencode(TREE), parent, os.fsencode(target.name))
                            os.fsync(source)
                        finally:
                            os.close(source)
                    os.fsync(parent)
                    if os.stat(target.name, dir_fd=parent, follow_symlinks=False).st_ino != root.inode:
                        raise Corrupt(f"the part is not at {show(os.fsencode(target))} after it was put there")
            finally:
                os.close(parent)
            totals = manifest.totals()
            return Published(
                location=location,
                root_inode=root.inode,
                content_id=manifest.content_id(),
                entries=totals.entries,
                size_bytes=totals.size_bytes,
            )

    def _part_manifest(self, transfer_key: str) -> Path:
        return self.private / "parts" / f"{transfer_key}.db"

    def _save_part_manifest(self, transfer_key: str, manifest: Manifest) -> None:
        """Before the tree is there: nothing is ever in its place of which is not known what tierd put there."""
        path = self._part_manifest(transfer_key)
        part = path.with_suffix(".part")
        with translated(str(path)):
            delete_manifest(part)
            manifest.copy_to(part).close()
            part.rename(path)
            fsync_directory(path.parent)

    def _drop_part(self, part: Path, control: Control) -> bool:
        """Delete a part that is as it was made; what somebody wrote to it is nowhere else: keep that.

        It is proven where it is kept, out of reach by its path; a crash in between leaves it there.
        """
        (self.private / "kept").mkdir(mode=0o700, exist_ok=True)
        kept = self._free("kept", f"part.{part.name}")
        parent, place = open_below(self.root, os.fsencode(part.parent)), open_root(os.fsencode(kept.parent))
        try:
            rename_noreplace(parent, os.fsencode(part.name), place, os.fsencode(kept.name))
            os.fsync(place)
            os.fsync(parent)
        finally:
            os.close(parent)
            os.close(place)
        with contextlib.suppress(OSError):  # others are in it
            part.parent.rmdir()
        is_untouched = self._is_part_untouched(kept, part.name, "writers", control)
        if is_untouched:
            gone = self._free("trash", f"{part.name}.part")
            kept.rename(gone)
            self._delete(gone.name, control.checkpoint)
        else:
            self.kept.append(str(kept))
        delete_manifest(self._part_manifest(part.name))
        return is_untouched

    def is_part_untouched(self, location: str, transfer_key: str) -> bool:
        """Whether a part is there, and as it was made."""
        try:
            return self._is_part_untouched(self.root / location, transfer_key, None, Unlimited())
        except SourceGone:
            return False

    def _is_part_untouched(self, tree: Path, transfer_key: str, leases: Leases | None, control: Control) -> bool:
        fd = open_below(self.root, os.fsencode(tree))
        try:
            with Manifest.open(self._part_manifest(transfer_key)) as manifest:
                prove_unchanged(fd, manifest, stamps="copy", leases=leases, control=control)
        except (Corrupt, NotFound, SourceChanged, SourceBusy):
            return False
        finally:
            os.close(fd)
        return True

    def _put_away(self, stale: Path, transfer_key: str, site: Site) -> None:
        """To the trash with a stale copy that is as it was made; what somebody wrote to it is nowhere else: keep it."""
        if _inode(stale) is None or self._is_untouched(stale, site):
            os.rename(stale, self._free("trash", f"{transfer_key}.stale"))
            return
        (self.private / "kept").mkdir(mode=0o700, exist_ok=True)
        kept = self._free("kept", f"{site.snapshot_key}.{transfer_key}")
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

    def _free(self, place: str, name: str) -> Path:
        """A name below one of the private directories that is not in use."""
        path, number = self.private / place / name, 1
        while os.path.lexists(path):
            path, number = self.private / place / f"{name}.{number}", number + 1
        return path

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
        if staging.exists():
            with translated(str(staging)):
                gone = self._free("trash", f"{transfer_key}.staging")
                staging.rename(gone)
            self._delete(gone.name, (control or Unlimited()).checkpoint)

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
        for name in sorted(os.listdir(self.private / "trash")):
            if name == transfer_key or name.startswith(f"{transfer_key}."):
                self._delete(name, control.checkpoint)

    def sweep(self, live: Callable[[], Collection[str]], control: Control) -> list[str]:
        removed = []
        check_identity(self.root, self.identity)  # another store's staging area is none of ours
        with translated(str(self.private)):
            staged, trash = (sorted(os.listdir(self.private / place)) for place in ("staging", "trash"))
            parts, made = list_parts(self.root), sorted(os.listdir(self.private / "parts"))
            keys = live()
            dropped = (part for part in parts if part.name not in keys and self._drop_part(part, control))
            removed += [str(part.relative_to(self.root)) for part in dropped]
            for name in made:  # also those whose trees never came
                if name.partition(".")[0] not in keys:
                    delete_manifest(self.private / "parts" / name)
            for name in staged:
                if name not in keys:
                    self.discard(name, control)
                    removed.append(f"staging/{name}")
            for name in trash:
                if name.partition(".")[0] not in keys:
                    self._delete(name, control.checkpoint)
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


def list_parts(root: Path) -> list[Path]:
    """All parts of snapshots on a tier."""
    return sorted(part for dataset in _directories(root / PARTS) for part in _directories(dataset))


def _directories(path: Path) -> list[Path]:
    """Those in a directory; none where there is no such directory."""
    try:
        with os.scandir(path) as found:
            return [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def side_of(manifest: Manifest) -> Side:
    """Which stamps of a manifest in place belong to the tree beside it."""
    return "source" if manifest.meta.get("side") == "source" else "copy"

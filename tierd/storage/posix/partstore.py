"""Parts of snapshots on a tier: some files, for whoever holds the snapshot. Users may enter them.

    <root>/.tierd-parts/<dataset>/<transfer>   the tree
    <root>/.tierd/parts/<transfer>.db          its manifest: what tierd put there, and may delete

The manifest is durable before the tree is in its place, and goes after it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

from tierd.errors import Corrupt, NotFound, SourceBusy, SourceChanged, SourceGone
from tierd.fs.linux import rename_noreplace
from tierd.fs.walk import show, translated
from tierd.model.part import PARTS, location_of
from tierd.storage.base import Leases, Published
from tierd.storage.control import Control, Unlimited
from tierd.storage.manifest import Manifest, delete_manifest
from tierd.storage.posix.homepath import open_below
from tierd.storage.posix.identity import PRIVATE, fsync_directory
from tierd.storage.posix.places import free_name, make_fenced, open_own
from tierd.storage.posix.prove import prove_unchanged


class PartStore:
    """The parts on one tier."""

    def __init__(self, root: Path) -> None:
        self._root, self._private = root, root / PRIVATE

    def publish(self, transfer_key: str, dataset: str, tree: Path, manifest: Manifest, like_fd: int) -> Published:
        """Move a verified tree to where its holders read it. Called again after a crash it finishes that.

        Args:
            like_fd: the directory above the snapshot's path: who may enter that may enter here, and nobody else.

        Raises:
            Corrupt: the tree was never verified, or is not where it was put.
            Denied, SourceGone: somebody else has a directory, or a link, in the way.
        """
        root = manifest.root_stamp("copy")
        if root is None:
            raise Corrupt(f"a part of dataset {dataset} was never verified")
        location = location_of(dataset, transfer_key)
        target = self._root / location
        self._make_top(target.parent.parent)
        make_fenced(self._root, target.parent, like_fd)
        manifest.set_meta({"location": location})
        self._save(transfer_key, manifest)
        if os.path.lexists(tree):
            _move(self._root, tree, target)
        parent = open_below(self._root, os.fsencode(target.parent))
        try:
            with translated(str(target)):
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

    def is_untouched(self, location: str, transfer_key: str) -> bool:
        """Whether a part is there, and as it was made."""
        return self._is_untouched(self._root / location, transfer_key, None, Unlimited())

    def listed(self) -> list[Path]:
        """All that lie on the tier."""
        return sorted(part for dataset in _directories(self._root / PARTS) for part in _directories(dataset))

    def sweep(self, live: Callable[[], Collection[str]], control: Control) -> tuple[list[Path], list[Path]]:
        """Take away the parts of transfers whose keys `live` does not give.

        Returns:
            those that went to the trash, and where those are kept that somebody had written to.
        """
        parts, manifests = self.listed(), self._manifests()
        keys = live()
        gone, kept = list[Path](), list[Path]()
        for part in parts:
            if part.name not in keys:
                found = self._take_away(part, control)
                (gone if found is None else kept).append(found or part)
        for name in manifests:  # also those whose trees never came
            if name.partition(".")[0] not in keys:
                delete_manifest(self._private / "parts" / name)
        return gone, kept

    def _take_away(self, part: Path, control: Control) -> Path | None:
        """To the trash with a part that is as it was made; what somebody wrote to it is nowhere else: keep that.

        It is proven where it is kept, out of reach by its path; a crash in between leaves it there.
        """
        (self._private / "kept").mkdir(mode=0o700, exist_ok=True)
        kept = free_name(self._private / "kept", f"part.{part.name}")
        _move(self._root, part, kept)
        with contextlib.suppress(OSError):  # others are in it
            part.parent.rmdir()
        if not self._is_untouched(kept, part.name, "writers", control):
            return kept
        _move(self._root, kept, free_name(self._private / "trash", f"{part.name}.part"))
        return None

    def _is_untouched(self, tree: Path, transfer_key: str, leases: Leases | None, control: Control) -> bool:
        try:
            fd = open_below(self._root, os.fsencode(tree))
        except SourceGone:
            return False
        try:
            with Manifest.open(self._manifest(transfer_key)) as manifest:
                prove_unchanged(fd, manifest, stamps="copy", leases=leases, control=control)
        except (Corrupt, NotFound, SourceChanged, SourceBusy):
            return False
        finally:
            os.close(fd)
        return True

    def _make_top(self, top: Path) -> None:
        with translated(str(top)):
            with contextlib.suppress(FileExistsError):
                top.mkdir(mode=0o711)
                fsync_directory(self._root)
            fd = open_own(self._root, top)
            try:
                os.fchmod(fd, 0o711)
            finally:
                os.close(fd)

    def _manifest(self, transfer_key: str) -> Path:
        return self._private / "parts" / f"{transfer_key}.db"

    def _manifests(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):  # a tier that an older tierd used last
            return sorted(os.listdir(self._private / "parts"))
        return []

    def _save(self, transfer_key: str, manifest: Manifest) -> None:
        path = self._manifest(transfer_key)
        part = path.with_suffix(".part")
        with translated(str(path)):
            delete_manifest(part)
            manifest.copy_to(part).close()
            part.rename(path)
            fsync_directory(path.parent)


def _move(root: Path, tree: Path, to: Path) -> None:
    """Rename a tree within a tier, durably, into a place that must be free; no link is followed on the way."""
    source = open_below(root, os.fsencode(tree.parent))
    try:
        target = open_below(root, os.fsencode(to.parent))
        try:
            with translated(str(to)):
                rename_noreplace(source, os.fsencode(tree.name), target, os.fsencode(to.name))
                os.fsync(target)
                os.fsync(source)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _directories(path: Path) -> list[Path]:
    """Those in a directory; none where there is no such directory, or a link."""
    if path.is_symlink():
        return []
    try:
        with os.scandir(path) as found:
            return [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []

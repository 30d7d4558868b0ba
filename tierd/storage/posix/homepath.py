"""The dataset's own path: what lies there, and switching it between the tree and a link, atomically.

Each snapshot has one slot beside its path, `<home root>/.tierd/aside/<snapshot key>`, on the same file system.
Path and slot are exchanged in one system call, so that the path resolves at every instant:

    the tree is at the path:       path = tree, slot = nothing
    the path leads elsewhere:      path = link, slot = nothing, or the home tier's own tree

Steps of `lead_to` (tree at the path → link elsewhere):
 1. put the link into the slot            a crash leaves a link in the slot: replaced next time
 2. exchange path and slot                 the one instant of change
 3. check what came into the slot; if it is not the tree that was meant, exchange back
 4. fsync both directories
`lead_home` is the same backwards, and removes the link that came into the slot.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tierd.errors import SourceChanged, SourceGone
from tierd.fs.linux import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2, rename_exchange
from tierd.fs.walk import open_root, show, translate, translated

_BELOW = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class Kind(StrEnum):
    DIRECTORY = "directory"
    LINK = "link"
    MISSING = "missing"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Occupant:
    """What lies at a name: a directory (inode), a link (target), nothing, or something else."""

    kind: Kind
    inode: int = 0
    target: bytes = b""


@dataclass(frozen=True)
class HomePath:
    """A snapshot's path and its slot.

    Args:
        path: the dataset's path for the snapshot.
        aside: the directory of slots on the same file system.
        key: the snapshot's key, the name of its slot.
        root: the tier's root, above `path`; below it no link is followed on the way to the path.
    """

    path: bytes
    aside: Path
    key: str
    root: Path | None = None

    @property
    def slot(self) -> bytes:
        return os.fsencode(self.aside / self.key)

    def at_path(self) -> Occupant:
        """What lies at the path now (MISSING also when the dataset's directory is gone)."""
        try:
            parent = self.open_parent()
        except SourceGone:
            return Occupant(kind=Kind.MISSING)
        try:
            return _occupant(parent, os.path.basename(self.path))
        finally:
            os.close(parent)

    def in_slot(self) -> Occupant:
        """What lies in the slot now."""
        with self._open_aside() as aside:
            return _occupant(aside, os.fsencode(self.key))

    def tree(self) -> bytes:
        """Where the home tier's own tree is: at the path, or in the slot while the path is a link.

        Raises:
            SourceGone: it is at neither.
        """
        if self.at_path().kind is Kind.DIRECTORY:
            return self.path
        if self.in_slot().kind is Kind.DIRECTORY:
            return self.slot
        raise SourceGone(f"{show(self.path)} holds no directory any more")

    def open_tree(self) -> int:
        """Open the root directory of the home tier's own tree, at the path or in the slot; the caller closes it.

        Raises:
            SourceGone: it is at neither.
        """
        with contextlib.suppress(SourceGone):
            parent = self.open_parent()
            try:
                return _open_child(parent, os.path.basename(self.path))
            finally:
                os.close(parent)
        with self._open_aside() as aside, contextlib.suppress(SourceGone):
            return _open_child(aside, os.fsencode(self.key))
        raise SourceGone(f"{show(self.path)} holds no directory any more")

    def lead_to(self, target: bytes, *, expected_inode: int, known_targets: Collection[bytes] = ()) -> None:
        """Make the path a link to `target`; the tree that was there is in the slot afterwards.

        Args:
            expected_inode: of the tree that must be at the path, if a tree is there.
            known_targets: links that tierd made and may replace.

        Raises:
            SourceGone: nothing is at the path.
            SourceChanged: something is there that tierd did not expect; it is left alone.
        """
        name = os.path.basename(self.path)
        with self._both() as (parent, aside), translated(show(self.path)):
            now = _occupant(parent, name)
            if now.kind is Kind.LINK and now.target == target:
                _sync(parent, aside)  # whoever made it may have been killed before this
                return
            slot = os.fsencode(self.key)
            if now.kind is Kind.LINK and now.target in known_targets:
                # The slot may hold the home tree, so the new link comes from a name of its own.
                fresh = slot + b".link"
                _make_link(aside, fresh, target, like=None)
                os.rename(fresh, name, src_dir_fd=aside, dst_dir_fd=parent)
                _sync(parent, aside)
                return
            self._expect(now, Kind.DIRECTORY, expected_inode)
            if _occupant(aside, slot).kind is Kind.DIRECTORY:
                raise SourceChanged(f"{show(self.path)} is a directory, and another tree of it lies aside")
            owner = os.stat(name, dir_fd=parent, follow_symlinks=False)
            _make_link(aside, slot, target, like=owner)
            rename_exchange(aside, slot, parent, name)
            came = _occupant(aside, slot)
            if came.kind is not Kind.DIRECTORY or came.inode != expected_inode:
                rename_exchange(aside, slot, parent, name)
                raise SourceChanged(f"{show(self.path)} was replaced while it was being switched")
            restore_mtime(aside, slot, owner)
            _sync(parent, aside)

    def lead_home(self, *, expected_inode: int, known_targets: Collection[bytes]) -> None:
        """Put the tree that lies in the slot back at the path.

        Args:
            expected_inode: of the tree in the slot.
            known_targets: links that tierd made: only one of them at the path is exchanged.

        Raises:
            SourceGone, SourceChanged: as `lead_to`.
        """
        name, slot = os.path.basename(self.path), os.fsencode(self.key)
        with self._both() as (parent, aside), translated(show(self.path)):
            now = _occupant(parent, name)
            beside = _occupant(aside, slot)
            if now.kind is Kind.DIRECTORY and now.inode == expected_inode:
                _sync(parent, aside)
                if beside.kind is Kind.LINK:
                    os.unlink(slot, dir_fd=aside)
                return
            if now.kind is not Kind.LINK or now.target not in known_targets:
                self._expect(now, Kind.LINK, 0)
                raise SourceChanged(f"{show(self.path)} is a link that tierd did not make")
            if beside.kind is not Kind.DIRECTORY or beside.inode != expected_inode:
                raise SourceGone(f"the tree of {show(self.path)} is not in its slot {show(self.slot)}")
            tree = os.stat(slot, dir_fd=aside, follow_symlinks=False)
            rename_exchange(aside, slot, parent, name)
            came = _occupant(aside, slot)
            if came.kind is not Kind.LINK or came.target not in known_targets:
                rename_exchange(aside, slot, parent, name)
                raise SourceChanged(f"{show(self.path)} was replaced while it was being switched")
            restore_mtime(parent, name, tree)
            _sync(parent, aside)
            os.unlink(slot, dir_fd=aside)

    def _expect(self, found: Occupant, kind: Kind, inode: int) -> None:
        if found.kind is Kind.MISSING:
            raise SourceGone(f"nothing is at {show(self.path)} any more")
        if found.kind is not kind or (inode and found.inode != inode):
            raise SourceChanged(
                f"{show(self.path)} is not what tierd left there (found a {found.kind})",
                hint="If this is meant, `tierd ls` will show the new tree as a snapshot of its own soon.",
            )

    def open_parent(self) -> int:
        """Open the directory that the path is in; the caller closes it."""
        parent = os.path.dirname(self.path)
        return open_root(parent) if self.root is None else open_below(self.root, parent)

    @contextlib.contextmanager
    def _open_aside(self) -> Iterator[int]:
        fd = open_root(os.fsencode(self.aside))
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _both(self) -> Iterator[tuple[int, int]]:
        parent = self.open_parent()
        try:
            with self._open_aside() as aside:
                yield parent, aside
        finally:
            os.close(parent)


def open_below(root: Path, path: bytes) -> int:
    """Open a directory below a tier's root, following no link on the way: users may own directories in between.

    Raises:
        SourceGone: there is no such directory, or a link is on the way.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _open_child(top, os.path.relpath(path, os.fsencode(root)))
    finally:
        os.close(top)


def _open_child(parent: int, path: bytes) -> int:
    try:
        return openat2(parent, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_BELOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            raise SourceGone(f"{show(path)} is not a directory any more, or a link leads there") from error
        raise translate(error, show(path)) from error


def _occupant(parent: int, name: bytes) -> Occupant:
    try:
        st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            return Occupant(kind=Kind.DIRECTORY, inode=st.st_ino)
        if stat.S_ISLNK(st.st_mode):
            return Occupant(kind=Kind.LINK, inode=st.st_ino, target=os.readlink(name, dir_fd=parent))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return Occupant(kind=Kind.MISSING)
        if error.errno == errno.EINVAL:  # no link any more: no longer what it was looked at for
            return Occupant(kind=Kind.OTHER, inode=st.st_ino)
        raise translate(error, show(name)) from error
    return Occupant(kind=Kind.OTHER, inode=st.st_ino)


def _make_link(aside: int, name: bytes, target: bytes, *, like: os.stat_result | None) -> None:
    if _occupant(aside, name).kind is Kind.LINK:
        os.unlink(name, dir_fd=aside)  # of an attempt that was killed before the exchange
    os.symlink(target, name, dir_fd=aside)
    if like is not None:
        # The owner of the tree must be able to rename or remove what is at the path, as before.
        with contextlib.suppress(PermissionError):
            os.chown(name, like.st_uid, like.st_gid, dir_fd=aside, follow_symlinks=False)


def restore_mtime(parent: int, name: bytes, before: os.stat_result) -> None:
    """An exchange is no change of the tree, but xfs sets the mtime of a directory that takes part in one.

    Should somebody add an entry in this instant, the proof after the switch finds the entry itself.
    """
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        now = os.fstat(fd)
        if now.st_ino == before.st_ino and now.st_mtime_ns != before.st_mtime_ns:
            os.utime(fd, ns=(now.st_atime_ns, before.st_mtime_ns))
            os.fsync(fd)
    finally:
        os.close(fd)


def _sync(*fds: int) -> None:
    for fd in fds:
        os.fsync(fd)

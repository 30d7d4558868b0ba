"""Walk a tree by directory descriptors, in bounded memory, without following anything.

A hostile owner may swap a directory for a link while the walk runs: every open goes through openat2 with
RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, so that the walk fails instead of leaving the tree.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tierd.errors import Denied, SourceChanged, SourceGone, StorageError, TierdError, TierFull, Unsupported
from tierd.fs.linux import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

STAY_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_HOP_BYTES = 3500
"""One openat2 takes at most PATH_MAX (4096) bytes; deeper trees are entered in several hops."""
_BLOCK = 16384
"""Entries of one directory sorted together: bounds memory for directories with millions of entries."""


def show(path: bytes) -> str:
    """A name for people: text where it is text, escapes for control characters and broken UTF-8."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) or "."


def translate(error: OSError, subject: str) -> TierdError:
    """The tierd error for an operating system's error while working on `subject` (already fit for people)."""
    reason = error.strerror or str(error)
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP | errno.ESTALE:
            return SourceChanged(f"{subject} was moved or replaced while it was read ({reason})")
        case errno.EXDEV:
            return Unsupported(
                f"{subject} is a mount point inside the snapshot",
                hint="Unmount it, or make it a dataset of its own.",
            )
        case errno.ENOSPC | errno.EDQUOT:
            return TierFull(f"no room to write {subject} ({reason})", hint="Free bytes or inodes on that tier.")
        case errno.EACCES | errno.EPERM:
            return Denied(f"not allowed to handle {subject} ({reason})", hint="Run tierd as root, or as the owner.")
        case errno.EROFS:
            return StorageError(f"cannot write {subject}: the file system is read-only", hint="Remount it read-write.")
        case errno.EOPNOTSUPP | errno.ENAMETOOLONG | errno.EMLINK | errno.EFBIG:
            return Unsupported(
                f"the file system cannot keep {subject} ({reason})",
                hint="Use a tier on ext4, xfs or btrfs, or take that entry out of the snapshot.",
            )
        case _:
            return StorageError(f"{subject}: {reason}")


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """Turn an OSError inside the block into the tierd error for it."""
    try:
        yield
    except OSError as error:
        raise translate(error, subject) from error


def open_root(path: bytes) -> int:
    """Open the root directory of a tree; its last component must be a directory, not a link.

    Raises:
        SourceGone: there is no such directory.
    """
    try:
        return os.open(path, _DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceGone(f"{show(path)} is not a directory any more") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SourceGone(f"{show(path)} is a link, not a directory") from error
        raise translate(error, show(path)) from error


def open_directory(root_fd: int, path: bytes) -> int:
    """Open the directory at `path` (relative, b"" is the root itself) without leaving the tree.

    Raises:
        OSError: ENOENT, ELOOP, ENOTDIR when it was swapped; EXDEV for a mount point.
    """
    if not path:
        return _enter(root_fd, b".")  # not dup: two listings must not share one position
    fd = os.dup(root_fd)
    rest = path.split(b"/")
    while rest:
        hop, used = 0, 0
        while used < len(rest) and hop + len(rest[used]) + 1 <= _HOP_BYTES:
            hop += len(rest[used]) + 1
            used += 1
        try:
            next_fd = _enter(fd, b"/".join(rest[:used]))
        finally:
            os.close(fd)
        fd, rest = next_fd, rest[used:]
    return fd


def _enter(fd: int, path: bytes) -> int:
    """Open a directory for reading that leaves no trace (O_NOATIME) where the caller may ask for that."""
    try:
        return openat2(fd, path, _DIRECTORY | os.O_NOATIME, resolve=STAY_INSIDE)
    except PermissionError:  # EPERM: neither owner nor privileged
        return openat2(fd, path, _DIRECTORY, resolve=STAY_INSIDE)


@dataclass(frozen=True, slots=True)
class Listing:
    """A part of one directory: at most 16,384 entries, in inode order (the order that disks like).

    Attributes:
        path: of the directory, relative to the root, b"" for the root.
        fd: the open directory; valid until the walk goes on.
        stat: of the directory itself.
        entries: (name, lstat) of everything in this part, directories included.
        is_first: the first part of this directory (so that a directory is counted once).
    """

    path: bytes
    fd: int
    stat: os.stat_result
    entries: list[tuple[bytes, os.stat_result]]
    is_first: bool

    def join(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


def walk(root_fd: int) -> Iterator[Listing]:
    """Yield every directory of the tree, parents before children, depth first.

    Raises:
        SourceChanged: something moved or was swapped under the walk.
        Denied: a directory cannot be read.
        Unsupported: another file system is mounted inside.
    """
    todo: list[bytes] = [b""]
    device = os.fstat(root_fd).st_dev
    while todo:
        path = todo.pop()
        with translated(show(path)):
            fd = open_directory(root_fd, path)
        try:
            own = os.fstat(fd)
            children: list[bytes] = []
            is_first = True
            for block in _blocks(fd, path):
                entries = _stat_block(fd, path, block)
                for name, st in entries:
                    if stat.S_ISDIR(st.st_mode):
                        children.append(path + b"/" + name if path else name)
                    if st.st_dev != device:
                        raise Unsupported(
                            f"{show(path + b'/' + name)} is a mount point inside the snapshot",
                            hint="Unmount it, or make it a dataset of its own.",
                        )
                yield Listing(path, fd, own, entries, is_first)
                is_first = False
            if is_first:
                yield Listing(path, fd, own, [], True)
            children.sort(reverse=True)
            todo.extend(children)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Names:
    """A part of one directory without the status of its entries: at most 16,384 names, in inode order.

    Attributes:
        path, fd, is_first: as in `Listing`.
        stat: of the directory itself, from before it was listed.
        entries: (inode, name, kind) with kind "f" for a regular file, "d", "l", or "?" for anything else, as the
            directory says: whoever opens an entry must check it.
    """

    path: bytes
    fd: int
    stat: os.stat_result
    entries: list[tuple[int, bytes, str]]
    is_first: bool


def scan(root_fd: int) -> Iterator[Names]:
    """As `walk`, but without a stat of each entry: for those who hand the entries on and look there.

    A directory that the caller takes out of `entries` is not entered.

    Raises:
        SourceChanged, Denied, Unsupported: as `walk`; a mounted file is not noticed here.
    """
    todo: list[bytes] = [b""]
    while todo:
        path = todo.pop()
        with translated(show(path)):
            fd = open_directory(root_fd, path)
        try:
            own = os.fstat(fd)
            children: list[bytes] = []
            is_first = True
            for block in _kinds(fd, path):
                yield Names(path, fd, own, block, is_first)
                children.extend(path + b"/" + name if path else name for _, name, kind in block if kind == "d")
                is_first = False
            if is_first:
                yield Names(path, fd, own, [], True)
            children.sort(reverse=True)
            todo.extend(children)
        finally:
            os.close(fd)


def _kinds(fd: int, path: bytes) -> Iterator[list[tuple[int, bytes, str]]]:
    block: list[tuple[int, bytes, str]] = []
    with translated(show(path)), os.scandir(fd) as found:
        for entry in found:
            if entry.is_file(follow_symlinks=False):
                kind = "f"
            elif entry.is_dir(follow_symlinks=False):
                kind = "d"
            else:
                kind = "l" if entry.is_symlink() else "?"
            block.append((entry.inode(), os.fsencode(entry.name), kind))
            if len(block) >= _BLOCK:
                yield sorted(block)
                block = []
    if block:
        yield sorted(block)


def _blocks(fd: int, path: bytes) -> Iterator[list[tuple[int, bytes]]]:
    block: list[tuple[int, bytes]] = []
    with translated(show(path)), os.scandir(fd) as found:
        for entry in found:
            block.append((entry.inode(), os.fsencode(entry.name)))
            if len(block) >= _BLOCK:
                yield sorted(block)
                block = []
    if block:
        yield sorted(block)


def _stat_block(fd: int, path: bytes, block: list[tuple[int, bytes]]) -> list[tuple[bytes, os.stat_result]]:
    entries = []
    for _, name in block:
        try:
            entries.append((name, os.stat(name, dir_fd=fd, follow_symlinks=False)))
        except FileNotFoundError as error:
            raise SourceChanged(f"{show(path + b'/' + name)} vanished while the directory was read") from error
        except OSError as error:
            raise translate(error, show(path + b"/" + name)) from error
    return entries

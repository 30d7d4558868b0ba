"""Discover the snapshots of a dataset: what lies in its directory now.

Only one directory is read, and no link is followed: a link is reported with its target, and the caller, who knows
which links tierd made, says what it means. Ask only while the dataset's home tier carries its identity: an empty
mount point looks like an empty dataset.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

from tierd.fs.walk import show
from tierd.model.dataset import WHOLE, Dataset, is_snapshot_name
from tierd.observe.birth import born_at


class FoundKind(StrEnum):
    DIRECTORY = "directory"
    LINK = "link"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A directory or a link that lies where a snapshot may lie.

    Attributes:
        name: of the snapshot; `WHOLE` where the dataset's directory is the snapshot.
        root_inode: of the directory, or of the link itself.
        link_target: what a link says, None for a directory.
        born_at: when the inode was created, None where the file system does not say.
    """

    name: str
    path: Path
    kind: FoundKind
    root_inode: int
    link_target: bytes | None = None
    born_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """A directory that matches but cannot be a snapshot; `name` is escaped where it is not text."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """What lies in a dataset's directory.

    Attributes:
        is_readable: False means that nothing is known, least of all that snapshots are gone; `error` says why.
    """

    found: tuple[Found, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    is_readable: bool = True
    error: str | None = None


def discover(dataset: Dataset) -> Discovery:
    """Read the dataset's directory; never raises for what it finds there."""
    try:
        if dataset.pattern is None:
            return _discover_whole(dataset)
        return _discover_children(dataset, dataset.pattern)
    except OSError as error:
        return _unreadable(_reason(dataset, error))


def _discover_whole(dataset: Dataset) -> Discovery:
    parent = os.open(dataset.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = _look(parent, os.fsencode(dataset.path.name), WHOLE, dataset.path)
    finally:
        os.close(parent)
    if found is None:
        return _unreadable(f"{dataset.path} is not a directory")
    return Discovery(found=(found,))


def _discover_children(dataset: Dataset, pattern: str) -> Discovery:
    found: list[Found] = []
    ignored: list[Ignored] = []
    fd = os.open(dataset.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        device = os.fstat(fd).st_dev
        with os.scandir(fd) as entries:
            for entry in entries:
                # The type comes with the name: a directory of a million plain files costs no stat each.
                is_candidate = entry.is_symlink() or entry.is_dir(follow_symlinks=False)
                if not is_candidate or entry.name.startswith(".") or not fnmatchcase(entry.name, pattern):
                    continue
                refusal = _refusal(fd, entry.name, device)
                if refusal is not None:
                    ignored.append(Ignored(name=show(os.fsencode(entry.name)), reason=refusal))
                    continue
                one = _look(fd, os.fsencode(entry.name), entry.name, dataset.path / entry.name)
                if one is not None:
                    found.append(one)
    finally:
        os.close(fd)
    return Discovery(
        found=tuple(sorted(found, key=lambda f: f.name)), ignored=tuple(sorted(ignored, key=lambda i: i.name))
    )


def _refusal(dir_fd: int, name: str, device: int) -> str | None:
    if not is_snapshot_name(name):
        return "the name is not printable text; rename it to have it looked after"
    if name == WHOLE:
        return f"{WHOLE!r} stands for a whole dataset; give the snapshot another name"
    try:
        if os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_dev != device:
            return "another file system is mounted there; make it a dataset of its own"
    except FileNotFoundError:
        return None
    return None


def _look(dir_fd: int, entry: bytes, name: str, path: Path) -> Found | None:
    """What lies at `entry`; None when it is neither a directory nor a link.

    Raises:
        FileNotFoundError: the dataset's own directory is missing (a child that vanished is None).
    """
    try:
        st = os.stat(entry, dir_fd=dir_fd, follow_symlinks=False)
        born = born_at(dir_fd, entry)
        if stat.S_ISDIR(st.st_mode):
            return Found(name=name, path=path, kind=FoundKind.DIRECTORY, root_inode=st.st_ino, born_at=born)
        if stat.S_ISLNK(st.st_mode):
            target = os.readlink(entry, dir_fd=dir_fd)
            return Found(
                name=name, path=path, kind=FoundKind.LINK, root_inode=st.st_ino, link_target=target, born_at=born
            )
    except FileNotFoundError:
        if name == WHOLE:
            raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # readlink of what was a link a moment ago: the next discovery sees it
            raise
    return None


def _reason(dataset: Dataset, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"{dataset.path} is missing"
        case errno.ELOOP | errno.ENOTDIR if dataset.path.is_symlink():
            return f"{dataset.path} is a link; the dataset's path must be the directory itself"
        case _:
            return f"{dataset.path}: {error.strerror}"


def _unreadable(reason: str) -> Discovery:
    return Discovery(is_readable=False, error=reason)

"""Measure a tree: one walk over its metadata, no file is opened.

Whether access times mean anything is a property of the mount, not of the tree: `keeps_atime` asks for it once,
and a measure without it says "unknown" instead of an old time that looks like a cold snapshot.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tierd.errors import Denied, SourceChanged, Unsupported
from tierd.fs.walk import Listing, show, walk
from tierd.model.observation import Measure

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own block size (stat(2))


def keeps_atime(path: Path | int) -> bool:
    """Whether reading a file below `path` moves its access time (relatime counts; noatime and read-only do not).

    Args:
        path: a directory, or an open descriptor of it.

    A path that cannot be asked keeps none as far as anyone can know: False.
    """
    try:
        flags = os.statvfs(path).f_flag
    except OSError:
        return False
    return not flags & (os.ST_NOATIME | os.ST_RDONLY)


def measure(
    root_fd: int,
    *,
    keeps_atime: bool,
    is_at_home: bool = True,
    now: datetime | None = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> Measure:
    """Walk the tree below `root_fd` and sum it up.

    Args:
        keeps_atime: whether the mount keeps access times; False leaves `newest_access` unknown.
        is_at_home: whether the tree lies where its owner made it. Only there relative links that lead outside are a
            problem: elsewhere they are broken already, and the way home repairs them.
        now: access times later than this were set by hand and tell nothing; None believes all of them.
        checkpoint: called for each part of a directory; raises to end a walk that takes too long.

    Returns:
        The measure. Its `problem` names the first entry that tierd cannot look after; where that is an
        unreadable directory or a mount point, the sums cover only what was walked before it.

    Raises:
        SourceChanged: something moved under the walk; try again later.
        StorageError: the device failed.
    """
    latest_ns = None if now is None else (now - _EPOCH) // timedelta(microseconds=1) * 1000
    sums = _Sums(root_inode=os.fstat(root_fd).st_ino, is_at_home=is_at_home, latest_access_ns=latest_ns)
    try:
        for listing in walk(root_fd):
            checkpoint()
            sums.add(listing)
    except (Denied, Unsupported) as error:
        sums.problem = sums.problem or error.message
    return sums.result(keeps_atime=keeps_atime)


@dataclass
class _Links:
    """A hard-linked file whose other links have not been seen yet."""

    missing: int
    name: bytes


@dataclass
class _Sums:
    root_inode: int
    is_at_home: bool
    latest_access_ns: int | None
    size: int = 0
    blocks: int = 0
    files: int = 0
    entries: int = 1  # the root
    change_ns: int = 0
    access_ns: int | None = None
    problem: str | None = None
    incomplete: dict[int, _Links] = field(default_factory=dict)
    """By inode. A file leaves it with its last link, so it holds only groups that are not complete yet."""

    def add(self, listing: Listing) -> None:
        if listing.is_first and not listing.path:
            # The root's own ctime is not looked at: renaming the snapshot, or tierd switching its path, sets it.
            self.change_ns = min(listing.stat.st_mtime_ns, listing.stat.st_ctime_ns)
        for name, st in listing.entries:
            self.entries += 1
            self._change(st)
            if stat.S_ISREG(st.st_mode):
                self.files += 1
                if st.st_nlink == 1 or self._is_first_link(listing, name, st):
                    self._file(st)
            elif stat.S_ISSOCK(st.st_mode) and self.problem is None:
                self.problem = f"a socket cannot be kept: {show(listing.join(name))}"
            elif (
                stat.S_ISLNK(st.st_mode) and self.is_at_home and self.problem is None and _leads_outside(listing, name)
            ):
                # On another tier other things lie around the tree. An absolute link leads to the same from everywhere.
                self.problem = (
                    f"relative link leads outside the snapshot, and to nothing once it has moved: "
                    f"{show(listing.join(name))}"
                )

    def _change(self, st: os.stat_result) -> None:
        # The newer of ctime and mtime, except that mtime can be set to any time, and setting it moves ctime: an mtime
        # later than ctime is a wish, and one far in the future would keep the snapshot unsettled for ever.
        self.change_ns = max(self.change_ns, st.st_ctime_ns)

    def _file(self, st: os.stat_result) -> None:
        self.size += st.st_size
        self.blocks += st.st_blocks
        if self.latest_access_ns is None or st.st_atime_ns <= self.latest_access_ns:
            self.access_ns = max(self.access_ns or 0, st.st_atime_ns)

    def _is_first_link(self, listing: Listing, name: bytes, st: os.stat_result) -> bool:
        group = self.incomplete.get(st.st_ino)
        if group is None:
            self.incomplete[st.st_ino] = _Links(st.st_nlink - 1, listing.join(name))
            return True
        group.missing -= 1
        if group.missing == 0:
            del self.incomplete[st.st_ino]
        return False

    def result(self, *, keeps_atime: bool) -> Measure:
        problem = self.problem
        if problem is None and self.incomplete:
            first = min(group.name for group in self.incomplete.values())
            problem = f"hard link leads outside the snapshot: {show(first)}"
        return Measure(
            root_inode=self.root_inode,
            size_bytes=self.size,
            disk_bytes=self.blocks * _BLOCK_BYTES,
            files=self.files,
            entries=self.entries,
            newest_change=_time(self.change_ns),
            newest_access=_time(self.access_ns) if keeps_atime and self.access_ns is not None else None,
            problem=problem,
        )


def _leads_outside(listing: Listing, name: bytes) -> bool:
    """Whether the words of a relative link climb above the root. It is not followed: others made it.

    Raises:
        SourceChanged: it vanished, or is no link any longer.
    """
    try:
        target = os.readlink(name, dir_fd=listing.fd)
    except OSError as error:
        raise SourceChanged(f"{show(listing.join(name))} changed while the directory was read") from error
    if target.startswith(b"/"):
        return False
    depth = listing.path.count(b"/") + 1 if listing.path else 0
    for part in target.split(b"/"):
        depth += {b"": 0, b".": 0, b"..": -1}.get(part, 1)
        if depth < 0:
            return True
    return False


def _time(ns: int) -> datetime:
    """Round down to the microsecond: float seconds would round up, to a time that has not come yet."""
    return _EPOCH + timedelta(microseconds=ns // 1000)

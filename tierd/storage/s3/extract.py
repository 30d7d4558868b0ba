"""Bring single files of a copy to a directory of the caller: checked, and nothing else of the copy is read.

What the caller may not have (owners, without root) is left out; what is in the way is never overwritten.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tierd.errors import Conflict
from tierd.fs.walk import open_directory, show, translated
from tierd.model.part import PartSize
from tierd.storage.control import Control
from tierd.storage.manifest import CHUNK, Entry, Manifest
from tierd.storage.patterns import Wanted, chosen, wanted_size
from tierd.storage.posix.writing import keep_attributes, write_all
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.fetch import LENGTH, OFFSET, PATH, SEGMENTS, SIZE, Chunks, Range, ranges
from tierd.storage.s3.index import Segments, unpack_segments
from tierd.storage.s3.proof import check_chunks, check_file
from tierd.storage.s3.unpackworker import attributes

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REST = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def extract(bucket: Bucket, manifest: Manifest, patterns: tuple[str, ...], target: Path, control: Control) -> PartSize:
    """Write all files that match to `target`, under their paths.

    Raises:
        NotFound: none matches. Conflict: a file of that name is there already.
        Corrupt, SourceGone, Archived: as a recall.
    """
    wanted = wanted_size(manifest, patterns)
    names = _names(manifest, chosen(patterns))
    bucket.on_wait = control.checkpoint
    with translated(str(target)):
        target.mkdir(parents=True, exist_ok=True)
        top = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in ranges(manifest, range_bytes=bucket.settings.part_bytes, only=names.__contains__):
            with memoryview(bytearray(part.stop - part.start)) as view:
                if len(view):
                    bucket.get_into(part.object.key, view, start=part.start, etag=part.object.etag)
                _write(top, manifest, part, view, names, control)
    finally:
        os.close(top)
    return wanted


def _names(manifest: Manifest, matches: Wanted) -> dict[bytes, list[Entry]]:
    """By the path whose bytes are stored: the wanted entries that have them (several for hard links)."""
    found: dict[bytes, list[Entry]] = {}
    for entry in manifest.entries(type="f"):
        if matches(entry.path):
            found.setdefault(entry.link_group or entry.path, []).append(entry)
    return found


def _write(
    top: int, manifest: Manifest, part: Range, view: memoryview, names: dict[bytes, list[Entry]], control: Control
) -> None:
    key = part.object.key
    if isinstance(part, Chunks):
        path, size = part.item[PATH], part.item[SIZE]
        digests = manifest.chunks(path)[part.first : part.last]
        check_chunks(view, path, key, size, part.first, digests, part.data)
        is_last = part.last * CHUNK >= size
        for entry in names[path]:
            _put(top, entry, view, part.data, is_first=part.first == 0, is_last=is_last)
        control.progress(bytes=part.size * len(names[path]), files=len(names[path]) if is_last else 0)
        return
    for item in part.items:
        at, segments = item[OFFSET] - part.start, unpack_segments(item[SEGMENTS])
        data = view[at : at + item[LENGTH]]
        for entry in names[item[PATH]]:
            check_file(data, entry, segments, key)
            _put(top, entry, data, segments or ((0, entry.size),), is_first=True, is_last=True)
            control.progress(bytes=entry.size, files=1)


def _put(top: int, entry: Entry, data: memoryview, segments: Segments, *, is_first: bool, is_last: bool) -> None:
    """Write some data of a file; with the last of it, everything else it has."""
    parent, _, name = entry.path.rpartition(b"/")
    with translated(show(entry.path)):
        directory = _enter(top, parent)
        try:
            fd = os.open(name, _NEW if is_first else _REST, 0o600, dir_fd=directory)
        except FileExistsError as error:
            raise Conflict(
                f"{show(entry.path)} exists already; nothing was overwritten", hint="Name an empty directory by --to."
            ) from error
        finally:
            os.close(directory)
        try:
            used = 0
            for start, stop in segments:
                write_all(fd, data[used : used + stop - start], start)
                used += stop - start
            if is_last:
                os.ftruncate(fd, entry.size)
                _dress(fd, entry)
        finally:
            os.close(fd)


def _dress(fd: int, entry: Entry) -> None:
    """Give it what its manifest says, as far as the caller may."""
    ids = (os.geteuid(), os.getegid())
    wanted = attributes(entry)
    if os.geteuid() != 0:
        wanted = wanted._replace(uid=ids[0], gid=ids[1], mode=wanted.mode & 0o777)
    try:
        keep_attributes(fd, wanted, entry.xattrs, ids=ids, created_mode=0o600)
    except PermissionError:  # attributes that only root may set
        keep_attributes(fd, wanted, None, ids=ids, created_mode=0o600)


def _enter(top: int, path: bytes) -> int:
    """Open a directory below `top`, making it where it is missing."""
    at = b""
    for name in filter(None, path.split(b"/")):
        parent = open_directory(top, at)
        try:
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=parent)
        finally:
            os.close(parent)
        at = at + b"/" + name if at else name
    return open_directory(top, at)

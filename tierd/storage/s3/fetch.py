"""Which ranges of which objects give the files of a copy, in the order in which they shall come.

A range holds files that lie beside each other in a pack, or a run of chunks of one large file: as much as is read
with one request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tierd.storage.manifest import CHUNK, Manifest
from tierd.storage.patterns import Wanted, matcher
from tierd.storage.s3.index import Index, Object, Segments, chunk_segments, unpack_segments

_GAP = 256 << 10
"""Bytes between two files that are read and thrown away rather than asked for by another request."""
_FEW_CHUNKS = 2
_MOST_FILES = 5000

Item = tuple[Any, ...]
"""A file: the first 13 fields of its entry, then offset of its data in the object, length there, packed segments."""
PATH, SIZE, OFFSET, LENGTH, SEGMENTS = 0, 2, 13, 14, 15

_QUERY = (
    "SELECT e.path, e.type, e.size, e.mode, e.uid, e.gid, e.mtime_ns, e.atime_ns, e.rdev, e.xattrs, e.target,"
    " e.link_group, e.digest, p.offset, p.length, p.segments FROM piece p JOIN entry e ON e.path = p.path"
    " WHERE p.object = ? AND (p.offset, p.path) > (?, ?) ORDER BY p.offset, p.path LIMIT 2000"
)


@dataclass(frozen=True)
class Files:
    """Whole files of one object: bytes [start, stop) of it hold all of them."""

    object: Object
    start: int
    stop: int
    items: list[Item]


@dataclass(frozen=True)
class Chunks:
    """Chunks [first, last) of one file; `data`: the ranges of the file that bytes [start, stop) of the object hold."""

    object: Object
    start: int
    stop: int
    item: Item
    first: int
    last: int
    data: Segments

    @property
    def size(self) -> int:
        """Bytes of the file, holes included, that these chunks stand for."""
        total: int = self.item[SIZE]
        return min(self.last * CHUNK, total) - self.first * CHUNK


Range = Files | Chunks


def ranges(
    manifest: Manifest, *, range_bytes: int, first: tuple[str, ...] = (), only: Wanted | None = None
) -> Iterator[Range]:
    """All ranges of a copy, those with files that match one of the patterns `first` before the others.

    Args:
        range_bytes: of one request, about.
        only: which paths are wanted at all.
    """
    if not first:
        yield from _select(manifest, range_bytes, only)
        return
    is_first = matcher(first)
    yield from _select(manifest, range_bytes, lambda p: is_first(p) and (only is None or only(p)))
    yield from _select(manifest, range_bytes, lambda p: not is_first(p) and (only is None or only(p)))


def _select(manifest: Manifest, range_bytes: int, wanted: Wanted | None) -> Iterator[Range]:
    for item in Index(manifest).objects():
        if item.kind == "tree":
            continue
        batch: list[Item] = []
        for file in _files(manifest, item.number):
            if wanted is not None and not wanted(file[PATH]):
                continue
            if file[SIZE] > (CHUNK if item.kind == "file" else range_bytes):
                yield from _cut(item, file, range_bytes)
                continue
            if batch and not _fits(batch, file, range_bytes):
                yield _as_range(item, batch)
                batch = []
            batch.append(file)
        if batch:
            yield _as_range(item, batch)


def _files(manifest: Manifest, number: int) -> Iterator[Item]:
    offset, path = -1, b""
    while True:
        rows = manifest.execute(_QUERY, (number, offset, path))
        yield from rows
        if len(rows) < 2000:
            return
        offset, path = rows[-1][OFFSET], rows[-1][PATH]  # type: ignore[assignment]


def _fits(batch: list[Item], file: Item, range_bytes: int) -> bool:
    end = batch[-1][OFFSET] + batch[-1][LENGTH]
    is_near = file[OFFSET] - end <= _GAP
    return is_near and file[OFFSET] + file[LENGTH] - batch[0][OFFSET] <= range_bytes and len(batch) < _MOST_FILES


def _as_range(item: Object, batch: list[Item]) -> Files:
    return Files(item, batch[0][OFFSET], batch[-1][OFFSET] + batch[-1][LENGTH], batch)


def _cut(item: Object, file: Item, range_bytes: int) -> Iterator[Chunks]:
    """A large file, some chunks at a time; runs of chunks without data are not asked for."""
    size, offset = file[SIZE], file[OFFSET]
    per_range = max(range_bytes // CHUNK, _FEW_CHUNKS)
    count = -(-size // CHUNK)
    segments = unpack_segments(file[SEGMENTS])
    if segments is None:
        for at in range(0, count, per_range):
            last = min(at + per_range, count)
            start, stop = at * CHUNK, min(last * CHUNK, size)
            yield Chunks(item, offset + start, offset + stop, file, at, last, ((start, stop),))
        return
    by_chunk = chunk_segments(segments)
    data, length, first = list[tuple[int, int]](), 0, 0
    for at in range(count):
        found = by_chunk.get(at, [])
        data += found
        length += sum(stop - start for start, stop in found)
        if length >= per_range * CHUNK or at == count - 1:
            yield Chunks(item, offset, offset + length, file, first, at + 1, tuple(data))
            first, offset, data, length = at + 1, offset + length, [], 0

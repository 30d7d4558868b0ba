"""Which ranges of which objects give the files of a copy, in the order in which they shall come.

A range holds files that lie beside each other in a pack, or a run of chunks of one large file: as much as is read
with one request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tierd.storage.manifest import CHUNK, Entry, Manifest
from tierd.storage.s3.index import Index, Object, Piece, chunk_segments

_GAP = 256 << 10
"""Bytes between two files that are read and thrown away rather than asked for by another request."""
_FEW_CHUNKS = 2

Wanted = Callable[[bytes], bool]


@dataclass(frozen=True)
class Files:
    """Whole files of one object: bytes [start, stop) of it hold all of them."""

    object: Object
    start: int
    stop: int
    items: tuple[tuple[Entry, Piece], ...]


@dataclass(frozen=True)
class Chunks:
    """Chunks [first, last) of one file; `data`: the ranges of the file that bytes [start, stop) of the object hold."""

    object: Object
    start: int
    stop: int
    entry: Entry
    first: int
    last: int
    data: tuple[tuple[int, int], ...]


Range = Files | Chunks


def ranges(
    manifest: Manifest, *, range_bytes: int, first: tuple[str, ...] = (), only: Wanted | None = None
) -> Iterator[Range]:
    """All ranges of a copy, those with files that match one of the patterns `first` before the others.

    Args:
        range_bytes: of one request, about.
        only: which paths are wanted at all.
    """

    def matches(path: bytes) -> bool:
        text = path.decode(errors="surrogateescape")
        return any(fnmatchcase(text, pattern) for pattern in first)

    if first:
        yield from _select(manifest, range_bytes, lambda p: matches(p) and (only is None or only(p)))
        yield from _select(manifest, range_bytes, lambda p: not matches(p) and (only is None or only(p)))
    else:
        yield from _select(manifest, range_bytes, only)


def _select(manifest: Manifest, range_bytes: int, wanted: Wanted | None) -> Iterator[Range]:
    index = Index(manifest)
    for item in index.objects():
        if item.kind == "tree":
            continue
        batch: list[tuple[Entry, Piece]] = []
        for entry, piece in _pieces(manifest, index, item.number):
            if wanted is not None and not wanted(entry.path):
                continue
            if entry.size > max(range_bytes, CHUNK):
                yield from _cut(item, entry, piece, range_bytes)
                continue
            if batch and not _fits(batch, piece, range_bytes):
                yield _files(item, batch)
                batch = []
            batch.append((entry, piece))
        if batch:
            yield _files(item, batch)


def _pieces(manifest: Manifest, index: Index, number: int) -> Iterator[tuple[Entry, Piece]]:
    waiting: list[Piece] = []
    for piece in index.pieces(number):
        waiting.append(piece)
        if len(waiting) == 500:
            yield from _with_entries(manifest, waiting)
            waiting = []
    yield from _with_entries(manifest, waiting)


def _with_entries(manifest: Manifest, pieces: list[Piece]) -> Iterator[tuple[Entry, Piece]]:
    found = manifest.find_all([piece.path for piece in pieces])
    for piece in pieces:
        yield found[piece.path], piece


def _fits(batch: list[tuple[Entry, Piece]], piece: Piece, range_bytes: int) -> bool:
    start = batch[0][1].offset
    end = batch[-1][1].offset + batch[-1][1].length
    return piece.offset - end <= _GAP and piece.offset + piece.length - start <= range_bytes


def _files(item: Object, batch: list[tuple[Entry, Piece]]) -> Files:
    last = batch[-1][1]
    return Files(item, batch[0][1].offset, last.offset + last.length, tuple(batch))


def _cut(item: Object, entry: Entry, piece: Piece, range_bytes: int) -> Iterator[Chunks]:
    """A large file, some chunks at a time; runs of chunks without data are not asked for."""
    per_range = max(range_bytes // CHUNK, _FEW_CHUNKS)
    count = -(-entry.size // CHUNK)
    if piece.segments is None:
        for at in range(0, count, per_range):
            last = min(at + per_range, count)
            start, stop = at * CHUNK, min(last * CHUNK, entry.size)
            yield Chunks(item, piece.offset + start, piece.offset + stop, entry, at, last, ((start, stop),))
        return
    at, offset, data, size, begin = 0, piece.offset, list[tuple[int, int]](), 0, 0
    by_chunk = chunk_segments(piece.segments)
    for at in range(count):
        found = by_chunk.get(at, [])
        data += found
        size += sum(stop - start for start, stop in found)
        if size >= per_range * CHUNK or at == count - 1:
            yield Chunks(item, offset, offset + size, entry, begin, at + 1, tuple(data))
            begin, offset, data, size = at + 1, offset + size, [], 0

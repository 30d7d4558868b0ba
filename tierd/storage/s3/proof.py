"""Check what came out of the store against the digests of the manifest, before anybody sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from blake3 import blake3

from tierd.errors import Corrupt
from tierd.fs.walk import show
from tierd.storage.manifest import CHUNK, Entry
from tierd.storage.s3.fetch import Chunks
from tierd.storage.s3.index import Object, Piece, Segments

_HOLE = bytes(CHUNK)
HOLE_DIGEST: bytes = blake3(_HOLE).digest()


def digest_of(data: memoryview, ranges: Sequence[tuple[int, int]], start: int, length: int) -> bytes:
    """The digest of bytes [start, start + length) of a file from its data in `ranges` alone; the rest are holes."""
    if not len(data) and length == CHUNK:
        return HOLE_DIGEST
    hasher = blake3()
    if len(data) == length:
        hasher.update(data)
    else:
        at, used = start, 0
        for begin, stop in ranges:
            _skip(hasher.update, begin - at)
            hasher.update(data[used : used + stop - begin])
            used += stop - begin
            at = stop
        _skip(hasher.update, start + length - at)
    found: bytes = hasher.digest()
    return found


def _skip(update: Callable[[memoryview], object], length: int) -> None:
    while length > 0:
        update(memoryview(_HOLE)[:length])
        length -= CHUNK


def check_file(data: memoryview, entry: Entry, piece: Piece, item: Object) -> None:
    """Check a whole file that was read in one go.

    Raises:
        Corrupt: these are not its bytes.
    """
    segments: Segments = piece.segments if piece.segments is not None else ((0, entry.size),)
    if entry.size <= CHUNK:
        found = digest_of(data, segments, 0, entry.size)
    elif piece.segments is None:
        chunks = b"".join(blake3(data[at : at + CHUNK]).digest() for at in range(0, entry.size, CHUNK))
        found = blake3(chunks).digest()
    else:
        whole = bytearray(entry.size)
        used = 0
        for start, stop in segments:
            whole[start:stop] = data[used : used + stop - start]
            used += stop - start
        with memoryview(whole) as view:
            found = blake3(
                b"".join(blake3(view[at : at + CHUNK]).digest() for at in range(0, entry.size, CHUNK))
            ).digest()
    if found != entry.digest:
        raise damaged(entry, item)


def check_chunks(data: memoryview, part: Chunks, digests: Sequence[bytes]) -> None:
    """Check a run of chunks; `digests` are those of all chunks of the file.

    Raises:
        Corrupt: these are not its bytes.
    """
    used = 0
    for chunk in range(part.first, part.last):
        start = chunk * CHUNK
        length = min(CHUNK, part.entry.size - start)
        inside = [(max(a, start), min(b, start + CHUNK)) for a, b in part.data if a < start + CHUNK and b > start]
        size = sum(stop - begin for begin, stop in inside)
        if digest_of(data[used : used + size], inside, start, length) != digests[chunk]:
            raise damaged(part.entry, part.object)
        used += size


def damaged(entry: Entry, item: Object) -> Corrupt:
    """The error for bytes that are not those that were sent."""
    return Corrupt(
        f"{show(entry.path)} is damaged in the bucket: the bytes in {item.key} are not those that were stored",
        hint="Nothing was put in place. Restore that object from a version of the bucket, or use another copy.",
    )

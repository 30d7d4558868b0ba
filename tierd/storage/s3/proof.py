"""Check what came out of the store against the digests of the manifest, before anybody sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from blake3 import blake3

from tierd.errors import Corrupt
from tierd.fs.walk import show
from tierd.storage.manifest import CHUNK, Entry
from tierd.storage.s3.index import Segments

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


def check_file(data: memoryview, entry: Entry, segments: Segments | None, key: str) -> None:
    """Check a whole file that was read in one go; `segments` is None when it has no holes.

    Raises:
        Corrupt: these are not its bytes.
    """
    if entry.size <= CHUNK:
        found = digest_of(data, segments or (), 0, entry.size)
    else:
        view = data
        if segments is not None:
            view, used = memoryview(bytearray(entry.size)), 0
            for start, stop in segments:
                view[start:stop] = data[used : used + stop - start]
                used += stop - start
        chunks = (blake3(view[at : at + CHUNK]).digest() for at in range(0, entry.size, CHUNK))
        found = blake3(b"".join(chunks)).digest()
    if found != entry.digest:
        raise _damaged(entry.path, key)


def check_chunks(
    data: memoryview, path: bytes, key: str, size: int, first: int, digests: Sequence[bytes], ranges: Segments
) -> None:
    """Check chunks of a file of `size` bytes, of which the data in `ranges` was read.

    Raises:
        Corrupt: these are not its bytes.
    """
    used = 0
    for number, digest in enumerate(digests):
        start = (first + number) * CHUNK
        end = min(start + CHUNK, size)
        inside = [(max(a, start), min(b, end)) for a, b in ranges if a < end and b > start]
        length = sum(stop - begin for begin, stop in inside)
        if digest_of(data[used : used + length], inside, start, end - start) != digest:
            raise _damaged(path, key)
        used += length


def _damaged(path: bytes, key: str) -> Corrupt:
    return Corrupt(
        f"{show(path)} is damaged in the bucket: the bytes in {key} are not those that were stored",
        hint="Nothing was put in place. Restore that object from a version of the bucket, or use another copy.",
    )

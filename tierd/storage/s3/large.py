"""Upload one large file in parallel parts, hashing as it goes; a killed upload goes on at its parts.

Every part holds whole chunks of the file, so that their digests are known when it is sent. A `file` is stored as it
is; a `solo` as a tar with nothing else in it, whose holes are left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from tierd.errors import SourceChanged
from tierd.fs.walk import show, translate
from tierd.storage.manifest import CHUNK
from tierd.storage.s3.bucket import Part
from tierd.storage.s3.checksums import crc64, to_base64
from tierd.storage.s3.index import Segments, chunk_segments
from tierd.storage.s3.journal import Begun, SentPart
from tierd.storage.s3.lanes import Lanes
from tierd.storage.s3.proof import digest_of
from tierd.storage.s3.sink import Sink
from tierd.storage.s3.stream import complete

_MOST_PARTS = 9_999
_LEAST_CHUNKS = 2
"""A part but the last must have 5 MiB."""


@dataclass(frozen=True, kw_only=True)
class LargeFile:
    """What is uploaded.

    Attributes:
        fd: the open file; whoever is told of the end closes it.
        segments: its data, None when it has no holes.
        part_bytes: of each part but the last, about.
        head, tail: what comes before and after its data in the object.
        metadata: of the object, for other programs.
    """

    path: bytes
    fd: int
    status: os.stat_result
    number: int
    key: str
    kind: str
    segments: Segments | None
    part_bytes: int
    head: bytes = b""
    tail: bytes = b""
    metadata: dict[str, str]
    was_cached: bool = False

    @property
    def stamp(self) -> str:
        """The state of the file, and how it is cut: parts of another state or cut are of no use."""
        st = self.status
        head = blake3(self.head).hexdigest(length=8)  # with the map of a sparse file
        return f"{st.st_ino}:{st.st_size}:{st.st_mtime_ns}:{st.st_ctime_ns}:{self.kind}:{head}:{self.part_bytes}"

    @property
    def data_bytes(self) -> int:
        if self.segments is None:
            return self.status.st_size
        return sum(stop - start for start, stop in self.segments)


@dataclass(frozen=True, kw_only=True)
class PartSent:
    """Told to the caller's thread: a part is with the store, and new."""

    path: bytes
    part: SentPart
    file_bytes: int


@dataclass(frozen=True, kw_only=True)
class LargeDone:
    """Told to the caller's thread: the object is complete. `digests`: of all chunks."""

    file: LargeFile
    size: int
    crc64nvme: int
    etag: str
    digests: bytes


@dataclass(frozen=True)
class _Cut:
    """A part: chunks [first, last) of the file."""

    number: int
    first: int
    last: int


class LargeUpload:
    """One file's upload; made and started by the caller's thread.

    Args:
        known: an upload of exactly this file that an earlier attempt began, and its parts that the store has.
    """

    def __init__(
        self,
        file: LargeFile,
        sink: Sink,
        lanes: Lanes,
        known: tuple[Begun, Sequence[SentPart]] | None,
    ) -> None:
        self._file, self._sink, self._lanes = file, sink, lanes
        self._cuts = _cut(file)
        self._segments = None if file.segments is None else chunk_segments(file.segments)
        begun, parts = known if known is not None else (None, ())
        self._upload = None if begun is None else begun.id
        self._sent = {part.number: part for part in parts if self._fits(part)}

    def start(self, on_begin: Callable[[Begun], None]) -> int:
        """Send what is missing; returns the bytes of the file that are with the store already.

        Args:
            on_begin: called once a new multipart upload has begun, before its first part is sent.
        """
        file = self._file
        if len(self._cuts) > 1 and self._upload is None:
            self._upload = self._sink.begin(file.key, metadata=file.metadata)
            on_begin(Begun(path=file.path, number=file.number, key=file.key, id=self._upload, stamp=file.stamp))
        waiting = [cut for cut in self._cuts if cut.number not in self._sent]
        done = sum(self._file_bytes(cut) for cut in self._cuts if cut.number in self._sent)
        if not waiting:
            self._lanes.run(self._complete)
        for cut in waiting:
            buffer = self._lanes.buffer(self._length(cut))
            self._lanes.run(lambda cut=cut, buffer=buffer: self._part(cut, buffer))  # type: ignore[misc]
        return done

    def recorded(self, part: SentPart) -> None:
        """A part is with the store, and that is recorded. After the last one the object is completed, not before: of an
        upload that is complete the store does not tell the parts any more.
        """
        self._sent[part.number] = part
        if len(self._sent) == len(self._cuts):
            self._lanes.run(self._complete)

    # -- lengths -----------------------------------------------------------------------------------------

    def _ranges(self, chunk: int) -> Sequence[tuple[int, int]]:
        """The data of a chunk, as ranges of the file."""
        start = chunk * CHUNK
        if self._segments is None:
            return [(start, min(start + CHUNK, self._file.status.st_size))]
        return self._segments.get(chunk, ())

    def _length(self, cut: _Cut) -> int:
        """Bytes of a part."""
        size = sum(stop - start for chunk in range(cut.first, cut.last) for start, stop in self._ranges(chunk))
        size += len(self._file.head) if cut.number == 1 else 0
        return size + (len(self._file.tail) if cut.number == len(self._cuts) else 0)

    def _file_bytes(self, cut: _Cut) -> int:
        """How much of the file, holes included, a part stands for."""
        return min(cut.last * CHUNK, self._file.status.st_size) - cut.first * CHUNK

    def _fits(self, part: SentPart) -> bool:
        """Whether a part that an earlier attempt sent is one of this attempt's."""
        if not 1 <= part.number <= len(self._cuts):
            return False
        cut = self._cuts[part.number - 1]
        return part.size == self._length(cut) and len(part.digests) == 32 * (cut.last - cut.first)

    # -- in the lanes ------------------------------------------------------------------------------------

    def _part(self, cut: _Cut, buffer: bytearray) -> None:
        file = self._file
        try:
            with memoryview(buffer) as whole, whole[: self._length(cut)] as view:
                digests = self._fill(cut, view)
                value = crc64(view)
                if len(self._cuts) == 1:
                    info = self._sink.put(file.key, view, crc64nvme=to_base64(value), metadata=file.metadata)
                    self._check_unchanged()
                    done = LargeDone(file=file, size=info.size, crc64nvme=value, etag=info.etag, digests=digests)
                    self._lanes.tell(PartSent(
                        path=b"", part=SentPart(1, len(view), info.etag, value, digests),
                        file_bytes=self._file_bytes(cut),
                    ))  # fmt: skip
                    self._lanes.tell(done)
                    return
                assert self._upload is not None
                part = self._sink.upload_part(file.key, self._upload, cut.number, view, crc64nvme=to_base64(value))
                sent = SentPart(cut.number, len(view), part.etag, value, digests)
        finally:
            self._lanes.give_back(buffer)
        self._lanes.tell(PartSent(path=file.path, part=sent, file_bytes=self._file_bytes(cut)))

    def _complete(self) -> None:
        file = self._file
        assert self._upload is not None
        self._check_unchanged()
        ordered = [self._sent[cut.number] for cut in self._cuts]
        parts = [(Part(number=p.number, size=p.size, etag=p.etag, crc64nvme=to_base64(p.crc64nvme)), p.crc64nvme)
                 for p in ordered]  # fmt: skip
        info, value = complete(self._sink, file.key, self._upload, parts)
        digests = b"".join(p.digests for p in ordered)
        self._lanes.tell(LargeDone(file=file, size=info.size, crc64nvme=value, etag=info.etag, digests=digests))

    def _check_unchanged(self) -> None:
        st, now = self._file.status, os.fstat(self._file.fd)
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (st.st_size, st.st_mtime_ns, st.st_ctime_ns):
            raise SourceChanged(f"{show(self._file.path)} was changed while it was read")

    def _fill(self, cut: _Cut, view: memoryview) -> bytes:
        """Read a part into memory; returns the digests of its chunks."""
        file, at, digests = self._file, 0, []
        if cut.number == 1:
            view[: len(file.head)] = file.head
            at = len(file.head)
        for chunk in range(cut.first, cut.last):
            self._lanes.check()
            begin = at
            ranges = self._ranges(chunk)
            for start, stop in ranges:
                self._read(view[at : at + stop - start], start)
                at += stop - start
            length = min(CHUNK, file.status.st_size - chunk * CHUNK)
            digests.append(digest_of(view[begin:at], ranges, chunk * CHUNK, length))
        if cut.number == len(self._cuts):
            view[at:] = file.tail
        if not file.was_cached:
            offset = cut.first * CHUNK
            os.posix_fadvise(file.fd, offset, self._file_bytes(cut), os.POSIX_FADV_DONTNEED)
        return b"".join(digests)

    def _read(self, view: memoryview, offset: int) -> None:
        got = 0
        while got < len(view):
            try:
                n = os.preadv(self._file.fd, [view[got:]], offset + got)
            except OSError as error:
                raise translate(error, show(self._file.path)) from error
            if n == 0:
                raise SourceChanged(f"{show(self._file.path)} became shorter while it was read")
            got += n


def _cut(file: LargeFile) -> list[_Cut]:
    """Cut a file into parts of about `file.part_bytes` of data, and no more parts than S3 allows."""
    least = -(-file.data_bytes // (_MOST_PARTS * CHUNK))
    wanted = max(file.part_bytes // CHUNK, _LEAST_CHUNKS, least) * CHUNK
    chunks = -(-file.status.st_size // CHUNK)
    by_chunk = None if file.segments is None else chunk_segments(file.segments)
    cuts: list[_Cut] = []
    first, filled = 0, 0
    for chunk in range(chunks):
        if by_chunk is None:
            filled += CHUNK
        else:
            filled += sum(stop - start for start, stop in by_chunk.get(chunk, ()))
        if filled >= wanted:
            cuts.append(_Cut(len(cuts) + 1, first, chunk + 1))
            first, filled = chunk + 1, 0
    if first < chunks or not cuts:
        cuts.append(_Cut(len(cuts) + 1, first, chunks))
    return cuts

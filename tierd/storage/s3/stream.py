"""One object of unknown length, written front to back: in one request when it is small, else by a multipart upload.

The writer fills buffers in the caller's thread; parts are sent, and the object completed, in the lanes. A stream that
was not closed leaves a multipart upload behind: whoever resumes gives that up and begins anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from tierd.storage.s3.bucket import ObjectInfo, Part
from tierd.storage.s3.checksums import combine, crc64, to_base64
from tierd.storage.s3.lanes import Lanes
from tierd.storage.s3.sink import Sink

Done = Callable[[ObjectInfo, int], None]
"""Called in a lane with what the store says of the finished object, and its CRC64NVME."""


class Stream:
    """An object in the making.

    Args:
        part_bytes: of each part but the last.
        on_done: see `Done`.
    """

    def __init__(self, bucket: Sink, lanes: Lanes, key: str, part_bytes: int, on_done: Done) -> None:
        self.key = key
        self.size = 0
        """Bytes written so far."""
        self._bucket, self._lanes, self._part_bytes, self._on_done = bucket, lanes, part_bytes, on_done
        self._buffer: bytearray | None = None
        self._next: bytearray | None = None
        self._filled = 0
        self._sent = _Sent(bucket, key)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        end = self._filled + len(data)
        if self._buffer is not None and end < self._part_bytes:  # nearly always
            self._buffer[self._filled : end] = data
            self._filled, self.size = end, self.size + len(data)
            return
        at, view = 0, memoryview(data)
        while at < len(view):
            room = self._room()
            n = min(len(room), len(view) - at)
            room[:n] = view[at : at + n]
            self.advance(n)
            at += n

    def room(self, size: int) -> list[memoryview]:
        """Where the next `size` bytes go (to be filled, then `advance`d over); at most two pieces.

        `size` must not be larger than a part.
        """
        first = self._room()
        if len(first) >= size:
            return [first[:size]]
        self._next = self._lanes.buffer(self._part_bytes)
        return [first, memoryview(self._next)[: size - len(first)]]

    def advance(self, count: int) -> None:
        """So many of the bytes of `room` were filled."""
        self.size += count
        while count:
            n = min(count, self._part_bytes - self._filled)
            self._filled += n
            count -= n
            if self._filled == self._part_bytes:
                self._send(is_last=False)
                self._buffer, self._next = self._next, None
        if self._next is not None:  # `room` foresaw more than came
            self._lanes.give_back(self._next)
            self._next = None

    def close(self) -> None:
        """No more bytes come; the object is complete when `on_done` is called."""
        self._send(is_last=True)

    def _room(self) -> memoryview:
        if self._buffer is None:
            self._buffer, self._filled = self._lanes.buffer(self._part_bytes), 0
        return memoryview(self._buffer)[self._filled : self._part_bytes]

    def _send(self, *, is_last: bool) -> None:
        buffer, length = self._buffer, self._filled
        self._buffer, self._filled = None, 0
        number = self._sent.announce(is_last=is_last, is_empty=not length)

        def job() -> None:
            data = memoryview(buffer or b"")[:length]
            try:
                done = self._sent.send(number, data, is_single=is_last and number == 1)
            finally:
                data.release()
                if buffer is not None:
                    self._lanes.give_back(buffer)
            if done is not None:
                self._on_done(*done)

        self._lanes.run(job)


class _Sent:
    """What was sent of one stream; shared by the lanes."""

    def __init__(self, bucket: Sink, key: str) -> None:
        self._bucket, self._key = bucket, key
        self._lock = threading.Lock()
        self._upload: str | None = None
        self._announced = 0
        self._is_closed = False
        self._is_complete = False
        self._parts: dict[int, tuple[Part, int]] = {}

    def announce(self, *, is_last: bool, is_empty: bool) -> int:
        """The number of the next part; 0 when there is none, only the end of the stream."""
        with self._lock:
            self._is_closed = is_last
            if is_empty and self._announced:
                return 0
            self._announced += 1
            return self._announced

    def send(self, number: int, data: memoryview, *, is_single: bool) -> tuple[ObjectInfo, int] | None:
        """Send a part; returns the object when this was the last one missing."""
        if is_single:
            value = crc64(data)
            return self._bucket.put(self._key, data, crc64nvme=to_base64(value)), value
        if number:
            value = crc64(data)
            part = self._bucket.upload_part(self._key, self._begun(), number, data, crc64nvme=to_base64(value))
        with self._lock:
            if number:
                self._parts[number] = (part, value)
            if not self._is_closed or self._is_complete or len(self._parts) < self._announced:
                return None
            self._is_complete = True
            ordered = [self._parts[n] for n in sorted(self._parts)]
        return complete(self._bucket, self._key, self._begun(), ordered)

    def _begun(self) -> str:
        with self._lock:
            if self._upload is None:
                self._upload = self._bucket.begin(self._key)
            return self._upload


def complete(bucket: Sink, key: str, upload: str, parts: Sequence[tuple[Part, int]]) -> tuple[ObjectInfo, int]:
    """Make the object of its parts (in order, each with its CRC64NVME); the store checks the whole."""
    total = combine((value, part.size) for part, value in parts)
    size = sum(part.size for part, _ in parts)
    sent = [part for part, _ in parts]
    return bucket.complete(key, upload, sent, crc64nvme=to_base64(total), size=size), total

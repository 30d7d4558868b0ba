"""The record of a large file's finished chunks while it is copied: one small file, so that a killed copy goes on.

Layout: a header that says which source file in which state, and which destination, it belongs to; then 32 bytes per
chunk, its digest, or zeros while it is not done. It is written after the chunk and not synced: what a power cut
makes of it is caught when the copy is verified against the device.
"""

from __future__ import annotations

import os
import struct

from blake3 import blake3

_HEADER = struct.Struct("<8s5q32s")
_MAGIC = b"tierdP1\n"
_DIGEST = 32
_NONE = bytes(_DIGEST)


def part_name(st: os.stat_result) -> bytes:
    """The name of the record for a source file."""
    return b"%d" % st.st_ino


class Parts:
    """Finished chunks of one file. `record` may be called by several threads, for different chunks."""

    def __init__(self, fd: int, known: bytes) -> None:
        self._fd = fd
        self._known = bytearray(known)

    @classmethod
    def open(cls, dir_fd: int, st: os.stat_result, path: bytes, destination: os.stat_result | None) -> Parts | None:
        """The record of an earlier attempt at exactly this copy; None when there is none that fits."""
        if destination is None:
            return None
        try:
            fd = os.open(part_name(st), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        except FileNotFoundError:
            return None
        if os.pread(fd, _HEADER.size, 0) != _header(st, path, destination):
            os.close(fd)
            return None
        known = bytearray()
        while block := os.pread(fd, 1 << 20, _HEADER.size + len(known)):
            known += block
        return cls(fd, bytes(known[: len(known) // _DIGEST * _DIGEST]))

    @classmethod
    def create(cls, dir_fd: int, st: os.stat_result, path: bytes, destination: os.stat_result) -> Parts:
        """A new record, replacing any other for this source file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(part_name(st), flags, 0o600, dir_fd=dir_fd)
        os.pwrite(fd, _header(st, path, destination), 0)
        return cls(fd, b"")

    def close(self) -> None:
        os.close(self._fd)

    def has(self, index: int) -> bool:
        at = index * _DIGEST
        return bytes(self._known[at : at + _DIGEST]) not in (_NONE, b"")

    def record(self, index: int, digest: bytes) -> None:
        """Note that a chunk is written."""
        os.pwrite(self._fd, digest, _HEADER.size + index * _DIGEST)

    def digests(self, count: int) -> bytes:
        """All digests, when every chunk is done."""
        data = bytearray()
        while len(data) < count * _DIGEST:
            block = os.pread(self._fd, min(1 << 20, count * _DIGEST - len(data)), _HEADER.size + len(data))
            if not block:
                break
            data += block
        return bytes(data)


def _header(st: os.stat_result, path: bytes, destination: os.stat_result) -> bytes:
    stamp = (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns, destination.st_ino)
    return _HEADER.pack(_MAGIC, *stamp, blake3(path).digest())

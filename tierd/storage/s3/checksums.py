"""CRC64NVME, the checksum that S3 keeps of a whole object, in the forms in which it is needed."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from awscrt import checksums


def crc64(data: bytes | bytearray | memoryview) -> int:
    """The checksum of some bytes; lets other threads run."""
    return int(checksums.crc64nvme(data))


def combine(parts: Iterable[tuple[int, int]]) -> int:
    """The checksum of bytes one after the other, from (checksum, length) of each run."""
    total = 0
    for value, length in parts:
        total = int(checksums.combine_crc64nvme(total, value, length))
    return total


def to_base64(value: int) -> str:
    """As S3's headers have it."""
    return base64.b64encode(value.to_bytes(8, "big")).decode()


def to_hex(value: int) -> str:
    """As manifests have it."""
    return f"{value:016x}"


def hex_to_base64(value: str) -> str:
    return to_base64(int(value, 16))

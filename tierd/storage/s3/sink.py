"""What an upload needs of a bucket, and a bucket that keeps nothing.

The same code that uploads a tree also only digests it, to find out whether its content is in the store already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tierd.storage.s3.bucket import ObjectInfo, Part

Data = bytes | bytearray | memoryview


class Sink(Protocol):
    """The methods of `Bucket` that write."""

    def put(
        self, key: str, data: Data, *, crc64nvme: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo: ...

    def begin(self, key: str, *, metadata: Mapping[str, str] | None = None) -> str: ...

    def upload_part(self, key: str, upload: str, number: int, data: Data, *, crc64nvme: str) -> Part: ...

    def complete(self, key: str, upload: str, parts: Sequence[Part], *, crc64nvme: str, size: int) -> ObjectInfo: ...


class Nowhere:
    """A sink that keeps nothing."""

    def put(
        self, key: str, data: Data, *, crc64nvme: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        return ObjectInfo(key=key, size=len(data), etag="", crc64nvme=crc64nvme)

    def begin(self, key: str, *, metadata: Mapping[str, str] | None = None) -> str:
        return ""

    def upload_part(self, key: str, upload: str, number: int, data: Data, *, crc64nvme: str) -> Part:
        return Part(number=number, size=len(data), etag="", crc64nvme=crc64nvme)

    def complete(self, key: str, upload: str, parts: Sequence[Part], *, crc64nvme: str, size: int) -> ObjectInfo:
        return ObjectInfo(key=key, size=size, etag="", crc64nvme=crc64nvme)

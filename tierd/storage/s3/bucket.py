"""The requests that tierd makes of one bucket: the only module that calls boto3.

Keys are given without the tier's prefix. Every method may be called from several threads, retries what can be
retried until `retry_for_s` is over, and raises errors of `tierd.errors` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import botocore.config
import botocore.handlers

from tierd.model.s3 import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
else:
    S3Client = Any


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What the store says of an object. `crc64nvme` is base64, None when the store keeps none."""

    key: str
    size: int
    etag: str
    crc64nvme: str | None = None
    storage_class: str = "STANDARD"
    restore: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a multipart upload; `crc64nvme` is base64 and only known to whoever sent it."""

    number: int
    size: int
    etag: str
    crc64nvme: str | None = None


class Bucket:
    """One bucket and prefix. See the module."""

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._client = _connect(settings)
        self._name = settings.bucket

    def key(self, key: str) -> str:
        """The full key."""
        return self._prefix + key

    # -- whole objects -----------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | bytearray | memoryview,
        *,
        crc64nvme: str | None = None,
        metadata: Mapping[str, str] | None = None,
        storage_class: str | None = None,
        is_new: bool = False,
    ) -> ObjectInfo:
        """Store an object in one request.

        Args:
            crc64nvme: of the data, base64; computed when not given. The store refuses other data.
            storage_class: None for the tier's own.
            is_new: fail with Conflict when an object of this key exists.
        """
        raise NotImplementedError

    def head(self, key: str) -> ObjectInfo | None:
        """What the store says of an object, its checksum included; None when there is none."""
        raise NotImplementedError

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str | None = None) -> bytes:
        """Read an object or a range of it.

        Args:
            etag: the object must still have this one.

        Raises:
            SourceGone: there is no such object.
            SourceChanged: it has another ETag.
            Archived: its storage class must be restored first.
        """
        raise NotImplementedError

    def get_into(self, key: str, buffer: memoryview, *, start: int, etag: str | None = None) -> None:
        """Read `len(buffer)` bytes from `start` into a buffer; goes on in the middle when a connection breaks."""
        raise NotImplementedError

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, a thousand per request; those that do not exist are no error."""
        raise NotImplementedError

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a prefix in the order of their keys, page by page (no checksums)."""
        raise NotImplementedError

    def list_directories(self, prefix: str) -> Iterator[str]:
        """The common prefixes one level below `prefix` (which ends with a slash), as names without slashes."""
        raise NotImplementedError

    # -- multipart uploads ----------------------------------------------------------------------------------

    def begin(self, key: str, *, metadata: Mapping[str, str] | None = None, storage_class: str | None = None) -> str:
        """Begin a multipart upload whose checksum is a full-object CRC64NVME; returns its id."""
        raise NotImplementedError

    def upload_part(
        self, key: str, upload: str, number: int, data: bytes | bytearray | memoryview, *, crc64nvme: str
    ) -> Part:
        """Send a part (numbers count from 1)."""
        raise NotImplementedError

    def parts(self, key: str, upload: str) -> list[Part] | None:
        """The parts that the store has; None when there is no such upload (any more)."""
        raise NotImplementedError

    def complete(self, key: str, upload: str, parts: Sequence[Part], *, crc64nvme: str, size: int) -> ObjectInfo:
        """Make the object of its parts; the store refuses when its checksum is another. Safe to repeat."""
        raise NotImplementedError

    def abort(self, key: str, upload: str) -> None:
        """Give an upload up; one that does not exist is no error."""
        raise NotImplementedError

    def uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Key and id of every multipart upload under way below a prefix."""
        raise NotImplementedError

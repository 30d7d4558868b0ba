"""What a store says of objects and uploads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What the store says of an object.

    Attributes:
        crc64nvme: of the whole object, base64; None when the store keeps none, or was asked for a listing.
        restore: the state of a restore as S3 words it (`x-amz-restore`), None when there is none.
    """

    key: str
    size: int
    etag: str
    crc64nvme: str | None = None
    storage_class: str = "STANDARD"
    restore: str | None = None
    modified: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a multipart upload; `crc64nvme` is base64, and not every store tells it again."""

    number: int
    size: int
    etag: str
    crc64nvme: str | None = None


@dataclass(frozen=True, kw_only=True)
class UploadInfo:
    """A multipart upload under way."""

    key: str
    id: str
    begun: datetime | None = None

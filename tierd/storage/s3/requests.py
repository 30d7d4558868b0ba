"""What all requests to one bucket share: the client, the pace, the counts, and which checksums the store keeps."""

from __future__ import annotations

import base64
import hashlib
import threading
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tierd.errors import Denied, SourceGone, StorageError, TierFull, TierOffline
from tierd.model.s3 import S3Settings
from tierd.storage.s3 import layout
from tierd.storage.s3.attempts import Attempts
from tierd.storage.s3.checksums import crc64, to_base64
from tierd.storage.s3.connect import connect, place
from tierd.storage.s3.failures import Subject
from tierd.storage.s3.meter import Meter
from tierd.storage.s3.pace import Bandwidth, Pace
from tierd.storage.s3.wire import Body, Data, Wait, stopping

PROBE = f"{layout.PRIVATE}/probe"
_SAMPLE = b"tierd asks which checksums this store keeps"


class Requests:
    """The base of `Bucket`.

    Attributes:
        on_wait: called at least every 0.2 s while a request waits for its turn, for the network or for its next
            attempt, by the thread that made it; may raise to give the request up. None: nobody is asked.
        meter: counts requests and bytes. pace: adapts how many run at the same time.
    """

    def __init__(self, settings: S3Settings, on_wait: Wait | None = None) -> None:
        self.settings = settings
        self.on_wait = on_wait
        self.meter = Meter()
        self.pace = Pace(settings.connections)
        self._up, self._down = Bandwidth(), Bandwidth()
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._wait = stopping(self._call)
        self._client: Any = connect(settings, self._wait)
        self._place = place(settings)
        self._deciding = threading.Lock()
        self._keeps_crc: bool | None = {"crc64nvme": True, "md5": False}.get(settings.checksum)
        self._common: dict[str, Any] = {"Bucket": settings.bucket}
        if settings.requester_pays:
            self._common["RequestPayer"] = "requester"

    def key(self, key: str) -> str:
        """The full key."""
        return self._prefix + key

    def limit(self, *, up: int | None = None, down: int | None = None) -> None:
        """Set limits in bytes/s for all threads together; None is no limit."""
        self._up.bytes_per_s, self._down.bytes_per_s = up, down

    def _call(self) -> None:
        if self.on_wait is not None:
            self.on_wait()

    def _attempts(self, operation: str, key: str) -> Attempts:
        subject = Subject(operation, self.key(key), self._place)
        return Attempts(subject, self.pace, self.meter, self._wait, self.settings.retry_for_s)

    def _about(self, key: str) -> dict[str, Any]:
        return {**self._common, "Key": self.key(key)}

    def _created(self, metadata: Mapping[str, str] | None, storage_class: str | None) -> dict[str, Any]:
        """What is said of a new object."""
        settings = self.settings
        said: dict[str, Any] = {}
        if (chosen := storage_class or settings.storage_class) != "STANDARD":
            said["StorageClass"] = chosen
        if settings.encryption is not None:
            said["ServerSideEncryption"] = settings.encryption
        if settings.kms_key is not None:
            said["SSEKMSKeyId"] = settings.kms_key
        if settings.tags:
            said["Tagging"] = urlencode(dict(settings.tags))
        if metadata:
            said["Metadata"] = dict(metadata)
        return said

    def _body(self, data: Data) -> Body:
        def pace(size: int) -> None:
            self._up.take(size, self._wait)

        return Body(data, pace if self._up.bytes_per_s else None)

    # -- checksums ---------------------------------------------------------------------------------------------

    @property
    def keeps_crc(self) -> bool:
        """Whether the store keeps CRC64NVME checksums; where it does not, MD5 is what it checks.

        Asked once, of the tier's identity, or where there is none of an object made for the purpose.
        """
        with self._deciding:
            if self._keeps_crc is None:
                self._keeps_crc = self._ask_for_crc()
            return self._keeps_crc

    def _ask_for_crc(self) -> bool:
        try:
            return self._has_crc(layout.IDENTITY)
        except SourceGone:
            pass
        probe = f"{PROBE}/{uuid.uuid4()}"
        value = to_base64(crc64(_SAMPLE))
        try:
            self._attempts("put", probe).run(
                lambda: self._client.put_object(Body=_SAMPLE, ChecksumCRC64NVME=value, **self._about(probe))
            )
            return self._has_crc(probe)
        except (TierOffline, TierFull, Denied):
            raise
        except (StorageError, SourceGone):
            return False
        finally:
            self._discard(probe)

    def _has_crc(self, key: str) -> bool:
        return "ChecksumCRC64NVME" in self._look_at(key)

    def _look_at(self, key: str) -> Any:
        """The store's answer to HEAD.

        Raises:
            SourceGone
        """
        try:
            return self._attempts("head", key).run(
                lambda: self._client.head_object(ChecksumMode="ENABLED", **self._about(key))
            )
        except TierOffline:
            raise
        except StorageError:
            # An answer to HEAD has no body: the same question is put so that the store can say what is wrong.
            self._attempts("head", key).run(lambda: self._client.get_object(Range="bytes=0-0", **self._about(key)))[
                "Body"
            ].close()
            raise

    def _discard(self, key: str) -> None:
        """Delete a probe, if that is possible; litter of a few bytes is no reason to fail."""
        try:
            self._attempts("delete", key).run(lambda: self._client.delete_object(**self._about(key)))
        except (StorageError, SourceGone):
            return

    def _checked(self, data: Data, crc64nvme: str) -> dict[str, Any]:
        """The checksum of a body, by which the store refuses any other."""
        if self.keeps_crc:
            return {"ChecksumCRC64NVME": crc64nvme}
        return {"ContentMD5": base64.b64encode(md5(data)).decode()}


def md5(data: Data) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def etag_of(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')

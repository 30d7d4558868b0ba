"""The requests that tierd makes of one bucket: this and what it is made of are the only modules that call botocore.

Keys are given without the tier's prefix. Every method may be called from several threads, repeats what may succeed
later until `retry_for_s` is over, and raises errors of `tierd.errors` only: TierOffline when the store cannot be
reached, Denied for a missing right, TierFull, StorageError, and what `on_wait` raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from tierd.errors import Conflict, Corrupt, SourceChanged, SourceGone, StorageError, Unsupported
from tierd.storage.s3 import layout
from tierd.storage.s3.checksums import crc64, to_base64
from tierd.storage.s3.multipart import Multipart
from tierd.storage.s3.objects import ObjectInfo, Part, UploadInfo
from tierd.storage.s3.requests import etag_of, md5
from tierd.storage.s3.wire import Broken, Data, read_body

__all__ = ["Bucket", "Data", "ObjectInfo", "Part", "UploadInfo"]

_DELETE_KEYS = 1000
_PROGRESS = 64 << 10
"""Bytes of a broken answer that make it worth while to go on behind them; fewer are asked for again."""


class Bucket(Multipart):
    """One bucket and prefix. See the module."""

    # -- whole objects -----------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: Data,
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
            is_new: raise Conflict when an object of this key exists.

        Raises:
            Corrupt: the checksum is not that of the data.
        """
        value = crc64nvme or to_base64(crc64(data))
        said = self._about(key) | self._created(metadata, storage_class) | self._checked(data, value)
        if is_new:
            answer = self._put_new(key, data, value, said)
        else:
            answer = self._attempts("put", key).run(
                lambda: self._client.put_object(Body=self._body(data), **said), up=len(data)
            )
        if answer.get("ChecksumCRC64NVME", value) != value:
            raise Corrupt(f"the store has other bytes of {self.key(key)!r} than were sent", hint="Send it again.")
        self.check_etag(key, etag_of(answer), data)
        return ObjectInfo(
            key=key,
            size=len(data),
            etag=etag_of(answer),
            crc64nvme=value if self.keeps_crc else None,
            storage_class=said.get("StorageClass", "STANDARD"),
        )

    def _put_new(self, key: str, data: Data, crc64nvme: str, said: dict[str, Any]) -> Mapping[str, Any]:
        attempts = self._attempts("put", key)
        try:
            return attempts.run(
                lambda: self._client.put_object(Body=self._body(data), IfNoneMatch="*", **said), up=len(data)
            )
        except Conflict:
            # The answer to an earlier attempt may have been lost: then the object that is there is this one.
            there = self.head(key) if attempts.count > 1 else None
            if there is None or not self._is_same(there, data, crc64nvme):
                raise
            return {"ETag": there.etag}
        except Unsupported:
            if self.head(key) is not None:  # without conditional requests, as well as it can be done
                raise Conflict(f"{self.key(key)!r} exists already in {self._place}") from None
        return self._attempts("put", key).run(
            lambda: self._client.put_object(Body=self._body(data), **said), up=len(data)
        )

    def _is_same(self, there: ObjectInfo, data: Data, crc64nvme: str) -> bool:
        if there.size != len(data):
            return False
        if there.crc64nvme is not None:
            return there.crc64nvme == crc64nvme
        return there.etag == md5(data).hex() or self.get(there.key) == data

    def head(self, key: str) -> ObjectInfo | None:
        """What the store says of an object, its checksum included; None when there is none."""
        try:
            answer = self._look_at(key)
        except SourceGone:
            return None
        is_whole = answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
        return ObjectInfo(
            key=key,
            size=answer["ContentLength"],
            etag=etag_of(answer),
            crc64nvme=answer.get("ChecksumCRC64NVME") if is_whole else None,
            storage_class=answer.get("StorageClass", "STANDARD"),
            restore=answer.get("Restore"),
            modified=answer.get("LastModified"),
        )

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str | None = None) -> bytes:
        """Read an object or a range of it, which it must have.

        Args:
            etag: the object must still have this one.

        Raises:
            SourceGone: there is no such object.
            SourceChanged: it has another ETag, or is too short.
            Archived: its storage class must be restored first.
        """
        if length is None:
            return self._get_rest(key, start, etag)
        buffer = bytearray(length)
        with memoryview(buffer) as view:
            self.get_into(key, view, start=start, etag=etag)
        return bytes(buffer)

    def _get_rest(self, key: str, start: int, etag: str | None) -> bytes:
        about = self._about(key)
        if start:
            about["Range"] = f"bytes={start}-"
        else:
            about["ChecksumMode"] = "ENABLED"

        def read() -> bytes:
            answer = self._ask(about, key, etag)
            buffer = bytearray(answer["ContentLength"])
            with memoryview(buffer) as view:
                self._receive(answer["Body"], view)
            kept = answer.get("ChecksumCRC64NVME") if answer.get("ChecksumType") != "COMPOSITE" else None
            if kept is not None and kept != to_base64(crc64(buffer)):
                raise Broken(0)  # it was damaged on the way
            if key == layout.IDENTITY and self._keeps_crc is None:
                self._keeps_crc = kept is not None
            return bytes(buffer)

        return self._attempts("get", key).run(read)

    def get_into(self, key: str, buffer: memoryview, *, start: int, etag: str | None = None) -> None:
        """Read `len(buffer)` bytes from `start` into a buffer; goes on in the middle when a connection breaks.

        Raises:
            SourceGone, SourceChanged, Archived: as `get`.
        """
        attempts = self._attempts("get", key)
        at = 0

        def read() -> None:
            nonlocal at, etag
            stop = start + len(buffer)
            answer = self._ask({**self._about(key), "Range": f"bytes={start + at}-{stop - 1}"}, key, etag)
            body = answer["Body"]
            if answer["ContentLength"] != len(buffer) - at or not _is_range(answer, start + at, stop):
                body.close()
                raise SourceChanged(
                    f"{self.key(key)!r} in {self._place} has no bytes {start + at} to {stop}",
                    hint="It was replaced by a shorter object, or the store does not understand ranges.",
                )
            etag = etag or etag_of(answer)  # what comes after a break must be of the same object
            try:
                self._receive(body, buffer[at:])
            except Broken as broken:
                if broken.count < _PROGRESS:
                    raise
                at += broken.count
                attempts.went_on(broken)
            else:
                at = len(buffer)

        while at < len(buffer):
            attempts.run(read, down=len(buffer) - at)

    def _ask(self, about: dict[str, Any], key: str, etag: str | None) -> Any:
        if etag is not None:
            about = {**about, "IfMatch": f'"{etag}"'}
        answer = self._client.get_object(**about)
        if etag is not None and etag_of(answer) != etag:  # a store that does not know If-Match
            answer["Body"].close()
            raise SourceChanged(f"another object was put in the place of {self.key(key)!r} in {self._place}")
        return answer

    def _receive(self, body: Any, view: memoryview) -> None:
        def pace(size: int) -> None:
            self._down.take(size, self._wait)

        try:
            read_body(body, view, pace)
        except Broken as broken:
            self.meter.add("get", bytes_down=broken.count)
            raise
        self.meter.add("get", bytes_down=len(view))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, a thousand per request; those that do not exist are no error."""
        for at in range(0, len(keys), _DELETE_KEYS):
            batch = keys[at : at + _DELETE_KEYS]
            try:
                self._delete(batch)
            except Unsupported:  # by a store that deletes only one at a time
                for key in batch:
                    self._delete_one(key)

    def _delete(self, keys: Sequence[str]) -> None:
        named: Any = {"Objects": [{"Key": self.key(key)} for key in keys], "Quiet": True}
        attempts = self._attempts("delete", keys[0])

        def send() -> None:
            answer = self._client.delete_objects(Delete=named, **self._common)
            for error in answer.get("Errors", ()):
                if error.get("Code") not in ("NoSuchKey", "NoSuchVersion"):
                    is_right_missing = error.get("Code") == "AccessDenied"
                    status = {"HTTPStatusCode": 403 if is_right_missing else 500}
                    raise ClientError({"Error": error, "ResponseMetadata": status}, "DeleteObjects")  # type: ignore[typeddict-item]

        attempts.run(send)

    def _delete_one(self, key: str) -> None:
        try:
            self._attempts("delete", key).run(lambda: self._client.delete_object(**self._about(key)))
        except SourceGone:
            return

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a prefix in the order of their keys, page by page (no checksums)."""
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                yield ObjectInfo(
                    key=item["Key"].removeprefix(self._prefix),
                    size=item["Size"],
                    etag=etag_of(item),
                    storage_class=item.get("StorageClass", "STANDARD"),
                    modified=item.get("LastModified"),
                )

    def list_directories(self, prefix: str) -> Iterator[str]:
        """The common prefixes one level below `prefix` (which ends with a slash, or is empty), without slashes."""
        for page in self._pages(prefix, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"].removeprefix(self.key(prefix)).removesuffix("/")

    def _pages(self, prefix: str, **more: str) -> Iterator[Mapping[str, Any]]:
        about: dict[str, Any] = {**self._common, "Prefix": self.key(prefix), **more}
        while True:
            page = self._attempts("list", prefix).run(lambda: self._client.list_objects_v2(**about))
            yield page
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == about.get("ContinuationToken"):
                raise StorageError(f"{self._place} does not finish its listing of {self.key(prefix)!r}")
            about["ContinuationToken"] = token

    def restore(self, key: str, *, days: int, tier: str) -> None:
        """Ask for an archived object to be readable for some days; asked again it stays so for longer.

        Args:
            tier: "Standard", "Bulk" or "Expedited".
        """
        wish: Any = {"Days": days, "GlacierJobParameters": {"Tier": tier}}
        try:
            self._attempts("restore", key).run(
                lambda: self._client.restore_object(RestoreRequest=wish, **self._about(key))
            )
        except Conflict:
            return  # it is being restored already


def _is_range(answer: Mapping[str, Any], start: int, stop: int) -> bool:
    """Whether an answer holds the bytes that were asked for, and not the whole object."""
    found = answer.get("ContentRange")
    if found is None:
        return start == 0 and answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    return str(found).removeprefix("bytes ").partition("/")[0] == f"{start}-{stop - 1}"

"""Multipart uploads: begin, send parts, resume, complete so that repeating it is harmless, give up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from tierd.errors import Corrupt, UploadGone
from tierd.storage.s3.objects import ObjectInfo, Part, UploadInfo
from tierd.storage.s3.requests import Requests, etag_of, md5
from tierd.storage.s3.wire import Data

_MD5 = re.compile("[0-9a-f]{32}")


class Multipart(Requests):
    """The part of `Bucket` that makes large objects."""

    def head(self, key: str) -> ObjectInfo | None:
        """See `Bucket`."""
        raise NotImplementedError

    def begin(self, key: str, *, metadata: Mapping[str, str] | None = None, storage_class: str | None = None) -> str:
        """Begin a multipart upload whose checksum is a full-object CRC64NVME; returns its id."""
        said = self._created(metadata, storage_class)
        if self.keeps_crc:
            said |= {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
        answer = self._attempts("begin", key).run(
            lambda: self._client.create_multipart_upload(**self._about(key), **said)
        )
        return str(answer["UploadId"])

    def upload_part(self, key: str, upload: str, number: int, data: Data, *, crc64nvme: str) -> Part:
        """Send a part (numbers count from 1).

        Raises:
            UploadGone: the store does not know the upload (any more). Corrupt: the checksum is not that of the data.
        """
        about = {**self._about(key), "UploadId": upload, "PartNumber": number, **self._checked(data, crc64nvme)}
        answer = self._attempts("part", key).run(
            lambda: self._client.upload_part(Body=self._body(data), **about), up=len(data)
        )
        etag = etag_of(answer)
        self.check_etag(key, etag, data)
        return Part(number=number, size=len(data), etag=etag, crc64nvme=crc64nvme)

    def parts(self, key: str, upload: str) -> list[Part] | None:
        """The parts that the store has; None when there is no such upload (any more)."""
        found: list[Part] = []
        about: dict[str, Any] = {**self._about(key), "UploadId": upload}
        while True:
            try:
                page = self._attempts("parts", key).run(lambda: self._client.list_parts(**about))
            except UploadGone:
                return None
            for item in page.get("Parts", ()):
                crc = item.get("ChecksumCRC64NVME")
                found.append(Part(number=item["PartNumber"], size=item["Size"], etag=etag_of(item), crc64nvme=crc))
            marker = page.get("NextPartNumberMarker")
            if not page.get("IsTruncated") or not marker:
                return found
            about["PartNumberMarker"] = marker

    def complete(self, key: str, upload: str, parts: Sequence[Part], *, crc64nvme: str, size: int) -> ObjectInfo:
        """Make the object of its parts; the store refuses when its checksum is another. Safe to repeat.

        Raises:
            UploadGone: there is no such upload, and no object that was made of it.
            Corrupt: the store made another object.
        """
        listed: list[dict[str, Any]] = []
        about: dict[str, Any] = {**self._about(key), "UploadId": upload, "MultipartUpload": {"Parts": listed}}
        for part in parts:
            listed.append({"PartNumber": part.number, "ETag": f'"{part.etag}"'})
            if self.keeps_crc and part.crc64nvme is not None:
                listed[-1]["ChecksumCRC64NVME"] = part.crc64nvme
        if self.keeps_crc:
            about |= {"ChecksumCRC64NVME": crc64nvme, "ChecksumType": "FULL_OBJECT", "MpuObjectSize": size}
        try:
            answer = self._attempts("complete", key).run(lambda: self._client.complete_multipart_upload(**about))
        except UploadGone:
            made = self.made(key, parts, crc64nvme=crc64nvme, size=size)  # by a request whose answer was lost
            if made is None:
                raise
            return made
        etag, kept = etag_of(answer), answer.get("ChecksumCRC64NVME")
        expected = self._expected_etag(parts)
        if (kept is not None and kept != crc64nvme) or (kept is None and expected is not None and etag != expected):
            raise Corrupt(f"the store made another object of {self.key(key)!r} than was sent", hint="Send it again.")
        return ObjectInfo(key=key, size=size, etag=etag, crc64nvme=crc64nvme if self.keeps_crc else None)

    def made(self, key: str, parts: Sequence[Part], *, crc64nvme: str, size: int) -> ObjectInfo | None:
        """The object that is made of just these parts; None where there is none, or another one."""
        there = self.head(key)
        if there is None or there.size != size:
            return None
        if there.crc64nvme is None:
            return there if there.etag == (self._expected_etag(parts) or there.etag) else None
        return there if there.crc64nvme == crc64nvme else None

    def abort(self, key: str, upload: str) -> None:
        """Give an upload up; one that does not exist is no error."""
        about = {**self._about(key), "UploadId": upload}
        try:
            self._attempts("abort", key).run(lambda: self._client.abort_multipart_upload(**about))
        except UploadGone:
            return

    def uploads(self, prefix: str) -> Iterator[UploadInfo]:
        """Every multipart upload under way below a prefix."""
        about: dict[str, Any] = {**self._common, "Prefix": self.key(prefix)}
        while True:
            page = self._attempts("uploads", prefix).run(partial(self._client.list_multipart_uploads, **about))
            for item in page.get("Uploads", ()):
                key = item["Key"].removeprefix(self._prefix)
                yield UploadInfo(key=key, id=item["UploadId"], begun=item.get("Initiated"))
            if not page.get("IsTruncated") or not page.get("NextKeyMarker"):
                return
            about |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}

    # -- ETags that are MD5 digests ------------------------------------------------------------------------------

    @property
    def _has_md5_etags(self) -> bool:
        """Encrypted by a key service, an object has an ETag that says nothing."""
        return not self.keeps_crc and self.settings.encryption != "aws:kms"

    def check_etag(self, key: str, etag: str, data: Data) -> None:
        """Compare an ETag with what was sent, where that is the only proof there is.

        Raises:
            Corrupt
        """
        if self._has_md5_etags and _MD5.fullmatch(etag) and etag != md5(data).hex():
            raise Corrupt(f"the store has other bytes of {self.key(key)!r} than were sent", hint="Send it again.")

    def _expected_etag(self, parts: Sequence[Part]) -> str | None:
        """The ETag that S3 gives to an object of these parts; None where ETags are no digests."""
        if not self._has_md5_etags or not all(_MD5.fullmatch(part.etag) for part in parts):
            return None
        return f"{md5(b''.join(bytes.fromhex(part.etag) for part in parts)).hex()}-{len(parts)}"

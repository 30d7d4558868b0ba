"""Finding out what the credentials of a tier may do: each right is tried with a harmless request, and cleaned up."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from tierd.errors import Archived, Conflict, Corrupt, Denied, SourceGone, StorageError, TierdError, TierOffline
from tierd.model.s3 import S3Settings
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.checksums import crc64, to_base64
from tierd.storage.s3.requests import PROBE

_PATIENCE_S = 5.0
_DATA = b"tierd tries what it may do here; this can be deleted"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one trial brought to light.

    Attributes:
        right: what was tried: a right as S3 names it, or "connection", "checksums", "conditional writes".
        is_ok: False where tierd cannot work as it should.
        message: a sentence for people; with what to do where it is not fine.
    """

    right: str
    is_ok: bool
    message: str


def check_rights(settings: S3Settings) -> list[Finding]:
    """Try each right that tierd needs on a tier, below `<prefix>/.tierd/probe/`; takes a few seconds at most."""
    patient = min(_PATIENCE_S, settings.retry_for_s)
    try:
        bucket = Bucket(replace(settings, retry_for_s=patient, timeout_s=min(_PATIENCE_S, settings.timeout_s)))
    except TierdError as error:
        return [_bad("connection", error)]
    return _Trial(bucket).run()


class _Trial:
    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._name = f"{PROBE}/{uuid.uuid4()}"
        self._found: list[Finding] = []

    def run(self) -> list[Finding]:
        bucket, name = self._bucket, self._name
        try:
            self._try("s3:ListBucket", lambda: next(iter(bucket.list(f"{PROBE}/")), None), "objects can be listed")
            if not self._try("s3:PutObject", self._store, "objects can be stored"):
                return self._found
            self._try("s3:GetObject", self._read, "objects can be read")
            if bucket.settings.is_archive:
                self._try("s3:RestoreObject", self._restore, "archived objects can be restored")
            self._try_uploads()
            self._try_checksums()
            self._try_conditions()
            self._try("s3:DeleteObject", lambda: bucket.delete([name, f"{name}.wrong"]), "objects can be deleted")
        except _Unreachable as reason:
            self._found.append(_bad("connection", reason.error))
        return self._found

    def _store(self) -> None:
        self._bucket.put(self._name, _DATA, storage_class="STANDARD")  # an archive class charges for months

    def _read(self) -> None:
        if self._bucket.get(self._name) != _DATA:
            raise Corrupt("what comes back is not what was stored")

    def _restore(self) -> None:
        with contextlib.suppress(Archived):  # "not possible for this class" is the answer to those who have the right
            self._bucket.restore(self._name, days=1, tier=self._bucket.settings.restore_tier)

    def _try_uploads(self) -> None:
        bucket, name = self._bucket, self._name
        uploads: list[str] = []
        if not self._try(
            "s3:PutObject (multipart)",
            lambda: uploads.append(bucket.begin(name, storage_class="STANDARD")),
            "uploads can begin",
        ):
            return
        upload = uploads[0]
        self._try("s3:ListMultipartUploadParts", lambda: bucket.parts(name, upload), "uploads can be resumed")
        self._try(
            "s3:ListBucketMultipartUploads",
            lambda: list(bucket.uploads(f"{PROBE}/")),
            "unfinished uploads can be found",
        )
        self._try("s3:AbortMultipartUpload", lambda: bucket.abort(name, upload), "unfinished uploads can be given up")

    def _try_checksums(self) -> None:
        """A store that takes damaged bytes cannot be believed what it says of them."""
        wrong = to_base64(crc64(_DATA) ^ 1)
        try:
            if not self._bucket.keeps_crc:
                text = 'the store keeps no CRC64NVME: MD5 is used, and `verify = "read"` is the surer choice'
                self._found.append(Finding(right="checksums", is_ok=True, message=text))
                return
            self._bucket.put(f"{self._name}.wrong", _DATA, crc64nvme=wrong, storage_class="STANDARD")
        except Corrupt:
            text = "the store refuses bytes that do not have the checksum sent with them"
            self._found.append(Finding(right="checksums", is_ok=True, message=text))
            return
        except (StorageError, SourceGone) as error:
            self._found.append(_bad("checksums", error))
            return
        text = 'the store does not check checksums: set `verify = "read"` for this tier, so that copies are read back'
        is_ok = self._bucket.settings.verify == "read"
        self._found.append(Finding(right="checksums", is_ok=is_ok, message=text))

    def _try_conditions(self) -> None:
        try:
            self._bucket.put(self._name, _DATA, storage_class="STANDARD", is_new=True)
            text = "the store ignores If-None-Match: two machines must not use this prefix at the same time"
        except Conflict:
            text = "the store refuses to overwrite what must be new"
        except StorageError as error:
            self._found.append(_bad("conditional writes", error))
            return
        self._found.append(Finding(right="conditional writes", is_ok=True, message=text))

    def _try(self, right: str, ask: Callable[[], object], message: str) -> bool:
        try:
            ask()
        except Denied as error:
            self._found.append(_bad(right, error))
            return False
        except TierOffline as error:
            raise _Unreachable(error) from error
        except (StorageError, SourceGone) as error:
            self._found.append(_bad(right, error))
            return False
        self._found.append(Finding(right=right, is_ok=True, message=message))
        return True


class _Unreachable(Exception):
    def __init__(self, error: TierdError) -> None:
        self.error = error


def _bad(right: str, error: TierdError) -> Finding:
    text = error.message if error.hint is None else f"{error.message}. {error.hint}"
    return Finding(right=right, is_ok=False, message=text)

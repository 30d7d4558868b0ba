"""Prove that what was sent is what the store has: by the checksums that the store computed, or by reading it back."""

from __future__ import annotations

import threading

from tierd.errors import Corrupt, SourceChanged, Unsupported
from tierd.storage.control import Control
from tierd.storage.manifest import Manifest
from tierd.storage.s3 import layout
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.checksums import combine, crc64, hex_to_base64
from tierd.storage.s3.commit import read_commit
from tierd.storage.s3.index import Index, Object
from tierd.storage.s3.lanes import Lanes, Patience

_MEMORY = 128 << 20


def verify_objects(bucket: Bucket, manifest: Manifest, mode: str, control: Control) -> None:
    """Check every object of a copy.

    Args:
        mode: "store" believes a checksum of the whole object that the store computed, and reads what it has none
            of; "read" reads everything.

    Raises:
        Corrupt: an object is not what was sent; it is taken out of the manifest, so that the next attempt sends it
            again.
    """
    index = Index(manifest)
    patience = bucket.on_wait = Patience(control)
    bad: list[tuple[Object, str]] = []
    with Lanes(bucket.settings.connections, _MEMORY, patience) as lanes:
        check = _Check(bucket, lanes, mode)
        for item in index.objects():
            lanes.run(lambda item=item: check.one(item))  # type: ignore[misc]
        while not lanes.is_idle:
            lanes.wait()
        lanes.drain()
        bad = check.bad
    for item, _ in bad:
        for piece in index.pieces(item.number):
            manifest.execute("DELETE FROM entry WHERE path = ? OR link_group = ?", (piece.path, piece.path))
        index.remove(item.number)
    manifest.commit()
    if bad:
        manifest.set_meta({"complete": None})
        item, what = min(bad)
        more = f" (and {len(bad) - 1} more objects)" if len(bad) > 1 else ""
        raise Corrupt(f"{item.key} in the bucket is not what was sent: {what}{more}", hint="It is sent again.")


class _Check:
    def __init__(self, bucket: Bucket, lanes: Lanes, mode: str) -> None:
        self._bucket, self._lanes, self._mode = bucket, lanes, mode
        self._lock = threading.Lock()
        self.bad: list[tuple[Object, str]] = []

    def one(self, item: Object) -> None:
        what = self._compare(item)
        if what is not None:
            with self._lock:
                self.bad.append((item, what))

    def _compare(self, item: Object) -> str | None:
        """What differs; None when nothing does."""
        info = self._bucket.head(item.key)
        if info is None:
            return "it is missing"
        if info.size != item.size:
            return f"it has {info.size} bytes instead of {item.size}"
        if info.etag != item.etag:
            return "another object was put in its place"
        if self._mode == "store" and info.crc64nvme is not None:
            return None if info.crc64nvme == hex_to_base64(item.crc64nvme) else "its checksum is another"
        if self._bucket.settings.is_archive:
            raise Unsupported(
                f"the store keeps no checksum of {item.key}, and objects of class "
                f"{self._bucket.settings.storage_class} cannot be read back",
                hint='Choose another storage class, or a store that keeps CRC64NVME checksums, with verify = "store".',
            )
        return None if self._read(item) == int(item.crc64nvme, 16) else "its bytes are others"

    def _read(self, item: Object) -> int:
        step = self._bucket.settings.part_bytes
        runs = []
        for start in range(0, item.size, step):
            self._lanes.check()
            data = self._bucket.get(item.key, start=start, length=min(step, item.size - start), etag=item.etag)
            runs.append((crc64(data), len(data)))
        return combine(runs)


def prove_commit(bucket: Bucket, manifest: Manifest) -> None:
    """Prove that a copy exists as its manifest says: whoever has lost everything but the bucket finds it.

    Raises:
        SourceChanged: its commit object or its entries are missing, or others.
    """
    location, meta = manifest.meta["location"], manifest.meta
    data = meta.get("data") or location
    hint = "Restore it from a version of the bucket; until then the copy is not used."
    try:
        commit = read_commit(bucket, location)
    except Corrupt as error:
        raise SourceChanged(error.message, hint=hint) from error
    if commit is None:
        raise SourceChanged(f"{layout.commit_key(location)} is missing from the bucket", hint=hint)
    if (commit.copy, commit.data, commit.content_id) != (location, data, manifest.content_id()):
        raise SourceChanged(f"{layout.commit_key(location)} in the bucket tells of another copy", hint=hint)
    entries = bucket.head(layout.entries_key(location))
    if entries is None or entries.size != commit.entries_size:
        raise SourceChanged(f"{layout.entries_key(location)} is missing from the bucket, or damaged", hint=hint)
    if data != location and bucket.head(layout.user_key(data, location)) is None:
        raise SourceChanged(f"nothing in the bucket keeps {data}, whose bytes {location} shares, from being deleted")


def prove_objects(bucket: Bucket, manifest: Manifest) -> None:
    """Prove with a few listings that every object of a copy is there as it was when it was verified.

    Raises:
        SourceChanged: one is missing, or another one.
    """
    expected = {item.key: item for item in Index(manifest).objects()}
    data = manifest.meta.get("data") or manifest.meta["location"]
    for info in bucket.list(f"{data}/"):
        item = expected.pop(info.key, None)
        if item is not None and (info.size != item.size or info.etag != item.etag):
            raise SourceChanged(f"{item.key} in the bucket was replaced since it was verified")
    if expected:
        raise SourceChanged(
            f"{min(expected)} is missing from the bucket",
            hint="Restore it from a version of the bucket; until then the copy is not used.",
        )

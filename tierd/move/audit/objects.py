"""Auditing the copies in a bucket: every object is there as it was verified; read back, if asked to."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from tierd.errors import Corrupt, NotFound, SourceChanged, SourceGone, StorageError
from tierd.model.s3 import ARCHIVE_CLASSES
from tierd.move.audit.values import Finding, Held, Kind, Round
from tierd.storage.manifest import Manifest, delete_manifest
from tierd.storage.s3 import layout
from tierd.storage.s3.bucket import Bucket, ObjectInfo
from tierd.storage.s3.checksums import combine, crc64
from tierd.storage.s3.commit import Commit, fetch_manifest, read_commit
from tierd.storage.s3.identity import check_identity
from tierd.storage.s3.index import Index, Object
from tierd.storage.s3.lanes import Lanes, Patience

_RESTORE = "Restore it from a version of the bucket, or use another copy: `tierd ls` shows which there are."
_ARCHIVED = "Objects of an archive class cannot be read without being restored; the others were looked at."


@dataclass(frozen=True, kw_only=True)
class _Failed:
    """An object that could not be read."""

    key: str
    reason: str


class Objects:
    """One round over the copies in a bucket."""

    def __init__(self, this: Round, bucket: Bucket) -> None:
        self._round, self._bucket = this, bucket

    def check(self, held: Held) -> list[Finding]:
        """What is wrong with one copy."""
        ref, size = held.snapshot.ref, held.placement.size_bytes

        def found(kind: Kind, where: str, message: str, hint: str = _RESTORE) -> Finding:
            return self._round.find(kind, where, message, hint, ref=ref, size_bytes=size)

        key = layout.commit_key(held.location)
        try:
            commit = read_commit(self._bucket, held.location)
            if commit is None:
                return [found(Kind.MISSING, key, "it is missing: without it there is no copy")]
            manifest = self._manifest(held, commit)
        except SourceGone:
            return [found(Kind.MISSING, layout.entries_key(held.location), "it is missing")]
        except Corrupt as error:
            return [found(Kind.DAMAGED, held.location, error.message)]
        with contextlib.closing(manifest):
            objects = Index(manifest).objects()
        findings = []
        if commit.content_id != held.placement.content_id:
            findings.append(found(Kind.CHANGED, key, "it describes another content than the catalog"))
        missing, others, archived = self._compare(commit, objects)
        sound = [item for item in objects if item.key not in {bad.key for bad in (*missing, *others, *archived)}]
        if missing:
            findings.append(found(Kind.MISSING, missing[0].key, _counted("missing", missing, objects)))
        if others:
            findings.append(found(Kind.CHANGED, others[0].key, _counted("replaced by others", others, objects)))
        if self._round.question.is_deep:
            damaged, failed = self._read(sound)
            if damaged:
                findings.append(found(Kind.DAMAGED, damaged[0].key, _counted("damaged", damaged, objects)))
            if failed:
                check_identity(self._bucket, self._round.identity)  # with all else out of reach this is no finding
                what = f"{_counted('unreadable', failed, objects)}: {failed[0].reason}"
                findings.append(found(Kind.UNREADABLE, failed[0].key, what))
            if archived:
                findings.append(
                    found(Kind.UNREADABLE, archived[0].key, _counted("archived", archived, objects), _ARCHIVED)
                )
        return findings

    def _manifest(self, held: Held, commit: Commit) -> Manifest:
        """The manifest: this machine's own, or for a deep look the one in the bucket, which the others depend on."""
        settings = self._bucket.settings
        if not self._round.question.is_deep:
            with contextlib.suppress(Corrupt, NotFound, StorageError):
                manifest = Manifest.open(settings.state / "manifests" / f"{held.snapshot.key}.db")
                if manifest.meta.get("location") == held.location:
                    return manifest
                manifest.close()
        path = self._round.scratch / "entries.db"
        delete_manifest(path)
        fetch_manifest(self._bucket, commit, path, self._round.control.checkpoint)
        return Manifest.open(path)

    def _compare(self, commit: Commit, objects: list[Object]) -> tuple[list[Object], list[Object], list[Object]]:
        """Objects that are missing, that are others, and (asked for a deep look) that cannot be read now."""
        there = self._listed(commit.data)
        missing, others, archived = [], [], []
        for item in objects:
            info = there.get(item.key)
            if info is None:
                missing.append(item)
            elif (info.size, info.etag) != (item.size, item.etag):
                others.append(item)
            elif self._round.question.is_deep and info.storage_class in ARCHIVE_CLASSES:
                archived.append(item)
        own = there if commit.copy == commit.data else self._listed(commit.copy)
        entries = own.get(layout.entries_key(commit.copy))
        if entries is None or entries.size != commit.entries_size:
            item = Object(0, layout.entries_key(commit.copy), "entries", commit.entries_size, "", "")
            (missing if entries is None else others).insert(0, item)
        return missing, others, archived

    def _listed(self, location: str) -> dict[str, ObjectInfo]:
        found = {}
        for info in self._bucket.list(f"{location}/"):
            self._round.control.checkpoint()
            found[info.key] = info
        return found

    def _read(self, objects: list[Object]) -> tuple[list[Object], list[_Failed]]:
        """Read everything back, several objects at a time; returns those whose bytes are others, and the unreadable."""
        patience = Patience(self._round.control)
        before, self._bucket.on_wait = self._bucket.on_wait, patience
        told: list[object] = []
        try:
            with Lanes(self._bucket.settings.connections, 0, patience) as lanes:
                for item in objects:
                    lanes.run(lambda item=item: self._read_one(item, lanes))  # type: ignore[misc]
                while not lanes.is_idle:
                    lanes.wait()
                    told += self._counted_out(lanes)
                lanes.drain()
                told += self._counted_out(lanes)
        finally:
            self._bucket.on_wait = before
        damaged = sorted(one for one in told if isinstance(one, Object))
        return damaged, [one for one in told if isinstance(one, _Failed)]

    def _counted_out(self, lanes: Lanes) -> list[object]:
        """What lanes have told, the bytes counted."""
        told = lanes.messages()
        self._round.control.progress(bytes=sum(one for one in told if isinstance(one, int)), files=0)
        return [one for one in told if not isinstance(one, int)]

    def _read_one(self, item: Object, lanes: Lanes) -> None:
        step = self._bucket.settings.part_bytes
        runs = []
        try:
            for start in range(0, item.size, step):
                lanes.check()
                data = self._bucket.get(item.key, start=start, length=min(step, item.size - start), etag=item.etag)
                runs.append((crc64(data), len(data)))
                lanes.tell(len(data))
        except (SourceGone, SourceChanged):  # deleted or replaced since it was listed: not what was verified
            lanes.tell(item)
        except StorageError as error:
            lanes.tell(_Failed(key=item.key, reason=error.message))
        else:
            if combine(runs) != int(item.crc64nvme, 16):
                lanes.tell(item)


def _counted(what: str, some: Sequence[object], all_: Sequence[Object]) -> str:
    if len(some) == 1:
        return f"it is {what}"
    return f"it is {what}, and {len(some) - 1} more of the copy's {len(all_)} objects are"

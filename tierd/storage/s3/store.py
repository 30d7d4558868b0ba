"""The S3 driver: a tier that is a prefix of a bucket. See the package for what lies where in it.

    <state>/staging/<transfer>/     copies in the making: `copy.json` (where they will be) and `manifest.db`
    <state>/manifests/<snapshot>.db manifests of copies in place, fetched again when missing
    <state>/trash/<transfer>.json   copies that are authorised for deletion
    <state>/restores/<snapshot>.json when archived copies were asked for

The order of `publish`, in which a crash at any point leaves something that the next call finishes:
 1. put the entries, and the marker that tells of the content
 2. put the commit object                                          (from here on the copy exists)
 3. move the staged manifest to its place
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from tierd.errors import Conflict, Corrupt, NotFound, SourceChanged, SourceGone, Unsupported
from tierd.fs.walk import translated
from tierd.model.s3 import Counts, S3Settings
from tierd.storage.base import CopyLimits, Leases, Published, Site, Source, Tree, Waiting
from tierd.storage.control import Control, Following, Rate, Unlimited
from tierd.storage.manifest import Manifest, Side, delete_manifest
from tierd.storage.posix.identity import fsync_directory
from tierd.storage.s3 import layout
from tierd.storage.s3.bucket import Bucket, Part
from tierd.storage.s3.checksums import combine, to_base64
from tierd.storage.s3.commit import Commit, fetch_manifest, read_commit, write_commit, write_entries
from tierd.storage.s3.identity import check_identity
from tierd.storage.s3.index import Index
from tierd.storage.s3.journal import Begun, Journal, SentPart
from tierd.storage.s3.lanes import Patience
from tierd.storage.s3.restoring import forget, make_readable
from tierd.storage.s3.sharing import claim, confirm, delete_unused, find_same
from tierd.storage.s3.unpack import S3Copy
from tierd.storage.s3.upload import MANIFEST, upload_tree
from tierd.storage.s3.verifying import prove_commit, prove_objects, verify_objects

_PLACES = ("staging", "manifests", "trash", "restores")


class S3Storage:
    """A tier in a bucket.

    Args:
        identity: the uuid that must lie there.
    """

    kept: Collection[str] = ()
    """Nobody can write to a copy in a bucket through its path."""

    def __init__(self, settings: S3Settings, identity: str) -> None:
        self.settings = settings
        self.identity = identity
        self.bucket = Bucket(settings)

    def asked(self) -> Mapping[str, Counts]:
        return self.bucket.meter.snapshot()

    def attach(self) -> None:
        with translated(str(self.settings.state)):
            self._make_places()
        check_identity(self.bucket, self.identity)

    # -- copying in ----------------------------------------------------------------------------------------

    def prepare_reading(self, site: Site, *, now: datetime, control: Control) -> Waiting | None:
        """See `Storage`. Only where the tier is of an archive class: elsewhere nobody was told of hours and money."""
        if not self.settings.is_archive:
            return None
        with contextlib.closing(self._cached(site)) as manifest:
            # Directories and links come from the manifest: the object with them is for people without tierd.
            objects = [item for item in Index(manifest).objects() if item.kind != "tree"]
            copy = manifest.meta["location"]
        return make_readable(self.bucket, copy, objects, self._note(site), now=now, control=control)

    @contextlib.contextmanager
    def reading(self, site: Site) -> Iterator[Source]:
        self._cached(site).close()
        yield S3Copy(self.bucket, self._manifest_path(site))

    def receive(self, source: Source, transfer_key: str, site: Site, limits: CopyLimits, control: Control) -> Manifest:
        if not isinstance(source, Tree):
            raise Unsupported(
                "a copy cannot go from one bucket to another without a tier in between",
                hint="Warm the snapshot first: its copy on flash can be migrated to any tier.",
            )
        location = layout.location(site.dataset, site.name, transfer_key)
        staging = self._staging(transfer_key)
        self._announce(staging, location)
        patience = self._patience(Following(control, limits.rate, lambda rate: self.bucket.limit(up=rate)))
        found = self._begun_to_publish(transfer_key, location, patience)
        if found is None and not (staging / MANIFEST).exists():
            found = find_same(self.bucket, source.fd, staging, location, patience)
        if found is not None:
            return found
        self._give_up_strays(staging, location)
        return upload_tree(source.fd, staging, location, self.bucket, self._resume, self.settings, patience)

    def _begun_to_publish(self, transfer_key: str, location: str, patience: Patience) -> Manifest | None:
        """The manifest of a copy that `publish` may have made exist: nobody may write to that any more."""
        path = self._staging(transfer_key) / MANIFEST
        with contextlib.suppress(Corrupt):  # one that cannot be read is begun anew
            staged = self._staged(transfer_key)
            if staged is not None:
                meta = staged.meta
                if meta.get("location") is not None:
                    return staged
                staged.close()
                if meta.get("data") is not None:  # to share another copy's bytes; the source may have changed since
                    delete_manifest(path)
        if path.exists():
            return None
        commit = read_commit(self.bucket, location)
        if commit is None:
            return None
        fetch_manifest(self.bucket, commit, path, patience)
        return Manifest.open(path)

    def _announce(self, staging: Path, location: str) -> None:
        """Say durably where the copy will be, before the first object of it."""
        with translated(str(staging)):
            staging.mkdir(mode=0o700, exist_ok=True)
            _write_json(staging / "copy.json", {"copy": location})

    def _give_up_strays(self, staging: Path, location: str) -> None:
        """Abort multipart uploads that an earlier attempt did not live to record, and those of packs."""
        path = staging / MANIFEST
        known: set[tuple[str, str]] = set()
        if path.exists():
            with contextlib.suppress(Corrupt, NotFound), Manifest.open(path) as manifest:
                known = {(upload.key, upload.id) for upload in Journal(manifest).all()}
        for upload in self.bucket.uploads(f"{location}/"):
            if (upload.key, upload.id) not in known:
                self.bucket.abort(upload.key, upload.id)

    def _resume(self, upload: Begun, known: list[SentPart]) -> list[SentPart] | None:
        """The recorded parts of an upload that the store really has; all of them where it has made the object."""
        there = self.bucket.parts(upload.key, upload.id)
        if there is None:
            return known if self._is_made(upload.key, known) else None
        found = {part.number: part for part in there}
        return [
            part
            for part in known
            if part.number in found and (found[part.number].size, found[part.number].etag) == (part.size, part.etag)
        ]

    def _is_made(self, key: str, sent: list[SentPart]) -> bool:
        crc64nvme = to_base64(combine((part.crc64nvme, part.size) for part in sent))
        parts = [Part(number=p.number, size=p.size, etag=p.etag, crc64nvme=to_base64(p.crc64nvme)) for p in sent]
        size = sum(part.size for part in sent)
        return bool(sent) and self.bucket.made(key, parts, crc64nvme=crc64nvme, size=size) is not None

    # -- verifying and publishing --------------------------------------------------------------------------

    def needs_verification(self, transfer_key: str) -> bool:
        manifest = self._staged(transfer_key)
        if manifest is None:
            return False
        with contextlib.closing(manifest):
            return manifest.meta.get("location") is None

    def verify(self, transfer_key: str, mode: str, control: Control, rate: Rate | None = None) -> Manifest:
        """See `Storage`; how is the tier's own setting, `mode` is for copies that lie on disks."""
        manifest = self._staged(transfer_key)
        if manifest is None or manifest.meta.get("complete") is None:
            raise Corrupt("the upload is not finished", hint="What is there is used by the next attempt.")
        control = Following(control, rate or Rate(), lambda limit: self.bucket.limit(down=limit))
        try:
            control.checkpoint("verify")
            self._remove_strangers(self._location(transfer_key), manifest)
            verify_objects(self.bucket, manifest, self.settings.verify, control)
        except BaseException:
            manifest.close()
            raise
        return manifest

    def _remove_strangers(self, location: str, manifest: Manifest) -> None:
        """Delete objects of earlier attempts: whoever unpacks all packs would get what is not in the copy."""
        if self.bucket.head(layout.commit_key(location)) is not None:
            return
        ours = {item.key for item in Index(manifest).objects()}
        strangers = [info.key for info in self.bucket.list(f"{location}/") if info.key not in ours]
        self.bucket.delete(strangers)

    def publish(self, transfer_key: str, site: Site) -> Published:
        done = self._published(transfer_key, site)
        if done is not None:
            self.discard(transfer_key)  # what is left of it when that call died just before its end
            return done
        manifest = self._staged(transfer_key)
        if manifest is None:
            raise SourceChanged(f"the upload of {site.dataset}/{site.name} is not known here any more; it begins anew")
        location, staging = self._location(transfer_key), self._staging(transfer_key)
        with contextlib.closing(manifest):
            data = manifest.meta.get("data") or location
            manifest.set_meta({"location": location, "data": data, "transfer": transfer_key, "side": "copy"})
            try:
                commit = self._commit(manifest, location, data, staging, site)
            except Conflict:  # the bytes to be shared are gone: the next attempt begins anew
                delete_manifest(staging / MANIFEST)
                raise
        if site.location not in (None, location):  # the stale copy that this one replaces
            self._condemn(transfer_key, str(site.location))
        with translated(str(staging)):
            delete_manifest(self._manifest_path(site))
            (staging / MANIFEST).rename(self._manifest_path(site))
            fsync_directory(self.settings.state / "manifests")
            shutil.rmtree(staging)
        return _as_published(commit)

    def _commit(self, manifest: Manifest, location: str, data: str, staging: Path, site: Site) -> Commit:
        """Make the copy exist, once: what lies there from then on is only read.

        Raises:
            Conflict: the copy whose bytes it was to share is gone; this one does not exist.
        """
        commit = read_commit(self.bucket, location)
        if commit is None:
            totals, content_id = manifest.totals(), manifest.content_id()
            size, digest = write_entries(self.bucket, manifest, location, staging)
            if data != location:
                claim(self.bucket, data, location)
            marker = layout.content_key(totals.entries, totals.size_bytes, content_id, location)
            self.bucket.put(marker, b"", storage_class="STANDARD")
            commit = Commit(
                dataset=site.dataset,
                snapshot=site.name,
                snapshot_key=site.snapshot_key,
                copy=location,
                data=data,
                content_id=content_id,
                entries=totals.entries,
                files=totals.files,
                size_bytes=totals.size_bytes,
                as_of=manifest.meta.get("as_of"),
                entries_size=size,
                entries_blake3=digest,
            )
            write_commit(self.bucket, commit)
        if data != location and manifest.meta.get("confirmed") is None:
            confirm(self.bucket, commit, self._patience(Unlimited()))
            manifest.set_meta({"confirmed": "1"})
        return commit

    def _published(self, transfer_key: str, site: Site) -> Published | None:
        """What an earlier call of `publish` for this transfer finished, or None."""
        if (self._staging(transfer_key) / MANIFEST).exists():
            return None
        commit = read_commit(self.bucket, layout.location(site.dataset, site.name, transfer_key))
        return None if commit is None else _as_published(commit)

    def fence(self, site: Site, like_fd: int) -> None:
        """Nothing to do: who may read a bucket is its owner's business."""

    # -- manifests and proofs --------------------------------------------------------------------------------

    def manifest(self, site: Site) -> Manifest | None:
        return None if site.location is None else self._cached(site)

    def _cached(self, site: Site) -> Manifest:
        """The manifest of the copy in place, from this machine when it is here."""
        if site.location is None:
            raise SourceGone(f"no copy of {site.dataset}/{site.name} is in the bucket")
        path = self._manifest_path(site)
        with contextlib.suppress(Corrupt, NotFound):
            manifest = Manifest.open(path)
            if manifest.meta.get("location") == site.location:
                return manifest
            manifest.close()
        commit = read_commit(self.bucket, site.location)
        if commit is None:
            raise SourceGone(
                f"{layout.commit_key(site.location)} is missing from the bucket: the copy does not exist any more",
                hint="Restore it from a version of the bucket.",
            )
        delete_manifest(path)
        fetch_manifest(self.bucket, commit, path, lambda: None)
        return Manifest.open(path)

    def save_manifest(self, site: Site, manifest: Manifest, side: Side) -> None:
        """Nothing to do: the copy in the bucket has its own, and it does not change."""

    def prove(
        self,
        site: Site,
        manifest: Manifest,
        *,
        leases: Leases | None,
        side: Side | None = None,
        control: Control,
    ) -> None:
        """See `Storage`. Asked about users (`leases`) there is nothing to prove: nobody can write to these objects
        through the path, and what is read of them is checked against its digests.
        """
        if leases is None:
            self._patience(control)
            prove_commit(self.bucket, manifest)
            prove_objects(self.bucket, manifest)

    # -- letting go --------------------------------------------------------------------------------------------

    def discard(self, transfer_key: str, control: Control | None = None) -> None:
        staging = self._staging(transfer_key)
        if not staging.exists():
            return
        patience = self._patience(control or Unlimited())
        with contextlib.suppress(Corrupt):
            location = self._location(transfer_key)
            if self.bucket.head(layout.commit_key(location)) is None:
                delete_unused(self.bucket, location, patience)
        with translated(str(staging)):
            shutil.rmtree(staging)

    def to_trash(self, transfer_key: str, site: Site) -> None:
        if site.location is not None:
            self._condemn(transfer_key, site.location)
            delete_manifest(self._manifest_path(site))
            forget(self._note(site))

    def _condemn(self, transfer_key: str, location: str) -> None:
        """Note durably that a copy may be deleted, then let it exist no more."""
        note = self.settings.state / "trash" / f"{transfer_key}.json"
        commit = None
        with contextlib.suppress(Corrupt):  # a copy that somebody damaged can go as well
            commit = read_commit(self.bucket, location)
        if commit is not None or not note.exists():
            with translated(str(note)):
                _write_json(note, {"copy": location, "data": location if commit is None else commit.data})
        self.bucket.delete([layout.commit_key(location)])
        if commit is not None:
            marker = layout.content_key(commit.entries, commit.size_bytes, commit.content_id, location)
            self.bucket.delete([marker, layout.user_key(commit.data, location)])

    def empty_trash(self, transfer_key: str, control: Control) -> None:
        note = self.settings.state / "trash" / f"{transfer_key}.json"
        if not note.exists():
            return
        patience = self._patience(control)
        for location in {_read_json(note, "copy"), _read_json(note, "data")}:
            if self.bucket.head(layout.commit_key(location)) is None:
                delete_unused(self.bucket, location, patience)
        with translated(str(note)):
            note.unlink()

    def sweep(self, live: Callable[[], Collection[str]], control: Control) -> list[str]:
        removed = []
        check_identity(self.bucket, self.identity)
        with translated(str(self.settings.state)):
            self._make_places()
            staged, trash = (sorted(os.listdir(self.settings.state / place)) for place in ("staging", "trash"))
        keys = live()
        for name in staged:
            if name not in keys:
                self.discard(name, control)
                removed.append(f"staging/{name}")
        for name in trash:
            if name.partition(".")[0] not in keys:
                self.empty_trash(name.partition(".")[0], control)
                removed.append(f"trash/{name}")
        return removed

    # -- local files -------------------------------------------------------------------------------------------

    def _make_places(self) -> None:
        for place in _PLACES:
            (self.settings.state / place).mkdir(mode=0o700, parents=True, exist_ok=True)

    def _patience(self, control: Control) -> Patience:
        patience = Patience(control)
        self.bucket.on_wait = patience
        return patience

    def _staging(self, transfer_key: str) -> Path:
        return self.settings.state / "staging" / transfer_key

    def _staged(self, transfer_key: str) -> Manifest | None:
        path = self._staging(transfer_key) / MANIFEST
        return Manifest.open(path) if path.exists() else None

    def _location(self, transfer_key: str) -> str:
        """Where a staged copy will be.

        Raises:
            Corrupt: it was never said.
        """
        return _read_json(self._staging(transfer_key) / "copy.json", "copy")

    def _manifest_path(self, site: Site) -> Path:
        return self.settings.state / "manifests" / f"{site.snapshot_key}.db"

    def _note(self, site: Site) -> Path:
        return self.settings.state / "restores" / f"{site.snapshot_key}.json"


def _as_published(commit: Commit) -> Published:
    return Published(
        location=commit.copy,
        root_inode=0,
        content_id=commit.content_id,
        entries=commit.entries,
        size_bytes=commit.size_bytes,
    )


def _read_json(path: Path, key: str) -> str:
    """One value of a small file that `_write_json` wrote.

    Raises:
        Corrupt: it is missing or damaged.
    """
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path} is missing or damaged", hint="`tierd audit --sweep` removes what it told of.") from error


def _write_json(path: Path, value: object) -> None:
    """Write a small file durably, whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    fsync_directory(path.parent)

"""What lies in a bucket and belongs to nothing, and what belongs to a catalog that is not this one.

Several machines may share a bucket: what another machine is still writing looks like litter, but is young.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from tierd.errors import Conflict
from tierd.fs.walk import translated
from tierd.move.audit.values import Finding, Kind, Known, Round
from tierd.storage.s3 import layout
from tierd.storage.s3.bucket import Bucket, ObjectInfo, UploadInfo
from tierd.storage.s3.lanes import Patience
from tierd.storage.s3.requests import PROBE
from tierd.storage.s3.sharing import delete_unused
from tierd.storage.s3.store import S3Storage

_LITTER = "`tierd audit --sweep` removes it."
_UNKNOWN = (
    "If another machine shares this bucket, it is that one's. If the catalog was lost or replaced, `tierd rebuild "
    "--dry-run` shows what belongs to it."
)


@dataclass
class _Group:
    """The objects of one copy."""

    size_bytes: int = 0
    newest: datetime | None = None
    is_committed: bool = False

    def add(self, info: ObjectInfo) -> None:
        self.size_bytes += info.size
        if info.modified is not None:
            self.newest = info.modified if self.newest is None else max(self.newest, info.modified)


@dataclass
class _Survey:
    """Everything in the bucket, by what it belongs to. `markers`: object → location of the copy it tells of."""

    groups: dict[str, _Group] = field(default_factory=dict)
    markers: list[tuple[ObjectInfo, str]] = field(default_factory=list)
    probes: list[ObjectInfo] = field(default_factory=list)
    uploads: list[tuple[UploadInfo, str]] = field(default_factory=list)

    def add(self, info: ObjectInfo) -> None:
        if info.key.startswith(f"{layout.CONTENTS}/"):
            told = "/".join(info.key.removeprefix(f"{layout.CONTENTS}/").split("/")[2:])
            if layout.is_location(told):
                self.markers.append((info, told))
        elif info.key.startswith(f"{PROBE}/"):
            self.probes.append(info)
        elif (location := _location(info.key)) is not None:
            group = self.groups.setdefault(location, _Group())
            rest = info.key.removeprefix(f"{location}/")
            user = info.key.removeprefix(layout.users_prefix(location))
            if rest != info.key and user != info.key and layout.is_location(user):
                self.markers.append((info, user))
            else:
                group.add(info)
                group.is_committed = group.is_committed or rest == layout.COMMIT


def _location(key: str) -> str | None:
    """The copy that an object belongs to; None for what is not tierd's."""
    parts = key.split("/", 3)
    location = "/".join(parts[:3])
    return location if len(parts) == 4 and layout.is_location(location) else None


class Litter:
    """One round over what no copy of this catalog owns in a bucket."""

    def __init__(self, this: Round, bucket: Bucket) -> None:
        self._round, self._bucket = this, bucket
        self._uploads: dict[str, UploadInfo] = {}

    def others(self) -> Iterator[Finding]:
        """Copies that the catalog does not know, and litter."""
        survey = self._look()
        # Asked after it was listed: a transfer that began meanwhile is live now.
        known = Known.read(self._round.catalog)
        named = known.locations(self._round.tier)
        for location, group in survey.groups.items():
            is_ours = location in named or location[-16:] in known.live
            if group.is_committed and not is_ours and not self._is_dangling(location):
                ref = layout.ref_of(location)
                message = "a copy that the catalog does not know"
                yield self._round.find(Kind.UNKNOWN, location, message, _UNKNOWN, ref=ref, size_bytes=group.size_bytes)
        yield from self._unfinished(survey, known, named)
        yield from self._markers(survey, known, named)
        for upload, location in survey.uploads:
            group = survey.groups.get(location, _Group())
            moments = [at for at in (upload.begun, group.newest) if at is not None]
            newest = max(moments, default=None) if not group.is_committed else upload.begun
            if self._round.is_abandoned(known, location[-16:], newest):
                self._uploads[f"{upload.key}?uploadId={upload.id}"] = upload
                where, what = f"{upload.key}?uploadId={upload.id}", "multipart upload that nobody finished"
                yield self._round.find(Kind.LITTER, where, what, _LITTER)
        for probe in survey.probes:
            if self._round.is_abandoned(known, "", probe.modified):
                yield self._round.find(Kind.LITTER, probe.key, "probe of the store's checksums", _LITTER)
        yield from self._local(known)

    def _look(self) -> _Survey:
        survey = _Survey()
        for info in self._bucket.list(""):
            self._round.control.checkpoint()
            self._round.control.progress(bytes=0, files=1)
            survey.add(info)
        for upload in self._bucket.uploads(""):
            location = _location(upload.key)
            if location is not None:
                survey.uploads.append((upload, location))
        return survey

    def _unfinished(self, survey: _Survey, known: Known, named: set[str]) -> Iterator[Finding]:
        """Copies without a commit object, unless another copy shares their bytes."""
        committed = {location for location, group in survey.groups.items() if group.is_committed}
        shared = {_location(info.key) for info, user in survey.markers if user in committed}
        for location, group in survey.groups.items():
            if location in committed | named | shared or not self._round.is_abandoned(
                known, location[-16:], group.newest
            ):
                continue
            if self._is_dangling(location):
                message = "objects of a copy that was never finished, or is deleted"
                yield self._round.find(Kind.LITTER, f"{location}/", message, _LITTER, size_bytes=group.size_bytes)

    def _markers(self, survey: _Survey, known: Known, named: set[str]) -> Iterator[Finding]:
        """Markers that tell of a copy which does not exist."""
        for info, location in survey.markers:
            group = survey.groups.get(location)
            if (group is not None and group.is_committed) or location in named:
                continue
            if self._round.is_abandoned(known, location[-16:], info.modified) and self._is_dangling(location):
                yield self._round.find(Kind.LITTER, info.key, "marker of a copy that does not exist", _LITTER)

    def _is_dangling(self, location: str) -> bool:
        """Whether no copy is there now."""
        return self._bucket.head(layout.commit_key(location)) is None

    def _local(self, known: Known) -> Iterator[Finding]:
        state = self._bucket.settings.state
        for place in ("staging", "trash"):
            with translated(str(state)), contextlib.suppress(FileNotFoundError):
                for name in sorted(os.listdir(state / place)):
                    if name.partition(".")[0] not in known.live:
                        what = "journal of a transfer that is over"
                        yield self._round.find(Kind.LITTER, str(state / place / name), what, _LITTER)

    # -- sweeping --------------------------------------------------------------------------------------------

    def sweep(self, litter: list[Finding]) -> Iterator[Finding]:
        """Remove litter, each piece looked at once more; yields what was removed of it."""
        store = S3Storage(self._bucket.settings, self._round.identity)
        if store.settings.state.is_dir():
            store.attach()
            store.sweep(lambda: Known.read(self._round.catalog).live, self._round.control)
        patience = Patience(self._round.control)
        for finding in litter:
            self._round.control.checkpoint(f"remove litter from {self._round.tier.name}")
            with contextlib.suppress(Conflict):  # it became a copy meanwhile
                self._remove(finding.where, patience)
                yield finding

    def _remove(self, where: str, patience: Patience) -> None:
        if where in self._uploads:
            self._bucket.abort(self._uploads[where].key, self._uploads[where].id)
        elif where.endswith("/"):
            delete_unused(self._bucket, where.removesuffix("/"), patience)
        elif not where.startswith("/"):  # what is local has been swept
            self._remove_marker(where)

    def _remove_marker(self, key: str) -> None:
        survey = _Survey()
        survey.add(ObjectInfo(key=key, size=0, etag=""))
        for _, location in survey.markers:
            if not self._is_dangling(location):
                raise Conflict(f"the copy {location} exists now")
        self._bucket.delete([key])

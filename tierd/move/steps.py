"""The steps of a transfer. Every step may be repeated; a crash between any two instructions is finished or
rolled back by running the transfer again from the state that the catalog has.

    migrate   queued → copying → verifying → committed (→ releasing) → done
    recall    queued (→ restoring …) → copying → verifying → committed → done
    remove    queued → releasing → done
    recall of a part: as a recall, but the path stays as it is

Invariants (must), from which the order of the steps follows:
 I1  A copy is deleted only after it went to the trash; it goes there only after `let_go` is committed;
     `let_go` only after another copy is verified, that copy is still as it was verified, the path leads to it,
     and the copy to be deleted was proven unchanged after the path led away from it.
 I2  The path leads to a copy only while that copy is complete.
 I3  The catalog calls a copy verified only when it is durable, compared, and in place.
 I4  The path is not led away from a copy that somebody wrote to since the path led there: what it shows is the
     snapshot, also after a crash or when a switch is undone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Literal

from tierd.errors import Archived, Corrupt, SourceBusy, SourceChanged, StorageError, Superseded, TierdError
from tierd.model.effect import (
    DropPlacement,
    Effect,
    MarkStale,
    PutPart,
    PutPlacement,
    SetContent,
    SetRootInode,
    SetWarmed,
)
from tierd.model.placement import PlacementState
from tierd.model.transfer import TransferKind, TransferState
from tierd.move.control import DeskControl
from tierd.move.job import Desk, Job, Place
from tierd.move.messages import Asked
from tierd.move.switch import home_inode, home_path, lead_to, leads_elsewhere, leads_to, open_storage
from tierd.storage.base import CopyLimits, Leases, Published, Storage, Tree, Waiting
from tierd.storage.control import Rate
from tierd.storage.manifest import Manifest, Side
from tierd.storage.posix.evidence import first_rotten
from tierd.storage.posix.store import PosixStorage, side_of

S = TransferState
_POLL_S = 0.25


class Carrier:
    """Carries out one attempt of one transfer.

    Args:
        desk: the daemon.
        clock: gives the time for the catalog.
    """

    def __init__(self, job: Job, desk: Desk, clock: Callable[[], datetime]) -> None:
        self.job = job
        self.desk = desk
        self.clock = clock
        self.control = DeskControl(desk, Rate(job.bytes_per_s))
        self.source = open_storage(job.source)
        is_one = job.destination.tier.name == job.source.tier.name
        self.destination = self.source if is_one else open_storage(job.destination)
        self.state = job.transfer.state
        self._as_of: datetime | None = None

    def run(self) -> None:
        """Go on from the transfer's state to its end.

        Raises:
            TierdError: this attempt ended; the path leads to a complete copy and nothing is lost.
        """
        self.source.attach()
        if self.destination is not self.source:
            self.destination.attach()
        match self.job.transfer.kind:
            case TransferKind.MIGRATE:
                self._migrate()
            case TransferKind.RECALL if self.job.transfer.only:
                self._recall_part()
            case TransferKind.RECALL:
                self._recall()
            case TransferKind.REMOVE:
                self._remove()

    def asked(self) -> Asked:
        """What the stores of both tiers were asked so far."""
        both = {
            self.job.source.tier.name: self.source.asked(),
            self.job.destination.tier.name: self.destination.asked(),
        }
        return {name: counts for name, counts in both.items() if counts}

    def undo(self) -> None:
        """The transfer ends without success: remove an unfinished copy. Never touches a copy in place."""
        with contextlib.suppress(StorageError):
            self.destination.discard(self.job.transfer.key)

    def _advance(self, new: TransferState, *effects: Effect, message: str = "") -> None:
        self.desk.advance(self.state, new, effects=effects, message=message)
        self.state = new

    # -- migrate ---------------------------------------------------------------------------------------

    def _migrate(self) -> None:
        transfer, there = self.job.transfer, self.job.destination.placement
        if self.state is S.QUEUED:
            self._check_path()
            if self._is_let_go():
                self._advance(S.RELEASING, message="the flash copy was given up before; deleting it")
            elif there is not None and there.state is PlacementState.VERIFIED and self._is_current():
                if not transfer.release:
                    self._advance(S.DONE, message="a verified copy exists already")
                    return
                self._advance(S.RELEASING, message="a verified copy exists already")
            else:
                stale = (MarkStale(tier=self.job.destination.tier.name),) if there is not None else ()
                self._advance(S.COPYING, *stale)
        if self.state is S.COPYING:
            self._copy()
            self._advance(S.VERIFYING)
        if self.state is S.VERIFYING:
            published = self._verify_and_publish()
            at_home = (SetRootInode(inode=published.root_inode),) if published.location is None else ()
            self._advance(S.COMMITTED, *self._names(published, PlacementState.VERIFIED), *at_home, message=self._kept())
        if self.state is S.COMMITTED:
            self.destination.empty_trash(transfer.key, self.control)  # the stale copy that this one replaced
            if not transfer.release:
                self._advance(S.DONE)
                return
            self._advance(S.RELEASING)
        if self.state is S.RELEASING:
            self._release()

    def _check_path(self) -> None:
        """Before a migration begins: the path must lead to its source, to its destination when that was let go.

        An earlier attempt may have ended between the two.

        Raises:
            SourceChanged: it leads to the unfinished copy.
            Superseded: it leads to the other copy, and somebody wrote to that.
        """
        here, there = self.job.source, self.job.destination
        if self._is_let_go():
            if leads_to(self.job, here):
                raise SourceChanged(f"the path leads to the unfinished copy on tier {here.tier.name}")
        elif leads_to(self.job, there):
            if not self._lead_back(self.destination, there, here):
                raise Superseded(
                    f"{self.job.snapshot.ref} was written to on tier {there.tier.name} while its path led there",
                    hint=f"That is the snapshot now. Warm it: the copy on tier {here.tier.name} is replaced.",
                )
            self.control.listen()

    def _is_let_go(self) -> bool:
        mine = self.job.source.placement
        return self.job.transfer.release and (mine is None or mine.state is PlacementState.PARTIAL)

    def _is_current(self) -> bool:
        """Whether the source is still what the verified cold copy holds."""
        there = self.job.destination.placement
        manifest = self.source.manifest(self.job.source.site)
        if manifest is None or there is None:
            return False
        with contextlib.closing(manifest):
            if manifest.content_id() != there.content_id:
                return False
            try:
                self._prove(self.source, self.job.source, manifest, leases="all" if self.job.transfer.release else None)
            except SourceChanged:
                return False
        return True

    # -- copying ---------------------------------------------------------------------------------------

    def _copy(self) -> None:
        self.control.checkpoint("copy")
        first, only = self.job.transfer.first, self.job.transfer.only
        processes = self.job.settings.processes
        limits = CopyLimits(processes=processes, rate=self.control.rate, first=first, only=only)
        key, there = self.job.transfer.key, self.job.destination
        with self.source.reading(self.job.source.site) as source:
            if isinstance(source, Tree):
                self._check_root(source.fd)
            self.destination.receive(source, key, there.site, limits, self.control).close()

    def _check_root(self, fd: int) -> None:
        """Another directory at the path is another snapshot: the next scan will know it."""
        known = (self.job.snapshot.root_inode, home_inode(self.job))
        if self.job.source.site.home_path is not None and any(known) and os.fstat(fd).st_ino not in known:
            raise SourceChanged(f"another directory lies at the path of {self.job.snapshot.ref}")

    def _verify_and_publish(self) -> Published:
        """Compare, prove the source unchanged, put the copy in place, and note what the source's tree looks like."""
        key, here = self.job.transfer.key, self.job.source
        if self.destination.needs_verification(key):
            self.control.checkpoint("verify")
            manifest = self.destination.verify(key, self.job.verify, self.control, self.control.rate)
            with contextlib.closing(manifest):
                self._compare_with_known(manifest)
                self.control.checkpoint("prove")
                # The copy is of this moment: what is written from here on makes it stale.
                self._as_of = self.clock()
                manifest.set_meta({"as_of": self._as_of.isoformat()})
                self._prove(self.source, here, manifest, leases="writers", side="source")
                self.control.checkpoint("save manifest")
                self.source.save_manifest(here.site, manifest, "source")
            self.control.checkpoint("publish")
        return self._publish()

    def _publish(self) -> Published:
        """Put the copy in place (or find that it is), and know from here on where it lies."""
        there = self.job.destination
        if there.site.home_path is None:
            above = home_path(self.job).open_parent()
            try:
                self.destination.fence(there.site, above)
            finally:
                os.close(above)
        published = self.destination.publish(self.job.transfer.key, there.site)
        site = replace(there.site, location=published.location)
        self.job = replace(self.job, destination=replace(there, site=site))
        manifest = self.destination.manifest(site)
        if self._as_of is None and manifest is not None:  # an earlier attempt made it
            with contextlib.closing(manifest):
                as_of = manifest.meta.get("as_of")
            self._as_of = datetime.fromisoformat(as_of) if as_of else None
        return published

    def _kept(self) -> str:
        kept = ", ".join(self.destination.kept)
        return f"somebody had written to the copy that was replaced: it was kept at {kept}" if kept else ""

    def _compare_with_known(self, fresh: Manifest) -> None:
        """Rotten bytes must not travel: what the source's own manifest says of files nobody touched must hold.

        Raises:
            Corrupt: a file's bytes changed although its inode, size and times did not.
        """
        here = self.job.source
        if here.tier.s3 is not None:
            # Nobody can have written to it through its path: what the catalog recorded is the only right answer.
            if here.placement is not None and here.placement.content_id != fresh.content_id():
                raise Corrupt(
                    f"what came from tier {here.tier.name} is not what was stored there of {self.job.snapshot.ref}",
                    hint="Nothing was put in place. Find out who can write to the bucket; use a version of it.",
                )
            return
        self._refuse_rotten(fresh)

    def _refuse_rotten(self, fresh: Manifest) -> None:
        known = self.source.manifest(self.job.source.site)
        if known is None:
            return
        with contextlib.closing(known):
            if known.content_id() == fresh.content_id():
                return
            name = first_rotten(known, side_of(known), fresh)
        if name is not None:
            raise Corrupt(
                f"{name} on tier {self.job.source.tier.name} is damaged: its bytes changed, its times did not",
                hint="The copy was not used. Restore the file, or touch it to accept its present bytes.",
            )

    def _names(self, published: Published, state: PlacementState) -> tuple[Effect, ...]:
        return (
            PutPlacement(
                tier=self.job.destination.tier.name,
                state=state,
                location=published.location,
                content_id=published.content_id,
                size_bytes=published.size_bytes,
                entries=published.entries,
                verified_at=self._as_of or self.clock(),
            ),
            SetContent(tier=self.job.source.tier.name, content_id=published.content_id),
        )

    # -- releasing -------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Switch the path to the cold copy, prove that nothing was lost on the way, delete the flash copy."""
        here, there = self.job.source, self.job.destination
        if not self._is_let_go():
            try:
                self._lead_away()
                self.desk.let_go()
            except (TierdError, OSError):
                if not self._lead_back(self.destination, there, here):
                    name = there.tier.name
                    self._advance(S.QUEUED, MarkStale(here.tier.name), message=f"written to on tier {name} meanwhile")
                raise
        self.control.deafen()
        self.control.checkpoint("let go: trash")
        self.source.to_trash(self.job.transfer.key, here.site)
        self.control.checkpoint("delete")
        self.source.empty_trash(self.job.transfer.key, self.control)
        at_home = (SetRootInode(inode=0),) if here.site.home_path is not None else ()
        self._advance(
            S.DONE, DropPlacement(tier=here.tier.name), *at_home, message=f"released; now read from {there.tier.name}"
        )

    def _lead_away(self) -> None:
        here, there = self.job.source, self.job.destination
        mine, other = self.source.manifest(here.site), self.destination.manifest(there.site)
        if mine is None or other is None:
            raise SourceChanged("a manifest is missing; the snapshot will be copied anew")
        with contextlib.closing(mine), contextlib.closing(other):
            self.control.checkpoint("check both copies")
            if other.content_id() != mine.content_id():
                raise SourceChanged("the cold copy is of another version; the snapshot will be copied anew")
            self._prove_destination(other)
            self._prove(self.source, here, mine, leases="all")
            self.control.checkpoint("switch the path")
            if not leads_elsewhere(self.job):
                lead_to(self.job, there)
            self.control.checkpoint("check again")
            deadline = time.monotonic() + self.job.settings.release_wait_s
            while True:
                try:
                    self._prove(self.source, here, mine, leases="all")
                    break
                except SourceBusy:
                    if time.monotonic() > deadline:
                        raise
                    self.control.checkpoint()
                    time.sleep(_POLL_S)
            self.control.checkpoint("let go")

    def _prove_destination(self, manifest: Manifest) -> None:
        there = self.job.destination
        try:
            self._prove(self.destination, there, manifest, leases=None)
        except SourceChanged as error:
            if leads_to(self.job, there):
                raise
            message = f"the copy on tier {there.tier.name} is damaged or was written to: {error.message}"
            self._advance(S.QUEUED, MarkStale(there.tier.name), message=message)
            raise SourceChanged(f"{message}; the snapshot will be copied anew") from error

    def _lead_back(self, storage: Storage, left: Place, to: Place) -> bool:
        """Undo a switch to `left`: the path leads to `to` again. Requests to stop come too late from here on.

        Returns:
            False when somebody wrote to `left` since the path led there, or may do so now: that is the snapshot
            then, and the path stays.
        """
        self.control.deafen()
        if leads_elsewhere(self.job):
            return True
        manifest = storage.manifest(left.site) if leads_to(self.job, left) else None
        if manifest is None:
            lead_to(self.job, to)
            return True
        with contextlib.closing(manifest):
            try:
                self._prove(storage, left, manifest, leases="writers")
            except (SourceChanged, SourceBusy):
                return False
            lead_to(self.job, to)
            try:
                self._prove(storage, left, manifest, leases="writers")
            except (SourceChanged, SourceBusy):
                lead_to(self.job, left)
                return False
        return True

    # -- removing --------------------------------------------------------------------------------------

    def _remove(self) -> None:
        """Delete a copy of a snapshot whose owner deleted it; the catalog refuses when that is not so any more."""
        here = self.job.source
        self.control.checkpoint("remove")
        if self.state is S.QUEUED:
            self._advance(S.RELEASING)
        if here.placement is not None and here.placement.state is not PlacementState.PARTIAL:
            self.desk.let_go()
        self.control.deafen()
        self.control.checkpoint("let go: trash")
        self.source.to_trash(self.job.transfer.key, here.site)
        self.control.checkpoint("delete")
        self.source.empty_trash(self.job.transfer.key, self.control)
        self._advance(S.DONE, DropPlacement(tier=here.tier.name), message=f"deleted from {here.tier.name}")

    # -- recall ----------------------------------------------------------------------------------------

    def _recall(self) -> None:
        there = self.job.destination.placement
        if self.state is S.QUEUED:
            is_there = there is not None and there.state is PlacementState.VERIFIED
            if is_there and not leads_to(self.job, self.job.source):
                self._advance(S.DONE, SetWarmed(at=self.clock()), message="it is on flash already")
                return
        if self.state in (S.QUEUED, S.RESTORING, S.COPYING) and not self._fetch():
            return
        if self.state is S.VERIFYING:
            published = self._verify_and_publish()
            # Not "verified" yet: a warm is ready only once the path leads to the flash copy.
            self._advance(S.COMMITTED, *self._names(published, PlacementState.PARTIAL), message=self._kept())
        else:
            published = self._publish()
        if self.state is S.COMMITTED:
            self._bring_home(published)

    def _recall_part(self) -> None:
        """Bring some files to a place of their own. The snapshot, its copies and its path stay as they are."""
        key, there = self.job.transfer.key, self.destination
        assert isinstance(there, PosixStorage)
        if self.state in (S.QUEUED, S.RESTORING, S.COPYING) and not self._fetch():
            return
        if self.state is S.VERIFYING:
            if there.needs_verification(key):
                self.control.checkpoint("verify")
                manifest = there.verify(key, self.job.verify, self.control, self.control.rate)
                with contextlib.closing(manifest):
                    if self.job.source.tier.s3 is None:
                        self._refuse_rotten(manifest)
            self.control.checkpoint("publish")
            above = home_path(self.job).open_parent()
            try:
                published = there.publish_part(key, self.job.destination.site, above)
            finally:
                os.close(above)
            self._advance(S.COMMITTED, self._as_part(published))
        there.discard(key)
        name = self.job.destination.tier.name
        self._advance(S.DONE, message=f"{', '.join(self.job.transfer.only)} on {name}")

    def _as_part(self, published: Published) -> PutPart:
        assert published.location is not None
        return PutPart(
            transfer_id=self.job.transfer.id,
            tier=self.job.destination.tier.name,
            location=published.location,
            content_id=published.content_id,
            entries=published.entries,
            size_bytes=published.size_bytes,
        )

    def _fetch(self) -> bool:
        """Copy from a source that may have to be restored first; False: the transfer waits, and this attempt ends."""
        if self.state is not S.COPYING:
            waiting = self._prepare_reading()
            if waiting is not None:
                return self._wait(waiting)
            self._advance(S.COPYING)
        try:
            self._copy()
        except Archived:
            # What was restored can be read for some days only; this recall took longer, or was paused.
            waiting = self._prepare_reading()
            if waiting is None:  # it could be read now: whatever this is, waiting does not help
                raise
            self._advance(S.QUEUED, message="archived again before all of it was read")
            return self._wait(waiting)
        self._advance(S.VERIFYING)
        return True

    def _prepare_reading(self) -> Waiting | None:
        return self.source.prepare_reading(self.job.source.site, now=self.clock(), control=self.control)

    def _wait(self, waiting: Waiting) -> Literal[False]:
        """The transfer holds no worker while it waits."""
        self.desk.wait(self.state, waiting)
        self.state = S.RESTORING
        return False

    def _bring_home(self, published: Published) -> None:
        """Switch the path to the flash copy; undo it when the cold copy was written to meanwhile.

        Once somebody wrote to the flash copy at the path there is no way back: the cold copy is stale then.
        """
        here, there = self.job.source, self.job.destination
        stale: tuple[Effect, ...] = ()
        known = self.source.manifest(here.site)
        if known is None:
            raise SourceChanged("the manifest of the cold copy is missing; it will be copied anew")
        with contextlib.closing(known):
            try:
                self.control.checkpoint("switch the path")
                lead_to(self.job, there)
                self.control.checkpoint("check again")
                self._prove(self.source, here, known, leases="writers")
            except (TierdError, OSError):
                if self._lead_back(self.destination, there, here):
                    raise
                stale = (MarkStale(here.tier.name),)
        self.destination.empty_trash(self.job.transfer.key, self.control)
        at_home = (SetRootInode(inode=published.root_inode),) if published.location is None else ()
        warm = self._names(published, PlacementState.VERIFIED)
        self._advance(S.DONE, *warm, *stale, *at_home, SetWarmed(at=self.clock()), message=f"on {there.tier.name}")

    def _prove(
        self, storage: Storage, place: Place, manifest: Manifest, *, leases: Leases | None, side: Side | None = None
    ) -> None:
        storage.prove(place.site, manifest, leases=leases, side=side, control=self.control)

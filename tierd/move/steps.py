"""The steps of a transfer. Every step may be repeated; a crash between any two instructions is finished or
rolled back by running the transfer again from the state that the catalog has.

    migrate   queued → copying → verifying → committed (→ releasing) → done
    recall    queued → copying → verifying → committed → done

Invariants (must), from which the order of the steps follows:
 I1  A copy is deleted only after it went to the trash; it goes there only after `let_go` is committed;
     `let_go` only after another copy is verified, that copy is still as it was verified, the path leads to it,
     and the copy to be deleted was proven unchanged after the path led away from it.
 I2  The path leads to a copy only while that copy is complete.
 I3  The catalog calls a copy verified only when it is durable, compared, and in place.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

from tierd.errors import Corrupt, Held, SourceBusy, SourceChanged, StorageError, TierdError
from tierd.model.effect import DropPlacement, Effect, MarkStale, PutPlacement, SetContent, SetRootInode, SetWarmed
from tierd.model.placement import PlacementState
from tierd.model.tier import TierKind
from tierd.model.transfer import TransferKind, TransferState
from tierd.move.control import DeskControl
from tierd.move.job import Desk, Job, Place
from tierd.storage.base import CopyLimits, Published
from tierd.storage.manifest import Manifest, Side
from tierd.storage.posix.evidence import first_rotten, inodes_inside
from tierd.storage.posix.holders import find_holders
from tierd.storage.posix.prove import Leases, prove_unchanged
from tierd.storage.posix.store import PosixStorage, side_of

S = TransferState
_POLL_S = 0.25


def open_storage(place: Place) -> PosixStorage:
    """The driver for a tier."""
    match place.tier.kind:
        case TierKind.POSIX:
            return PosixStorage(place.tier.root, place.identity)


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
        self.control = DeskControl(desk)
        self.source = open_storage(job.source)
        self.destination = open_storage(job.destination)
        self.state = job.transfer.state
        self._as_of: datetime | None = None

    def run(self) -> None:
        """Go on from the transfer's state to its end.

        Raises:
            TierdError: this attempt ended; the path leads to a complete copy and nothing is lost.
        """
        self.source.attach()
        self.destination.attach()
        if self.job.transfer.kind is TransferKind.MIGRATE:
            self._migrate()
        else:
            self._recall()

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
            self._advance(S.COMMITTED, *self._names(published, PlacementState.VERIFIED))
        if self.state is S.COMMITTED:
            self.destination.empty_trash(transfer.key, self.control)  # the stale copy that this one replaced
            if not transfer.release:
                self._advance(S.DONE)
                return
            self._advance(S.RELEASING)
        if self.state is S.RELEASING:
            self._release()

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
        limits = CopyLimits(processes=self.job.settings.processes, bytes_per_s=self.job.bytes_per_s)
        with self._tree(self.source, self.job.source) as fd:
            self.destination.receive(fd, self.job.transfer.key, limits, self.control).close()

    def _verify_and_publish(self) -> Published:
        """Compare, prove the source unchanged, put the copy in place, and note what the source's tree looks like."""
        key, here = self.job.transfer.key, self.job.source
        if self.destination.needs_verification(key):
            self.control.checkpoint("verify")
            manifest = self.destination.verify(key, self.job.verify, self.control)
            with contextlib.closing(manifest):
                self._compare_with_known(manifest)
                self.control.checkpoint("prove")
                # The copy is of this moment: what is written from here on makes it stale.
                self._as_of = self.clock()
                self._prove(self.source, here, manifest, leases="writers", side="source")
                self.control.checkpoint("save manifest")
                self.source.save_manifest(here.site, manifest, "source")
        self.control.checkpoint("publish")
        return self._publish()

    def _publish(self) -> Published:
        """Put the copy in place (or find that it is), and know from here on where it lies."""
        there = self.job.destination
        published = self.destination.publish(self.job.transfer.key, there.site)
        site = replace(there.site, location=published.location)
        self.job = replace(self.job, destination=replace(there, site=site))
        return published

    def _compare_with_known(self, fresh: Manifest) -> None:
        """Rotten bytes must not travel: what the source's own manifest says of files nobody touched must hold.

        Raises:
            Corrupt: a file's bytes changed although its inode, size and times did not.
        """
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
            except TierdError:
                self._lead_to(here)
                raise
            self._let_go()
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
            self._prove(self.destination, there, other, leases=None)
            self._prove(self.source, here, mine, leases="all")
            self.control.checkpoint("switch the path")
            self._lead_to(there)
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

    def _let_go(self) -> None:
        try:
            self.desk.let_go()
        except Held:
            self._lead_to(self.job.source)
            raise

    def _lead_to(self, place: Place) -> None:
        """Make the path lead to this place's copy. Idempotent."""
        home = open_storage(self.job.home)
        path = home.home(self.job.home.site)
        links = [p.tier.root / p.site.location for p in (self.job.source, self.job.destination) if p.site.location]
        known = [os.fsencode(link) for link in links]
        if place.site.home_path is not None:
            path.lead_home(expected_inode=self._home_inode(home), known_targets=known)
        else:
            target = open_storage(place).tree(place.site)
            path.lead_to(target, expected_inode=self._home_inode(home), known_targets=known)

    def _home_inode(self, home: PosixStorage) -> int:
        """Root inode of the tree on the home tier: what tierd put there last, else what was found there first."""
        manifest = home.manifest(self.job.home.site)
        if manifest is None:
            return self.job.snapshot.root_inode
        with contextlib.closing(manifest):
            root = manifest.root_stamp(side_of(manifest))
        return root.inode if root is not None else self.job.snapshot.root_inode

    # -- recall ----------------------------------------------------------------------------------------

    def _recall(self) -> None:
        there = self.job.destination.placement
        if self.state is S.QUEUED:
            if there is not None and there.state is PlacementState.VERIFIED:
                self._advance(S.DONE, SetWarmed(at=self.clock()), message="it is on flash already")
                return
            self._advance(S.COPYING)
        if self.state is S.COPYING:
            self._copy()
            self._advance(S.VERIFYING)
        if self.state is S.VERIFYING:
            published = self._verify_and_publish()
            # Not "verified" yet: a warm is ready only once the path leads to the flash copy.
            self._advance(S.COMMITTED, *self._names(published, PlacementState.PARTIAL))
        else:
            published = self._publish()
        if self.state is S.COMMITTED:
            self._bring_home(published)

    def _bring_home(self, published: Published) -> None:
        """Switch the path to the flash copy; undo it when the cold copy was written to meanwhile."""
        here, there = self.job.source, self.job.destination
        known = self.source.manifest(here.site)
        if known is None:
            raise SourceChanged("the manifest of the cold copy is missing; it will be copied anew")
        with contextlib.closing(known):
            try:
                self.control.checkpoint("switch the path")
                self._lead_to(there)
                self.control.checkpoint("check again")
                self._prove(self.source, here, known, leases="writers")
            except TierdError:
                self._lead_to(here)
                raise
        self.destination.empty_trash(self.job.transfer.key, self.control)
        at_home = (SetRootInode(inode=published.root_inode),) if published.location is None else ()
        warm = self._names(published, PlacementState.VERIFIED)
        self._advance(S.DONE, *warm, *at_home, SetWarmed(at=self.clock()), message=f"on {there.tier.name}")

    # -- proving ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _tree(self, storage: PosixStorage, place: Place) -> Iterator[int]:
        fd = storage.open_tree(place.site)
        try:
            yield fd
        finally:
            os.close(fd)

    def _prove(
        self,
        storage: PosixStorage,
        place: Place,
        manifest: Manifest,
        *,
        leases: Leases | None,
        side: Side | None = None,
    ) -> None:
        """Prove that the tree is what the manifest says, and (leases="all") that nobody is in it.

        Args:
            leases: "all": no process has anything of it open; "writers": none has a file open for writing.
            side: which stamps are this tree's; None asks the manifest.

        Raises:
            SourceChanged, SourceBusy
        """
        stamps = side or side_of(manifest)
        with self._tree(storage, place) as fd:
            if leases == "all":
                self._check_holders(fd, manifest, stamps)
            prove_unchanged(fd, manifest, stamps=stamps, leases=leases, control=self.control)
            if leases == "all":
                self._check_holders(fd, manifest, stamps)

    def _check_holders(self, fd: int, manifest: Manifest, side: Side) -> None:
        ours = (os.getpid(), os.getppid())  # the daemon's scans hold directories open for an instant
        holders = [h for h in find_holders(os.fstat(fd).st_dev) if h.pid not in ours]
        inside = inodes_inside(manifest, side, {h.inode for h in holders})
        for holder in holders:
            if holder.inode in inside:
                raise SourceBusy(f"{self.job.snapshot.ref} is in use: {holder}")

"""The mover: claims transfers from the catalog, runs each in a worker process, and records what becomes of it.

Runs in the daemon process. One thread per running worker: it starts the process (which dies with that thread),
answers its requests by guarded updates of the catalog, and files the end. A worker that dies leaves its
transfer where it was; the next attempt goes on from there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from tierd.catalog import Catalog
from tierd.config import Config
from tierd.decide.planner import PRIORITY_ROOM
from tierd.errors import Held, IllegalTransition, Interrupted, NotFound, TierdError
from tierd.model.dataset import SnapshotId
from tierd.model.placement import PlacementState
from tierd.model.s3 import Counts, total
from tierd.model.tier import Tier, TierName, TierUsage
from tierd.model.transfer import Progress, Transfer, TransferId, TransferKind, TransferState
from tierd.model.units import format_size
from tierd.model.value import Cost
from tierd.move.attempt import Attempt, Outcome
from tierd.move.job import Job, Place
from tierd.move.messages import Asked
from tierd.move.pace import Pacer
from tierd.move.rates import Rates
from tierd.move.standby import Standby, start_worker
from tierd.storage.base import Site

log = logging.getLogger(__name__)

_SUPPRESS_AFTER = timedelta(seconds=2)
"""Events of our own reads may still be on their way when a worker has ended."""
_SPARE_BYTES = 1 << 30
_FRESH = (TransferState.QUEUED, TransferState.RESTORING, TransferState.COPYING, TransferState.VERIFYING)
"""States in which a transfer has changed nothing that a reader sees: it may be given up."""


class Suppressor(Protocol):
    """Told while tierd itself reads or switches a snapshot: that is not a use. Calls nest."""

    def suppress(self, snapshot_id: SnapshotId) -> None: ...
    def unsuppress(self, snapshot_id: SnapshotId) -> None: ...


class Mover:
    """See the module.

    Args:
        usage: how full each tier is now.
        on_end: called (from a worker's thread) after a transfer ended or will be tried again.
        attempts: what runs a worker; pacer: what tells them their rate.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        clock: Callable[[], datetime],
        usage: Callable[[], Mapping[TierName, TierUsage]],
        suppressor: Suppressor,
        on_end: Callable[[], None] = lambda: None,
        attempts: type[Attempt] = Attempt,
        pacer: Pacer | None = None,
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._clock = clock
        self._usage = usage
        self._suppressor = suppressor
        self._on_end = on_end
        self._attempts = attempts
        self._lock = threading.Lock()
        self._running: dict[TransferId, Attempt] = {}
        self._waiting: dict[TransferId, str] = {}
        self._crashed: dict[TransferId, tuple[int, datetime]] = {}
        self._quiet: list[tuple[datetime, SnapshotId]] = []
        self._is_stopping = False
        self._yielding: set[TransferId] = set()
        self._asked: dict[TierName, dict[str, Counts]] = {}
        kinds = {tier.kind for tier in config.tiers}
        self._standby = Standby(lambda: start_worker(catalog.lock_fd, kinds))
        self._is_more_likely = False
        self.rates = Rates(catalog)
        self.pacer = pacer or Pacer(config.mover.workers, config.mover.busy_io)

    # -- control loop --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Start what can be started now. Called by the control loop, from one thread."""
        now = self._clock()
        self._lift_suppressions(now)
        with self._lock:
            if self._is_stopping:
                return
            free = self._config.mover.workers - len(self._running)
            running = set(self._running)
            paced = list(self._running.values())
        self.pacer.adjust(paced, now)
        self._waiting.clear()
        usage, wishes = self._usage(), 0
        for transfer in self._catalog.claimable(now, max(free, 0) + len(running) + 64):
            if transfer.id in running:
                continue
            if free <= 0 and not (transfer.kind is TransferKind.RECALL and _is_awaited(transfer)):
                self._is_more_likely = True
                break
            if not self._may_start(transfer, usage, now):
                continue
            if free > 0:
                free -= self._start(transfer)
            elif not self._make_way(transfer, wishes := wishes + 1):
                break
        self.look_ahead()

    def look_ahead(self) -> None:
        """Have a worker ready where a transfer waits for one, or some ended and others may follow. Part of a tick."""
        self._standby.look()
        if self._is_more_likely:
            self._is_more_likely = False
            self._standby.prepare()

    def _make_way(self, wish: Transfer, place: int) -> bool:
        """Stop a copy that nobody waits for: it goes on later, where it was. False where there is none to stop.

        Args:
            place: of this wish among those that wait for a worker, from 1.
        """
        with self._lock:
            running = {attempt.job.transfer.id: attempt for attempt in self._running.values()}
        self._yielding &= running.keys()
        others = [t for t in running if not _is_awaited(running[t].transfer) and t not in self._yielding]
        if len(self._yielding) < place and not others:
            return False
        self._waiting[wish.id] = "waiting for a copy that makes way"
        if len(self._yielding) < place:
            last = max(others)
            self._yielding.add(last)
            log.info("transfer %s makes way for transfer %s", last, wish.id)
            running[last].ask_to_stop()
        return True

    def _endangers(self, transfer: Transfer, now: datetime) -> Transfer | None:
        """A running recall with a deadline that would be missed if this one, due later or never, ran beside it."""
        with self._lock:
            running = list(self._running.values())
        beside = len(running) + 1
        for attempt in running:
            other, due_at = attempt.transfer, attempt.transfer.due_at
            if due_at is None or (transfer.due_at is not None and transfer.due_at <= due_at):
                continue
            alone_s = self.rates.cost(other.source, other.destination).seconds(other.bytes_total, other.files_total)
            left_s = max(0.0, alone_s - attempt.seconds)
            if now + timedelta(seconds=left_s) <= due_at < now + timedelta(seconds=left_s * beside):
                return other
        return None

    def _may_start(self, transfer: Transfer, usage: Mapping[TierName, TierUsage], now: datetime) -> bool:
        crashed = self._crashed.get(transfer.id)
        if crashed is not None and now < crashed[1]:
            self._waiting[transfer.id] = "waiting after its worker died"
            return False
        for name in (transfer.source, transfer.destination):
            state = usage.get(name)
            if state is None or not state.is_online:
                self._waiting[transfer.id] = f"waiting for tier {name}"
                return False
        is_before_copy = transfer.state in (TransferState.QUEUED, TransferState.RESTORING)
        if is_before_copy and not self._needs_no_copy(transfer):
            there = usage[transfer.destination]
            spare = min(_SPARE_BYTES, there.capacity_bytes // 100)
            missing = transfer.bytes_total + spare - there.free_bytes
            if missing > 0:
                self._waiting[transfer.id] = f"waiting for {format_size(missing)} more on {transfer.destination}"
                return False
            endangered = self._endangers(transfer, now)
            if endangered is not None:
                self._waiting[transfer.id] = f"waiting: transfer {endangered.id} has to be in time"
                return False
        return True

    def _needs_no_copy(self, transfer: Transfer) -> bool:
        if transfer.kind is TransferKind.REMOVE:
            return True
        return transfer.kind is TransferKind.MIGRATE and any(
            p.tier == transfer.destination and p.state is PlacementState.VERIFIED
            for p in self._catalog.placements(transfer.snapshot_id)
        )

    def _start(self, transfer: Transfer) -> int:
        """Start a worker; returns how many slots that takes."""
        try:
            job = self._job(transfer)
        except TierdError as error:
            if transfer.state in _FRESH:
                self._file_error(transfer.id, transfer.state, error)
            else:  # given up now, its path could be left leading to the wrong copy: it goes on when all is configured
                self._waiting[transfer.id] = f"waiting: {error.message}"
            return 0
        with self._lock:
            if self._is_stopping:
                return 0
            attempt = self._attempts(job, self._catalog, self._clock, self._ended, self._standby.take())
            self._running[transfer.id] = attempt
            self._is_more_likely = False
        self._suppressor.suppress(transfer.snapshot_id)
        attempt.start()
        return 1

    def _job(self, transfer: Transfer) -> Job:
        snapshot = self._catalog.snapshot_by_id(transfer.snapshot_id)
        dataset = next((d for d in self._config.datasets if d.name == snapshot.ref.dataset), None)
        if dataset is None:
            raise NotFound(f"dataset {snapshot.ref.dataset} is not configured any more")
        dataset = self._catalog.in_given_phases([dataset])[0]
        placements = {p.tier: p for p in self._catalog.placements(snapshot.id)}

        def place(name: TierName) -> Place:
            tier = next((t for t in self._config.tiers if t.name == name), None)
            identity = self._catalog.tier_identity(name)
            if tier is None or identity is None:
                raise NotFound(f"tier {name} is not configured any more")
            placement = placements.get(name)
            site = Site(
                snapshot_key=snapshot.key,
                dataset=snapshot.ref.dataset,
                name=snapshot.ref.name,
                location=placement.location if placement is not None else None,
                home_path=bytes(snapshot.path) if name == dataset.home else None,
            )
            return Place(tier=tier, identity=identity, site=site, placement=placement)

        source, destination = place(transfer.source), place(transfer.destination)
        return Job(
            transfer=transfer,
            snapshot=snapshot,
            source=source,
            destination=destination,
            home=place(dataset.home),
            others=tuple(place(name) for name in placements if name not in (transfer.source, transfer.destination)),
            verify=dataset.policy.verify,
            bytes_per_s=self.pacer.allowed(source.tier, destination.tier, self._clock()),
            settings=self._config.mover,
        )

    # -- ends ----------------------------------------------------------------------------------------

    def _ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """Called in the attempt's thread when its worker is gone."""
        transfer = attempt.job.transfer
        try:
            if outcome.is_crash or self._is_past_return(transfer, outcome):
                self._file_crash(transfer, outcome)
            elif outcome.error is not None:
                self._file_error(transfer.id, outcome.state, outcome.error)
            else:  # at its end, or waiting for a restore
                self._crashed.pop(transfer.id, None)
                if attempt.is_whole and not attempt.was_slowed and outcome.state is TransferState.DONE:
                    pair = transfer.source, transfer.destination
                    self.rates.learn(pair, transfer.bytes_total, transfer.files_total, attempt.seconds)
        except TierdError as error:
            log.error(
                "transfer %s: its end could not be recorded: %s", transfer.id, error, extra={"transfer": transfer.id}
            )
        finally:
            with self._lock:
                self._running.pop(transfer.id, None)
                self._asked = _sum([self._asked, attempt.asked])
                self._quiet.append((self._clock() + _SUPPRESS_AFTER, transfer.snapshot_id))
                self._is_more_likely = True
            self._on_end()

    def _is_past_return(self, transfer: Transfer, outcome: Outcome) -> bool:
        """Whether a release failed after its copy was given up: it can only be finished, never undone."""
        if outcome.error is None or outcome.state is not TransferState.RELEASING:
            return False
        placements = self._catalog.placements(transfer.snapshot_id)
        return not any(p.tier == transfer.source and p.state is PlacementState.VERIFIED for p in placements)

    def _file_crash(self, transfer: Transfer, outcome: Outcome) -> None:
        """The worker died: leave the state as it is, so that the next worker goes on from there."""
        now = self._clock()
        count = self._crashed.get(transfer.id, (0, now))[0] + 1
        why = str(outcome.error) if outcome.error is not None else "its worker died"
        if count >= self._config.mover.max_attempts and outcome.state in _FRESH:
            self._catalog.fail(
                transfer.id, outcome.state, error=f"{why}, {count} times", error_code="worker_died", now=now
            )
            return
        self._crashed[transfer.id] = (count, now + self._backoff(count))
        self._catalog.add_event(
            "transfer.interrupted",
            now=now,
            transfer_id=transfer.id,
            message=f"{why} while {outcome.state}; it goes on from there",
        )

    def _file_error(self, transfer_id: TransferId, state: TransferState, error: TierdError) -> None:
        now = self._clock()
        if isinstance(error, IllegalTransition):
            log.warning("transfer %s: %s", transfer_id, error, extra={"transfer": transfer_id})
            return
        if isinstance(error, Interrupted):
            self._file_interruption(transfer_id, state, error.message)
            return
        text = f"{error.message}. {error.hint}" if error.hint else error.message
        transfer = self._catalog.transfer(transfer_id)
        if isinstance(error, Held):
            self._catalog.cancelled(transfer_id, state, message=text, now=now)
        elif error.is_permanent or transfer.attempt >= self._config.mover.max_attempts:
            self._catalog.fail(transfer_id, state, error=text, error_code=error.code, now=now)
        else:
            wait = self._backoff(transfer.attempt)
            self._catalog.retry_later(
                transfer_id, state, error=text, error_code=error.code, not_before=now + wait, now=now
            )

    def _file_interruption(self, transfer_id: TransferId, state: TransferState, wish: str) -> None:
        now = self._clock()
        if wish == "cancel" and self._catalog.transfer(transfer_id).is_live:
            message = "cancelled; a copy already in place was kept, an unfinished one was removed"
            self._catalog.cancelled(transfer_id, state, message=message, now=now)
        elif wish == "pause" and state not in (TransferState.QUEUED, TransferState.RESTORING):
            self._catalog.advance(transfer_id, state, TransferState.QUEUED, now=now, message="paused")

    def _backoff(self, attempt: int) -> timedelta:
        settings = self._config.mover
        return timedelta(seconds=min(settings.backoff_max_s, settings.backoff_s * 2 ** min(attempt - 1, 20)))

    def _lift_suppressions(self, now: datetime) -> None:
        with self._lock:
            due = [s for at, s in self._quiet if at <= now]
            self._quiet = [(at, s) for at, s in self._quiet if at > now]
        for snapshot_id in due:
            self._suppressor.unsuppress(snapshot_id)

    # -- asked by others -------------------------------------------------------------------------------

    def progress(self, transfer_id: TransferId) -> Progress | None:
        """Live progress, or None for a transfer that no worker runs and that waits for nothing special."""
        with self._lock:
            attempt = self._running.get(transfer_id)
        if attempt is not None:
            return Progress(
                bytes_done=attempt.bytes_done,
                files_done=attempt.files_done,
                rate_bytes_per_s=attempt.rate(),
                eta_s=attempt.eta_s(),
                step="; ".join(filter(None, (attempt.step, self.pacer.why_slow(transfer_id)))),
            )
        waiting = self._waiting.get(transfer_id)
        if waiting is None:
            return None
        return Progress(bytes_done=0, files_done=0, rate_bytes_per_s=None, eta_s=None, step=waiting)

    def costs(self, destination: Tier, sources: Sequence[Tier]) -> Mapping[TierName, Cost]:
        """Of bringing something to a tier, by where it comes from: as measured, but no faster than is allowed now."""
        now = self._clock()
        return {source.name: self._cost(source, destination, now) for source in sources}

    def _cost(self, source: Tier, destination: Tier, now: datetime) -> Cost:
        cost = self.rates.cost(source.name, destination.name)
        allowed = self.pacer.allowed(source, destination, now)
        if allowed is None:
            return cost
        # What is written is read back at the same rate.
        return replace(cost, s_per_byte=max(cost.s_per_byte, 2 / allowed))

    def asked(self) -> Mapping[TierName, Mapping[str, Counts]]:
        """Requests that transfers made of each store since the start, by operation."""
        with self._lock:
            return _sum([self._asked, *(attempt.asked for attempt in self._running.values())])

    def live_keys(self) -> set[str]:
        """Keys of transfers whose staging areas, trash and parts must be left alone by a sweep."""
        return self._catalog.keys_in_use()

    @property
    def running(self) -> int:
        with self._lock:
            return len(self._running)

    def stop(self, timeout_s: float) -> None:
        """Ask every worker to stop at its next safe point; kill those that do not in time. All are resumable."""
        with self._lock:
            self._is_stopping = True
            attempts = list(self._running.values())
        self._standby.end()
        for attempt in attempts:
            attempt.ask_to_stop()
        for attempt in attempts:
            attempt.join(timeout_s)
        for attempt in attempts:
            attempt.kill()
            attempt.join(1.0)


def _is_awaited(transfer: Transfer) -> bool:
    """Whether somebody waits for it, or for the room that it makes."""
    return transfer.priority >= PRIORITY_ROOM or transfer.due_at is not None


def _sum(several: Sequence[Asked]) -> dict[TierName, dict[str, Counts]]:
    names = {name for asked in several for name in asked}
    return {name: total(asked.get(name, {}) for asked in several) for name in names}

"""The composition root and the control loop.

Threads: the control loop (this one), the observer, one per running worker, one per webhook, and the API's. Stop order:
API first (no new wishes), then the workers (resumable), the observer, the webhooks, and the catalog last.
"""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import FrameType

from tierd import __version__
from tierd.catalog import Catalog
from tierd.config import Config, LogConfig, Mounts, load
from tierd.daemon.living import Living, tie_to
from tierd.daemon.notify import Notifier
from tierd.daemon.observer import Observer
from tierd.daemon.scheduler import Scheduler
from tierd.daemon.sweeper import Sweeper
from tierd.daemon.telling import Teller
from tierd.daemon.tiers import Tiers
from tierd.daemon.webhooks import Webhooks
from tierd.decide import plan, withdrawn
from tierd.decide.policies import SCORES
from tierd.errors import ConfigError, Conflict, NotFound, TierdError
from tierd.fs.process import numbers_alike
from tierd.model.dataset import Snapshot
from tierd.model.hold import Tie
from tierd.model.observation import AccessBatch, TrackerStatus
from tierd.model.part import Part, PartSize
from tierd.model.placement import Placement
from tierd.model.plan import Action, Step, View
from tierd.model.pressure import Busy
from tierd.model.s3 import Counts
from tierd.model.tier import TierName, TierUsage
from tierd.model.transfer import POLICY, Progress, TransferId, TransferKind
from tierd.model.value import Cost
from tierd.model.webhook import WebhookStatus, WebhookTest
from tierd.move.mover import Mover
from tierd.observe.choose import choose
from tierd.serve import ApiServer, create_app, parts_of

log = logging.getLogger(__name__)

_TICK_S = 1.0
_STALE_LOOP_S = 60.0
_WORKER_STOP_S = 7.0
_DAY_S = 86_400.0
_HISTORY = timedelta(days=400)
"""Events older than this are forgotten: a year can be compared with the one before."""
_KINDS = {Action.REMOVE: TransferKind.REMOVE, Action.WARM: TransferKind.RECALL}
_CLOCK_JUMP = timedelta(seconds=5)
_COLLECT = (50_000, 20, 100)
"""New objects before the collector of cycles looks at the young, the older, all."""


def now_utc() -> datetime:
    return datetime.now(UTC)


class Daemon:
    """All parts of a running tierd. `run` returns when a signal or `stop` asks for it.

    Args:
        before: what ran before this; run again where this cannot start (`next_config`).
    """

    def __init__(
        self, config: Config, clock: Callable[[], datetime] = now_utc, *, before: Config | None = None
    ) -> None:
        self.config = config
        self._before = before
        self.clock = clock
        self.catalog = Catalog.open(config.database)
        self.teller = Teller(self.catalog)
        try:
            self.webhooks = Webhooks(config.webhooks, self.catalog, clock)
            self.catalog.configure(config.tiers, config.datasets)
        except BaseException:
            self.catalog.close()  # its lock is wanted by what ran before
            raise
        self.tiers = Tiers(config.tiers, self.catalog, self.clock, self._known_bytes, on_change=self.wake)
        self.tracker = choose(config.observe, clock=self.clock)
        self.observer = Observer(
            config, self.catalog, self.tracker, self.clock, is_online=self.tiers.is_online, on_change=self.wake
        )
        self.mover = Mover(
            config, self.catalog, self.clock, self.tiers.usage, self.observer, on_end=self._transfer_ended
        )
        self.sweeper = Sweeper(self.tiers, self.mover.live_keys)
        app = create_app(config=config, catalog=self.catalog, ports=self, clock=self.clock)
        self.server = ApiServer(app, config.api)
        # With the API's own admission: two of them would both promise the same room.
        self.scheduler = Scheduler(config.schedules, self.catalog, parts_of(app).warming)
        self.living = Living(self.catalog, self.clock)
        self._notifier = Notifier()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._reload = threading.Event()
        self.next_config: Config | None = None
        """Set when `run` returned because another configuration shall be run."""
        self._beat = time.monotonic()
        self._decide_at = 0.0
        self._prune_at = 0.0
        self._pruning: Iterator[int] = iter(())
        self._last_now = self.clock()

    # -- life ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until asked to stop, or until a new configuration shall be run instead (`next_config`)."""
        try:
            try:
                self._start()
            except TierdError as error:
                if self._before is None:
                    raise
                _go_back(error)
                self.next_config = self._before
                return
            while not self._stop.is_set():
                self._tick()
                if self._reload.is_set():
                    self._load_again()
                self._wake.wait(_TICK_S)
                self._wake.clear()
        finally:
            self._shut_down()

    def _start(self) -> None:
        self._note_clock()
        self.teller.start()
        self.catalog.add_event("daemon.started", now=self.clock(), message=f"tierd {__version__} started")
        self.tiers.look()
        self.sweeper.start()
        self.server.start()
        self.observer.start()
        self.webhooks.start()  # last: a start that fails must not note anything for the one before
        self._notifier.ready()
        log.debug("the database is %s", self.config.database)

    def _shut_down(self) -> None:
        if self.next_config is None:
            self._notifier.stopping()
        else:
            self._notifier.reloading()
        self.server.stop()
        self.mover.stop(_WORKER_STOP_S)
        self.observer.stop()
        self.sweeper.stop()
        self.tiers.stop()
        self.living.stop()
        self.teller.stop_soon()
        self.webhooks.stop_soon()
        self.catalog.add_event("daemon.stopped", now=self.clock(), message="stopped; transfers go on at the next start")
        self.teller.finish()
        self.webhooks.finish()
        self.catalog.close()

    def stop(self) -> None:
        """Ask the control loop to end; returns at once."""
        self._stop.set()
        self._wake.set()

    def reload(self) -> None:
        """Ask for the configuration to be read again; a faulty one is refused and the present one stays."""
        self._reload.set()
        self._wake.set()

    def _load_again(self) -> None:
        self._reload.clear()
        if self.config.source is None:
            log.warning("asked to reload, but the configuration did not come from a file")
            return
        try:
            self.next_config = load(self.config.source, mounts=Mounts.OPTIONAL)
        except ConfigError as error:
            log.error("the new configuration is refused, the present one stays: %s", error)
            return
        log.info("configuration read again from %s", self.config.source)
        self._stop.set()

    # -- the control loop --------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._beat = time.monotonic()
        try:
            self._note_clock()
            if self.tiers.look():
                self.observer.rescan()
            self.living.look()  # first: what lives holds on, however long this daemon was away
            self.catalog.expire_leases(self.clock())
            self.catalog.expire_announcements(self.clock())
            if self.catalog.drop_parts(self.clock()):
                self.sweeper.sweep()
            if self.observer.is_ready:
                self._decide()
                self.mover.tick()
            self._prune()
        except TierdError as error:  # one bad round must not end the daemon; the next one tries again
            log.error("control loop: %s", error)
        except Exception:  # as above; the log has what a bug report needs
            log.exception("control loop: unexpected")
        live = self.mover.running
        self._notifier.alive(f"{live} transfer{'' if live == 1 else 's'} running")

    def _decide(self) -> None:
        if time.monotonic() < self._decide_at:
            return
        self._decide_at = time.monotonic() + self.config.decide_interval_s
        now = self.clock()
        view = self._view(now)
        if self.scheduler.tick(view, now):
            view = self._view(now)
        if self.scheduler.is_behind:
            self._decide_at = 0.0
        for transfer, why in withdrawn(view, now):
            with suppress(Conflict):  # it ended meanwhile
                self.catalog.request_cancel(transfer.id, now)
                log.info("transfer %s is withdrawn: %s", transfer.id, why, extra={"transfer": transfer.id})
        for step in plan(view, now).steps:
            try:
                self._order(step, now)
            except (Conflict, NotFound) as error:
                # It was warmed, held, deleted or put back since the view was read: the next plan knows.
                log.info("%s of %s is not begun: %s", step.action, step.ref, error)

    def _view(self, now: datetime) -> View:
        view = self.catalog.view(self.config.tiers, self.config.datasets, self.tiers.usage(), now=now)
        return replace(view, costs=self.costs(), judgement=self.config.value, quiet=self.config.quiet)

    def _prune(self) -> None:
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _DAY_S
            self.catalog.prune_events(before=self.clock() - _HISTORY)
            self._pruning = self.catalog.prune_history(now=self.clock())
        # A step per round: after a long downtime there may be millions of rows, and leases must not wait for them.
        next(self._pruning, None)

    def _order(self, step: Step, now: datetime) -> None:
        snapshot = self.catalog.snapshot_by_id(step.snapshot_id)
        # A remove has one tier: the plan names it as source and as destination.
        _, is_new = self.catalog.enqueue(
            snapshot_id=step.snapshot_id,
            kind=_KINDS.get(step.action, TransferKind.MIGRATE),
            source=step.source,
            destination=step.destination,
            release=step.action is Action.RELEASE,
            priority=step.priority,
            reason=step.reason,
            requested_by=POLICY,
            bytes_total=snapshot.size_bytes,
            files_total=snapshot.files,
            now=now,
        )
        if is_new and step.action is Action.RELEASE and SCORES[self.config.value.policy].is_ageing:
            self.catalog.raise_floor(step.value)

    def _note_clock(self) -> None:
        """Times that lie in the future would keep snapshots unsettled or cold for as long as the clock jumped."""
        now = self.clock()
        if now < self._last_now - _CLOCK_JUMP:
            log.warning("the clock jumped back by %s", self._last_now - now)
            self.catalog.reanchor_clock(now=now)
        self._last_now = now

    def _transfer_ended(self) -> None:
        self.observer.placements_changed()
        self._decide_at = 0.0
        self.wake()

    def _known_bytes(self, tier: TierName) -> int:
        return self.catalog.bytes_on(tier)

    # -- what the API asks -----------------------------------------------------------------------------------

    def usage(self) -> Mapping[TierName, TierUsage]:
        return self.tiers.usage()

    def progress(self, transfer_id: TransferId) -> Progress | None:
        return self.mover.progress(transfer_id)

    def asked(self) -> Mapping[TierName, Mapping[str, Counts]]:
        return self.mover.asked()

    def tracker_status(self) -> TrackerStatus:
        return self.tracker.status()

    def accessed(self, batches: Sequence[AccessBatch]) -> None:
        self.observer.reported(batches)

    def last_scan_at(self) -> datetime | None:
        return self.observer.last_scan_at

    def loop_is_fresh(self) -> bool:
        return time.monotonic() - self._beat < _STALE_LOOP_S

    def is_ready(self) -> bool:
        return self.observer.is_ready

    def busy(self) -> Busy:
        return self.mover.pacer.busy

    def webhook_statuses(self) -> Sequence[WebhookStatus]:
        return self.webhooks.statuses()

    def test_webhook(self, name: str) -> WebhookTest:
        return self.webhooks.test(name)

    def wake(self) -> None:
        self._decide_at = 0.0
        self._wake.set()

    def tie_to(self, pid: int) -> Tie | None:
        return tie_to(pid)

    def numbers_alike(self, pid: int) -> bool:
        return numbers_alike(pid)

    def costs(self) -> Mapping[TierName, Cost]:
        flash = min(self.config.tiers, key=lambda tier: tier.rank)
        return self.mover.costs(flash, [tier for tier in self.config.tiers if tier is not flash])

    def measure(self, snapshot: Snapshot, placement: Placement, only: tuple[str, ...]) -> PartSize:
        return self.tiers.measure(snapshot, placement, only)

    def is_untouched(self, part: Part) -> bool:
        return self.tiers.is_untouched(part)

    def estimate(self, source: TierName, destination: TierName, size_bytes: int, files: int) -> float | None:
        return self.mover.rates.estimate(source, destination, size_bytes, files)


def run(config: Config, begin_logging: Callable[[LogConfig], None]) -> None:
    """Run the daemon until SIGTERM or SIGINT. SIGHUP loads the configuration again; a bad one is refused.

    Args:
        begin_logging: sends the log where a configuration says; called with each that is run.

    Raises:
        CatalogError: the database cannot be used.
        ConfigError: the API cannot listen where it should.
    """
    # A view of 10,000 snapshots is so many lasting objects that looking for cycles would take as long as reading it.
    gc.set_threshold(*_COLLECT)
    is_over = threading.Event()
    current: Config | None = config
    before: Config | None = None
    while current is not None:
        begin_logging(current.log)
        try:
            daemon = Daemon(current, before=before)
        except TierdError as error:
            if before is None:
                raise
            _go_back(error)
            current, before = before, None
            continue

        def on_signal(number: int, _frame: FrameType | None, daemon: Daemon = daemon) -> None:
            if number == signal.SIGHUP:
                daemon.reload()
            else:
                is_over.set()
                daemon.stop()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, on_signal)
        if is_over.is_set():
            daemon.stop()
        daemon.run()
        if is_over.is_set():  # also while one daemon took the place of the other
            return
        # What was gone back to has nothing before it: if it cannot start either, the service ends and says why.
        before = None if daemon.next_config is before else current
        current = daemon.next_config


def _go_back(error: TierdError) -> None:
    log.error("the new configuration cannot be run, the one before is run again: %s", error)

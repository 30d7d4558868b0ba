"""A daemon's API without a daemon: a real catalog on a temporary file, the real server on a real Unix socket.

Time is what the test sets; what the daemon would report (usage, progress, tracking) is what the test put there.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from tierd.catalog import Catalog
from tierd.config import ApiConfig, Config
from tierd.daemon.living import tie_to
from tierd.errors import NotFound
from tierd.fs.process import numbers_alike
from tierd.model.dataset import Dataset, Snapshot, SnapshotId, SnapshotRef
from tierd.model.effect import DropPlacement, PutPlacement
from tierd.model.hold import Tie
from tierd.model.observation import AccessBatch, Measure
from tierd.model.part import Part, PartSize
from tierd.model.phase import by_phase
from tierd.model.placement import Placement, PlacementState
from tierd.model.policy import Policy
from tierd.model.pressure import Busy
from tierd.model.s3 import Counts
from tierd.model.tier import Tier, TierName, TierUsage
from tierd.model.transfer import Transfer, TransferId, TransferKind, TransferState
from tierd.model.value import Cost
from tierd.model.webhook import WebhookStatus, WebhookTest
from tierd.serve import ApiServer, Progress, TrackerStatus, create_app
from tierd.serve.watch import Watch

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
FLASH, HDD = TierName("flash"), TierName("hdd")
GB = 10**9
TOKENS = {"read": "token-for-reading", "warm": "token-for-warming", "admin": "token-for-everything"}
S = TransferState


@dataclass
class FakePorts:
    """The daemon as the API sees it; every answer can be set."""

    usages: dict[TierName, TierUsage]
    in_progress: dict[TransferId, Progress] = field(default_factory=dict)
    tracker: TrackerStatus = field(
        default_factory=lambda: TrackerStatus(name="watchdog", events_seen=12, events_lost=1)
    )
    scanned_at: datetime | None = START
    is_fresh: bool = True
    is_scanned: bool = True
    rate: float | None = 1e9
    requests: dict[TierName, dict[str, Counts]] = field(default_factory=dict)
    wakes: int = 0
    disks: Busy = field(default_factory=Busy)
    told: list[AccessBatch] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    parts: dict[tuple[str, ...], PartSize] = field(default_factory=dict)
    webhooks: list[WebhookStatus] = field(default_factory=list)
    tested: dict[str, WebhookTest] = field(default_factory=dict)

    def accessed(self, batches: Sequence[AccessBatch]) -> None:
        self.told += batches

    def usage(self) -> Mapping[TierName, TierUsage]:
        return self.usages

    def progress(self, transfer_id: TransferId) -> Progress | None:
        return self.in_progress.get(transfer_id)

    def asked(self) -> Mapping[TierName, Mapping[str, Counts]]:
        return self.requests

    def tracker_status(self) -> TrackerStatus:
        return self.tracker

    def last_scan_at(self) -> datetime | None:
        return self.scanned_at

    def loop_is_fresh(self) -> bool:
        return self.is_fresh

    def is_ready(self) -> bool:
        return self.is_scanned

    def busy(self) -> Busy:
        return self.disks

    def webhook_statuses(self) -> Sequence[WebhookStatus]:
        return self.webhooks

    def test_webhook(self, name: str) -> WebhookTest:
        if name not in self.tested:
            raise NotFound(f"there is no webhook {name!r}")
        return self.tested[name]

    def wake(self) -> None:
        self.wakes += 1

    def tie_to(self, pid: int) -> Tie | None:
        return tie_to(pid)

    def numbers_alike(self, pid: int) -> bool:
        return numbers_alike(pid)

    def costs(self) -> Mapping[TierName, Cost]:
        if self.rate is None:
            return {}
        return {name: Cost(start_s=0, s_per_byte=1 / self.rate, s_per_file=0, samples=3) for name in self.usages}

    def measure(self, snapshot: Snapshot, placement: Placement, only: tuple[str, ...]) -> PartSize:
        if only not in self.parts:
            raise NotFound(f"no file of the copy matches {', '.join(only)}")
        return self.parts[only]

    def is_untouched(self, part: Part) -> bool:
        return part.key not in self.touched

    def estimate(self, source: TierName, destination: TierName, size_bytes: int, files: int) -> float | None:
        return None if self.rate is None else size_bytes / self.rate


@dataclass
class ApiWorld:
    """Everything a test of the API needs."""

    catalog: Catalog
    config: Config
    ports: FakePorts
    root: Path
    now: datetime = START

    def clock(self) -> datetime:
        return self.now

    def app(self) -> FastAPI:
        app = create_app(config=self.config, catalog=self.catalog, ports=self.ports, clock=self.clock)
        self.watch: Watch = app.state.parts.watch
        return app

    def wait_for_waiters(self, count: int) -> None:
        """Return when as many requests wait for events in the application that was made last."""
        deadline = time.monotonic() + 60
        while self.watch.waiters != count:
            assert time.monotonic() < deadline, f"{self.watch.waiters} wait, not {count}"
            time.sleep(0.01)

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)

    def add(
        self, name: str = "v1", *, dataset: str = "imagenet", size: int = GB, problem: str | None = None
    ) -> Snapshot:
        """A settled snapshot at home on flash."""
        found_at = self.now - timedelta(days=60)
        ref = SnapshotRef(dataset, name)
        path = self.root / "flash" / dataset / name
        measure = Measure(
            root_inode=7,
            size_bytes=size,
            disk_bytes=size,
            files=100,
            entries=120,
            newest_change=found_at,
            newest_access=None,
            problem=problem,
        )
        return self.catalog.add_snapshot(ref, path=path, root_inode=7, home=FLASH, now=found_at, measure=measure)

    def put_cold_copy(self, s: Snapshot) -> None:
        """It becomes premigrated."""
        copy = PutPlacement(
            tier=HDD,
            state=PlacementState.VERIFIED,
            location=str(s.ref),
            content_id="c0ffee",
            size_bytes=s.size_bytes,
            entries=s.entries,
            verified_at=self.now,
        )
        self.catalog.apply(s.id, [copy], now=self.now)

    def send_down(self, s: Snapshot) -> None:
        """It becomes migrated."""
        self.put_cold_copy(s)
        self.catalog.apply(s.id, [DropPlacement(tier=FLASH)], now=self.now)

    def add_migrated(self, name: str = "v1", **more: Any) -> Snapshot:
        snapshot = self.add(name, **more)
        self.send_down(snapshot)
        return snapshot

    def enqueue(self, s: Snapshot, kind: TransferKind = TransferKind.MIGRATE, *, release: bool = False) -> Transfer:
        source, destination = (FLASH, HDD) if kind is TransferKind.MIGRATE else (HDD, FLASH)
        return self.catalog.enqueue(
            snapshot_id=s.id,
            kind=kind,
            source=source,
            destination=destination,
            release=release,
            reason="for the test",
            requested_by="test",
            bytes_total=s.size_bytes,
            files_total=s.files,
            now=self.now,
        )[0]

    def run(self, t: Transfer, *states: TransferState) -> Transfer:
        """Let a transfer go through these states."""
        for state in states:
            t = self.catalog.advance(t.id, t.state, state, now=self.now)
        return t

    def finish_recall(self, t: Transfer) -> Transfer:
        """What the mover does when a recall succeeds."""
        t = self.run(t, S.COPYING, S.VERIFYING)
        s = self.catalog.snapshot_by_id(t.snapshot_id)
        on_flash = PutPlacement(
            tier=FLASH,
            state=PlacementState.VERIFIED,
            location=None,
            content_id="c0ffee",
            size_bytes=s.size_bytes,
            entries=s.entries,
            verified_at=self.now,
        )
        t = self.catalog.advance(t.id, t.state, S.COMMITTED, now=self.now, effects=[on_flash])
        return self.run(t, S.DONE)

    def live(self, s: Snapshot) -> list[Transfer]:
        return self.catalog.transfers(live_only=True, snapshot_id=s.id)

    def events_of(self, snapshot_id: SnapshotId) -> list[str]:
        ref = self.catalog.snapshot_by_id(snapshot_id).ref
        return [e.kind for e in self.catalog.events(ref=ref, limit=1000)]


@contextmanager
def api_world(root: Path, *, api: ApiConfig | None = None) -> Iterator[ApiWorld]:
    """An empty world below a temporary directory."""
    tiers = (
        Tier(name=FLASH, root=root / "flash", rank=0, high=0.9, low=0.8),
        Tier(name=HDD, root=root / "hdd", rank=1, high=0.95, low=0.9),
    )
    policy = Policy(migrate_after=timedelta(days=14), release_after=timedelta(days=30))
    policies = by_phase(policy, {})
    datasets = (
        Dataset(name="imagenet", path=root / "flash" / "imagenet", home=FLASH, policy=policy, policies=policies),
        Dataset(
            name="laion", path=root / "flash" / "laion", home=FLASH, pattern=None, policy=policy, policies=policies
        ),
    )
    tokens = {hashlib.sha256(token.encode()).hexdigest(): role for role, token in TOKENS.items()}
    config = Config(tiers=tiers, datasets=datasets, database=root / "tierd.db", api=api or ApiConfig(tokens=tokens))
    ports = FakePorts(
        usages={
            FLASH: TierUsage(
                tier=FLASH,
                is_online=True,
                capacity_bytes=100 * GB,
                used_bytes=40 * GB,
                free_bytes=60 * GB,
                capacity_inodes=1_000_000,
                used_inodes=1000,
            ),
            HDD: TierUsage(
                tier=HDD, is_online=True, capacity_bytes=1000 * GB, used_bytes=100 * GB, free_bytes=900 * GB
            ),
        }
    )
    with Catalog.open(config.database, wait_s=0) as catalog:
        catalog.configure(tiers, datasets)
        yield ApiWorld(catalog=catalog, config=config, ports=ports, root=root)


@contextmanager
def listening(world: ApiWorld, **config: Any) -> Iterator[ApiServer]:
    """The server on a Unix socket (in a directory of its own: paths of sockets must be short)."""
    with tempfile.TemporaryDirectory(prefix="tierd-") as directory:
        values: dict[str, Any] = {"socket": Path(directory) / "api.sock", "tokens": world.config.api.tokens}
        server = ApiServer(world.app(), ApiConfig(**values | config))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def client_of(world: ApiWorld, **config: Any) -> Iterator[httpx.Client]:
    """A client of the server on its Unix socket: the tests' own user, so an administrator."""
    with listening(world, **config) as server, connect(server) as client:
        yield client


def connect(server: ApiServer) -> httpx.Client:
    """Another client of the same server."""
    transport = httpx.HTTPTransport(uds=str(server.socket), limits=httpx.Limits(max_connections=None))
    return httpx.Client(transport=transport, base_url="http://tierd", timeout=30)

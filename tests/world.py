"""A small tierd without API and observer: two tiers, a catalog, the real mover with real worker processes.

Tests drive it step by step: time is a number they set, transfers run when they say so, and a worker can be killed at
a named step. Everything the daemon would do between two transfers is done by `settle`.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, Seaweed
from tierd.catalog import Catalog
from tierd.config import ApiConfig, Config, MoverConfig
from tierd.model.dataset import Dataset, Snapshot, SnapshotId, SnapshotRef
from tierd.model.placement import PlacementState, Residency, residency
from tierd.model.policy import Policy
from tierd.model.s3 import S3Settings
from tierd.model.tier import Tier, TierKind, TierName, TierUsage
from tierd.model.transfer import Transfer, TransferKind, TransferState
from tierd.model.windows import TimedRate
from tierd.move.attempt import Attempt
from tierd.move.job import Job
from tierd.move.messages import Advance, LetGo, Report
from tierd.move.mover import Mover
from tierd.observe.usage import usage
from tierd.storage.base import Site, Storage
from tierd.storage.control import Unlimited
from tierd.storage.posix.identity import establish_identity
from tierd.storage.posix.store import PosixStorage
from tierd.storage.s3 import layout
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.identity import establish_identity as establish_s3_identity
from tierd.storage.s3.store import S3Storage

FLASH, HDD, CLOUD = TierName("flash"), TierName("hdd"), TierName("cloud")


def s3_settings(base: Path, endpoint: str, **changes: object) -> S3Settings:
    """Settings for a test server: small packs and parts, and a short patience."""
    credentials = base / "credentials"
    credentials.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    settings = S3Settings(
        bucket=BUCKET,
        prefix=f"test/{base.name}",
        endpoint=endpoint,
        region="us-east-1",
        state=base / "s3-state",
        credentials=credentials,
        pack_bytes=5 << 20,
        pack_up_to=5 << 20,
        part_bytes=5 << 20,
        connections=4,
        timeout_s=10.0,
        retry_for_s=20.0,
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


@dataclass
class Trap:
    """Kill the worker with SIGKILL when it is about to do (or has just been allowed to do) its n-th request."""

    at: int | None = None
    step: str | None = None
    seen: int = 0
    fired: bool = False

    def springs(self, message: object) -> bool:
        self.seen += 1
        name = message.step if isinstance(message, Report) else type(message).__name__
        if isinstance(message, Advance):
            name = f"to {message.new}"
        hit = self.seen == self.at or (self.step is not None and name == self.step)
        self.fired = self.fired or hit
        return hit


class TrappedAttempt(Attempt):
    """An attempt whose worker dies in the trap, before the request is answered."""

    trap: Trap | None = None
    hook = None

    def _answer(self, message: Advance | LetGo | Report) -> None:
        if type(self).hook is not None:
            type(self).hook(message)
        trap = type(self).trap
        if trap is not None and trap.springs(message):
            assert self._process is not None
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            raise EOFError("killed by the test")
        super()._answer(message)


class Quiet:
    """A suppressor that has nothing to suppress."""

    def suppress(self, snapshot_id: SnapshotId) -> None:
        pass

    def unsuppress(self, snapshot_id: SnapshotId) -> None:
        pass


class World:
    """Two tiers below `base` (or on given mounts), and one dataset at home on `home`.

    Args:
        s3: settings of a third tier in a bucket; it is where `migrate` and `release` go to then.
    """

    def __init__(
        self,
        base: Path,
        *,
        flash: Path | None = None,
        hdd: Path | None = None,
        home: TierName = FLASH,
        pattern: str | None = "*",
        policy: Policy | None = None,
        mover: MoverConfig | None = None,
        hdd_rate: int | None = None,
        hdd_rates: tuple[TimedRate, ...] = (),
        s3: S3Settings | None = None,
    ) -> None:
        self.base = base
        self.roots = {FLASH: flash or base / "flash", HDD: hdd or base / "hdd"}
        for root in self.roots.values():
            root.mkdir(exist_ok=True)
        self.home = home
        self.data = self.roots[home] / "datasets" / "ds"
        self.data.mkdir(parents=True, exist_ok=True)
        tiers: tuple[Tier, ...] = (
            Tier(name=FLASH, root=self.roots[FLASH], rank=0),
            Tier(name=HDD, root=self.roots[HDD], rank=1, write_rate=hdd_rate, rates=hdd_rates),
        )
        self.cold = HDD
        if s3 is not None:
            tiers = (*tiers, Tier(name=CLOUD, kind=TierKind.S3, root=base / "view" / CLOUD, rank=2, s3=s3))
            self.cold = CLOUD
        dataset = Dataset(name="ds", path=self.data, home=home, pattern=pattern, policy=policy or Policy())
        settings = mover or MoverConfig(backoff_s=0.0, release_wait_s=0.5, nice=0, busy_io=None)
        self.config = Config(
            tiers=tiers,
            datasets=(dataset,),
            database=base / "tierd.db",
            api=ApiConfig(socket=None),
            mover=settings,
        )
        self.attempts = type("Attempts", (TrappedAttempt,), {})
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self._ended = threading.Event()
        self._open()

    def _open(self) -> None:
        self.catalog = Catalog.open(self.config.database)
        self.catalog.configure(self.config.tiers, self.config.datasets)
        for tier in self.config.tiers:
            known = self.catalog.tier_identity(tier.name)
            if tier.s3 is None:
                identity = establish_identity(tier.root, tier.name, known=known, now=self.now)
            else:
                identity = establish_s3_identity(Bucket(tier.s3), tier.name, known=known, now=self.now)
            self.catalog.set_tier_identity(tier.name, identity)
            self.store(tier.name).attach()
        self.mover = Mover(
            self.config, self.catalog, lambda: self.now, self.usage, Quiet(), self._ended.set, self.attempts
        )

    def usage(self) -> Mapping[TierName, TierUsage]:
        remote = {CLOUD: TierUsage(tier=CLOUD, is_online=True, free_bytes=1 << 60)} if self.s3 else {}
        return {t.name: usage(t) for t in self.config.tiers if t.s3 is None} | remote

    @property
    def s3(self) -> S3Settings | None:
        """Of the third tier."""
        return next((t.s3 for t in self.config.tiers if t.s3 is not None), None)

    @property
    def bucket(self) -> Bucket:
        """The third tier's bucket."""
        assert self.s3 is not None
        return Bucket(self.s3)

    def keys(self, below: str = "") -> list[str]:
        """What is in the bucket, tierd's own objects left out."""
        return [o.key for o in self.bucket.list(below) if not o.key.startswith(f"{layout.PRIVATE}/")]

    def restart(self) -> None:
        """What a new daemon does after the old one was killed."""
        self.mover.stop(0)
        self.catalog.close()
        self._open()
        self.sweep()

    def close(self) -> None:
        self.mover.stop(5)
        self.catalog.close()

    def sweep(self) -> list[str]:
        found = []
        for tier in self.config.tiers:
            store = self.store(tier.name)
            found += store.sweep(self.mover.live_keys, Unlimited())
        return found

    def store(self, name: TierName) -> Storage:
        identity = self.catalog.tier_identity(name)
        assert identity is not None
        if name == CLOUD:
            assert self.s3 is not None
            return S3Storage(self.s3, identity)
        return PosixStorage(self.roots[name], identity)

    # -- snapshots ---------------------------------------------------------------------------------------

    def add(self, name: str = "v1") -> Snapshot:
        """Make the catalog know the directory `name` of the dataset."""
        path = self.config.datasets[0].snapshot_path(name)
        return self.catalog.add_snapshot(
            SnapshotRef("ds", name), path=path, root_inode=path.lstat().st_ino, home=self.home, now=self.now
        )

    def make(self, name: str = "v1", files: int = 5, size: int = 3000) -> Snapshot:
        """Write a small tree and make the catalog know it."""
        root = self.data / name
        (root / "sub" / "empty").mkdir(parents=True)
        for number in range(files):
            (root / ("sub" if number % 2 else ".") / f"f{number}").write_bytes(os.urandom(size))
        (root / "link").symlink_to("nowhere")
        return self.add(name)

    def site(self, snapshot: Snapshot, tier: TierName) -> Site:
        """Where a copy that is not at home lies."""
        placement = next(p for p in self.catalog.placements(snapshot.id) if p.tier == tier)
        return Site(
            snapshot_key=snapshot.key,
            dataset=snapshot.ref.dataset,
            name=snapshot.ref.name,
            location=placement.location,
            home_path=None,
        )

    def residency(self, snapshot: Snapshot) -> Residency:
        return residency(self.catalog.placements(snapshot.id), flash={FLASH})

    def has(self, snapshot: Snapshot, tier: TierName) -> bool:
        return any(p.tier == tier and p.state is PlacementState.VERIFIED for p in self.catalog.placements(snapshot.id))

    # -- transfers ----------------------------------------------------------------------------------------

    def order(
        self,
        snapshot: Snapshot,
        kind: TransferKind,
        *,
        release: bool = False,
        source: TierName | None = None,
        destination: TierName | None = None,
        first: tuple[str, ...] = (),
        only: tuple[str, ...] = (),
    ) -> Transfer:
        down = kind is TransferKind.MIGRATE
        source = source or (FLASH if down else self.cold)
        destination = destination or (self.cold if down else FLASH)
        transfer, _ = self.catalog.enqueue(
            snapshot_id=snapshot.id,
            kind=kind,
            source=source,
            destination=destination,
            release=release,
            reason="test",
            requested_by="test",
            bytes_total=1,
            files_total=1,
            first=first,
            only=only,
            now=self.now,
        )
        return transfer

    def migrate(self, snapshot: Snapshot, *, release: bool = False) -> Transfer:
        return self.run(self.order(snapshot, TransferKind.MIGRATE, release=release))

    def release(self, snapshot: Snapshot) -> Transfer:
        return self.migrate(snapshot, release=True)

    def recall(self, snapshot: Snapshot) -> Transfer:
        return self.run(self.order(snapshot, TransferKind.RECALL))

    def step(self, *, trap: Trap | None = None) -> None:
        """Run whatever can be claimed, one attempt each, and wait for its end."""
        self.attempts.trap = trap
        try:
            self.now += timedelta(seconds=1)
            self._ended.clear()
            self.mover.tick()
            while self.mover.running:
                assert self._ended.wait(60), "a worker did not end"
                self._ended.clear()
        finally:
            self.attempts.trap = None

    def run(self, transfer: Transfer, *, attempts: int = 1) -> Transfer:
        """Run until the transfer ends, or so many attempts were made."""
        for _ in range(attempts):
            self.step()
            transfer = self.catalog.transfer(transfer.id)
            if not transfer.is_live:
                break
        return transfer

    def finish(self, transfer: Transfer) -> Transfer:
        """Run to the end, at most ten attempts."""
        transfer = self.run(transfer, attempts=10)
        assert not transfer.is_live, f"{transfer.state}: {transfer.error}"
        return transfer

    # -- evidence -------------------------------------------------------------------------------------------

    def litter(self) -> list[str]:
        """What lies in tierd's private directories and belongs to no live transfer and no placement."""
        found = []
        for name, root in self.roots.items():
            private = root / ".tierd"
            for place in ("staging", "trash"):
                found += [f"{name}/{place}/{entry}" for entry in os.listdir(private / place)]
            known = {str(root / part.location) for part in self.catalog.parts()}
            found += [f"{name}/{path}" for path in glob.glob(f"{root}/.tierd-parts/*/*") if path not in known]
            for entry in os.listdir(private / "aside"):
                snapshot = next((s for s in self.catalog.snapshots() if s.key == entry), None)
                is_tree = (private / "aside" / entry).is_dir() and not (private / "aside" / entry).is_symlink()
                if snapshot is None or not is_tree or not snapshot.path.is_symlink():
                    found.append(f"{name}/aside/{entry}")
        if self.s3 is not None:
            found += self._litter_in_bucket()
        return found

    def _litter_in_bucket(self) -> list[str]:
        """Objects and uploads of no copy that the catalog names, and local files of no live transfer."""
        assert self.s3 is not None
        copies = {
            str(p.location) for s in self.catalog.snapshots() for p in self.catalog.placements(s.id) if p.tier == CLOUD
        }
        used = {layout.users_prefix(c) for c in copies}
        found = [f"bucket/{key}" for key in self.keys() if not any(key.startswith(f"{c}/") for c in copies | used)]
        found += [f"upload/{key}" for key in (u.key for u in self.bucket.uploads(""))]
        for place in ("staging", "trash"):
            found += [f"state/{place}/{entry}" for entry in os.listdir(self.s3.state / place)]
        return found

    def wipe(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)


def digest_tree(root: Path) -> dict[str, tuple[object, ...]]:
    """What a user sees of a tree, by a way that shares no code with tierd: path → facts, contents hashed."""
    facts: dict[str, tuple[object, ...]] = {}
    top = os.fsencode(root)
    for directory, names, files in os.walk(top):
        for name in [b"", *names, *files] if directory == top else [*names, *files]:
            path = os.path.join(directory, name) if name else directory
            st = os.lstat(path) if path != top else os.stat(path)
            key = os.fsdecode(os.path.relpath(path, top))
            common = (oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns)
            if os.path.islink(path) and path != top:
                facts[key] = (*common, os.readlink(path))
            elif os.path.isfile(path):
                content = Path(os.fsdecode(path)).read_bytes()
                facts[key] = (*common, st.st_size, hashlib.sha256(content).hexdigest())
            else:
                facts[key] = common
    return facts


def is_done(transfer: Transfer) -> bool:
    """Whether it reached its end; prints what it says when it did not, for the report of the failed test."""
    if transfer.state is not TransferState.DONE:
        print(f"transfer {transfer.id} is {transfer.state}: {transfer.error_code}: {transfer.error}")
    return transfer.state is TransferState.DONE


__all__ = ["CLOUD", "FLASH", "HDD", "Job", "Seaweed", "Trap", "World", "digest_tree", "is_done", "s3_settings"]

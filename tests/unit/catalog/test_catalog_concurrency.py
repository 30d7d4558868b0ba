"""Many threads at once, and a process that dies while it writes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from tests.unit.catalog.catalog_world import NOW, S, World
from tierd.catalog import Catalog
from tierd.errors import IllegalTransition
from tierd.model.transfer import TransferKind

THREADS = 40


def test_sixty_four_wishes_for_one_snapshot_join_one_transfer(world: World) -> None:
    s = world.add()
    start = threading.Barrier(THREADS)

    def warm(rank: int) -> tuple[int, bool]:
        if rank < THREADS:
            start.wait()
        t, is_new = world.try_enqueue(s.id, TransferKind.RECALL)
        return t.id, is_new

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(warm, range(64)))
    assert len({transfer_id for transfer_id, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1


def test_of_many_who_advance_one_wins(world: World) -> None:
    t = world.enqueue(world.add().id)
    start = threading.Barrier(THREADS)

    def claim(_: int) -> bool:
        start.wait()
        try:
            world.catalog.advance(t.id, S.QUEUED, S.COPYING, now=NOW)
        except IllegalTransition:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(claim, range(THREADS))) == 1
    assert world.kinds().count("transfer.copying") == 1


def test_forty_threads_read_and_write_at_once(world: World) -> None:
    ids = [world.add(f"v{n}").id for n in range(THREADS)]

    def work(n: int) -> None:
        for _ in range(5):
            lease = world.catalog.grant_lease(snapshot_id=ids[n], holder=str(n), ttl=timedelta(hours=1), now=NOW)
            assert len(world.catalog.view(world.tiers, world.datasets, {}, now=NOW).snapshots) == THREADS
            t = world.enqueue(ids[n])
            world.catalog.wait_for_event(0, 1)
            world.catalog.request_cancel(t.id, NOW)
            world.catalog.end_lease(lease.id, NOW)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert world.catalog.last_event_id() == THREADS * (1 + 5 * 4)
    assert world.catalog.holds(now=NOW) == []


CRASHER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.unit.catalog.catalog_world import configured
from tierd.catalog import Catalog
world = configured(Catalog.open(Path(sys.argv[1])), Path("/nowhere"))
for n in range(100000):
    s = world.add(f"v{n}")
    world.enqueue(s.id)
    print(n, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    db = tmp_path / "tierd.db"
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", CRASHER, str(db), str(root)], stdout=subprocess.PIPE, cwd=root
    ) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline() for _ in range(50)]
        child.send_signal(signal.SIGKILL)
        acknowledged += child.stdout.readlines()
    count = len(acknowledged)
    with Catalog.open(db, wait_s=5) as catalog:
        assert len(catalog.snapshots()) - count in (0, 1)
        transfers = catalog.transfers(limit=100_000)
        assert len(transfers) - count in (0, 1)
        queued = [e for e in catalog.events(limit=1_000_000) if e.kind == "transfer.queued"]
        assert len(queued) == len(transfers)

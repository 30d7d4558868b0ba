"""One access tracker in a process of its own, as the daemon runs it: drained once a second.

    tracking_tracker.py NAME PATH      says a line of JSON when its watches are set up, and one after SIGTERM

The first says how long that took, and what it cost in resident memory; the second what was seen in all.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tierd.config import ObserveConfig
from tierd.model.dataset import SnapshotId
from tierd.observe.choose import choose
from tierd.observe.tracker import Watch

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SET_UP_S = 600.0


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20


def _say(**found: object) -> None:
    print(json.dumps(found), flush=True)


def main(name: str, path: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    tracker = choose(ObserveConfig(tracker=name), clock=lambda: datetime.now(UTC))
    snapshots = sorted(entry for entry in Path(path).iterdir() if entry.is_dir() and not entry.name.startswith("."))
    snapshots = [entry for entry in snapshots if entry.name != "lost+found"]
    watches = [Watch(snapshot_id=None, dataset="bench", path=Path(path))]
    watches += [Watch(snapshot_id=SnapshotId(n), dataset="bench", path=at) for n, at in enumerate(snapshots)]
    before, began = _resident_mib(), time.perf_counter()
    tracker.start([])
    tracker.update(watches)
    is_ready = tracker.sync(_SET_UP_S)
    set_up = time.perf_counter() - began
    _say(is_ready=is_ready, set_up_s=round(set_up, 4), resident_mib=round(_resident_mib() - before, 1))
    tracker.drain()
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu, began = used.ru_utime + used.ru_stime, time.perf_counter()
    seen: set[int] = set()
    reads = 0
    while not stop.wait(1.0):
        for batch in tracker.drain():
            if batch.reads:
                seen.add(batch.snapshot_id)
                reads += batch.reads
    elapsed = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - cpu
    status = tracker.status()
    tracker.stop()  # what it was not sure of yet is settled
    for batch in tracker.drain():
        if batch.reads:
            seen.add(batch.snapshot_id)
            reads += batch.reads
    _say(
        name=status.name,
        is_degraded=status.is_degraded,
        detail=status.detail,
        snapshots_seen=len(seen),
        snapshots=len(snapshots),
        reads=reads,
        lost=status.events_lost,
        cpu_share=round(cpu / max(elapsed, 1e-9), 4),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

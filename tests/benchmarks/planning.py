"""How long one plan takes over many snapshots, and one explanation and one admission: pure decisions, no catalog.

    python tests/benchmarks/planning.py [--most 100000]

The view is mixed: half on flash (some held, some unsettled, most with a cold copy), flash above its high watermark,
weights and announcements as in use. The peer is the least that any planner does: to sort as many values once. Ends
with one line of JSON: milliseconds (best of three), and plan time over sort time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from tests.unit.decide.decide_world import FLASH, GIB, HDD, NOW, lease, snapshot, usage, view
from tierd.decide import admit, explain, plan
from tierd.model.plan import SnapshotView, View
from tierd.model.value import Cost


def world(count: int) -> View:
    chance = random.Random(1)
    snapshots: list[SnapshotView] = []
    for n in range(count):
        is_warm = n % 2 == 0
        on = [FLASH, HDD] if is_warm and n % 10 else [FLASH] if is_warm else [HDD]
        snapshots.append(
            snapshot(
                f"s{n}",
                on=on,
                number=n + 1,
                gib=chance.uniform(0.01, 1),
                unused=timedelta(hours=chance.uniform(0, 2000)),
                weight=chance.expovariate(0.3),
                weight_at=NOW - timedelta(days=chance.uniform(0, 60)),
                holds=[lease()] if n % 50 == 0 else (),
            )
        )
    full = sum(s.snapshot.size_bytes for s in snapshots if s.on(FLASH)) / GIB
    flash = usage(FLASH, full, full / 0.95)
    return replace(
        view(*snapshots, flash=flash, hdd=usage(HDD, 0, full * 10)),
        costs={HDD: Cost(start_s=1, s_per_byte=5e-9, s_per_file=5e-4, samples=9)},
    )


def best_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=100_000)
    most = parser.parse_args().most
    found: dict[str, dict[str, float]] = {}
    for count in (1000, 10_000, 100_000):
        if count > most:
            continue
        seen = world(count)
        made = plan(seen, NOW)
        assert made.steps
        cold = next(s for s in seen.snapshots if s.on(FLASH) is None)
        values = [random.random() for _ in range(count)]
        found[str(count)] = {
            "plan_ms": round(best_ms(lambda seen=seen: plan(seen, NOW)), 1),
            "explain_ms": round(best_ms(lambda seen=seen, cold=cold: explain(seen, cold.ref, NOW)), 1),
            "admit_ms": round(best_ms(lambda seen=seen, cold=cold: admit(seen, cold.ref, NOW)), 1),
            "sort_ms": round(best_ms(lambda values=values: sorted(values)), 2),
            "steps": len(made.steps),
        }
        found[str(count)]["plan_over_sort"] = round(found[str(count)]["plan_ms"] / found[str(count)]["sort_ms"], 1)
        print(count, found[str(count)], file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

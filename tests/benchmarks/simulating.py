"""How fast a million uses of a thousand snapshots are replayed, by each policy, beside libcachesim's LRU in C.

    python tests/benchmarks/simulating.py [--uses 1000000]

Ends with one line of JSON: seconds of CPU for each policy and for all that `tierd simulate` replays by default, and how
many times as long as libcachesim's LRU each of them took (it reads no CSV; neither do these figures).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time

from tierd.decide.simulate import Access, Trace, lower_bound, replay
from tierd.decide.simulate.replay import AnyPolicy, Reference
from tierd.model.value import PolicyName

SNAPSHOTS = 1000
_PEER = """
import json, random, sys, time
import libcachesim as lcs
uses, flash, sizes, weights = json.load(sys.stdin)
names = random.Random(1).choices(range(len(sizes)), weights, k=uses)
requests = [lcs.Request(obj_id=n + 1, obj_size=sizes[n], clock_time=i) for i, n in enumerate(names)]
cache = lcs.LRU(cache_size=flash)
began = time.process_time()
missed = sum(0 if cache.get(r) else r.obj_size for r in requests)
print(json.dumps([time.process_time() - began, missed / sum(r.obj_size for r in requests)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uses", type=int, default=1_000_000)
    uses = parser.parse_args().uses
    chance = random.Random(1)
    weights = [1 / (n + 1) ** 0.8 for n in range(SNAPSHOTS)]
    names = random.Random(1).choices(range(SNAPSHOTS), weights, k=uses)
    sizes = [int(10 ** chance.uniform(3, 6)) for _ in range(SNAPSHOTS)]
    began = time.process_time()
    trace = Trace(Access(60.0 * i, f"s{n}", sizes[n]) for i, n in enumerate(names))
    took: dict[str, float] = {"reading": time.process_time() - began}
    flash = sum(sizes) // 10
    policies: list[AnyPolicy] = [*(p for p in PolicyName if p is not PolicyName.STP), Reference.BELADY]
    missed: dict[str, float] = {}
    for policy in policies:
        began = time.process_time()
        missed[policy] = replay(trace, policy, flash).byte_miss_ratio
        took[policy] = time.process_time() - began
        print(f"{policy:8} {took[policy]:6.1f} s, {missed[policy]:.3f} of the bytes missed", file=sys.stderr)
    began = time.process_time()
    bound = lower_bound(trace, flash)
    took["bound"] = time.process_time() - began
    asked = json.dumps([uses, flash, sizes, weights])
    ran = subprocess.run([sys.executable, "-c", _PEER], input=asked, capture_output=True, text=True, check=True)
    peer_s, peer_missed = json.loads(ran.stdout)
    assert abs(peer_missed - missed[PolicyName.LRU]) < 1e-3, (peer_missed, missed[PolicyName.LRU])
    result = {
        "uses": uses,
        "seconds": {name: round(seconds, 2) for name, seconds in took.items()},
        "seconds_in_all": round(sum(took.values()), 1),
        "times_libcachesim_lru": {policy: round(took[policy] / peer_s, 1) for policy in policies},
        "ewr_over_lru_missed": round(missed[PolicyName.EWR] / missed[PolicyName.LRU], 3),
        "bound_over_lru_missed": round(bound.byte_miss_ratio / missed[PolicyName.LRU], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""How fast the API answers while bytes move at full speed, against the same daemon at rest.

    python tests/benchmarks/api_latency.py [--seconds 15] [--gib 4]

Ends with one JSON line: p50 and p99 in milliseconds at rest and during a migration, and their ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.acceptance.daemon_process import DaemonProcess

_REQUESTS = ("/v1/status", "/v1/snapshots", "/v1/snapshots/ds/idle", "/v1/transfers?live=true", "/v1/tiers")


def measure(daemon: DaemonProcess, seconds: float, *, while_moving: bool) -> list[float]:
    """Seconds per answer, one request after the other; while_moving: only as long as a transfer is live."""
    samples: list[float] = []
    transport = httpx.HTTPTransport(uds=str(daemon.base / "api.sock"))
    with httpx.Client(transport=transport, base_url="http://tierd", timeout=30) as client:
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            path = _REQUESTS[number % len(_REQUESTS)]
            number += 1
            begin = time.perf_counter()
            answer = client.get(path)
            samples.append(time.perf_counter() - begin)
            answer.raise_for_status()
            if while_moving and path.startswith("/v1/transfers") and not answer.json()["items"]:
                break
            time.sleep(0.01)
    return samples


def summary(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {
        "requests": len(ordered),
        "p50_ms": round(statistics.median(ordered) * 1000, 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
        "max_ms": round(ordered[-1] * 1000, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--gib", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tierd-bench-") as directory:
        daemon = DaemonProcess(Path(directory))
        (daemon.dataset / "idle").mkdir()
        (daemon.dataset / "idle" / "f").write_bytes(b"x")
        for number in range(200):
            (daemon.dataset / f"other{number}").mkdir()
        block = os.urandom(1 << 20)
        big, small = daemon.dataset / "big", daemon.dataset / "small"
        big.mkdir()
        for number in range(options.gib):
            with (big / f"f{number}").open("wb") as file:
                for _ in range(1024):
                    file.write(block)
        for number in range(20_000):
            path = small / f"d{number // 500}" / f"f{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(block[:16384])
        daemon.start()
        try:
            daemon.wait_for_residency("ds/small", "resident", timeout=120)
            daemon.wait_until(lambda: daemon.snapshot("ds/small")["is_settled"], "settled")
            measure(daemon, 1, while_moving=False)
            rest = measure(daemon, options.seconds / 2, while_moving=False)
            for name in ("big", "small"):
                daemon.post(f"/v1/snapshots/ds/{name}/migrate")
            busy = measure(daemon, options.seconds, while_moving=True)
        finally:
            daemon.close()
    at_rest, moving = summary(rest), summary(busy)
    ratios = {key: round(moving[key] / at_rest[key], 2) for key in ("p50_ms", "p99_ms")}
    print(json.dumps({"at_rest": at_rest, "migrating": moving, "ratios": ratios}))


if __name__ == "__main__":
    main()

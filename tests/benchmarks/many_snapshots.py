"""The daemon with 10,000 snapshots against the same daemon with 100: start, answers, memory.

    python tests/benchmarks/many_snapshots.py [--many 10000]

Ends with one JSON line of both and their ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.acceptance.daemon_process import DaemonProcess

_PATHS = {
    "status": "/v1/status",
    "list": "/v1/snapshots?limit=100",
    "one": "/v1/snapshots/ds/v7",
    "plan": "/v1/plan",
    "metrics": "/metrics",
}


def measure(snapshots: int) -> dict[str, float]:
    """Seconds until ready, median milliseconds per answer, and MiB of the daemon."""
    with tempfile.TemporaryDirectory(prefix="tierd-bench-") as directory:
        daemon = DaemonProcess(Path(directory))
        for number in range(snapshots):
            path = daemon.dataset / f"v{number}"
            path.mkdir()
            (path / "f").write_bytes(b"x" * 100)
        begin = time.monotonic()
        try:
            daemon.process = daemon.spawn()
            daemon.wait_until(lambda: daemon.get("/readyz", check=False).status_code == 200, "ready", timeout=600)
            found = {"ready_s": round(time.monotonic() - begin, 2)}
            for name, path in _PATHS.items():
                times = []
                for _ in range(15):
                    at = time.perf_counter()
                    daemon.get(path)
                    times.append(time.perf_counter() - at)
                    time.sleep(0.1)
                found[f"{name}_ms"] = round(statistics.median(times) * 1000, 1)
            status = Path(f"/proc/{daemon.process.pid}/status").read_text()
            rss = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            found["rss_mib"] = round(int(rss.split()[1]) / 1024, 1)
            cpu = Path(f"/proc/{daemon.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            before = int(cpu[11]) + int(cpu[12])
            time.sleep(10)
            cpu = Path(f"/proc/{daemon.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            found["idle_cpu_percent"] = round((int(cpu[11]) + int(cpu[12]) - before) / 10, 1)
        finally:
            daemon.close()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=10_000)
    options = parser.parse_args()
    few, many = measure(100), measure(options.many)
    ratios = {key: round(many[key] / few[key], 2) for key in few if few[key]}
    print(json.dumps({"snapshots_100": few, f"snapshots_{options.many}": many, "ratios": ratios}))


if __name__ == "__main__":
    main()

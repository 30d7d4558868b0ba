"""The daemon with 10,000 snapshots against the same daemon with 100: start, answers, memory, and what it costs idle.

    python tests/benchmarks/many_snapshots.py [--many 10000] [--idle 120]

Ends with one JSON line of both and their ratios. The daemon runs with its default intervals. Of each answer: the
median and the worst milliseconds its client waited, and the daemon's CPU (with whatever else it did meanwhile).
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

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.acceptance.daemon_process import DaemonProcess

_PATHS = {
    "status": "/v1/status",
    "list": "/v1/snapshots?limit=100",
    "one": "/v1/snapshots/ds/v7",
    "plan": "/v1/plan",
    "metrics": "/metrics",
    "page": "/",
    "table": "/page/snapshots?sort=size",
    "overview": "/v1/overview",
    "rows": "/v1/rows?sort=value",
}
_TIMES = 15
_TICKS = os.sysconf("SC_CLK_TCK")


class QuietDaemon(DaemonProcess):
    """With the intervals that a server has, not those of tests that are in a hurry."""

    def write_config(self) -> None:
        super().write_config()
        hurried = ("decide_interval", "flush_interval", "level")
        kept = [line for line in self.config.read_text().splitlines() if not line.startswith(hurried)]
        self.config.write_text("\n".join(kept))


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process and the children it waited for have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / _TICKS


def pss_mib(pid: int) -> float:
    """Memory of a process, of what it shares its part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return round(sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024, 1)


def answers(daemon: DaemonProcess, pid: int, pause_s: float) -> dict[str, float]:
    """How long each path takes when it is asked for again and again."""
    found: dict[str, float] = {}
    for name, path in _PATHS.items():
        times, used = [], cpu_s(pid)
        for _ in range(_TIMES):
            at = time.perf_counter()
            daemon.get(path)
            times.append((time.perf_counter() - at) * 1000)
            time.sleep(pause_s)
        found[f"{name}_ms"] = round(statistics.median(times), 1)
        found[f"{name}_worst_ms"] = round(max(times), 1)
        found[f"{name}_cpu_ms"] = round((cpu_s(pid) - used) / _TIMES * 1000, 1)
    return found


def measure(snapshots: int, idle_s: float, pause_s: float) -> dict[str, float]:
    """Seconds until ready, milliseconds per answer, memory, and percent of a core while nobody asks."""
    with tempfile.TemporaryDirectory(prefix="tierd-bench-") as directory:
        daemon = QuietDaemon(Path(directory))
        for number in range(snapshots):
            path = daemon.dataset / f"v{number}"
            path.mkdir()
            (path / "f").write_bytes(b"x" * 100)
        begin = time.monotonic()
        try:
            daemon.process = daemon.spawn()
            pid = daemon.process.pid
            daemon.wait_until(lambda: daemon.get("/readyz", check=False).status_code == 200, "ready", timeout=600)
            found = {"ready_s": round(time.monotonic() - begin, 2)}
            time.sleep(min(30.0, idle_s))
            used = cpu_s(pid)
            time.sleep(idle_s)
            found["idle_cpu_percent"] = round((cpu_s(pid) - used) / idle_s * 100, 2)
            found["idle_pss_mib"] = pss_mib(pid)
            found |= answers(daemon, pid, pause_s)
            found["asked_pss_mib"] = pss_mib(pid)
        finally:
            daemon.close()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--idle", type=float, default=120.0, help="seconds in which nobody asks")
    parser.add_argument("--pause", type=float, default=1.5, help="seconds between two answers")
    options = parser.parse_args()
    few, many = (measure(n, options.idle, options.pause) for n in (100, options.many))
    ratios = {key: round(many[key] / few[key], 2) for key in few if few[key]}
    print(json.dumps({"snapshots_100": few, f"snapshots_{options.many}": many, "ratios": ratios}))


if __name__ == "__main__":
    main()

"""What it costs a reader that tierd watches: fanotify against watchdog against nothing, in turns.

    sudo python tests/benchmarks/tracking.py                     # ends with one line of JSON
    sudo python tests/benchmarks/tracking.py --only readers --repeats 9
    sudo python tests/benchmarks/tracking.py --scale             # set-up also with 1,000,000 directories

    readers   slow-down of an epoch: 100,000 small files by a loop in C and by one in Python that decodes nothing,
              and 1 GiB through mmap and through read; above 1, the tracker costs something
    set-up    seconds and MiB until 10,000 and 100,000 directories are watched
    rate      opens per second by processes that go through 20,000 directories: is anything lost, what does it cost
    latency   from a read until the daemon's API tells of it

Everything lies in the page cache on a fresh ext4 on a loop mount; trackers run in a process of their own, as in the
daemon. Each turn compares the trackers with "nothing" right before, and the ratios' medians are reported: machines
drift by more than what is measured. Python readers are processes of their own, their start is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.acceptance.daemon_process import DaemonProcess  # noqa: E402  needs the path above, as all that follows
from tests.benchmarks.object_storage_measure import fresh_ext4  # noqa: E402

TRACKERS = ("fanotify", "watchdog")
_HERE = Path(__file__).parent
_SNAPSHOTS, _DIRECTORIES, _FILES = 10, 10, 1000
_LARGE_MIB = 1024

_C_READER = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
int main(int argc, char **argv) {
    char path[512], data[4096];
    double began = now();
    for (int pass = 0; pass < atoi(argv[2]); pass++)
        for (int s = 0; s < SNAPSHOTS; s++) for (int d = 0; d < DIRECTORIES; d++) for (int f = 0; f < FILES; f++) {
            snprintf(path, sizeof path, "%s/s%d/d%d/f%d", argv[1], s, d, f);
            int fd = open(path, O_RDONLY);
            if (fd < 0 || read(fd, data, sizeof data) < 0) return 1;
            close(fd);
        }
    printf("%f\n", now() - began);
    return 0;
}
"""

_PYTHON_READER = f"""
import sys, time
began = time.perf_counter()
for _ in range(int(sys.argv[2])):
    for s in range({_SNAPSHOTS}):
        for d in range({_DIRECTORIES}):
            for f in range({_FILES}):
                with open(f"{{sys.argv[1]}}/s{{s}}/d{{d}}/f{{f}}", "rb") as file:
                    file.read()
print(time.perf_counter() - began)
"""

_LARGE_READER = """
import mmap, sys, time
began, buffer = time.perf_counter(), bytearray(1 << 20)
for _ in range(int(sys.argv[2])):
    with open(f"{sys.argv[1]}/large/data", "rb", buffering=0) as file:
        if sys.argv[3] == "mmap":
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                sum(mapped[at] for at in range(0, len(mapped), 4096))
        else:
            while file.readinto(buffer):
                pass
print(time.perf_counter() - began)
"""

_CHURN = """
import os, sys, time
base, seconds, first = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
names = sorted(os.listdir(base))
names = names[first:] + names[:first]
opens, end = 0, time.monotonic() + seconds
while time.monotonic() < end:
    for name in names:
        os.close(os.open(f"{base}/{name}/f", os.O_RDONLY))
    opens += len(names)
print(opens)
"""


@contextmanager
def tracked(name: str | None, path: Path, said: dict[str, Any]) -> Iterator[None]:
    """A tracker at work, set up; what it says at both ends goes into `said`."""
    if name is None:
        yield
        return
    command = [sys.executable, str(_HERE / "tracking_tracker.py"), name, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said |= json.loads(process.stdout.readline())
            yield
        finally:
            process.terminate()
            said |= json.loads(process.stdout.readline() or "{}")
    if said.get("name") != name:
        sys.exit(f"{name} cannot be used here: {said.get('detail')}")


def timed(command: list[str]) -> float:
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def make_files(base: Path) -> None:
    for s in range(_SNAPSHOTS):
        for d in range(_DIRECTORIES):
            directory = base / f"s{s}" / f"d{d}"
            directory.mkdir(parents=True)
            for f in range(_FILES):
                (directory / f"f{f}").write_bytes(b"x" * 4096)
    (base / "large").mkdir()
    with (base / "large" / "data").open("wb") as file:
        for _ in range(_LARGE_MIB):
            file.write(os.urandom(1 << 20))


def compare_readers(base: Path, scratch: Path, repeats: int) -> dict[str, Any]:
    make_files(base)
    source, binary = scratch / "reader.c", scratch / "reader"
    source.write_text(_C_READER)
    python = [sys.executable, "-c"]
    readers = {
        "python": [*python, _PYTHON_READER, str(base), "3"],
        "mmap": [*python, _LARGE_READER, str(base), "4", "mmap"],
        "large": [*python, _LARGE_READER, str(base), "8", "read"],
    }
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print("no C compiler: the loop in C is left out", file=sys.stderr)
    else:
        sizes = {"SNAPSHOTS": _SNAPSHOTS, "DIRECTORIES": _DIRECTORIES, "FILES": _FILES}
        defined = [f"-D{name}={value}" for name, value in sizes.items()]
        subprocess.run([compiler, "-O2", *defined, "-o", str(binary), str(source)], check=True)
        readers["c"] = [str(binary), str(base), "12"]
    ratios: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    for turn in range(repeats):
        for reader, command in readers.items():
            timed(command)  # whoever runs first pays for what the last reader pushed out of the caches
            order = TRACKERS if turn % 2 else TRACKERS[::-1]
            for name in order:
                before = timed(command)
                said: dict[str, Any] = {}
                with tracked(name, base, said):
                    during = timed(command)
                after = timed(command)
                ratio = during / ((before + after) / 2)
                ratios.setdefault(f"{reader}_{name}", []).append(ratio)
                row = f"{reader:7} {name:9} {ratio:6.3f} x   sees {said['snapshots_seen']} of {said['snapshots']}"
                print(f"{row}, {said['lost']} times lost, {said['cpu_share']:.1%} of a core", flush=True)
                if reader in ("c", "python"):
                    found[f"{reader}_{name}_snapshots_seen"] = said["snapshots_seen"]
                    found[f"{reader}_{name}_cpu_share"] = said["cpu_share"]
    return {f"{key}_slowdown": round(statistics.median(each), 3) for key, each in ratios.items()} | found


def compare_set_up(base: Path, counts: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    made = 0
    for count in counts:
        for number in range(made, count):
            path = base / f"s{number // 10_000}" / f"e{number % 10_000 // 100}" / f"d{number % 100}"
            path.mkdir(parents=True)
        made = count
        for name in TRACKERS:
            said: dict[str, Any] = {}
            with tracked(name, base, said):
                pass
            found[f"set_up_{count}_{name}_s"] = said["set_up_s"]
            found[f"set_up_{count}_{name}_mib"] = said["resident_mib"]
            print(f"set-up  {name:9} {count:9,} directories  {said['set_up_s']:8.3f} s", end="")
            print(f"  {said['resident_mib']:6.1f} MiB  {'' if said['is_ready'] else said['detail']}", flush=True)
    return found


def sustain(base: Path, seconds: float = 10.0) -> dict[str, Any]:
    """Processes that open one file in each of many directories: nothing merges, the worst for a queue."""
    for number in range(20_000):
        path = base / "s0" / f"d{number}"
        path.mkdir(parents=True)
        (path / "f").write_bytes(b"x")
    found: dict[str, Any] = {}
    for name in TRACKERS:
        said: dict[str, Any] = {}
        with tracked(name, base, said):
            command = [sys.executable, "-c", _CHURN, str(base / "s0"), str(seconds)]
            churn = [subprocess.Popen([*command, str(n * 5000)], stdout=subprocess.PIPE, text=True) for n in range(2)]
            opens = sum(int(each.communicate()[0]) for each in churn)
            time.sleep(1.0)  # the last events are drained
        found[f"rate_{name}_opens_per_s"] = round(opens / seconds)
        found[f"rate_{name}_lost"] = said["lost"]
        found[f"rate_{name}_cpu_share"] = said["cpu_share"]
        row = f"rate    {name:9} {opens / seconds:9,.0f} opens/s  {said['lost']} times lost"
        print(f"{row}  {said['cpu_share']:.1%} of a core", flush=True)
    return found


def latency(flash: Path, scratch: Path, tries: int = 20) -> dict[str, Any]:
    """Seconds from a read until the API tells of it, by a daemon that writes accesses down five times a second."""
    daemon = DaemonProcess(scratch / "daemon", flash=flash)
    (daemon.dataset / "v1").mkdir()
    (daemon.dataset / "v1" / "f").write_bytes(b"x")
    found: list[float] = []
    try:
        daemon.process = daemon.spawn()
        daemon.wait_until(lambda: daemon.get("/readyz", check=False).status_code == 200, "ready", timeout=60)
        daemon.wait_until(lambda: daemon.get("/v1/snapshots/ds/v1", check=False).status_code == 200, "the snapshot")
        name = daemon.get("/v1/status").json()["tracker"]["name"]
        for _ in range(tries):
            before = daemon.get("/v1/snapshots/ds/v1").json()["read_at"]
            time.sleep(0.3)
            began = time.monotonic()
            (daemon.dataset / "v1" / "f").read_bytes()
            while daemon.get("/v1/snapshots/ds/v1").json()["read_at"] == before:
                time.sleep(0.02)
            found.append(time.monotonic() - began)
    finally:
        daemon.close()
    print(f"latency {name:9} median {statistics.median(found):.2f} s, longest {max(found):.2f} s", flush=True)
    return {"latency_tracker": name, "latency_p50_s": round(statistics.median(found), 3), "latency_max_s": max(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="readers,set-up,rate,latency")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", action="store_true", help="set-up also with 1,000,000 directories")
    options = parser.parse_args()
    chosen = options.only.split(",")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tierd-bench-") as directory:
        scratch = Path(directory)

        @contextmanager
        def mount(name: str, size_gib: float, inodes: int | None = None) -> Iterator[Path]:
            with fresh_ext4(scratch, name, size_gib, inodes) as at:
                subprocess.run(["mount", "-o", "remount,relatime", str(at)], check=True)
                (at / "bench").mkdir()
                yield at / "bench"

        if "readers" in chosen:
            with mount("readers", 3.0) as base:
                found |= compare_readers(base, scratch, options.repeats)
        if "set-up" in chosen:
            counts = [10_000, 100_000] + ([1_000_000] if options.scale else [])
            with mount("dirs", *((8.0, 1_500_000) if options.scale else (2.0,))) as base:
                found |= compare_set_up(base, counts)
        if "rate" in chosen:
            with mount("rate", 1.0) as base:
                found |= sustain(base)
        if "latency" in chosen:
            with mount("latency", 1.0) as base:
                found |= latency(base, scratch)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

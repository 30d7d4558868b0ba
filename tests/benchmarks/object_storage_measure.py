"""What one run of a client costs: wall time, CPU time and peak memory of its processes, and its first byte.

Nothing here knows which client it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from blake3 import blake3

from tierd.fs.linux import syncfs

TIMEOUT_S = 1200.0
_MEMORY_EVERY_S = 0.05
_SETTLE_S = 0.2
_WATCH_EVERY_S = 0.005
_TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A client ended with an error, or what it brought is not what was sent."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """One run: seconds, CPU seconds (user and system), peak memory in bytes; `said` is its last line, as JSON.

    `wall_s` includes the start of the process and the sync of what it wrote; `first_byte_s` is when the first
    non-empty file was in the watched directory.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    first_byte_s: float | None
    said: dict[str, float]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextmanager
def fresh_ext4(base: Path, name: str, size_gib: float, inodes: int | None = None) -> Iterator[Path]:
    """A new file system on an image that was written once from end to end (never-written space is slower)."""
    image, mount = base / f"{name}.img", base / name
    block = bytes(16 << 20)
    with image.open("wb", buffering=0) as out:
        for _ in range(int(size_gib * 64)):
            out.write(block)
        os.fsync(out.fileno())
    count = () if inodes is None else ("-N", str(inodes))
    run("mkfs.ext4", "-q", "-F", "-m", "0", *count, "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    device = run("losetup", "--find", "--show", "--direct-io=on", image)
    mount.mkdir()
    try:
        run("mount", "-o", "noatime", device, mount)
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=False)
        run("losetup", "--detach", device)
        image.unlink()


def sync(path: Path) -> None:
    """Write out the file system that holds `path`."""
    fd = os.open(path, os.O_RDONLY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def contents(root: Path) -> dict[str, bytes]:
    """The digest of every file below a directory, by relative path. Leaves the files in the page cache."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            small = path.stat().st_size < 1 << 20
            hasher = blake3(path.read_bytes()) if small else blake3(max_threads=blake3.AUTO).update_mmap(path)
            found[str(path.relative_to(root))] = hasher.digest()
    return found


def compare(expected: dict[str, bytes], root: Path) -> None:
    """Raises Failed naming the first differences."""
    found = contents(root)
    missing = expected.keys() - found.keys()
    foreign = found.keys() - expected.keys()
    changed = {name for name in expected.keys() & found.keys() if expected[name] != found[name]}
    if missing or foreign or changed:
        names = ", ".join(sorted(missing | foreign | changed)[:3])
        raise Failed(f"{root}: {len(missing)} files missing, {len(foreign)} foreign, {len(changed)} changed: {names} …")


def processes(pid: int) -> list[int]:
    """A process and all its descendants that live."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += processes(int(child))
    return found


def memory(pid: int) -> int:
    """Of a process and its descendants, in bytes: its own high-water mark, or their shares (PSS) added up."""
    pids = processes(pid)
    if len(pids) == 1:
        return _field(f"/proc/{pid}/status", "VmHWM:")
    return sum(_field(f"/proc/{each}/smaps_rollup", "Pss:") for each in pids)


def cpu_seconds(pid: int) -> float:
    """User and system time of a living process, its living descendants, and the dead ones that were waited for."""
    total = 0.0
    for each in processes(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15]) / _TICK
    return total


def measured(
    command: list[str],
    environment: Mapping[str, str],
    *,
    synced: Path | None = None,
    watched: Path | None = None,
    stands_by: bool = False,
) -> Spent:
    """Run a client to its end.

    Args:
        environment: added to this process's.
        stands_by: it is started before, says a line when it is ready, and begins when it gets one: time and CPU count
            from there.
        synced: the file system it wrote to; its sync is part of the time.
        watched: the directory where its files appear.

    Raises:
        Failed: it ended with an error, or lasted too long.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began, spent_before = time.perf_counter(), 0.0
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE if stands_by else subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
        )
        if process.stdin is not None:
            while process.poll() is None and not os.fstat(out.fileno()).st_size:
                time.sleep(0.01)
            time.sleep(_SETTLE_S)
            spent_before, began = cpu_seconds(process.pid), time.perf_counter()
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(b"go\n")
        watch = _Watch(process.pid, watched, began)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        watch.end()
        if synced is not None:
            sync(synced)
        wall = time.perf_counter() - began
        if process.returncode != 0:
            why = _tail(errors) or _tail(out) or "it said nothing"
            raise Failed(f"{command[0]} ended with {process.returncode} after {wall:.0f} s: {why}")
        return Spent(
            wall_s=wall,
            cpu_s=usage.ru_utime + usage.ru_stime - spent_before,
            peak_bytes=watch.peak_bytes,
            first_byte_s=watch.first_byte_s,
            said=_said(out),
        )


class _Watch(threading.Thread):
    """Looks at a client while it works, and kills it when it lasts too long."""

    def __init__(self, pid: int, watched: Path | None, began: float) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self.first_byte_s: float | None = None
        self._pid, self._watched, self._began = pid, watched, began
        self._is_over = threading.Event()
        self.start()

    def end(self) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        next_look = 0.0
        while not self._is_over.wait(_WATCH_EVERY_S if self.first_byte_s is None else _MEMORY_EVERY_S):
            now = time.perf_counter()
            if self.first_byte_s is None and self._watched is not None and _has_bytes(self._watched):
                self.first_byte_s = time.perf_counter() - self._began
            if now >= next_look:
                next_look = now + _MEMORY_EVERY_S
                self.peak_bytes = max(self.peak_bytes, memory(self._pid))
            if now - self._began > TIMEOUT_S:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, 9)


def _has_bytes(root: Path) -> bool:
    """Whether there is a file with anything in it; a file of full length without bytes does not count."""
    for directory, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):
                if Path(directory, name).stat().st_blocks:
                    return True
    return False


def _field(path: str, name: str) -> int:
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    return " | ".join(file.read().decode(errors="replace").strip().splitlines()[-3:])


def _said(file: IO[bytes]) -> dict[str, float]:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    if lines and lines[-1].startswith("{"):
        return dict(json.loads(lines[-1]))
    return {}


def empty(directory: Path) -> Path:
    """A directory that is there and has nothing in it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory

"""The S3 tier measured against s5cmd, rclone, plain boto3 and JuiceFS on the same server (SeaweedFS).

    sudo python tests/benchmarks/object_storage.py                # everything; ends with one line of JSON
    sudo python tests/benchmarks/object_storage.py --only small,lat20 --repeats 5
    sudo python tests/benchmarks/object_storage.py --quick        # some seconds: does it work at all?

    small    20,000 files of 16 KiB            mid      200 files of 8 MiB
    big      one file of 4 GiB                 lat20    `small` through 20 ms of round trip
    juicefs  a recall of `small`, and an epoch of training on it afterwards

Clients take turns, and medians are compared. Every run is a process of its own whose start is part of the time, as
is the sync of what came down. Only tierd's is started ahead, as the daemon does it while transfers follow one
another (tierd/move/standby.py): its time begins with the order, but includes the start with --no-standby, as for
the first transfer after a long pause. Every client of every turn has a server of its own, started fresh with its data
on this machine's disk: nobody meets the objects, or the memory, that another one left. Source and target are fresh
ext4 on loop mounts. Sources are in the page cache for everybody: these are measurements of clients, not of a disk. What
came down lies in a new directory and is compared with the source byte by byte. tierd computes its digests on the way
up and checks them on the way down; the others do not.

Peers come with `pip install .[bench]`; JuiceFS also needs redis-server and fuse3 from the system. What is not
installed is said to be missing. CPU is user and system time of the client's processes, memory their peak.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.copying import make_small  # noqa: E402  needs the path above, as all that follows
from tests.benchmarks.object_storage_juicefs import compare_juicefs  # noqa: E402
from tests.benchmarks.object_storage_measure import (  # noqa: E402
    Failed,
    Spent,
    compare,
    contents,
    empty,
    fresh_ext4,
    measured,
    sync,
)
from tests.benchmarks.object_storage_peers import Contender, Job, contenders, tierd_command  # noqa: E402
from tests.seaweed import BUCKET, Seaweed  # noqa: E402

MIB = 1 << 20
_DELAY_MS = 10.0
_OURS = "tierd"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is brought up and down; `delay_ms` each way."""

    name: str
    make: Callable[[Path], None]
    size_mib: int
    is_one: bool = False
    delay_ms: float = 0.0
    reads_one_file: bool = False


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The places of a run."""

    base: Path
    source: Path
    target: Path

    @contextmanager
    def server(self) -> Iterator[Seaweed]:
        """A fresh server that has already written something."""
        data = self.base / "server"
        server = Seaweed(data).start()
        try:
            for number in range(32):
                server.client().put_object(Bucket=BUCKET, Key=f"warm/{number}", Body=bytes(MIB))
            yield server
        finally:
            server.kill()
            shutil.rmtree(data)
            sync(self.base)


def make_blocks(at: Path, count: int, mib: int) -> None:
    """Files that no client can shrink."""
    at.mkdir()
    for number in range(count):
        with (at / f"shard{number:04}.bin").open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))


@contextmanager
def far_away(port: int, delay_ms: float) -> Iterator[str]:
    """The endpoint of a server, with a delay in each direction."""
    if not delay_ms:
        yield f"http://127.0.0.1:{port}"
        return
    command = [sys.executable, str(Path(__file__).with_name("object_storage_delay.py")), str(port), str(delay_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(proxy.stdout.readline())}"
        finally:
            proxy.kill()


def one_turn(bench: Bench, workload: Workload, who: Contender, expected: dict[str, bytes]) -> dict[str, Spent]:
    """One client, up and down."""
    found: dict[str, Spent] = {}
    with bench.server() as server, far_away(server.s3, workload.delay_ms) as endpoint:
        job = Job(
            source=bench.source / workload.name,
            target=empty(bench.target / "tree"),
            scratch=empty(bench.target / "scratch"),
            endpoint=endpoint,
            is_one=workload.is_one,
        )
        environment = {**job.environment, **who.environment}
        if who.prepare is not None:
            measured(who.prepare(job), environment)
        contents(job.source)  # into the page cache, if it was not there
        found["up"] = measured(who.up(job), environment, synced=bench.target, stands_by=who.stands_by)
        sync(bench.base)
        tree = job.target / who.tree
        found["down"] = measured(who.down(job), environment, synced=bench.target, watched=tree, stands_by=who.stands_by)
        compare(expected, tree)
        if workload.reads_one_file and who.name == _OURS:
            found["get"] = measured(tierd_command("get", job), environment)
        for used in (job.target, job.scratch):
            shutil.rmtree(used)
    return found


def run_workload(bench: Bench, workload: Workload, clients: list[Contender], repeats: int) -> dict[str, float | str]:
    """Interleaved turns; returns ratios and tierd's own figures."""
    workload.make(bench.source / workload.name)
    expected = contents(bench.source / workload.name)
    runs: dict[tuple[str, str], list[Spent]] = {}
    failures: dict[str, float | str] = {}
    for turn in range(repeats):
        for shift in range(len(clients)):
            who = clients[(turn + shift) % len(clients)]
            try:
                spent = one_turn(bench, workload, who, expected)
            except Failed as error:
                failures[f"{workload.name}_{who.name}_failed"] = str(error)
                print(f"{workload.name:8} {who.name:8} FAILED: {error}", flush=True)
                continue
            for direction, each in spent.items():
                runs.setdefault((direction, who.name), []).append(each)
                print(_row(workload, who.name, direction, each), flush=True)
    shutil.rmtree(bench.source / workload.name)
    results = {**_own_figures(workload.name, runs), **_ratios(workload.name, runs)}
    return results | failures


def _row(workload: Workload, name: str, direction: str, spent: Spent) -> str:
    first = "" if spent.first_byte_s is None else f"  first byte {spent.first_byte_s * 1e3:.0f} ms"
    rate = f"{workload.size_mib / spent.wall_s:6.0f} MiB/s  " if direction != "get" else " " * 14
    said = f"  {spent.said}" if spent.said else ""
    return (
        f"{workload.name:8} {name:8} {direction:5} {spent.wall_s:7.2f} s  {rate}CPU {spent.cpu_s:6.2f} s  "
        f"peak {spent.peak_bytes / MIB:5.0f} MiB  load {os.getloadavg()[0]:.1f}{first}{said}"
    )


def _own_figures(workload: str, runs: dict[tuple[str, str], list[Spent]]) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for (direction, name), spent in runs.items():
        if name != _OURS:
            continue
        if direction == "get":
            keys = [key for key in spent[0].said if key.endswith("_ms")]
            found |= {f"{workload}_{key}": statistics.median(each.said[key] for each in spent) for key in keys}
            continue
        found[f"{workload}_{direction}_s"] = round(statistics.median(each.wall_s for each in spent), 3)
        found[f"{workload}_{direction}_cpu_s"] = round(statistics.median(each.cpu_s for each in spent), 2)
        found[f"{workload}_{direction}_peak_mb"] = round(max(each.peak_bytes for each in spent) / 1e6)
        first = [each.first_byte_s for each in spent if each.first_byte_s is not None]
        if first:
            found[f"{workload}_first_byte_s"] = round(statistics.median(first), 3)
    return found


def _ratios(workload: str, runs: dict[tuple[str, str], list[Spent]]) -> dict[str, float | str]:
    """A peer's median by tierd's: above 1, tierd needs less."""
    found: dict[str, float | str] = {}
    for (direction, name), spent in runs.items():
        ours = runs.get((direction, _OURS))
        if name == _OURS or not ours:
            continue
        wall = statistics.median(each.wall_s for each in spent) / statistics.median(each.wall_s for each in ours)
        cpu = statistics.median(each.cpu_s for each in spent) / statistics.median(each.cpu_s for each in ours)
        found[f"{workload}_{direction}_vs_{name}"] = round(wall, 2)
        found[f"{workload}_{direction}_cpu_vs_{name}"] = round(cpu, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="small,big,mid,lat20,juicefs", help="some of small,big,mid,lat20,juicefs")
    parser.add_argument("--clients", help="some of tierd,s5cmd,rclone,boto3")
    parser.add_argument("--no-standby", action="store_true", help="tierd's time includes the start of its process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--big-mib", type=int, default=4096)
    parser.add_argument("--small", type=int, default=20_000, metavar="FILES")
    parser.add_argument("--mid", type=int, default=200, metavar="FILES")
    parser.add_argument("--quick", action="store_true", help="small everything, once")
    parser.add_argument("--directory", type=Path, help="where images and server data go (default: temporary)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("loop mounts need root")
    if options.quick:
        options.big_mib, options.small, options.mid, options.repeats = 64, 500, 6, 1
    only = options.only.split(",")
    many = Workload(
        name="small",
        make=lambda at: make_small(at, options.small, 16384),
        size_mib=options.small // 64,
        reads_one_file=True,
    )
    known = {
        "small": many,
        "big": Workload(
            name="big", make=lambda at: make_blocks(at, 1, options.big_mib), size_mib=options.big_mib, is_one=True
        ),
        "mid": Workload(name="mid", make=lambda at: make_blocks(at, options.mid, 8), size_mib=options.mid * 8),
        "lat20": Workload(
            name="lat20", make=many.make, size_mib=many.size_mib, delay_ms=_DELAY_MS, reads_one_file=True
        ),
    }
    chosen = [known[name] for name in only if name in known]
    if len(chosen) + ("juicefs" in only) != len(only):
        parser.error(f"--only knows {', '.join(known)} and juicefs")
    clients = [
        each
        for each in contenders(tierd_stands_by=not options.no_standby)
        if options.clients is None or each.name in options.clients.split(",")
    ]
    results: dict[str, float | str] = {}
    for who in clients:
        if who.missing is not None:
            results[f"{who.name}_missing"] = who.missing
            print(f"{who.name} is missing: {who.missing}", flush=True)
    clients = [who for who in clients if who.missing is None]
    size_gib = max(workload.size_mib for workload in [*chosen, many]) * 1.1 / 1024 + 0.6
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="tierd-bench-") as base,
        fresh_ext4(Path(base), "source", size_gib) as source,
        fresh_ext4(Path(base), "target", size_gib) as target,
    ):
        bench = Bench(base=Path(base), source=source, target=target)
        for workload in chosen:
            results |= run_workload(bench, workload, clients, options.repeats)
        if "juicefs" in only:
            many.make(source / "small")
            try:
                with bench.server() as server:
                    results |= compare_juicefs(server, source / "small", target, options.repeats)
            except Failed as error:
                results["juicefs_failed"] = str(error)
    print(json.dumps(results))
    if any(key.endswith(f"{_OURS}_failed") for key in results):
        sys.exit(1)


if __name__ == "__main__":
    main()

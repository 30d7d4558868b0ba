"""`tierd demo`: the whole story on an embedded example, told while the real daemon does it."""

from __future__ import annotations

import itertools
import re
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierd.cli import progress, terminal
from tierd.cli.leaving import ends_on_sigterm
from tierd.cli.terminal import Cell, line, table
from tierd.errors import TierdError
from tierd.model.units import format_duration, format_size

if TYPE_CHECKING:
    from tierd.cli.demo_world import DemoWorld
    from tierd.client import Progress, Snapshot

_COLD = ("library/v1", "library/v2")
_WARMED = "library/v2"
_LONGEST_S = 120.0
_METRICS = re.compile(
    r"^(tierd_(?:snapshots|transfers_total|transfer_bytes_total|leases)(?:\{[^}]*\})?) (\S+)$", re.MULTILINE
)


@click.command("demo")
@click.option("--once", is_flag=True, help="End by itself when the story is told.")
def demo(once: bool) -> None:
    """Run tierd on an embedded example, without root and without a server.

    A directory plays the flash, another the HDD. The real daemon finds three snapshots, moves the two that nobody
    uses, and brings one back when it is asked for. Takes under a minute, and 600 MiB in the temporary directory,
    which are removed at the end.

    \b
    tierd demo           stays up afterwards, for a look around, until Ctrl-C
    tierd demo --once
    """
    from tierd.cli.demo_world import demo_world

    # Also when it is asked to end: the daemon is stopped and the files are removed.
    with ends_on_sigterm(), tempfile.TemporaryDirectory(prefix="tierd-demo-") as directory:
        _say("Making a flash and an HDD out of two directories, and three snapshots of real files ...")
        with demo_world(Path(directory)) as world:
            _tell(world)
            if not once:
                _stay(world)


def _tell(world: DemoWorld) -> None:
    from tierd.cli.demo_world import tree_digest

    titles = (f"{number}. " for number in itertools.count(1))

    _title(next(titles), "The daemon runs and has found the snapshots")
    _where(world)
    snapshots = _snapshots(world)
    digests = {s.ref: tree_digest(Path(s.path)) for s in snapshots}
    metrics = _metrics(world)
    line("Somebody works with library/v3 (a lease holds it); nobody uses the other two.")
    with world.tierd.warm("library/v3", lease="10m", holder="somebody at work"):
        _title(next(titles), "Cold snapshots go to the HDD: copied, read back and compared, then released from flash")
        _until(world, lambda: {s.ref for s in _snapshots(world) if s.residency == "migrated"} >= set(_COLD))
        _table(_snapshots(world))

        _title(next(titles), "The path is the same, and so is every byte")
        _compare(world, digests)

        _title(next(titles), f"A job needs {_WARMED}:  tierd warm {_WARMED} --wait")
        _warm(world)
        _compare(world, digests)
        _table(_snapshots(world))

        _title(next(titles), "What the metrics say, before and after")
        _compare_metrics(metrics, _metrics(world))

        _title(next(titles), f"Why it stays:  tierd explain {_WARMED}")
        _explain(world)


def _warm(world: DemoWorld) -> None:
    began, first_eta = time.monotonic(), ""
    with progress.shown() as tell:

        def tell_and_note(seen: Progress) -> None:
            nonlocal first_eta
            if not first_eta and seen.eta_s is not None:
                first_eta = f"{format_duration(max(1, round(seen.eta_s)))}, told after {time.monotonic() - began:.1f}s"
            tell(seen)

        handle = world.tierd.warm(_WARMED, lease="10m", holder="the demo's job", wait=False)
        line("answer   ", handle.reason)
        receipt = handle.wait(on_progress=tell_and_note, poll_s=0.2)
    handle.keep()
    if receipt is None:
        raise TierdError(f"{_WARMED} has no receipt")
    line("ETA      ", first_eta or "none: it was there too soon")
    line("took     ", f"{time.monotonic() - began:.1f}s")
    line("path     ", receipt.path)
    amount = f"{receipt.entries} entries, {format_size(receipt.size_bytes)}"
    line("receipt  ", f"{amount}, {receipt.resident_ratio:.0%} on {receipt.tier}")
    line("content  ", receipt.content_id or "")


def _explain(world: DemoWorld) -> None:
    explained = world.tierd.explain(_WARMED)
    line(explained.summary)
    for finding in explained.findings:
        if not finding.holds:
            line(Cell("no  ", "yellow"), f"{finding.rule}: {finding.detail}")


def _until(world: DemoWorld, is_done: Callable[[], bool]) -> None:
    """Show the transfers until something is true."""
    from tierd.client.waiting import progress_of

    deadline = time.monotonic() + _LONGEST_S
    with progress.shown() as tell:
        while not is_done():
            if time.monotonic() > deadline:
                failed = [t.error for t in world.tierd.transfers() if t.error]
                raise TierdError("the demo takes too long", hint="; ".join(failed) or "The machine may be very busy.")
            for transfer in world.tierd.transfers(live=True):
                tell(progress_of(transfer))
            time.sleep(0.2)


def _compare(world: DemoWorld, before: dict[str, str]) -> None:
    from tierd.cli.demo_world import tree_digest

    rows = []
    for ref in _COLD:
        path = world.library / ref.partition("/")[2]
        now = tree_digest(path)
        if now != before[ref]:
            raise TierdError(f"{ref} has changed: digest {now} instead of {before[ref]}")
        leads = path.resolve().relative_to(world.root.resolve())
        rows.append((ref, before[ref], now, Cell("equal", "green"), str(leads)))
    table(("SNAPSHOT", "DIGEST BEFORE", "DIGEST NOW", "", "THE PATH LEADS TO"), rows)


def _snapshots(world: DemoWorld) -> list[Snapshot]:
    return list(world.tierd.snapshots())


def _table(snapshots: list[Snapshot]) -> None:
    table(
        ("SNAPSHOT", "RESIDENCY", "SIZE", "FILES", "COPIES ON"),
        [
            (
                s.ref,
                terminal.residency(s.residency),
                format_size(s.size_bytes),
                str(s.files),
                " and ".join(p.tier for p in s.placements if p.state == "verified"),
            )
            for s in snapshots
        ],
        right=("SIZE", "FILES"),
    )


def _metrics(world: DemoWorld) -> dict[str, float]:
    return {name: float(value) for name, value in _METRICS.findall(world.tierd.connection.text("/metrics"))}


def _compare_metrics(before: dict[str, float], now: dict[str, float]) -> None:
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name, 0) != now.get(name, 0))
    rows = [(name, f"{before.get(name, 0):.15g}", f"{now.get(name, 0):.15g}") for name in changed]
    table(("METRIC", "BEFORE", "NOW"), rows, right=("BEFORE", "NOW"))


def _where(world: DemoWorld) -> None:
    line("page     ", Cell(world.address, "bold"), f"  (any name, password {world.token})")
    line("API      ", f"{world.tierd.connection.address.url}")
    line("files    ", str(world.root))
    line()
    _table(_snapshots(world))


def _stay(world: DemoWorld) -> None:
    line()
    _say("That was the story. The daemon stays up until Ctrl-C; look around:")
    line(f"  export TIERD_URL={world.tierd.connection.address.url}")
    line("  tierd status; tierd ls; tierd plan --all; tierd events --follow")
    line(f"  {world.address}  (any name, password {world.token})")
    try:
        signal.pause()
    except KeyboardInterrupt:
        _say("Stopping.")


def _title(number: str, text: str) -> None:
    line()
    line(Cell(f"{number}{text}", "bold cyan"))


def _say(text: str) -> None:
    line(Cell(text, "dim"))

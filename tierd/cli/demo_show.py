"""What the chapters of the demo show, and how they wait for it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tierd.cli import progress, terminal
from tierd.cli.terminal import Cell, line, table
from tierd.errors import TierdError
from tierd.model.units import format_duration, format_size

if TYPE_CHECKING:
    from tierd.cli.demo_world import DemoWorld
    from tierd.client import Progress, Snapshot

_LONGEST_S = 120.0
_METRICS = re.compile(
    r"^(tierd_(?:snapshots|transfers_total|transfer_bytes_total|leases)(?:\{[^}]*\})?) (\S+)$", re.MULTILINE
)


def title(number: int, text: str) -> None:
    """The heading of a chapter."""
    line()
    line(Cell(f"{number}. {text}", "bold cyan"))


def say(text: str) -> None:
    """Tell what the demo itself does."""
    line(Cell(text, "dim"))


def until(world: DemoWorld, is_done: Callable[[], bool]) -> None:
    """Show the transfers until something is true.

    Raises:
        TierdError: it takes far longer than it should.
    """
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


def warm(world: DemoWorld, ref: str) -> None:
    """Ask for a snapshot and show the answer, the way, and the receipt.

    Raises:
        TierdError: it does not come.
    """
    began, first_eta = time.monotonic(), ""
    with progress.shown() as tell:

        def tell_and_note(seen: Progress) -> None:
            nonlocal first_eta
            if not first_eta and seen.eta_s is not None:
                first_eta = f"{format_duration(max(1, round(seen.eta_s)))}, told after {time.monotonic() - began:.1f}s"
            tell(seen)

        handle = world.tierd.warm(ref, lease="10m", holder="the demo's job", wait=False)
        line("answer   ", handle.reason)
        receipt = handle.wait(on_progress=tell_and_note, poll_s=0.2)
    handle.keep()
    if receipt is None:
        raise TierdError(f"{ref} has no receipt")
    line("ETA      ", first_eta or "none: it was there too soon")
    line("took     ", f"{time.monotonic() - began:.1f}s")
    line("path     ", receipt.path)
    amount = f"{receipt.entries} entries, {format_size(receipt.size_bytes)}"
    line("receipt  ", f"{amount}, {receipt.resident_ratio:.0%} on {receipt.tier}")
    line("content  ", receipt.content_id or "")


def compare(world: DemoWorld, refs: Sequence[str], before: Mapping[str, str]) -> None:
    """Read snapshots at their paths and compare what is read with what was there at first.

    Raises:
        TierdError: it differs.
    """
    from tierd.cli.demo_world import tree_digest

    rows = []
    for ref in refs:
        path = world.path(ref)
        leads = path.resolve().relative_to(world.root.resolve())
        rows.append((ref, *compared(ref, before[ref], tree_digest(path)), str(leads)))
    table(("SNAPSHOT", "DIGEST BEFORE", "DIGEST NOW", "", "THE PATH LEADS TO"), rows)


def compared(ref: str, before: str, now: str) -> tuple[str, str, Cell]:
    """Both digests, and what comparing them says.

    Raises:
        TierdError: they differ.
    """
    if now != before:
        raise TierdError(f"{ref} has changed: digest {now} instead of {before}")
    return before, now, Cell("equal", "green")


def snapshots_table(snapshots: Sequence[Snapshot]) -> None:
    """Where snapshots are."""
    table(
        ("SNAPSHOT", "RESIDENCY", "SIZE", "FILES", "COPIES ON"),
        [
            (
                s.ref,
                terminal.residency(s.residency),
                format_size(s.size_bytes),
                str(s.files),
                " and ".join(verified(s)),
            )
            for s in snapshots
        ],
        right=("SIZE", "FILES"),
    )


def verified(snapshot: Snapshot) -> list[str]:
    """The tiers that have a whole copy."""
    return [p.tier for p in snapshot.placements if p.state == "verified"]


def metrics(world: DemoWorld) -> dict[str, float]:
    """What the daemon counts, by name and labels."""
    return {name: float(value) for name, value in _METRICS.findall(world.tierd.connection.text("/metrics"))}


def metrics_table(before: Mapping[str, float], now: Mapping[str, float]) -> None:
    """What has changed."""
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name, 0) != now.get(name, 0))
    rows = [(name, f"{before.get(name, 0):.15g}", f"{now.get(name, 0):.15g}") for name in changed]
    table(("METRIC", "BEFORE", "NOW"), rows, right=("BEFORE", "NOW"))

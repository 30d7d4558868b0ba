"""Verbs that look: status, ls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tierd.cli import terminal
from tierd.cli.options import Ask, complete_ref, remote
from tierd.cli.terminal import Cell, Shown, ago, line, local, table, until
from tierd.model.units import format_duration, format_size

if TYPE_CHECKING:
    from tierd.client import Lease, Snapshot, Status, Tier, Transfer


_KNOWN_FROM = {
    "events": "seen",
    "atime": "inferred from access times",
    "reported": "reported",
    "unobserved": "moved by the time in which nobody could watch",
    "discovery": "when it was found; not seen in use since",
}


@click.command("status")
@remote
def status(ask: Ask) -> None:
    """Show how full the tiers are and what is going on.

    \b
    tierd status
    tierd status --json | jq '.tiers[] | {name, used_ratio}'
    """
    found = ask.daemon.status()
    if ask.as_json:
        ask.json(found)
        return
    tracker = found.tracker
    line(f"tierd {found.version}, up {format_duration(round(found.uptime_s))}", *_paused(found))
    line()
    table(
        ("TIER", "USED", "OF", "FREE", "RELEASE ABOVE", "DOWN TO", "RESERVED", "ROOT"),
        [_tier_row(tier) for tier in found.tiers],
        right=("USED", "OF", "FREE", "RELEASE ABOVE", "DOWN TO", "RESERVED"),
    )
    line()
    counts = ", ".join(f"{n} {name}" for name, n in found.counts.by_residency.items() if n)
    line("snapshots  ", counts or "none")
    line("transfers  ", f"{found.live_transfers} under way", *_slowed(found))
    line("held by    ", f"{_count(found.leases, 'lease')}, {_count(found.pins, 'pin')}")
    line("last scan  ", "not yet" if found.last_scan_at is None else ago(found.last_scan_at))
    lost = {0: "no events lost", 1: "events lost once"}.get(
        tracker.events_lost, f"events lost {tracker.events_lost} times"
    )
    line("accesses   ", f"seen by {tracker.name}, {lost}", Cell(", degraded" if tracker.is_degraded else "", "yellow"))
    if tracker.detail:
        line("           ", Cell(tracker.detail, "yellow" if tracker.is_degraded else "dim"))
    for problem in found.problems:
        line(Cell("problem    ", "bold red"), f"{problem.ref}: {problem.problem}")


def _paused(found: Status) -> list[Shown]:
    return [Cell("; all transfers are paused (`tierd resume`)", "bold yellow")] if found.is_paused else []


def _slowed(found: Status) -> list[Shown]:
    if not found.slowed_transfers:
        return []
    pressure = f"{found.io_pressure or 0:.0%}"
    return [Cell(f", {found.slowed_transfers} slowed: the disks are busy (io pressure {pressure})", "yellow")]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _tier_row(tier: Tier) -> list[Shown]:
    if not tier.is_online:
        reason = Cell(f"offline: {tier.offline_reason or 'no reason given'}", "bold red")
        return [tier.name, "", "", "", "", "", "", reason]
    if not tier.capacity_bytes:
        reserved = format_size(tier.reserved_bytes) if tier.reserved_bytes else ""
        return [tier.name, format_size(tier.used_bytes), "no limit", "", "", "", reserved, tier.root]
    style = "bold red" if tier.used_ratio > tier.high else "yellow" if tier.used_ratio > tier.low else "green"
    return [
        tier.name,
        Cell(f"{tier.used_ratio:.0%}", style),
        format_size(tier.capacity_bytes),
        format_size(tier.free_bytes),
        f"{tier.high:.0%}",
        f"{tier.low:.0%}",
        format_size(tier.reserved_bytes) if tier.reserved_bytes else "",
        tier.root,
    ]


@click.command("ls")
@click.argument("what", metavar="[DATASET[/SNAPSHOT]]", required=False, shell_complete=complete_ref)
@click.option(
    "--residency",
    type=click.Choice(["resident", "premigrated", "migrated", "partial", "orphaned", "gone"]),
    help="Only those that lie like this.",
)
@click.option("--sort", type=click.Choice(["name", "size", "accessed"]), default="name", show_default=True)
@remote
def ls(ask: Ask, what: str | None, residency: str | None, sort: str) -> None:
    """List snapshots: where they lie, how large they are, when they were used, who holds them.

    \b
    resident     on flash only
    premigrated  on flash, with a verified cold copy
    migrated     only the cold copy; reads at the path are slow
    partial      on its way to flash
    orphaned     deleted by its owner; cold copies are left

    \b
    tierd ls
    tierd ls imagenet --sort size
    tierd ls imagenet/v3              everything about one snapshot
    tierd ls --residency migrated --json | jq -r '.items[].ref'
    """
    if what is not None and _is_snapshot(ask, what):
        snapshot = ask.daemon.snapshot(what)
        if ask.as_json:
            ask.json(snapshot)
        else:
            _details(snapshot)
        return
    found = ask.daemon.snapshots(what, residency=residency, sort=sort)
    if ask.as_json:
        ask.json({"items": list(found)})
        return
    rows = [_snapshot_row(s) for s in found]
    table(("SNAPSHOT", "RESIDENCY", "SIZE", "FILES", "LAST USED", "HELD BY", "NOTE"), rows, right=("SIZE", "FILES"))


def _is_snapshot(ask: Ask, what: str) -> bool:
    # The question also makes an unknown name an error, where the list would be empty.
    return "/" in what or ask.daemon.dataset(what).pattern is None


def _snapshot_row(s: Snapshot) -> list[Shown]:
    return [
        s.ref,
        terminal.residency(s.residency),
        format_size(s.size_bytes),
        str(s.files),
        ago(s.accessed_at),
        _holders(s.holds),
        _note(s),
    ]


def _holders(holds: list[Lease]) -> str:
    if not holds:
        return ""
    first, more = holds[0], len(holds) - 1
    who = "pinned" if first.expires_at is None else f"{first.holder} for {until(first.expires_at)}"
    return f"{who} and {more} more" if more else who


def _note(s: Snapshot) -> Shown:
    if s.problem is not None:
        return Cell(s.problem, "bold red")
    if s.transfer is not None:
        return Cell(_doing(s.transfer), "cyan")
    if s.gone_at is not None:
        return Cell(_deleted(s), "red")
    return "" if s.is_settled else Cell("being written", "dim")


def _deleted(s: Snapshot) -> str:
    kept = "for ever" if s.kept_until is None else f"until {local(s.kept_until)} at least"
    return f"deleted {ago(s.gone_at)}; what is left is kept {kept}"


def _doing(t: Transfer) -> str:
    share = f" {min(1.0, t.bytes_done / t.bytes_total):.0%}" if t.bytes_total else ""
    way = f"from {t.source}" if t.source == t.destination else f"to {t.destination}"
    ready = "" if t.expected_at is None else f", expected in {until(t.expected_at)}"
    return f"transfer {t.id}: {t.kind} {way}, {t.step or t.state}{share}{ready}"


def _details(s: Snapshot) -> None:
    known_from = _KNOWN_FROM.get(s.access_source, s.access_source)
    known: list[tuple[str, Shown]] = [
        ("snapshot", Cell(s.ref, "bold")),
        ("path", s.path),
        ("residency", terminal.residency(s.residency)),
        ("size", f"{format_size(s.size_bytes)} in {s.files} files ({format_size(s.disk_bytes)} on disk)"),
        ("changed", f"{local(s.changed_at)} ({ago(s.changed_at)}{'' if s.is_settled else ', not settled yet'})"),
        ("last used", f"{local(s.accessed_at)} ({ago(s.accessed_at)}, {known_from})"),
        ("last warmed", "never" if s.warmed_at is None else f"{local(s.warmed_at)} ({ago(s.warmed_at)})"),
    ]
    if s.gone_at is not None:
        known.append(("deleted", Cell(_deleted(s), "red")))
    if s.problem is not None:
        known.append(("problem", Cell(s.problem, "bold red")))
    if s.transfer is not None:
        known.append(("transfer", Cell(_doing(s.transfer), "cyan")))
    known += [("held", f"{_hold(h)}") for h in s.holds]
    for name, value in known:
        line(f"{name:<12} ", value)
    line()
    table(
        ("COPY ON", "STATE", "SIZE", "VERIFIED", "CONTENT"),
        [
            (
                p.tier,
                p.state,
                format_size(p.size_bytes),
                "original" if p.verified_at is None else ago(p.verified_at),
                p.content_id or "",
            )
            for p in s.placements
        ],
        right=("SIZE",),
    )


def _hold(h: Lease) -> str:
    note = f" ({h.note})" if h.note else ""
    if h.expires_at is None:
        return f"pinned by {h.holder} since {local(h.since)}{note}"
    return f"lease {h.id} of {h.holder} until {local(h.expires_at)}{note}"

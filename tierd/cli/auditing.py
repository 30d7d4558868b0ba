"""The verb that compares the catalog with what lies on the tiers."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierd.cli import working
from tierd.cli.options import DURATION, config_option
from tierd.cli.terminal import Cell, say, table
from tierd.model.dataset import SnapshotRef
from tierd.model.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tierd.move.audit import Finding, Report

_FOUND = 1
_STYLES = {"missing": "bold red", "damaged": "bold red", "changed": "red", "unreadable": "red", "litter": "dim"}


@click.command("audit")
@click.argument("refs", metavar="[DATASET[/SNAPSHOT]]...", nargs=-1)
@click.option("--deep", is_flag=True, help="Read every byte of every copy and compare it: finds bit rot. Takes long.")
@click.option("--sweep", is_flag=True, help="Remove litter. Never a copy, and never what was kept for people.")
@click.option(
    "--older-than",
    type=DURATION,
    metavar="DURATION",
    default=timedelta(hours=24),
    show_default="24h",
    help="What another machine may be writing into a bucket counts as litter when it is older than this.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(
    refs: tuple[str, ...], deep: bool, sweep: bool, older_than: timedelta, config: Path | None, as_json: bool
) -> None:
    """Compare the catalog with what lies on the tiers.

    Looks whether every copy is there as it was verified: in a bucket every object by its size and ETag, on a disk
    every entry by its times. Without names it also lists copies that the catalog does not know, what transfers left
    behind, and what was kept for people. It reads the catalog of this machine, whether the daemon runs or not, and
    changes nothing without --sweep; snapshots that a transfer works on are left out. Exits with 0 when all is well,
    and with 1 when something is listed.

    \b
    tierd audit
    tierd audit --deep imagenet/v3
    tierd audit --sweep
    """
    from tierd.catalog import Catalog
    from tierd.config import Mounts, config_path, load
    from tierd.move.audit import Question
    from tierd.move.audit import audit as compare

    question = Question(
        is_deep=deep, sweep=sweep, older_than=older_than, refs=tuple(SnapshotRef.parse(ref) for ref in refs)
    )
    loaded = load(config or config_path(os.environ), mounts=Mounts.OPTIONAL)
    with Catalog.look(loaded.database) as catalog, working.shown() as work:
        report = compare(loaded, catalog, question, work, now=datetime.now(UTC))
    if as_json:
        click.echo(json.dumps(_as_json(report), indent=2))
    else:
        _show(report)
    click.get_current_context().exit(_FOUND if report.findings else 0)


def _show(report: Report) -> None:
    if report.findings:
        table(
            ("FINDING", "TIER", "WHERE", "SNAPSHOT", "SIZE", "WHAT"),
            [
                (
                    Cell(f.kind, _STYLES.get(f.kind, "yellow")),
                    f.tier,
                    f.where,
                    "" if f.ref is None else str(f.ref),
                    format_size(f.size_bytes) if f.size_bytes else "",
                    f.message,
                )
                for f in report.findings
            ],
            right=("SIZE",),
        )
    for finding in report.removed:
        say(f"removed {finding.tier}:{finding.where}{_amount([finding])}: {finding.message}")
    for kind, hint in dict.fromkeys((f.kind, f.hint) for f in report.findings if f.hint):
        say(f"{kind}: {hint}")
    say(_summary(report))


def _summary(report: Report) -> str:
    parts = [f"{_count(report.copies, 'copy', 'copies')} looked at"]
    if report.moving:
        parts.append(f"{_count(report.moving, 'copy', 'copies')} left out, as a transfer works on their snapshots")
    if report.removed:
        parts.append(f"{_count(len(report.removed), 'piece', 'pieces')} of litter removed{_amount(report.removed)}")
    parts.append(_count(len(report.findings), "finding", "findings") if report.findings else "all is well")
    return ", ".join(parts)


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _amount(findings: Sequence[Finding]) -> str:
    total = sum(f.size_bytes for f in findings)
    return f" ({format_size(total)})" if total else ""


def _as_json(report: Report) -> dict[str, object]:
    return {
        "copies": report.copies,
        "moving": report.moving,
        "findings": [_finding(f) for f in report.findings],
        "removed": [_finding(f) for f in report.removed],
        "removed_bytes": sum(f.size_bytes for f in report.removed),
    }


def _finding(f: Finding) -> dict[str, object]:
    return {
        "kind": f.kind,
        "tier": f.tier,
        "where": f.where,
        "ref": None if f.ref is None else str(f.ref),
        "size_bytes": f.size_bytes,
        "message": f.message,
        "hint": f.hint,
    }

"""Verbs that say why: plan, explain, events."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tierd.cli import terminal
from tierd.cli.options import Ask, complete_ref, ref_argument, remote
from tierd.cli.terminal import Cell, line, local, table, until
from tierd.model.units import format_size

if TYPE_CHECKING:
    from tierd.client import Event
    from tierd.client.shapes import Worth


@click.command("plan")
@click.option("--all", "show_all", is_flag=True, help="Also why every other snapshot stays as it is.")
@remote
def plan(ask: Ask, show_all: bool) -> None:
    """Show what would be moved now, and why. Nothing is moved by asking.

    \b
    tierd plan
    tierd plan --all
    """
    found = ask.daemon.plan()
    if ask.as_json:
        ask.json(found)
        return
    if found.steps:
        table(
            ("ACTION", "SNAPSHOT", "FROM", "TO", "FREES", "COPIES", "REASON"),
            [
                (s.action, s.ref, s.source, s.destination, _size(s.frees_bytes), _size(s.copies_bytes), s.reason)
                for s in found.steps
            ],
            right=("FREES", "COPIES"),
        )
    else:
        line("Nothing would be moved now.")
    for note in found.notes:
        line(Cell("note: ", "yellow"), note)
    if show_all and found.kept:
        line()
        table(("STAYS", "REASON"), sorted(found.kept.items()))
    elif found.kept:
        count = len(found.kept)
        line(
            f"{count} snapshot{' stays' if count == 1 else 's stay'} as {'it is' if count == 1 else 'they are'}; "
            "`tierd plan --all` says why."
        )


def _size(size_bytes: int) -> str:
    return format_size(size_bytes) if size_bytes else ""


@click.command("explain")
@ref_argument()
@remote
def explain(ask: Ask, ref: str) -> None:
    """Say why a snapshot is where it is, what holds it, and what would move it.

    \b
    tierd explain imagenet/v3
    """
    found = ask.daemon.explain(ref)
    if ask.as_json:
        ask.json(found)
        return
    line(Cell(found.ref, "bold"), "  ", terminal.residency(found.residency))
    line(found.summary)
    line()
    for finding in found.findings:
        mark = Cell("yes  ", "green") if finding.holds else Cell("no   ", "yellow")
        changes = "" if finding.until is None else f" (until {local(finding.until)}, in {until(finding.until)})"
        line("  ", mark, f"{finding.rule}: {finding.detail}{changes}")
    line()
    for part in found.parts:
        line("part  ", f"{', '.join(part.only)}: {_size(part.size_bytes)} at {part.path}, while the snapshot is held")
    if found.worth is not None:
        _worth(found.worth)
    if found.next_step is not None:
        step = found.next_step
        line("next  ", f"{step.action} from {step.source} to {step.destination}: {step.reason}")
    if found.next_event:
        line("then  " if found.next_step is not None else "next  ", found.next_event)
    if found.events:
        line()
        _list(found.events)


def _worth(worth: Worth) -> None:
    place = "not on flash" if worth.rank is None else f"number {worth.rank} of {worth.of} on flash to leave"
    line(Cell("value ", "bold"), f"by {worth.policy}: {place}, holds aside")
    for term in worth.terms:
        line("  ", f"{term.amount:>10.3g}  {term.name}: {term.detail}")
    line()


@click.command("events")
@click.argument("ref", metavar="[DATASET/SNAPSHOT]", required=False, shell_complete=complete_ref)
@click.option("--follow", "-f", is_flag=True, help="Go on with events as they happen, until Ctrl-C.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most.")
@click.option("--after", type=click.IntRange(0), metavar="ID", help="Only events after this one.")
@remote
def events(ask: Ask, ref: str | None, follow: bool, limit: int, after: int | None) -> None:
    """Show what happened: who moved what, when and why.

    With --follow, --json prints one event a line.

    \b
    tierd events
    tierd events imagenet/v3
    tierd events --follow --json | jq -r 'select(.kind=="transfer.failed") | .ref'
    """
    found = ask.daemon.events(after=after, limit=limit, ref=ref)
    if ask.as_json and not follow:
        ask.json(found)
        return
    for event in found.items:
        _show(ask, event)
    if not follow:
        return
    # A snapshot's own events may be older than the newest one: what is followed begins after all that were looked at.
    for event in ask.daemon.follow(after=found.last_id):
        if ref is None or event.ref == ref:
            _show(ask, event)
            sys.stdout.flush()


def _show(ask: Ask, event: Event) -> None:
    if ask.as_json:
        ask.json_line(event)
    else:
        parts = [event.ref or "", event.message]
        line(
            Cell(f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}  ", "dim"),
            f"{event.kind:<20}  ",
            "  ".join(filter(None, parts)),
        )


def _list(events: list[Event]) -> None:
    table(("WHEN", "WHAT", "MESSAGE"), [(local(e.at), e.kind, e.message) for e in events])

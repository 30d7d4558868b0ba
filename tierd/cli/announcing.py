"""Verbs about announced use: announce, announcements, schedules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from tierd.cli.holding import calling_process
from tierd.cli.options import DURATION, Ask, ref_argument, remote
from tierd.cli.terminal import Cell, Shown, line, local, say, table, until
from tierd.errors import InvalidRequest
from tierd.model.units import format_duration, format_percent, format_size, parse_moment, parse_percent

if TYPE_CHECKING:
    from tierd.client import Advice, Announcement, Schedule

_STYLES = {"schedule.warmed": "green", "schedule.refused": "bold red", "schedule.empty": "yellow"}


@click.command("announce")
@ref_argument(required=False)
@click.option("--at", "at", metavar="TIME", help='When reading begins: "2026-11-24 09:00", "09:00", "+2h".')
@click.option("--for", "lasts", type=DURATION, metavar="DURATION", help="How long it is read; 1h by default.")
@click.option("--holder", metavar="TEXT", help="Who will read it, like slurm:991; you and your process by default.")
@click.option("--confidence", metavar="SHARE", default="100%", show_default=True, help="How likely that is.")
@click.option("--note", metavar="TEXT", help="What for, for people.")
@click.option("--key", metavar="TEXT", help="Announcing again with the same key changes what was announced.")
@click.option("--withdraw", metavar="ID", type=click.IntRange(1), help="Withdraw what was announced, and nothing else.")
@remote
def announce(
    ask: Ask,
    ref: str | None,
    at: str | None,
    lasts: timedelta | None,
    holder: str | None,
    confidence: str,
    note: str | None,
    key: str | None,
    withdraw: int | None,
) -> None:
    """Say that a snapshot will be read, and when. What is needed soon stays on flash before other things.

    Nothing is held or brought to flash for it: `tierd warm` does that, or a schedule in the configuration.
    DATASET/latest is the snapshot that was found last.

    \b
    tierd announce imagenet/v3 --at "2026-11-24 09:00" --for 8h --holder slurm:991
    tierd announce imagenet/latest --at +2h
    tierd announce --withdraw 12
    """
    if withdraw is not None:
        if ref is not None or at is not None:
            raise click.UsageError("--withdraw needs nothing else")
        ask.daemon.withdraw(withdraw)
        if ask.as_json:
            ask.json({"withdrawn": withdraw})
        return
    if ref is None or at is None:
        raise click.UsageError("a snapshot and --at TIME are needed (or --withdraw ID)")
    said = ask.daemon.announce(
        ref,
        parse_moment(at, datetime.now(UTC)),
        lasts=lasts,
        holder=holder or calling_process(),
        confidence=_share(confidence),
        note=note,
        request_key=key,
    )
    if ask.as_json:
        ask.json(said)
    else:
        line(
            f"announcement {said.id}: {said.ref} is read from {local(said.at)} to {local(said.until)} by {said.holder}"
        )


def _share(text: str) -> float:
    found = parse_percent(text)
    if not found:
        raise InvalidRequest("a confidence of zero says nothing", hint='Write above 0, like "80%" or 0.8.')
    return found


@click.command("announcements")
@remote
def announcements(ask: Ask) -> None:
    """List announced uses that are not over, the next one first; those of schedules are among them.

    \b
    tierd announcements
    tierd announcements --json | jq -r '.items[].ref'
    """
    found = ask.daemon.announcements()
    if ask.as_json:
        ask.json({"items": found})
        return
    table(
        ("ID", "SNAPSHOT", "FROM", "IN", "UNTIL", "BY", "LIKELY", "NOTE"),
        [_announcement_row(a) for a in found],
        right=("ID", "LIKELY"),
    )


def _announcement_row(a: Announcement) -> list[Shown]:
    likely = format_percent(a.confidence)
    return [str(a.id), a.ref, local(a.at), until(a.at), local(a.until), a.holder, likely, a.note or ""]


@click.command("schedules")
@click.option("--advise", is_flag=True, help="Find regular uses that no schedule covers, and what to write for them.")
@remote
def schedules(ask: Ask, advise: bool) -> None:
    """Show the schedules of the configuration: what is next, what it concerns, what became of it last.

    \b
    tierd schedules
    tierd schedules --advise
    """
    if advise:
        _advise(ask, ask.daemon.advice())
        return
    found = ask.daemon.schedules()
    if ask.as_json:
        ask.json({"items": found})
        return
    if not found:
        say("no [[schedules]] are configured; `tierd schedules --advise` looks for regular uses")
        return
    table(
        ("SCHEDULE", "NEXT USE", "FOR", "MATCHES", "TO RECALL", "WARMING", "LAST"),
        [_schedule_row(s) for s in found],
        right=("TO RECALL",),
    )


def _schedule_row(s: Schedule) -> list[Shown]:
    if s.in_use_until is not None:
        when = f"now, until {local(s.in_use_until)}"
    else:
        when = local(s.next_at[0]) if s.next_at else "never"
    return [s.name, when, format_duration(s.for_s), *_matches(s), _warming(s), _last(s)]


def _matches(s: Schedule) -> tuple[Shown, Shown]:
    if not s.matches:
        return Cell(f"nothing is {s.snapshots}", "yellow"), ""
    more = f" and {len(s.matches) - 2} more" if len(s.matches) > 2 else ""
    return ", ".join(s.matches[:2]) + more, format_size(s.recall_bytes) if s.recall_bytes else "0"


def _warming(s: Schedule) -> Shown:
    if s.begins_at is None or not s.matches:
        return ""
    if not s.recall_bytes:
        return Cell("on flash", "green")
    begins = until(s.begins_at)
    return "now" if begins == "now" else f"in {begins}"


def _last(s: Schedule) -> Shown:
    return "" if s.last is None else Cell(s.last.message, _STYLES.get(s.last.kind, ""))


def _advise(ask: Ask, found: list[Advice]) -> None:
    if ask.as_json:
        ask.json({"items": found})
        return
    if not found:
        say("nothing is read regularly that no schedule covers, as far as the last five weeks tell")
    for number, each in enumerate(found):
        if number:
            line("")
        line(Cell(f"# {each.says}", "bold"))
        for text in each.toml.splitlines():
            line(text)

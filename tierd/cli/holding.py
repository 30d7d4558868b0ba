"""Verbs that hold snapshots where they are: lease, pin, unpin."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, ParamSpec

import click

from tierd.cli.options import DURATION, Ask, ref_argument, remote
from tierd.cli.terminal import line, local, table, until

if TYPE_CHECKING:
    from tierd.client import Lease, Tie


_P = ParamSpec("_P")


def tied(verb: Callable[_P, None]) -> Callable[_P, None]:
    """The options that say what a lease ends with."""
    verb = click.option(
        "--job", metavar="ID", help="Ends with this Slurm job (squeue is asked), and goes on while it lives."
    )(verb)
    return click.option(
        "--pid", type=click.IntRange(1), metavar="PID", help="Ends with this process, and goes on while it lives: $$."
    )(verb)


def tie_to(pid: int | None, job: str | None) -> Tie | None:
    """What the options say (UsageError when they say two things)."""
    from tierd.client import Tie

    if pid is not None and job is not None:
        raise click.UsageError("a lease ends with one thing: name --pid or --job")
    return None if pid is None and job is None else Tie(pid=pid, job=job)


@click.group("lease")
def lease() -> None:
    """Hold snapshots for a while: grant, renew, end, list.

    What is held is not released. `tierd warm` gives a lease together with the flash copy.
    """


@lease.command("grant")
@ref_argument()
@click.option(
    "--lease", "ttl", type=DURATION, required=True, metavar="DURATION", help='How long: "8h", "1h30m", "14d".'
)
@click.option("--holder", metavar="TEXT", help="Who holds it, for people; you and your process by default.")
@click.option("--note", metavar="TEXT", help="What for, for people.")
@tied
@remote
def grant(
    ask: Ask, ref: str, ttl: timedelta, holder: str | None, note: str | None, pid: int | None, job: str | None
) -> None:
    """Hold a snapshot where it is, without warming it. Prints the lease's id.

    \b
    id=$(tierd lease grant imagenet/v3 --lease 8h)
    tierd lease end "$id"
    """
    granted = ask.daemon.grant_lease(ref, ttl, holder=holder or calling_process(), note=note, tie=tie_to(pid, job))
    if ask.as_json:
        ask.json(granted)
    else:
        line(str(granted.id))


@lease.command("renew")
@click.argument("lease_id", metavar="ID", type=click.IntRange(1))
@click.option("--lease", "ttl", type=DURATION, required=True, metavar="DURATION", help="How long from now.")
@remote
def renew(ask: Ask, lease_id: int, ttl: timedelta) -> None:
    """Let a lease end later (or earlier): so long from now.

    \b
    tierd lease renew 12 --lease 8h
    """
    _show(ask, ask.daemon.renew(lease_id, ttl))


@lease.command("hand-over")
@click.argument("lease_id", metavar="ID", type=click.IntRange(1))
@click.option("--lease", "ttl", type=DURATION, required=True, metavar="DURATION", help="How long from now.")
@click.option("--holder", metavar="TEXT", help="Who holds it from now on, for people; you and your process by default.")
@tied
@remote
def hand_over(ask: Ask, lease_id: int, ttl: timedelta, holder: str | None, pid: int | None, job: str | None) -> None:
    """Give a lease to another holder, without a moment in which nobody holds the snapshot.

    
    tierd lease hand-over 12 --lease 12h --job "$SLURM_JOB_ID"
    """
    tie = tie_to(pid, job)
    _show(ask, ask.daemon.hand_over(lease_id, ttl, holder=holder or calling_process(), tie=tie))


@lease.command("end")
@click.argument("lease_ids", metavar="[ID...]", type=click.IntRange(1), nargs=-1)
@click.option("--job", metavar="ID", help="Those that are tied to this Slurm job.")
@remote
def end(ask: Ask, lease_ids: tuple[int, ...], job: str | None) -> None:
    """End leases now. One that has ended already is no error.

    \b
    tierd lease end 12
    tierd lease end --job "$SLURM_JOB_ID"
    """
    if not lease_ids and job is None:
        raise click.UsageError("name the leases, or a job with --job")
    of_job = () if job is None else tuple(held.id for held in ask.daemon.leases() if held.job == job)
    ended = tuple(dict.fromkeys(lease_ids + of_job))
    for lease_id in ended:
        ask.daemon.end_lease(lease_id)
    if ask.as_json:
        ask.json({"ended": list(ended)})


@lease.command("list")
@remote
def list_leases(ask: Ask) -> None:
    """List leases and pins: who holds what, since when, until when.

    \b
    tierd lease list
    tierd lease list --json | jq -r '.items[] | select(.kind=="lease") | .id'
    """
    found = ask.daemon.leases()
    if ask.as_json:
        ask.json({"items": found})
        return
    table(
        ("ID", "SNAPSHOT", "KIND", "HELD BY", "SINCE", "ENDS", "IN", "WITH", "NOTE"),
        [
            (
                str(h.id),
                h.ref,
                h.kind,
                h.holder,
                local(h.since),
                "never" if h.expires_at is None else local(h.expires_at),
                "" if h.expires_at is None else until(h.expires_at),
                f"job {h.job}" if h.job else f"process {h.pid}" if h.pid else "",
                h.note or "",
            )
            for h in found
        ],
        right=("ID",),
    )


@click.command("pin")
@ref_argument()
@click.option("--note", metavar="TEXT", help="What for, for people.")
@remote
def pin(ask: Ask, ref: str, note: str | None) -> None:
    """Forbid every release of a snapshot until it is unpinned.

    \b
    tierd pin imagenet/v3 --note "demo on Friday"
    """
    _show(ask, ask.daemon.pin(ref, note=note))


@click.command("unpin")
@ref_argument()
@remote
def unpin(ask: Ask, ref: str) -> None:
    """Remove the pin of a snapshot; the policy decides again.

    \b
    tierd unpin imagenet/v3
    """
    ask.daemon.unpin(ref)
    if ask.as_json:
        ask.json({"ref": ref, "is_pinned": False})
    else:
        line(f"{ref} is not pinned")


def _show(ask: Ask, held: Lease) -> None:
    if ask.as_json:
        ask.json(held)
    else:
        line(describe(held))


def describe(held: Lease) -> str:
    """A hold as a sentence: who, what, until when."""
    if held.expires_at is None:
        return f"pin {held.id} holds {held.ref} for {held.holder}, without end"
    when = f"until {local(held.expires_at)} ({until(held.expires_at)})"
    return f"lease {held.id} holds {held.ref} {when} for {held.holder}"


def calling_process() -> str:
    """Who called this command: it ends at once, what called it lives on (a shell script, make, a batch job)."""
    from tierd.client.caller import command_of, holder

    parent = os.getppid()
    return holder(command=command_of(parent), pid=parent)

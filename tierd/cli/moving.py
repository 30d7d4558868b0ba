"""Verbs that move, and that steer what moves: migrate, release, transfers, cancel, pause, resume."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from tierd.cli import progress, terminal
from tierd.cli.options import DURATION, Ask, ref_argument, remote
from tierd.cli.terminal import Shown, ago, line, local, say, table, until
from tierd.model.units import format_size

if TYPE_CHECKING:
    from tierd.client import Transfer


def _waiting(verb: Callable[..., None]) -> Callable[..., None]:
    verb = click.option("--timeout", type=DURATION, metavar="DURATION", help="With --wait: for so long at most.")(verb)
    return click.option("--wait", is_flag=True, help="Return when it is done, and show how far it is.")(verb)


@click.command("migrate")
@ref_argument()
@click.option("--release", is_flag=True, help="Remove the flash copy when the cold one is verified.")
@_waiting
@remote
def migrate(ask: Ask, ref: str, release: bool, wait: bool, timeout: timedelta | None) -> None:
    """Make a verified cold copy now, whatever the policy says.

    The snapshot can be read at its path all the time. It must be settled; with --release nothing may hold it.

    \b
    tierd migrate imagenet/v1 --wait
    tierd migrate imagenet/v1 --release
    """
    _follow(ask, ask.daemon.migrate(ref, release=release), wait=wait, timeout=timeout)


@click.command("release")
@ref_argument()
@_waiting
@remote
def release(ask: Ask, ref: str, wait: bool, timeout: timedelta | None) -> None:
    """Remove the flash copy; a verified cold copy is made first where there is none.

    \b
    tierd release imagenet/v1 --wait
    """
    _follow(ask, ask.daemon.release(ref), wait=wait, timeout=timeout)


def _follow(ask: Ask, transfer: Transfer, *, wait: bool, timeout: timedelta | None) -> None:
    if wait:
        with progress.shown() as tell:
            transfer = ask.daemon.wait_for(transfer, timeout=timeout, on_progress=tell, poll_s=progress.POLL_S)
    if ask.as_json:
        ask.json(transfer)
    elif wait:
        line(f"{transfer.ref}: transfer {transfer.id} is {transfer.state}")
    else:
        line(f"{transfer.ref}: transfer {transfer.id}, {transfer.kind} to {transfer.destination}, is {transfer.state}")
        say(f"`tierd transfers {transfer.id}` shows how far it is, `tierd cancel {transfer.id}` stops it")


@click.command("transfers")
@click.argument("transfer_id", metavar="[ID]", required=False, type=click.IntRange(1))
@click.option("--live", is_flag=True, help="Only those that are not over.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@remote
def transfers(ask: Ask, transfer_id: int | None, live: bool, limit: int) -> None:
    """List transfers, the newest first; or show one.

    \b
    tierd transfers --live
    tierd transfers 17
    """
    if transfer_id is not None:
        _one(ask, ask.daemon.transfer(transfer_id))
        return
    found = ask.daemon.transfers(live=live, limit=limit)
    if ask.as_json:
        ask.json({"items": found})
        return
    table(
        ("ID", "SNAPSHOT", "WHAT", "STATE", "DONE", "OF", "PACE", "BEGAN", "REASON"),
        [_row(t) for t in found],
        right=("ID", "DONE", "OF"),
    )


def _row(t: Transfer) -> list[Shown]:
    return [
        str(t.id),
        t.ref,
        _what(t),
        terminal.state(_state(t)),
        format_size(t.bytes_done),
        format_size(t.bytes_total),
        "" if t.is_finished else f"until {local(t.expected_at)}" if t.expected_at is not None else _pace(t),
        ago(t.started_at or t.created_at),
        t.error or t.reason,
    ]


def _what(t: Transfer) -> str:
    if t.source == t.destination:
        return f"{t.kind} from {t.source}"
    part = f" of {', '.join(t.only)}" if t.only else ""
    return f"{t.kind}{part}{' and release' if t.release else ''} to {t.destination}"


def _state(t: Transfer) -> str:
    return "paused" if t.is_paused and not t.is_finished else "late" if t.is_late and not t.is_finished else t.state


def _pace(t: Transfer) -> str:
    from tierd.client.waiting import progress_of

    return progress.pace(progress_of(t))


def _one(ask: Ask, t: Transfer) -> None:
    from tierd.client.waiting import progress_of

    if ask.as_json:
        ask.json(t)
        return
    for name, value in (
        ("transfer", f"{t.id} of {t.ref}: {_what(t)}"),
        ("state", terminal.state(_state(t))),
        ("progress", progress.describe(progress_of(t))),
        ("expected", "" if t.expected_at is None else f"{local(t.expected_at)}, in {until(t.expected_at)}"),
        ("due", "" if t.due_at is None else f"{local(t.due_at)}{', will be late' if t.is_late else ''}"),
        ("restore", "" if t.restore_cost is None else f"was estimated to cost {t.restore_cost:.2f}"),
        ("reason", t.reason),
        ("asked by", t.requested_by),
        ("attempt", str(t.attempt)),
        ("error", f"{t.error} ({t.error_code})" if t.error else ""),
        ("created", ago(t.created_at)),
        ("ended", "" if t.finished_at is None else ago(t.finished_at)),
    ):
        if value:
            line(f"{name:<9} ", value)


@click.command("cancel")
@click.argument("transfer_id", metavar="ID", type=click.IntRange(1))
@remote
def cancel(ask: Ask, transfer_id: int) -> None:
    """Stop a transfer at its next safe point; the snapshot stays readable.

    \b
    tierd transfers --live
    tierd cancel 17
    """
    _steered(ask, ask.daemon.cancel(transfer_id), "will stop at its next safe point")


@click.command("pause")
@click.argument("transfer_id", metavar="[ID]", required=False, type=click.IntRange(1))
@remote
def pause(ask: Ask, transfer_id: int | None) -> None:
    """Let a transfer rest, or without ID all of them, also those to come.

    \b
    tierd pause 17
    tierd pause && run-the-benchmark; tierd resume
    """
    if transfer_id is None:
        _all_steered(ask, ask.daemon.pause_all())
    else:
        _steered(ask, ask.daemon.pause(transfer_id), "rests")


@click.command("resume")
@click.argument("transfer_id", metavar="[ID]", required=False, type=click.IntRange(1))
@remote
def resume(ask: Ask, transfer_id: int | None) -> None:
    """Let a transfer go on, or without ID all that were paused together.

    \b
    tierd resume 17
    tierd resume
    """
    if transfer_id is None:
        _all_steered(ask, ask.daemon.resume_all())
    else:
        _steered(ask, ask.daemon.resume(transfer_id), "goes on")


def _steered(ask: Ask, t: Transfer, what: str) -> None:
    if ask.as_json:
        ask.json(t)
    else:
        line(f"{t.ref}: transfer {t.id} {f'is {t.state}' if t.is_finished else what}")


def _all_steered(ask: Ask, is_paused: bool) -> None:
    if ask.as_json:
        ask.json({"is_paused": is_paused})
    else:
        line("All transfers rest; `tierd resume` lets them go on." if is_paused else "Transfers go on.")

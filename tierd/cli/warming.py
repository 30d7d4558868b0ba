"""`tierd warm`: a snapshot on flash, its path on standard output, everything else on standard error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tierd.cli import progress
from tierd.cli.holding import calling_process, describe, tie_to, tied
from tierd.cli.leaving import BY_SIGNAL, ends_on_sigterm
from tierd.cli.options import DURATION, Ask, ref_argument, remote
from tierd.cli.terminal import escape, local, say
from tierd.model.tier import TierKind
from tierd.model.units import format_duration

if TYPE_CHECKING:
    from tierd.client import Warm

PATH_VARIABLE = "TIERD_PATH"
_CANNOT_RUN, _NOT_FOUND = 126, 127


@dataclass(frozen=True, kw_only=True)
class _Wish:
    ref: str
    lease: timedelta
    wait: bool
    timeout: timedelta | None
    fallback: bool
    holder: str | None
    note: str | None
    restore: bool
    first: tuple[str, ...]
    only: tuple[str, ...]
    by: str | None
    urgency: int
    pid: int | None
    job: str | None
    is_quiet: bool


@click.command("warm")
@ref_argument()
@click.argument("command", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--wait", is_flag=True, help="Return when it is wholly on flash, and show how far it is.")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="Wait for so long at most (exit code 124).")
@click.option(
    "--lease", type=DURATION, default="1h", show_default=True, metavar="DURATION", help='Held for so long: "8h", "14d".'
)
@click.option("--fallback", is_flag=True, help="If it cannot be warmed: say why, and give the path of the cold copy.")
@click.option(
    "--exec", "run", is_flag=True, help="Wait, run COMMAND, renew the lease meanwhile, end it, exit as COMMAND does."
)
@click.option("--holder", metavar="TEXT", help="Who holds it, for people; the calling process by default.")
@click.option("--note", metavar="TEXT", help="What for, for people.")
@click.option(
    "--restore", is_flag=True, help="If the copy is archived: have it restored, for the time and money it takes."
)
@click.option(
    "--first",
    metavar="PATTERN",
    multiple=True,
    help="From a bucket: bring files like this before the others (may be repeated).",
)
@click.option(
    "--only",
    metavar="PATTERN",
    multiple=True,
    help="Bring only files like this, or below this directory (may be repeated); print where they are.",
)
@click.option(
    "--by", metavar="TIME", help='When it must be there, or not at all: "2h" from now, "09:00", "2026-03-01 12:00".'
)
@click.option(
    "--urgency", type=click.IntRange(-5, 5), default=0, help="Among wishes without a time, the larger comes first."
)
@tied
@click.option("--quiet", "-q", "is_quiet", is_flag=True, help="Nothing on standard error but failures.")
@remote
def warm(ask: Ask, /, command: tuple[str, ...], run: bool, **wish: Any) -> None:
    """Have a snapshot on flash, hold it there, and print its path.

    The path can be read at once; with --wait it is printed when everything is on flash. The lease outlives this
    command: it ends when its time is over, with `tierd lease end ID`, or with what --pid or --job name. Calls for one
    snapshot share one copy.

    \b
    python train.py --data "$(tierd warm imagenet/v3 --wait --lease 8h)"
    tierd warm imagenet/v3 --lease 8h --exec -- python train.py --data {}
    path=$(tierd warm imagenet/v3 --wait --timeout 20m --fallback)
    tierd warm imagenet/v3 --by 09:00 --lease 12h
    tierd warm imagenet/v3 --only 'val/*' --only labels.csv --wait

    A copy in an archive class is not restored without being asked for: the refusal says how many hours that takes and
    what it costs, and --restore begins it.

    With --by it is promised, or refused at once with the reason and the earliest time it could be there: from the
    rates that transfers achieved, and what was promised to others before.

    With --only these files alone come to flash, beside the snapshot, and stay while anybody holds it. The path printed
    is then theirs, unless the whole snapshot is on flash.

    With --exec the path replaces {} in the arguments and is in TIERD_PATH; the lease is renewed for as long as the
    command runs and ends with it.
    """
    if run and not command:
        raise click.UsageError("--exec needs a command: tierd warm DATASET/SNAPSHOT --exec -- COMMAND")
    if command and not run:
        raise click.UsageError("a command is run only with --exec")
    wanted = _Wish(**{**wish, "wait": run or wish["wait"]})
    with ends_on_sigterm():
        handle = _warmed(ask, wanted, runs=run)
        if run:
            with handle as path:
                click.get_current_context().exit(_run(command, path))
    handle.keep()
    _tell_lease(handle, wanted)
    if ask.as_json:
        ask.json(_as_answer(handle))
    else:
        _print_path(handle.path)


def _warmed(ask: Ask, wish: _Wish, *, runs: bool) -> Warm:
    from tierd.client import CALLER

    holder = wish.holder or calling_process()
    # This process ends at once; the lease is for what goes on after it, unless it runs the command itself.
    tie = tie_to(wish.pid, wish.job) or (CALLER if runs else None)
    handle = ask.daemon.warm(
        wish.ref,
        lease=wish.lease,
        wait=False,
        fallback=wish.fallback,
        holder=holder,
        note=wish.note,
        restore=wish.restore,
        first=wish.first,
        only=wish.only,
        by=wish.by,
        tie=tie,
        urgency=wish.urgency,
    )
    if wish.wait and not handle.is_ready and not handle.is_fallback:
        try:
            with progress.shown(is_quiet=wish.is_quiet) as tell:
                handle.wait(wish.timeout, on_progress=tell, poll_s=progress.POLL_S)
        except BaseException as e:  # also Ctrl-C: nobody is left to whom the lease is of use
            handle.end()
            _tell_transfer(handle, e)
            raise
    _tell_state(ask, handle, wish)
    return handle


def _tell_transfer(handle: Warm, error: BaseException) -> None:
    transfer = handle.transfer
    if transfer is not None and isinstance(error, KeyboardInterrupt | SystemExit | TimeoutError):
        say(f"the lease is given back; transfer {transfer.id} goes on, `tierd cancel {transfer.id}` stops it")


def _is_readable(ask: Ask, handle: Warm) -> bool:
    """Whether the copy that it is recalled from is a tree of files that its path leads to."""
    source = None if handle.transfer is None else handle.transfer.source
    return all(tier.kind == TierKind.POSIX for tier in ask.daemon.tiers() if tier.name == source)


def _tell_state(ask: Ask, handle: Warm, wish: _Wish) -> None:
    if handle.is_fallback:
        # Also when quiet: whoever reads from the cold copy has to know.
        say(f"{handle.ref} is not on flash, this is the cold copy: {handle.reason}")
    elif not handle.is_ready and not wish.is_quiet and handle.answer is not None:
        eta_s, transfer = handle.answer.eta_s, handle.transfer
        if handle.answer.ready_at is not None:  # the queue counts too
            eta_s = (handle.answer.ready_at - datetime.now(UTC)).total_seconds()
        when = "" if eta_s is None else f", in about {format_duration(max(1, round(eta_s)))}"
        number = "" if transfer is None else f" by transfer {transfer.id}"
        what, meanwhile = str(handle.ref), "it cannot be read"
        if transfer is not None and transfer.only:
            what, meanwhile = f"{', '.join(transfer.only)} of {handle.ref}", "there is nothing at its path"
        elif _is_readable(ask, handle):
            meanwhile = "reads come from the cold copy"
        promised = "" if transfer is None or transfer.due_at is None else f", promised by {local(transfer.due_at)}"
        say(f"{what} is on its way to flash{number}{when}{promised}; until then {meanwhile}")


def _tell_lease(handle: Warm, wish: _Wish) -> None:
    if handle.lease is not None and not wish.is_quiet:
        say(f"{describe(handle.lease)}; `tierd lease end {handle.lease.id}` ends it")


def _as_answer(handle: Warm) -> object:
    if handle.answer is not None and not handle.is_fallback:
        return handle.answer
    empty = dict.fromkeys(("eta_s", "lease", "transfer", "receipt"))
    return {"answer": "fallback", "reason": handle.reason, "path": str(handle.path)} | empty


def _print_path(path: Path) -> None:
    # Byte for byte where a program reads it: an escape would be another path.
    click.echo(escape(str(path)) if sys.stdout.isatty() else os.fsencode(path))


def _run(command: Sequence[str], path: Path) -> int:
    """Run the command with the path; the exit code as a shell would see it."""
    words = [word.replace("{}", str(path)) for word in command]
    try:
        child = subprocess.Popen(words, env={**os.environ, PATH_VARIABLE: str(path)})
    except FileNotFoundError:
        say(f"there is no command {words[0]}")
        return _NOT_FOUND
    except OSError as e:
        say(f"{words[0]} cannot be run: {e.strerror}")
        return _CANNOT_RUN
    with _forwarded_to(child):
        code = child.wait()
    return code if code >= 0 else BY_SIGNAL - code


@contextmanager
def _forwarded_to(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """While the command runs, signals are for it: this process only waits, and then ends the lease."""

    def forward(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    def leave_it(number: int, _: FrameType | None) -> None:
        """Ctrl-C reaches the command from the terminal by itself."""

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, leave_it)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

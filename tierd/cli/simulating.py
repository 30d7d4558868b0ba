"""`tierd simulate`: what other policies and sizes of flash would have done with a recorded history."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tierd.cli import curves as picture
from tierd.cli import uselog
from tierd.cli.options import DURATION
from tierd.cli.terminal import Cell, line, say, table
from tierd.errors import InvalidRequest
from tierd.model.units import format_duration, format_size, parse_percent, parse_rate, parse_size
from tierd.model.value import Cost, PolicyName

if TYPE_CHECKING:
    from datetime import timedelta

    from tierd.decide.simulate import Options, Outcome, Trace
    from tierd.decide.simulate.bounds import Bound
    from tierd.decide.simulate.replay import AnyPolicy

_MOST_SCANNED = 50_000
"""Accesses up to which policies that look at all snapshots for each victim are replayed without being asked for."""


@click.command("simulate")
@click.argument("log", metavar="LOG.csv", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--policy", "policies", multiple=True, metavar="NAME", help="Only these (may be repeated); all by default."
)
@click.option(
    "--flash", "sizes", multiple=True, default=["5%,10%,25%,50%"], show_default=True, metavar="SIZES",
    help='Sizes of flash: shares of all bytes used, or sizes: "10%,20 TB". May be repeated.',
)  # fmt: skip
@click.option("--rate", default="200 MB/s", show_default=True, help="How fast snapshots are brought to flash.")
@click.option(
    "--file-rate", type=click.FloatRange(1), default=2000, show_default=True, help="Files per second, likewise."
)
@click.option(
    "--start", type=DURATION, default="1s", show_default=True, metavar="DURATION", help="Until a transfer flows."
)
@click.option(
    "--announced", default="0%", show_default=True, metavar="SHARE", help="Uses that are announced, as by schedules."
)
@click.option(
    "--lead", type=DURATION, default="7d", show_default=True, metavar="DURATION", help="How long before the use."
)
@click.option(
    "--schedules", "config", type=click.Path(path_type=Path, dir_okay=False), metavar="CONFIG",
    help="Also warm what the [[schedules]] of this configuration name.",
)  # fmt: skip
@click.option("--bypass", is_flag=True, help="What is read once only may be served from the cold tier.")
@click.option(
    "--regret", type=DURATION, default="14d", show_default=True, metavar="DURATION", help="Left, fetched again."
)
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw the miss ratios.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate(
    log: Path,
    policies: tuple[str, ...],
    sizes: tuple[str, ...],
    config: Path | None,
    svg: Path | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Replay a recorded history against policies and sizes of flash. Needs no daemon, changes nothing.

    \b
    tierd history > uses.csv
    tierd simulate uses.csv
    tierd simulate uses.csv --flash 5%,10%,20% --policy ewr --policy lru --svg misses.svg
    tierd simulate uses.csv --announced 50% --lead 2d
    tierd simulate uses.csv --schedules /etc/tierd/config.toml

    The log has a line per use: time (ISO 8601, or seconds), snapshot, bytes, and optionally passes (how often it was
    read through) and files. Columns are found by their titles; `tierd history --json` is read as well; - is standard
    input.

    Flash is filled to the last byte, and what is used is brought there at once: watermarks, windows, phases and leases
    are not replayed, nor that transfers share a disk. It compares policies; it does not predict a day.
    """
    from tierd.decide.simulate import Trace

    with uselog.opened(log) as (file, name):
        trace = Trace(uselog.read(file, name))
    if not len(trace):
        raise InvalidRequest(f"{name} has no uses", hint="`tierd history > uses.csv` writes what was recorded.")
    wanted = _policies(policies, len(trace))
    at = sorted({_size(text, trace) for each in sizes for text in each.split(",")})
    options = _options(**how)
    if config is not None:
        options = _with_schedules(options, trace, config)
    found, bounds = _replayed(trace, wanted, at, options)
    if svg is not None:
        # What is announced is brought without anybody waiting: the bound is of what is brought.
        _draw(svg, found, {} if options.foresees else bounds, log)
    if as_json:
        _print_json(trace, options, found, bounds)
    else:
        _print(trace, options, found, bounds, is_skipped=not policies and len(wanted) < len(PolicyName) + 1)


# -- asking ----------------------------------------------------------------------------------------------------


def _size(text: str, trace: Trace) -> int:
    if text.strip().endswith("%"):
        share = parse_percent(text)
        size = max(1, round(share * trace.total_bytes)) if share else 0
    else:
        size = parse_size(text)
    if size <= 0:
        raise InvalidRequest(f"flash of {text.strip()} holds nothing", hint='Write a size or a share, like "10%".')
    return size


def _policies(named: Iterable[str], accesses: int) -> list[AnyPolicy]:
    from tierd.decide.simulate.replay import Reference

    known: dict[str, AnyPolicy] = {**{p: p for p in PolicyName}, **{p: p for p in Reference}}
    wanted: list[AnyPolicy] = []
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise InvalidRequest(f"{name!r} is no policy", hint=f"{meant}There are {', '.join(known)}.")
        wanted.append(known[name])
    if wanted:
        return list(dict.fromkeys(wanted))
    is_short = accesses <= _MOST_SCANNED
    return [*(p for p in PolicyName if p is not PolicyName.STP or is_short), Reference.BELADY]


def _options(
    *, rate: str, file_rate: float, start: timedelta, announced: str, lead: timedelta, bypass: bool, regret: timedelta
) -> Options:
    from tierd.decide.simulate import Options

    bytes_per_s = parse_rate(rate)
    if not bytes_per_s:
        raise InvalidRequest("a rate of nothing brings nothing", hint='Write a rate, like "200 MB/s".')
    return Options(
        cost=Cost(start_s=start.total_seconds(), s_per_byte=1 / bytes_per_s, s_per_file=1 / file_rate),
        announced=parse_percent(announced),
        lead_s=lead.total_seconds(),
        bypass=bypass,
        regret_s=regret.total_seconds(),
    )


def _with_schedules(options: Options, trace: Trace, config: Path) -> Options:
    from tierd.config import Mounts, load
    from tierd.decide.simulate import planned

    schedules = load(config, mounts=Mounts.IGNORED).schedules
    if not schedules:
        raise InvalidRequest(f"{config} has no [[schedules]]", hint="Write some, or leave --schedules out.")
    found = planned(trace, schedules, options.cost)
    say(f"{len(found)} of {len(trace)} uses were foreseen by {len(schedules)} schedules")
    return replace(options, planned=found)


# -- replaying and telling ---------------------------------------------------------------------------------------


def _replayed(
    trace: Trace, policies: list[AnyPolicy], sizes: list[int], options: Options
) -> tuple[list[Outcome], dict[int, Bound]]:
    from tierd.decide.simulate import lower_bound, replay

    found: list[Outcome] = []
    is_watched = sys.stderr.isatty()
    for size in sizes:
        for policy in policies:
            if is_watched:
                click.echo(f"\rreplaying {policy} with {format_size(size)} of flash …\x1b[K", nl=False, err=True)
            found.append(replay(trace, policy, size, options))
    bounds = {size: lower_bound(trace, size) for size in sizes}
    if is_watched:
        click.echo("\r\x1b[K", nl=False, err=True)
    return found, bounds


def _print(trace: Trace, options: Options, found: list[Outcome], bounds: dict[int, Bound], *, is_skipped: bool) -> None:
    line(
        f"{len(trace)} uses of {len(trace.names)} snapshots ({format_size(trace.total_bytes)}) "
        f"in {format_duration(trace.at[-1] - trace.at[0])}"
    )
    for size, bound in bounds.items():
        here = [outcome for outcome in found if outcome.flash_bytes == size]
        best = min(outcome.byte_miss_ratio for outcome in here)
        line()
        line(Cell(f"{format_size(size)} of flash", "bold"), f" ({size / trace.total_bytes:.0%} of all bytes)")
        table(
            ("POLICY", "BYTES MISSED", "USES MISSED", "MOVED", "FROM COLD", "WAITED", "REGRETTED"),
            [_row(outcome, is_best=outcome.byte_miss_ratio == best) for outcome in here],
            right=("BYTES MISSED", "USES MISSED", "MOVED", "FROM COLD", "WAITED", "REGRETTED"),
        )
        method = "linear program" if bound.method == "foo" else "pfoo-l, weaker than the linear program"
        verb = "bring" if options.foresees else "miss"
        line(f"no policy can {verb} less than {bound.byte_miss_ratio:.1%} of the bytes ({method})")
        _compare(here)
    if any(bound.is_without_scipy for bound in bounds.values()):
        say("the linear program needs scipy: pip install 'tierd[simulate]'")
    if is_skipped:
        say("stp looks at all snapshots for each victim, it is left out of so long a log; --policy stp replays it")


def _row(outcome: Outcome, *, is_best: bool) -> list[str | Cell]:
    return [
        Cell(outcome.policy, "green" if is_best else ""),
        f"{outcome.byte_miss_ratio:.1%}",
        f"{outcome.miss_ratio:.1%}",
        format_size(outcome.moved_bytes),
        format_size(outcome.cold_bytes),
        format_duration(round(outcome.stall_s)),
        f"{outcome.regrets} ({format_size(outcome.regret_bytes)})" if outcome.regrets else "0",
    ]


def _compare(here: list[Outcome]) -> None:
    """Say it where tierd's own policy is not the better one."""
    outcomes = {outcome.policy: outcome for outcome in here}
    own = outcomes.get(PolicyName.EWR)
    if own is None:
        return
    offered = [o for o in here if o.policy in set(PolicyName) and o.missed_bytes < own.missed_bytes]
    plain = outcomes.get(PolicyName.LRU)
    if plain is not None and plain.missed_bytes == own.missed_bytes:
        line("ewr and lru miss the same here")
    if offered:
        less = ", ".join(f"{o.policy} ({o.byte_miss_ratio:.1%})" for o in sorted(offered, key=lambda o: o.missed_bytes))
        line(Cell("ewr is not the best here", "yellow"), f": {own.byte_miss_ratio:.1%}, less is missed by {less}")


def _print_json(trace: Trace, options: Options, found: list[Outcome], bounds: dict[int, Bound]) -> None:
    import json

    results = [
        asdict(outcome) | {"byte_miss_ratio": outcome.byte_miss_ratio, "miss_ratio": outcome.miss_ratio}
        for outcome in found
    ]
    lower = [{"flash_bytes": size} | asdict(bound) for size, bound in bounds.items()]
    about = {
        "uses": len(trace),
        "snapshots": len(trace.names),
        "total_bytes": trace.total_bytes,
        "options": asdict(options) | {"planned": len(options.planned)},
    }
    click.echo(json.dumps(about | {"results": results, "lower_bounds": lower}, indent=2))


def _draw(svg: Path, found: list[Outcome], bounds: dict[int, Bound], log: Path) -> None:
    curves: dict[str, list[tuple[int, float]]] = {}
    for outcome in found:
        curves.setdefault(outcome.policy, []).append((outcome.flash_bytes, outcome.byte_miss_ratio))
    bound = [(size, bound.byte_miss_ratio) for size, bound in bounds.items()]
    try:
        svg.write_text(picture.svg(curves, bound=bound, title=f"Bytes missed, {log.name}"), encoding="utf-8")
    except OSError as e:
        raise InvalidRequest(f"{svg} cannot be written: {e.strerror}", hint="Name another file.") from e
    say(f"wrote {svg}")

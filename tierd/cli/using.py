"""Verbs about use: who reads what, how often, and uses that the daemon cannot see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from tierd.cli import heatmap as picture
from tierd.cli.options import DURATION, Ask, ref_argument, remote
from tierd.cli.terminal import Cell, Shown, ago, has_screen, line, local, say, table, user
from tierd.errors import InvalidRequest
from tierd.model.units import format_size

if TYPE_CHECKING:
    from tierd.client import Episode, Ranked, Span

_SHADES = ("·", "░", "▒", "▓", "█")
_COLOURS = ("dim", "blue", "cyan", "bright_cyan", "bright_white")
_WIDEST = 60
_LEAST_EVERY = timedelta(milliseconds=200)


@click.command("top")
@click.option(
    "--by",
    type=click.Choice(["snapshot", "dataset", "job", "user", "program"]),
    default="snapshot",
    show_default=True,
    help="What to rank.",
)
@click.option("--since", type=DURATION, default="24h", show_default=True, help="How far to look back.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--every", type=DURATION, default="2s", show_default=True, help="How often the live view asks.")
@click.option("--once", is_flag=True, help="Print the ranking once, also on a terminal.")
@remote
@click.pass_context
def top(ctx: click.Context, ask: Ask, by: str, since: timedelta, limit: int, every: timedelta, once: bool) -> None:
    """Watch the daemon live: tiers, transfers, what comes next and why, holds, snapshots, uses.

    On a terminal this is a screen that keeps itself up to date: ? explains its keys, q leaves. With --by,
    --since or --limit it begins with who uses the datasets, or which are used most. Elsewhere, and with --once or
    --json, that ranking is printed.

    Jobs, users and programs are known where the tracker sees them (fanotify, and `attribution` is on). Reads and
    writes are merged by the kernel: they rank, they do not count files.

    \b
    tierd top
    tierd top --by job --since 7d
    tierd top --by job --once
    tierd top --by user --json | jq -r '.items[].name'
    """
    if not (once or ask.as_json) and _watched(ctx, ask, by, since=since, limit=limit, every=every):
        return
    found = ask.daemon.top(by, since=datetime.now(UTC) - since, limit=limit)
    if ask.as_json:
        ask.json({"by": by, "items": found})
        return
    table(
        (by.upper(), "SNAPSHOTS", "SIZE", "EPISODES", "READS", "WRITES", "LAST"),
        [_ranked_row(by, r) for r in found],
        right=("SNAPSHOTS", "SIZE", "EPISODES", "READS", "WRITES"),
    )


def _watched(ctx: click.Context, ask: Ask, by: str, *, since: timedelta, limit: int, every: timedelta) -> bool:
    """Show the live view, where there is a terminal for it."""
    if not has_screen():
        return False
    from tierd.cli.top.live import live
    from tierd.cli.top.state import Name, State

    of_ranking = ("by", "since", "limit")
    is_asked = any(ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in of_ranking)
    state = State(view=Name.USES, by=by) if is_asked else State()
    live(ask.daemon, state, every=max(every, _LEAST_EVERY), since=since, ranked=limit)
    return True


def _ranked_row(by: str, r: Ranked) -> list[Shown]:
    name: Shown = user(r.name) if by == "user" else Cell("unknown", "dim") if r.name is None else r.name
    size = format_size(r.size_bytes)
    return [name, str(r.snapshots), size, str(r.episodes), str(r.reads), str(r.writes), ago(r.last_at)]


@click.command("accesses")
@ref_argument()
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@remote
def accesses(ask: Ask, ref: str, limit: int) -> None:
    """Show who used a snapshot, and when; the latest first.

    \b
    tierd accesses imagenet/v3
    tierd accesses imagenet/v3 --json | jq '.items[0]'
    """
    found = ask.daemon.accesses(ref, limit=limit)
    if ask.as_json:
        ask.json({"items": found})
        return
    table(
        ("FROM", "UNTIL", "PROGRAM", "USER", "JOB", "READS", "WRITES", "KNOWN FROM"),
        [_episode_row(e) for e in found],
        right=("READS", "WRITES"),
    )


def _episode_row(e: Episode) -> list[Shown]:
    who = (e.program or "", "" if e.uid is None else user(e.uid), e.job or "")
    return [local(e.first_at), local(e.last_at), *who, str(e.reads), str(e.writes), e.source]


@click.command("access")
@ref_argument()
@click.option("--write", is_flag=True, help="It was written to; by default it was read.")
@click.option("--at", "when", metavar="TIME", help="When, like 2026-03-01T12:00:00Z; now by default.")
@click.option("--program", help="Which program it was.")
@click.option("--job", help="Which job it was, like slurm:4711.")
@remote
def access(ask: Ask, ref: str, write: bool, when: str | None, program: str | None, job: str | None) -> None:
    """Tell the daemon of a use that it cannot see: by an NFS client, through FUSE, by a remote reader.

    \b
    tierd access imagenet/v3
    tierd access imagenet/v3 --at 2026-03-01T12:00:00Z --job slurm:4711
    """
    ask.daemon.report_access(ref, write=write, at=_moment(when), program=program, job=job)
    if ask.as_json:
        ask.json({"accepted": 1})


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo is not None else found.astimezone()
    except (ValueError, OverflowError):  # in a zone, the first and the last day there is may have no place
        raise InvalidRequest(f"{text!r} is no time", hint="Write it like 2026-03-01T12:00:00Z.") from None


@click.command("history")
@click.option("--dataset", metavar="DATASET", help="Only of this dataset.")
@click.option("--since", type=DURATION, help="How far to look back; everything by default.")
@remote
def history(ask: Ask, dataset: str | None, since: timedelta | None) -> None:
    """Print all times of use as CSV (time, snapshot, bytes, passes), the oldest first; --json: one object a line.

    \b
    tierd history > uses.csv
    tierd history --dataset imagenet --since 90d --json
    """
    began = None if since is None else datetime.now(UTC) - since
    for text in ask.daemon.history(dataset, since=began, form="ndjson" if ask.as_json else "csv"):
        click.echo(text)


@click.command("heatmap")
@click.argument("dataset", metavar="DATASET")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture (SVG) here.")
@click.option("--by", type=click.Choice(["day", "hour"]), default="day", show_default=True)
@click.option("--since", type=DURATION, help="How far to look back; by default 90 days, or 2 days by hour.")
@remote
def heatmap(ask: Ask, dataset: str, output: Path | None, by: str, since: timedelta | None) -> None:
    """Draw when each snapshot of a dataset was used: on the terminal, or as a picture.

    \b
    tierd heatmap imagenet
    tierd heatmap imagenet --since 365d -o imagenet.svg
    """
    now = datetime.now(UTC)
    back = since or (timedelta(days=90) if by == "day" else timedelta(days=2))
    found = ask.daemon.spans(dataset, since=now - back, by=by)
    step = timedelta(days=1) if by == "day" else timedelta(hours=1)
    if ask.as_json:
        ask.json({"by": by, "items": found})
    elif output is not None:
        drawn = picture.svg(found, title=f"Use of {dataset} by {by}", step=step, until=now)
        try:
            output.write_text(drawn, encoding="utf-8")
        except OSError as e:
            raise InvalidRequest(f"{output} cannot be written: {e.strerror}", hint="Name another file.") from e
        say(f"wrote {output}")
    else:
        _draw(found, step, now)


def _draw(spans: list[Span], step: timedelta, now: datetime) -> None:
    names, columns = picture.grid(spans, step, now)
    if not names:
        say("nothing was seen in that time")
        return
    if len(columns) > _WIDEST:
        line(Cell(f"the last {_WIDEST} of {len(columns)} columns; -o FILE.svg draws them all", "dim"))
        columns = columns[-_WIDEST:]
    counts = {cell: sum(both) for cell, both in picture.counts(spans).items()}
    most = max(counts.values())
    widest = max(len(name) for name in names)
    for name in names:
        levels = [picture.level(counts.get((name, start), 0), most) for start in columns]
        line(f"{name:<{widest}}  ", *(Cell(_SHADES[n], _COLOURS[n]) for n in levels))
    ends = f"{columns[0]:%Y-%m-%d}{'' if len(columns) < 2 else f' … {columns[-1]:%Y-%m-%d}'} UTC"
    line(Cell(f"{'':<{widest}}  {ends}", "dim"))

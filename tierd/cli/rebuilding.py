"""The verb that fills a new catalog from what lies on the tiers."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierd.cli import working
from tierd.cli.options import config_option
from tierd.cli.terminal import Cell, Shown, line, local, say, table
from tierd.errors import CatalogLocked, Conflict, NotFound, TierdError
from tierd.model.units import format_size

if TYPE_CHECKING:
    from tierd.config import Config
    from tierd.move.rebuild import Found, Plan

_HEAD = ("SNAPSHOT", "TIER", "LOCATION", "SIZE", "AS OF", "STATE", "WHAT IS DONE")


@click.command("rebuild")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option(
    "--backup",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A backup of the catalog (`tierd backup`): uses, pins, leases, announcements and phases come from it.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rebuild(dry_run: bool, backup: Path | None, config: Path | None, as_json: bool) -> None:
    """Fill a new catalog from what lies on the tiers.

    For a machine whose database was lost, and for another machine that has the tiers (the disks, the bucket). Every
    copy that the tiers know is entered under its snapshot, and where nothing is at a snapshot's path a link leads to
    its fastest copy. Nothing that lies anywhere is replaced or deleted; what cannot be restored is listed with the
    reason. The daemon must not run, and the catalog must be new or empty.

    The tiers say where everything lies, also what moved after a backup was made. A backup adds what they do not know:
    uses, pins, leases, announcements, phases and measured rates. Its events and transfers stay in the backup.

    \b
    tierd rebuild --dry-run
    tierd rebuild && systemctl start tierd
    tierd rebuild --backup /mnt/hdd/tierd-backup.db
    """
    from tierd.config import Mounts, config_path, load
    from tierd.move.rebuild import look, plan

    loaded = load(config or config_path(os.environ), mounts=Mounts.OPTIONAL)
    if dry_run:
        with working.shown() as work:
            found = look(loaded, work)
        planned = plan(found)
    else:
        found, planned, remembered = _rebuild(loaded, backup)
        if backup is not None:
            say(f"{backup} knew {remembered} snapshot{'' if remembered == 1 else 's'} that are still there")
    if as_json:
        click.echo(json.dumps(_as_json(loaded, found, planned, is_dry_run=dry_run), indent=2))
    else:
        _show(planned)
    _tell(loaded, found, planned, is_dry_run=dry_run)


def _rebuild(config: Config, backup: Path | None) -> tuple[Found, Plan, int]:
    from tierd.catalog import Catalog
    from tierd.move.rebuild import apply, look, plan

    try:
        catalog = Catalog.open(config.database, wait_s=1.0)
    except CatalogLocked as error:
        hint = "Stop the daemon (systemctl stop tierd), then rebuild again."
        raise CatalogLocked(error.message, hint=hint) from error
    with catalog:
        if not catalog.is_empty():
            raise Conflict(
                f"catalog {config.database} is not empty: it knows its snapshots",
                hint=f"`tierd audit` compares it with the tiers. To make it anew all the same, stop the daemon and "
                f"move {config.database} (and its -wal and -shm files) to another place first.",
            )
        with working.shown() as work:
            found = look(config, work)
        planned = plan(found)
        remembered = apply(planned, found, config, catalog, now=datetime.now(UTC), backup=backup)
    return found, planned, remembered


def _show(planned: Plan) -> None:
    rows: list[list[Shown]] = []
    for restore in planned.restored:
        for p in restore.placements:
            what = str(restore.action) if p.tier == restore.leads_to else "a further copy"
            as_of = "original" if p.verified_at is None else local(p.verified_at)
            place = p.location or str(restore.path)
            rows.append([str(restore.ref), p.tier, place, format_size(p.size_bytes), as_of, p.state, what])
    for left in planned.left:
        copy = left.copy
        name = f"{copy.dataset}/{copy.name}" if copy.dataset else "?"
        as_of = "" if copy.as_of is None else local(copy.as_of)
        place = copy.location or "aside"
        rows.append([name, left.tier, place, format_size(copy.size_bytes), as_of, "", Cell("left alone", "yellow")])
    if rows:
        table(_HEAD, rows, right=("SIZE",))
    for left in planned.left:
        line(Cell("left alone  ", "yellow"), f"{left.tier}:{left.copy.location or 'aside'}: {left.reason}. {left.hint}")


def _tell(config: Config, found: Found, planned: Plan, *, is_dry_run: bool) -> None:
    for note in found.notes:
        say(note)
    count = len(planned.restored)
    what = f"{count} snapshot{'' if count == 1 else 's'}"
    if not is_dry_run:
        say(f"{what} entered into {config.database}; start the daemon, and see `tierd ls`")
        return
    say(f"{what} would be entered into {config.database}; nothing was changed")
    if not _is_empty(config.database):
        say(f"{config.database} knows snapshots already: `tierd rebuild` will refuse until it is moved away")


def _is_empty(database: Path) -> bool:
    from tierd.catalog import Catalog

    try:
        with Catalog.look(database) as catalog:
            return catalog.is_empty()
    except NotFound:
        return True
    except TierdError as error:
        say(error.message)
        return False


def _as_json(config: Config, found: Found, planned: Plan, *, is_dry_run: bool) -> dict[str, object]:
    return {
        "database": str(config.database),
        "is_dry_run": is_dry_run,
        "restored": [
            {
                "ref": str(restore.ref),
                "key": restore.key,
                "path": str(restore.path),
                "action": restore.action.name.lower(),
                "leads_to": restore.leads_to,
                "target": None if restore.target is None else str(restore.target),
                "placements": [
                    {
                        "tier": p.tier,
                        "state": p.state,
                        "location": p.location,
                        "content_id": p.content_id,
                        "size_bytes": p.size_bytes,
                        "entries": p.entries,
                        "as_of": None if p.verified_at is None else p.verified_at.isoformat(),
                    }
                    for p in restore.placements
                ],
            }
            for restore in planned.restored
        ],
        "left": [
            {
                "tier": left.tier,
                "location": left.copy.location,
                "dataset": left.copy.dataset,
                "name": left.copy.name,
                "key": left.copy.snapshot_key,
                "size_bytes": left.copy.size_bytes,
                "as_of": None if left.copy.as_of is None else left.copy.as_of.isoformat(),
                "reason": left.reason,
                "hint": left.hint,
            }
            for left in planned.left
        ],
        "notes": list(found.notes),
    }

"""The verb that backs the catalog up."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from tierd.cli.options import config_option
from tierd.cli.terminal import say
from tierd.model.units import format_size


@click.command("backup")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backup(file: Path, config: Path | None, as_json: bool) -> None:
    """Back the catalog up into one file, while the daemon works on it.

    The copy is of one moment, is checked to the last page, and replaces an older backup of that name only when it is
    sound. It has what the tiers themselves do not know: uses, pins, leases, announcements and events. For what
    lies on the tiers themselves nothing needs to be backed up here: `tierd rebuild` reads it from them.

    \b
    tierd backup /mnt/hdd/tierd-backup.db
    tierd backup "/mnt/hdd/backups/tierd-$(date +%u).db"     one for each day of the week
    """
    from tierd.catalog.backup import back_up
    from tierd.config import Mounts, config_path, load

    loaded = load(config or config_path(os.environ), mounts=Mounts.IGNORED)
    size = back_up(loaded.database, file)
    if as_json:
        click.echo(json.dumps({"database": str(loaded.database), "backup": str(file), "size_bytes": size}, indent=2))
    else:
        say(f"{loaded.database} is backed up in {file} ({format_size(size)}), checked")

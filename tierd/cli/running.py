"""Verbs of the daemon itself: run, check-config."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierd.cli.options import config_option
from tierd.cli.terminal import Cell, line, say, table
from tierd.errors import StorageError

if TYPE_CHECKING:
    from tierd.config import Config
    from tierd.storage.s3.rights import Finding

_FAULTY = 2


@click.command("run")
@config_option
def run(config: Path | None) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

    SIGHUP reads the configuration again; a faulty one is refused and the present one stays. A disk that is missing
    is no reason not to start: its tier is offline until it is back.

    \b
    tierd run --config ./config.toml
    systemctl start tierd
    """
    from tierd.cli.logs import begin_logging
    from tierd.config import Mounts, config_path, load

    loaded = load(config or config_path(os.environ), mounts=Mounts.OPTIONAL)
    # After the configuration: its faults are told in a fraction of the time that the daemon takes to load.
    from tierd.daemon import run as run_daemon

    run_daemon(loaded, begin_logging)


@click.command("check-config")
@config_option
@click.option("--text-only", is_flag=True, help="Look only at the file, not at the paths on this machine.")
@click.option("--connect", is_flag=True, help="Also try what each S3 tier needs: connection, credentials, every right.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_config(config: Path | None, text_only: bool, connect: bool, as_json: bool) -> None:
    """Report every fault of a configuration at once.

    Each with its place, what is wrong, and what to write instead. --connect tries each right with a harmless request
    that leaves nothing behind; a daemon may run meanwhile. Exits with 0 if all is well, with 2 if the file has
    faults, with 9 if a tier cannot be used as it is.

    \b
    tierd check-config
    tierd check-config --config ./config.toml --text-only
    tierd check-config --connect
    """
    from tierd.config import Mounts, check, config_path, load

    if text_only and connect:
        raise click.UsageError("--text-only looks at nothing but the file, --connect at the stores: choose one")
    path = config or config_path(os.environ)
    faults = check(path, mounts=Mounts.IGNORED if text_only else Mounts.REQUIRED)
    tried = _try_tiers(load(path, mounts=Mounts.REQUIRED), is_silent=as_json) if connect and not faults else []
    if as_json:
        said: dict[str, object] = {"path": str(path), "is_valid": not faults}
        said["faults"] = [{"key": f.key, "reason": f.reason, "instead": f.instead} for f in faults]
        if connect:
            said["tiers"] = [
                {"tier": tier, "right": f.right, "is_ok": f.is_ok, "message": f.message} for tier, f in tried
            ]
        click.echo(json.dumps(said, indent=2))
    elif faults:
        table(("KEY", "FAULT", "INSTEAD"), [(Cell(f.key, "bold"), Cell(f.reason, "red"), f.instead) for f in faults])
        say(f"{path} has {len(faults)} fault{'' if len(faults) == 1 else 's'}")
    else:
        line(Cell("sound  ", "green"), str(path))
        if tried:
            rows = [(t, Cell("✓", "green") if f.is_ok else Cell("✗", "bold red"), f.right, f.message) for t, f in tried]
            table(("TIER", "", "TRIED", "FOUND"), rows)
        elif connect:
            say("no S3 tier is configured: there is nothing to connect to")
    bad = {tier for tier, finding in tried if not finding.is_ok}
    if bad and not as_json:
        say(f"{', '.join(sorted(bad))} cannot be used as configured")
    click.get_current_context().exit(_FAULTY if faults else StorageError.exit_code if bad else 0)


def _try_tiers(config: Config, *, is_silent: bool) -> list[tuple[str, Finding]]:
    from tierd.storage.s3.rights import check_rights

    found: list[tuple[str, Finding]] = []
    for tier in config.tiers:
        if tier.s3 is not None:
            if not is_silent:
                say(f"trying what {tier.name} needs at {tier.s3.endpoint or 'AWS'}")
            found += [(tier.name, finding) for finding in check_rights(tier.s3)]
    return found

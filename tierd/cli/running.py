"""Verbs of the daemon itself: run, check-config."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from tierd.cli.options import config_option
from tierd.cli.terminal import Cell, line, say, table

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
    begin_logging(loaded.log)
    # After the configuration: its faults are told in a fraction of the time that the daemon takes to load.
    from tierd.daemon import run as run_daemon

    run_daemon(loaded)


@click.command("check-config")
@config_option
@click.option("--text-only", is_flag=True, help="Look only at the file, not at the paths on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_config(config: Path | None, text_only: bool, as_json: bool) -> None:
    """Report every fault of a configuration at once.

    Each with its place, what is wrong, and what to write instead. Exits with 0 if there is none, else with 2.

    \b
    tierd check-config
    tierd check-config --config ./config.toml --text-only
    """
    from tierd.config import Mounts, check, config_path

    path = config or config_path(os.environ)
    faults = check(path, mounts=Mounts.IGNORED if text_only else Mounts.REQUIRED)
    if as_json:
        found = [{"key": f.key, "reason": f.reason, "instead": f.instead} for f in faults]
        click.echo(json.dumps({"path": str(path), "is_valid": not faults, "faults": found}, indent=2))
    elif faults:
        table(("KEY", "FAULT", "INSTEAD"), [(Cell(f.key, "bold"), Cell(f.reason, "red"), f.instead) for f in faults])
        say(f"{path} has {len(faults)} fault{'' if len(faults) == 1 else 's'}")
    else:
        line(Cell("sound  ", "green"), str(path))
    click.get_current_context().exit(_FAULTY if faults else 0)

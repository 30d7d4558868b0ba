"""The verb doctor: look at everything that tierd needs, and say what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierd.cli.options import config_option
from tierd.cli.terminal import Cell, line, table
from tierd.errors import ConfigError

if TYPE_CHECKING:
    from tierd.cli.checkup import Look

_MARKS = {"fine": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "bold red")}


@click.command("doctor")
@config_option
@click.option(
    "--url", envvar="TIERD_URL", metavar="URL", help="Where the daemon listens; asked as well, if it answers."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(config: Path | None, url: str | None, as_json: bool) -> None:
    """Look at everything that tierd needs on this machine, and say what to do about what is missing.

    The configuration, the kernel, rights, the clock, each tier's file system and bucket, webhooks, and the daemon if it
    answers.
    Nothing is changed; what it tries on a tier it removes again. Exits with 1 where something is bad.

    \b
    sudo tierd doctor
    tierd doctor --config ./config.toml --json
    """
    looks = list(_all(config, url))
    is_bad = any(look.verdict == "bad" for look in looks)
    if as_json:
        click.echo(json.dumps({"is_well": not is_bad, "looks": [asdict(look) for look in looks]}, indent=2))
    else:
        _print(looks)
    click.get_current_context().exit(1 if is_bad else 0)


def _all(config: Path | None, url: str | None) -> Iterator[Look]:
    from tierd.cli import checkup
    from tierd.client import DEFAULT_URL, Tierd
    from tierd.config import Mounts, check, config_path, load

    yield from checkup.machine()
    path = config or config_path(os.environ)
    faults = check(path, mounts=Mounts.OPTIONAL)
    for fault in faults:
        yield checkup.bad(f"configuration, {fault.key}", fault.reason, fault.instead)
    if not faults:
        yield checkup.fine("configuration", f"{path} is sound")
        try:
            loaded = load(path, mounts=Mounts.OPTIONAL)
        except ConfigError as e:  # it was changed since
            yield checkup.bad("configuration", e.message, e.hint or "")
        else:
            yield from checkup.tiers(loaded)
            yield from checkup.stores(loaded)
            yield from checkup.webhooks(loaded)
    yield from checkup.daemon(Tierd(url or DEFAULT_URL))


def _print(looks: list[Look]) -> None:
    rows = [(Cell(*_MARKS[look.verdict]), look.what, look.found) for look in looks]
    table(("", "WHAT", "FOUND"), rows)
    advice = [look for look in looks if look.advice]
    if advice:
        line()
    for look in advice:
        line(Cell(f"{look.what}: ", _MARKS[look.verdict][1]), look.advice)

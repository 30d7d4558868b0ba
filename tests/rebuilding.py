"""Verbs that work on a catalog and its tiers without the daemon, called on a `World`."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from tests.world import CLOUD, World, is_done
from tierd.cli.program import program
from tierd.model.dataset import Snapshot
from tierd.model.transfer import TransferKind


def write_config(world: World, *, datasets: str | None = None) -> Path:
    """The world as a configuration file; `datasets`: other tables of datasets than its own."""
    s3 = world.s3
    text = f'database = "{world.config.database}"\nview = "{world.base}/view"\n'
    for rank, (name, root) in enumerate(world.roots.items()):
        text += f'[[tiers]]\nname = "{name}"\nroot = "{root}"\nrank = {rank}\n'
    if s3 is not None:
        text += f'[[tiers]]\nname = "{CLOUD}"\nkind = "s3"\nrank = 2\nbucket = "{s3.bucket}"\nprefix = "{s3.prefix}"\n'
        text += f'endpoint = "{s3.endpoint}"\nregion = "{s3.region}"\ncredentials = "{s3.credentials}"\n'
        text += f'state = "{s3.state}"\nretry_for = "3s"\ntimeout = "10s"\n'
    pattern = "" if world.config.datasets[0].pattern is not None else 'snapshots = "self"\n'
    text += datasets if datasets is not None else f'[[datasets]]\nname = "ds"\npath = "{world.data}"\n{pattern}'
    path = world.base / "config.toml"
    path.write_text(text)
    return path


def call(world: World, *words: str, datasets: str | None = None) -> Result:
    """Call a verb without a terminal."""
    return CliRunner().invoke(program, [*words, "--config", str(write_config(world, datasets=datasets))])


def lose_catalog(world: World) -> None:
    world.close()
    for path in world.base.glob("tierd.db*"):
        path.unlink()


def rebuild(world: World, *words: str) -> Result:
    """Lose the catalog, rebuild it, and go on with the new one."""
    lose_catalog(world)
    result = call(world, "rebuild", *words)
    world._open()
    return result


def go(
    world: World, snapshot: Snapshot, kind: TransferKind, source: str, destination: str, *, release: bool = False
) -> None:
    """Carry out one transfer between two tiers."""
    order = world.order(snapshot, kind, release=release, source=source, destination=destination)  # type: ignore[arg-type]
    assert is_done(world.run(order))

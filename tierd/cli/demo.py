"""`tierd demo`: the whole story on an embedded example."""

from __future__ import annotations

import click

from tierd.errors import TierdError


@click.command("demo")
@click.option("--once", is_flag=True, help="End by itself when the story is told.")
def demo(once: bool) -> None:
    """Run tierd on an embedded example, without root and without a server."""
    raise TierdError("the demo is not there yet")

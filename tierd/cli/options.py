"""What verbs have in common: the daemon's address, --json, arguments that name things."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

from tierd.errors import InvalidRequest, TierdError
from tierd.model.units import parse_duration

if TYPE_CHECKING:
    from tierd.client import Tierd

_P = ParamSpec("_P")


@dataclass(frozen=True, kw_only=True)
class Ask:
    """How this call reaches the daemon, and how it answers the user."""

    url: str | None
    token: str | None
    as_json: bool

    @functools.cached_property
    def daemon(self) -> Tierd:
        """The client; nothing is opened before the first call."""
        from tierd.client import Tierd

        return Tierd(self.url, self.token)

    def json(self, value: object) -> None:
        """Print a shape of the client, a list of them, or plain values as JSON."""
        from tierd.client.shapes import encode

        click.echo(json.dumps(encode(value), indent=2, ensure_ascii=True))

    def json_line(self, value: object) -> None:
        """Print one value on one line, for streams of them."""
        from tierd.client.shapes import encode

        click.echo(json.dumps(encode(value), ensure_ascii=True))


def remote(verb: Callable[Concatenate[Ask, _P], None]) -> Callable[..., None]:
    """Give a verb --json, --url and --token, and an `Ask` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON, in the shapes of the REST interface.")
    @click.option(
        "--url", envvar="TIERD_URL", metavar="URL", help="Address of the daemon: unix:///path or http://host:port."
    )
    @click.option(
        "--token", envvar="TIERD_TOKEN", metavar="TOKEN", help="Token for TCP; TIERD_TOKEN keeps it out of `ps`."
    )
    @functools.wraps(verb)
    def asked(*args: _P.args, **kwargs: _P.kwargs) -> None:
        values: dict[str, Any] = kwargs
        ask = Ask(url=values.pop("url"), token=values.pop("token"), as_json=values.pop("as_json"))
        verb(ask, *args, **kwargs)

    return asked


class DurationType(click.ParamType[timedelta]):
    """A duration as people write it."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except InvalidRequest as e:
            self.fail(f"{e.message}. {e.hint}", param, ctx)


DURATION = DurationType()


def ref_argument(*, required: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The argument REF: a snapshot; completed by the names that the daemon knows."""
    return click.argument("ref", metavar="DATASET/SNAPSHOT", required=required, shell_complete=complete_ref)


def complete_ref(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of snapshots that begin like this; none when the daemon cannot be asked."""
    from tierd.client import Tierd

    try:
        names = [s.ref for s in Tierd(ctx.params.get("url"), ctx.params.get("token")).snapshots()]
    except TierdError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def config_option(verb: Callable[..., None]) -> Callable[..., None]:
    """The option --config."""
    return click.option(
        "--config",
        "config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The configuration; by default what TIERD_CONFIG says, else /etc/tierd/config.toml.",
    )(verb)

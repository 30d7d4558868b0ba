"""The verb that moves a dataset to another phase of its life: phase."""

from __future__ import annotations

import difflib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from tierd.cli.options import Ask, remote
from tierd.cli.terminal import line, table
from tierd.model.phase import Phase
from tierd.model.units import format_duration

if TYPE_CHECKING:
    from tierd.client.shapes import Dataset

_CONFIGURED = "configured"


class PhaseType(click.ParamType[str]):
    """The name of a phase, or `configured`."""

    name = "phase"
    _known = (*Phase, _CONFIGURED)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self._known:
            near = difflib.get_close_matches(str(value).lower(), self._known, n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            self.fail(f"{value!r} is no phase. {meant}There are {', '.join(self._known)}.", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, _: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(str(name)) for name in self._known if name.startswith(incomplete)]


@click.command("phase")
@click.argument("dataset", metavar="DATASET", required=False)
@click.argument("phase", metavar="PHASE", type=PhaseType(), required=False)
@remote
def phase(ask: Ask, dataset: str | None, phase: str | None) -> None:
    """Move a dataset to another phase of its life, or show which one each is in.

    \b
    collect   data comes in: copied down as soon as it is settled; leaves flash first
    build     stays near: copied down after 7d unused, released after 30d
    train     as [defaults] say
    archive   goes down: copied after 1d, released after 3d
    deploy    never leaves flash; a copy is made at once

    It counts from the next decision on and survives restarts; `configured` goes back to the phase of the file.

    \b
    tierd phase
    tierd phase imagenet archive
    tierd phase imagenet configured
    """
    if dataset is not None and phase is not None:
        found = [ask.daemon.set_phase(dataset, None if phase == _CONFIGURED else phase)]
    else:
        found = ask.daemon.datasets() if dataset is None else [ask.daemon.dataset(dataset)]
    if ask.as_json:
        ask.json({"items": found} if dataset is None else found[0])
    elif dataset is None:
        rows = [(d.name, d.phase, _origin(d), _what_follows(d)) for d in found]
        table(("DATASET", "PHASE", "FROM", "WHAT FOLLOWS"), rows)
    else:
        line(f"{found[0].name} is in phase {found[0].phase} ({_origin(found[0])}): {_what_follows(found[0])}")


def _origin(d: Dataset) -> str:
    return "configuration" if d.given_phase is None else f"tierd phase; configured: {d.configured_phase}"


def _what_follows(d: Dataset) -> str:
    policy = d.policy
    copied = _age("copied down", policy.migrate_after_s)
    if policy.keeps_flash:
        return f"{copied}, never leaves flash"
    first = ", leaves flash first" if policy.leaves < 0 else ""
    return f"{copied}, {_age('released', policy.release_after_s)}{first}"


def _age(what: str, seconds: float | None) -> str:
    if seconds is None:
        return f"{what} only under pressure"
    return f"{what} after {format_duration(timedelta(seconds=seconds))} unused" if seconds else f"{what} once settled"

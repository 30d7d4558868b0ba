"""What live views ask for again and again: one request for everything at a glance, one for a cut of the snapshots."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from tierd.serve.asking import Reader
from tierd.serve.overview import (
    MAX_EVENTS,
    MAX_HOLDS,
    MAX_STEPS,
    Order,
    OverviewOut,
    RowsOut,
    holds_of,
    rows,
    transfers_of,
)
from tierd.serve.parts import Have
from tierd.serve.problems import responses
from tierd.serve.routes.status import summary

router = APIRouter(tags=["daemon"])


@router.get("/v1/overview", responses=responses())
def overview(have: Have, _: Reader) -> OverviewOut:
    """Tiers, what moves, what comes next and why, who holds what, what happened last. At most a few seconds old."""
    now, known = have.clock(), have.page.known()
    view, plan = known.view, known.plan
    holds = holds_of(view, have.look, now)
    newest = have.catalog.events(limit=MAX_EVENTS, newest_first=True)
    return OverviewOut(
        at=now,
        status=summary(have, view, known.tally),
        seconds_to_high={str(name): left for name, left in have.trends.seconds_to_high(view, now).items()},
        transfers=transfers_of(view, have.look),
        holds=holds[:MAX_HOLDS],
        holds_total=len(holds),
        steps=have.look.steps(plan, MAX_STEPS),
        steps_total=len(plan.steps),
        notes=list(plan.notes),
        events=[have.look.event(e) for e in newest],
    )


@router.get("/v1/rows", responses=responses())
def snapshot_rows(
    have: Have,
    _: Reader,
    text: Annotated[str, Query(max_length=200)] = "",
    sort: Order = Order.NAME,
    order: Literal["usual", "reverse"] = "usual",
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> RowsOut:
    """Snapshots for people to page through: those with `text` in their name or in that of a holder, with their value.

    Past the end the last ones are answered. Of very many snapshots it may be a few seconds old.
    """
    known = have.page.known()
    return rows(
        known.view,
        known.plan,
        have.look,
        have.clock(),
        text=text.strip(),
        order=sort,
        is_reversed=order == "reverse",
        offset=offset,
        limit=limit,
    )

"""What the planner would do, and why a snapshot is where it is."""

from __future__ import annotations

from fastapi import APIRouter

from tierd.decide import explain as explain_snapshot
from tierd.serve import schemas as out
from tierd.serve.asking import Named, Reader
from tierd.serve.parts import Have
from tierd.serve.problems import responses

router = APIRouter(tags=["plan"])

_EVENTS = 20


@router.get("/v1/plan", responses=responses())
def plan(have: Have, _: Reader) -> out.PlanOut:
    """What would be done now, in order, and why everything else stays. At most a few seconds old."""
    return have.look.plan(have.views.plan())


@router.get("/v1/snapshots/{dataset}/{snapshot}/explain", responses=responses(404))
def explain(ref: Named, have: Have, _: Reader) -> out.ExplanationOut:
    """Why the snapshot is where it is, what holds it, what would move it, and its newest events (newest first)."""
    explanation = explain_snapshot(have.views.current(), ref, have.clock())
    events = have.catalog.events(ref=ref, limit=_EVENTS, newest_first=True)
    return have.look.explanation(explanation, events, have.finder.parts(have.finder.find(ref)))

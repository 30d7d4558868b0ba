"""Transfers: looking, waiting, stopping."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from tierd.model.transfer import TransferId
from tierd.serve import schemas as out
from tierd.serve.asking import MAX_ID, Absent, Admin, Id, Reader
from tierd.serve.meters import waited
from tierd.serve.parts import Have
from tierd.serve.problems import responses

router = APIRouter(tags=["transfers"])

LONGEST_WAIT_S = 60


@router.get("/v1/transfers", responses=responses())
def transfers(
    have: Have,
    _: Reader,
    live: bool = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int, Field(ge=1, le=MAX_ID)] | Absent = None,
) -> out.TransfersOut:
    """Transfers, the newest first; `before` continues after the last id of a page."""
    found = have.catalog.transfers(live_only=live, limit=limit, before_id=before)
    return out.TransfersOut(items=[have.look.transfer(t) for t in found])


@router.get("/v1/transfers/{transfer_id}", responses=responses(404))
async def transfer(
    request: Request,
    transfer_id: Id,
    have: Have,
    _: Reader,
    wait_s: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False)] = 0,
) -> out.TransferOut:
    """One transfer. With `wait_s` the answer comes when it has ended, or as it is when the time is up."""
    began = time.monotonic()
    found = await have.watch.transfer(TransferId(transfer_id), wait_s)
    if wait_s > 0:
        waited(request.scope, time.monotonic() - began)
    return await run_in_threadpool(have.look.transfer, found)


@router.post("/v1/transfers/{transfer_id}/cancel", responses=responses(404, 409))
def cancel(transfer_id: Id, have: Have, _: Admin) -> out.TransferOut:
    """Ask it to stop at its next safe point; its last event says what was undone and what was not."""
    return have.look.transfer(have.wishes.cancel(TransferId(transfer_id)))


@router.post("/v1/transfers/{transfer_id}/pause", responses=responses(404, 409))
def pause(transfer_id: Id, have: Have, _: Admin) -> out.TransferOut:
    """Let it rest at its next safe point, with what is done so far kept."""
    return have.look.transfer(have.wishes.pause(TransferId(transfer_id), is_paused=True))


@router.post("/v1/transfers/{transfer_id}/resume", responses=responses(404, 409))
def resume(transfer_id: Id, have: Have, _: Admin) -> out.TransferOut:
    """Let it go on."""
    return have.look.transfer(have.wishes.pause(TransferId(transfer_id), is_paused=False))

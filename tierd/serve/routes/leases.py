"""Leases: who holds what, since when, until when. Pins are listed too; they are set at their snapshot."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Response

from tierd.model.hold import HoldId
from tierd.serve import schemas as out
from tierd.serve.asking import Id, Reader, Warmer, named, tie_of, ttl
from tierd.serve.parts import Have
from tierd.serve.problems import responses
from tierd.serve.warming import LeaseWish

router = APIRouter(tags=["leases"])


@router.get("/v1/leases", responses=responses())
def leases(have: Have, _: Reader) -> out.LeasesOut:
    """All leases and pins that hold something now, the oldest first."""
    return out.LeasesOut(items=[have.look.hold(h) for h in have.catalog.holds(now=have.clock())])


@router.post("/v1/leases", status_code=201, responses=responses(404, 409, 413))
async def lease(body: out.LeaseIn, have: Have, caller: Warmer) -> out.LeaseOut:
    """Hold a snapshot where it is, without warming it. The same `request_key` renews the same lease."""
    wish = LeaseWish(
        ref=named(body.ref),
        ttl=ttl(body.lease_s),
        holder=body.holder or caller.name,
        request_key=body.request_key,
        note=body.note,
        tie=tie_of(body, caller, have.ports),
    )
    granted = await have.writers.run(partial(have.warming.lease, wish))
    return have.look.hold(granted, wish.ref)


@router.put("/v1/leases/{lease_id}", responses=responses(404, 409, 413))
async def renew(lease_id: Id, body: out.RenewIn, have: Have, _: Warmer) -> out.LeaseOut:
    """Let the lease end `lease_s` from now; with `generation` only if nobody else renewed it since. 409 if it ended."""
    renew_it = partial(have.wishes.renew, HoldId(lease_id), ttl(body.lease_s), body.generation)
    return await have.writers.run(lambda: have.look.hold(renew_it()))


@router.post("/v1/leases/{lease_id}/handover", responses=responses(404, 409, 413))
async def hand_over(lease_id: Id, body: out.HandOverIn, have: Have, caller: Warmer) -> out.LeaseOut:
    """Give the lease to another holder in one step: from a prolog to its job, from a script to what it starts.

    At no moment does nobody hold the snapshot. With `generation` only if nobody else changed the lease since.
    """
    give = partial(
        have.wishes.hand_over,
        HoldId(lease_id),
        holder=body.holder or caller.name,
        tie=tie_of(body, caller, have.ports),
        ttl=ttl(body.lease_s),
        generation=body.generation,
    )
    return await have.writers.run(lambda: have.look.hold(give()))


@router.delete("/v1/leases/{lease_id}", status_code=204, responses=responses(404, 409))
async def end(lease_id: Id, have: Have, _: Warmer) -> Response:
    """End the lease now; nothing happens if it has ended already."""
    await have.writers.run(partial(have.wishes.end, HoldId(lease_id)))
    return Response(status_code=204)

"""Warm: the call that jobs make before they read, and the receipt that proves it was carried out."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request

from tierd.errors import Conflict
from tierd.model.dataset import Snapshot, SnapshotRef
from tierd.model.hold import Hold
from tierd.model.part import Part
from tierd.serve import schemas as out
from tierd.serve.asking import Named, Reader, Warmer, tie_of, ttl
from tierd.serve.finding import Receipt
from tierd.serve.look import text_of
from tierd.serve.meters import waited
from tierd.serve.parts import Have, Parts
from tierd.serve.problems import responses
from tierd.serve.warming import LeaseWish, Leaving, Warmed

router = APIRouter(tags=["warm"])

PATIENCE_S = 15.0
"""How long a warm waits for a release that it interrupts; such a release stops within seconds."""


@router.post("/v1/snapshots/{dataset}/{snapshot}/warm", responses=responses(404, 409, 413, 507))
async def warm(request: Request, ref: Named, have: Have, caller: Warmer, body: out.WarmIn | None = None) -> out.WarmOut:
    """Have the snapshot on flash and hold it there.

    `ready`: it is on flash, with a receipt. `accepted`: a transfer brings it; calls for the same snapshot join one
    transfer, and each gets a lease. Refused with 507 if flash cannot hold it or no copy can be reached, and with 409
    `restore_needed` if its copy is archived: the detail says how long the restore takes and what it costs, and the
    same request with `restore` true begins it. With `by` it is granted only if it will be there in time and no promise
    made before is broken for it; else refused with 409 `too_late`, which names the earliest time. With `only` these
    files alone come to flash, at the path of the answer, and stay there while anybody holds the snapshot; where the
    whole is on flash, that is the answer.
    """
    asked = body or out.WarmIn()
    wish = replace(_wish(ref, asked, caller.name), tie=tie_of(asked, caller, have.ports))
    if wish.only:
        wish = await have.measurers.run(partial(_measured, have, wish))
    deadline = time.monotonic() + PATIENCE_S
    lease = None
    while True:
        answer = await have.writers.run(partial(_warm, have, wish, lease))
        if isinstance(answer, out.WarmOut):
            return answer
        lease, left_s = answer.lease, deadline - time.monotonic()
        if left_s <= 0 or have.watch.is_closed:
            await have.writers.run(partial(have.warming.give_back, lease))
            raise _is_leaving(answer)
        began = time.monotonic()
        await have.watch.transfer(answer.transfer.id, left_s)
        waited(request.scope, time.monotonic() - began)


@router.get("/v1/snapshots/{dataset}/{snapshot}/receipt", responses=responses(404, 409))
def receipt(ref: Named, have: Have, _: Reader) -> out.ReceiptOut:
    """Proof that the snapshot is wholly on flash and at its path; 409 while it is not."""
    return _receipt(have.finder.receipt(have.finder.find(ref)))


def _wish(ref: SnapshotRef, body: out.WarmIn, caller: str) -> LeaseWish:
    return LeaseWish(
        ref=ref,
        ttl=ttl(body.lease_s),
        holder=body.holder or caller,
        request_key=body.request_key,
        note=body.note,
        restore=body.restore,
        first=tuple(body.first),
        only=tuple(dict.fromkeys(body.only)),
        by=body.by,
        urgency=body.urgency,
    )


def _measured(have: Parts, wish: LeaseWish) -> LeaseWish:
    """The wish with what only the tiers tell: which parts somebody wrote to, and how large a new one would be."""
    while (part := have.warming.part(wish)) is not None and not have.ports.is_untouched(part):
        wish = replace(wish, not_parts=wish.not_parts | {part.transfer_id})
    copy = have.warming.must_measure(wish)
    return wish if copy is None else replace(wish, size=have.ports.measure(*copy, wish.only))


def _warm(have: Parts, wish: LeaseWish, lease: Hold | None) -> out.WarmOut | Leaving:
    answer = have.warming.warm(wish, lease)
    return _granted(have, answer) if isinstance(answer, Warmed) else answer


def _granted(have: Parts, warmed: Warmed) -> out.WarmOut:
    ref, transfer = warmed.snapshot.ref, warmed.transfer
    path = text_of(warmed.part_path or warmed.snapshot.path)
    receipt = None if warmed.receipt is None else _receipt(warmed.receipt)
    if warmed.part is not None:
        receipt = _part_receipt(have, warmed.snapshot, warmed.part, path)
    return out.WarmOut(
        answer="ready" if transfer is None else "accepted",
        reason=warmed.reason,
        path=path,
        eta_s=0.0 if transfer is None else have.look.eta_s(transfer),
        ready_at=warmed.ready_at,
        lease=have.look.hold(warmed.lease, ref),
        transfer=None if transfer is None else have.look.transfer(transfer, ref),
        receipt=receipt,
    )


def _receipt(receipt: Receipt) -> out.ReceiptOut:
    snapshot, placement = receipt.snapshot, receipt.placement
    return out.ReceiptOut(
        ref=str(snapshot.ref),
        path=text_of(snapshot.path),
        content_id=placement.content_id,
        entries=placement.entries,
        size_bytes=placement.size_bytes,
        residency=receipt.residency,
        tier=placement.tier,
        resident_ratio=1.0,
        at=receipt.at,
    )


def _part_receipt(have: Parts, snapshot: Snapshot, part: Part, path: str) -> out.ReceiptOut:
    return out.ReceiptOut(
        ref=str(snapshot.ref),
        path=path,
        content_id=part.content_id,
        entries=part.entries,
        size_bytes=part.size_bytes,
        residency=have.finder.residency(have.finder.find(snapshot.ref)),
        tier=part.tier,
        resident_ratio=1.0,
        only=list(part.only),
        at=have.clock(),
    )


def _is_leaving(answer: Leaving) -> Conflict:
    return Conflict(
        f"{answer.snapshot.ref} is being released by transfer {answer.transfer.id}, which was asked to stop",
        hint="Call again in a few seconds.",
    )

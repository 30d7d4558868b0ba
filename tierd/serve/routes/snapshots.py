"""Snapshots: what is where, and what an operator wishes for one of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from tierd.errors import NotFound
from tierd.model.placement import Residency
from tierd.model.plan import SnapshotView
from tierd.serve import cursor as cursors
from tierd.serve import schemas as out
from tierd.serve.asking import Absent, Admin, Named, Reader
from tierd.serve.cursor import Sort
from tierd.serve.parts import Have, Parts
from tierd.serve.problems import responses

router = APIRouter(tags=["snapshots"])


@router.get("/v1/snapshots", responses=responses(404))
def snapshots(
    have: Have,
    _: Reader,
    dataset: str | Absent = None,
    residency: Residency | Absent = None,
    sort: Sort = Sort.NAME,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str, Field(max_length=2000)] | Absent = None,
) -> out.SnapshotsOut:
    """Snapshots, at most a second old, and what is left of deleted ones (`orphaned`).

    `size` lists the largest first, `accessed` the one used last first. A name may be listed more than once: the
    present snapshot, and orphans that had the name before it.
    """
    if dataset is not None and all(d.name != dataset for d in have.config.datasets):
        raise NotFound(f"no dataset {dataset!r} is configured", hint="/v1/datasets lists them.")
    after = None if cursor is None else cursors.decode(cursor, sort)
    view, now = have.views.recent(), have.clock()

    def is_wanted(s: SnapshotView) -> bool:
        return (dataset is None or s.dataset.name == dataset) and (residency is None or view.residency(s) is residency)

    known = (*view.snapshots, *view.orphans)
    placed = sorted((cursors.place(s, sort), n) for n, s in enumerate(known) if is_wanted(s))
    rest = placed if after is None else [p for p in placed if p[0] > after]
    page = rest[:limit]
    found = [known[n] for _, n in page]
    return out.SnapshotsOut(
        items=[have.look.snapshot(s, view.residency(s), now) for s in found],
        next_cursor=cursors.encode(sort, page[-1][0]) if len(rest) > limit else None,
    )


@router.get("/v1/snapshots/{dataset}/{snapshot}", responses=responses(404))
def snapshot(ref: Named, have: Have, _: Reader) -> out.SnapshotOut:
    """One snapshot as it is now."""
    return _present(have, have.finder.find(ref))


@router.post("/v1/snapshots/{dataset}/{snapshot}/migrate", status_code=202, responses=responses(404, 409, 413))
def migrate(ref: Named, have: Have, caller: Admin, body: out.MigrateIn | None = None) -> out.TransferOut:
    """Make a verified cold copy now; with `release` remove the flash copy afterwards. Joins a live migrate."""
    release = body is not None and body.release
    transfer = have.wishes.migrate(ref, release=release, requested_by=caller.name)
    return have.look.transfer(transfer, ref)


@router.post("/v1/snapshots/{dataset}/{snapshot}/release", status_code=202, responses=responses(404, 409))
def release(ref: Named, have: Have, caller: Admin) -> out.TransferOut:
    """Remove the flash copy; a verified cold copy is made first where there is none. Refused while it is held."""
    return have.look.transfer(have.wishes.migrate(ref, release=True, requested_by=caller.name), ref)


@router.post("/v1/snapshots/{dataset}/{snapshot}/pin", responses=responses(404, 409, 413))
def pin(ref: Named, have: Have, caller: Admin, body: out.PinIn | None = None) -> out.LeaseOut:
    """Hold the snapshot without end. Again is as good as once: the present pin is returned."""
    return have.look.hold(have.wishes.pin(ref, caller.name, None if body is None else body.note), ref)


@router.delete("/v1/snapshots/{dataset}/{snapshot}/pin", status_code=204, responses=responses(404))
def unpin(ref: Named, have: Have, _: Admin) -> Response:
    """Remove the pin, if there is one."""
    have.wishes.unpin(ref)
    return Response(status_code=204)


def _present(have: Parts, s: SnapshotView) -> out.SnapshotOut:
    return have.look.snapshot(s, have.finder.residency(s), have.clock())

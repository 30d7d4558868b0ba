"""The history of use: who read what, and uses that no kernel event shows."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from tierd.catalog import KEEP_EPISODES, RankedBy
from tierd.errors import InvalidRequest, NotFound
from tierd.model.dataset import AccessSource
from tierd.model.observation import AccessBatch, Reader, ReaderTally, Use
from tierd.serve import schemas as out
from tierd.serve.asking import MAX_ID, Absent, Named, Warmer, named
from tierd.serve.asking import Reader as Looker
from tierd.serve.parts import Have, Parts
from tierd.serve.problems import Responses, responses

router = APIRouter(tags=["accesses"])

_CSV: Responses = {
    200: {
        "description": "A use a line: time, snapshot, bytes, passes.",
        "content": {"text/csv": {"schema": {"type": "string"}}, "application/x-ndjson": {"schema": {"type": "string"}}},
    }
}
_SKEW = timedelta(minutes=1)
"""How much the clock of another machine may be ahead of ours."""


@router.post("/v1/access", status_code=202, responses=responses(404, 413))
def report(body: out.AccessIn, have: Have, caller: Warmer) -> out.ReportedOut:
    """Tell of uses that the daemon cannot see: on NFS clients, through FUSE, by remote readers.

    They count like those that it sees: a read keeps a snapshot warm, a write makes it unsettled and has it measured.
    All of them are taken, or none. Those of snapshots that are deleted meanwhile are dropped.
    """
    now = have.clock()
    batches = [_batch(have, each, now) for each in body.accesses]
    have.ports.accessed(batches)
    return out.ReportedOut(accepted=len(batches))


def _batch(have: Parts, said: out.ReportedAccess, now: datetime) -> AccessBatch:
    found = have.finder.find(named(said.ref))
    at = said.at or now
    if at > now + _SKEW:
        raise InvalidRequest(
            f"an access of {said.ref} at {at.isoformat()} lies in the future (it is {now.isoformat()} here)",
            hint="Set the clock of the machine that reports, or leave `at` out.",
        )
    if at < now - KEEP_EPISODES:
        raise InvalidRequest(
            f"an access of {said.ref} at {at.isoformat()} is longer ago than the history goes back",
            hint=f"Leave out what is older than {KEEP_EPISODES.days} days.",
        )
    at = min(at, now)
    is_read = said.kind == "read"
    reader = Reader(program=said.program or "", uid=said.uid, job=said.job)
    reads, writes = (said.count, 0) if is_read else (0, said.count)
    return AccessBatch(
        snapshot_id=found.snapshot.id,
        read_at=at if is_read else None,
        written_at=None if is_read else at,
        reads=reads,
        writes=writes,
        source=AccessSource.REPORTED,
        readers=(ReaderTally(reader=reader, first_at=at, last_at=at, reads=reads, writes=writes),),
    )


@router.get("/v1/snapshots/{dataset}/{snapshot}/accesses", responses=responses(404))
def accesses(
    ref: Named,
    have: Have,
    _: Looker,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int, Query(ge=1, le=MAX_ID)] | Absent = None,
) -> out.EpisodesOut:
    """Who used a snapshot, and when: an episode is a time of use without a pause of six hours. The newest first."""
    found = have.catalog.accesses(ref, before=before, limit=limit)
    return out.EpisodesOut(
        items=[
            out.EpisodeOut(
                id=e.id,
                ref=str(e.ref),
                program=e.reader.program or None,
                uid=e.reader.uid,
                job=e.reader.job,
                source=e.source,
                first_at=e.first_at,
                last_at=e.last_at,
                reads=e.reads,
                writes=e.writes,
            )
            for e in found
        ]
    )


@router.get("/v1/accesses/top", responses=responses())
def top(
    have: Have,
    _: Looker,
    by: RankedBy = RankedBy.SNAPSHOT,
    since: out.Moment | Absent = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> out.TopOut:
    """Who or what was most active, since a time (a day ago by default). `name` null: nobody knows."""
    began = since or have.clock() - timedelta(days=1)
    return out.TopOut(
        by=by,
        since=began,
        items=[
            out.RankedOut(
                name=r.name,
                snapshots=r.snapshots,
                episodes=r.episodes,
                reads=r.reads,
                writes=r.writes,
                size_bytes=r.size_bytes,
                last_at=r.last_at,
            )
            for r in have.catalog.top(by, since=began, limit=limit)
        ],
    )


@router.get("/v1/datasets/{dataset}/accesses", responses=responses(404))
def spans(
    dataset: str,
    have: Have,
    _: Looker,
    since: out.Moment | Absent = None,
    by: Literal["day", "hour"] = "day",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 5000,
    cursor: Annotated[str, Field(max_length=200)] | Absent = None,
) -> out.SpansOut:
    """How often each snapshot of a dataset was used, per day (of the last year by default) or hour (of 35 days).

    In the order in which the snapshots were found, then of time; only days and hours in which something was seen.
    """
    if all(d.name != dataset for d in have.config.datasets):
        raise NotFound(f"no dataset {dataset!r} is configured", hint="/v1/datasets lists them.")
    began = since or have.clock() - (timedelta(days=365) if by == "day" else timedelta(days=35))
    after = None if cursor is None else _place(cursor)
    found, rest = have.catalog.spans(dataset, since=began, by_hour=by == "hour", after=after, limit=limit)
    return out.SpansOut(
        by=by,
        since=began,
        items=[
            out.SpanOut(ref=str(s.ref), start=s.start, reads=s.reads, writes=s.writes, episodes=s.episodes)
            for s in found
        ],
        next_cursor=None if rest is None else f"{rest[0]}.{rest[1]}",
    )


def _place(cursor: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,15})\.(-?[0-9]{1,15})", cursor)
    if found is None:
        raise NotFound("there is no page at this cursor", hint="Start again without a cursor.")
    return int(found[1]), int(found[2])


@router.get(
    "/v1/accesses/export", response_class=StreamingResponse, response_model=None, responses=responses(404) | _CSV
)
def export(
    have: Have,
    _: Looker,
    dataset: str | Absent = None,
    since: out.Moment | Absent = None,
    form: Literal["csv", "ndjson"] = "csv",
) -> Response:
    """All times of use, the oldest first, for `tierd simulate`: when it began, of what, of how many bytes.

    How often a job went through the data within one use is not known: `passes` is 1.
    """
    if dataset is not None and all(d.name != dataset for d in have.config.datasets):
        raise NotFound(f"no dataset {dataset!r} is configured", hint="/v1/datasets lists them.")
    uses = have.catalog.uses(dataset=dataset, since=since or datetime.fromtimestamp(0, UTC), now=have.clock())
    if form == "csv":
        return StreamingResponse(_csv(uses), media_type="text/csv")
    return StreamingResponse(_ndjson(uses), media_type="application/x-ndjson")


def _csv(uses: Iterator[Use]) -> Iterator[str]:
    yield "time,snapshot,bytes,passes\n"
    for use in uses:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([use.first_at.isoformat(), str(use.ref), use.size_bytes, 1])
        yield line.getvalue()


def _ndjson(uses: Iterator[Use]) -> Iterator[str]:
    for use in uses:
        said = {"time": use.first_at.isoformat(), "snapshot": str(use.ref), "bytes": use.size_bytes, "passes": 1}
        yield json.dumps(said) + "\n"

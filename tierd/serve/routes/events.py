"""The history, in pages and as a stream."""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from tierd.serve import schemas as out
from tierd.serve.asking import MAX_ID, Absent, Reader, named
from tierd.serve.events import MEDIA_TYPE
from tierd.serve.meters import waited
from tierd.serve.parts import Have
from tierd.serve.problems import Responses, responses

router = APIRouter(tags=["events"])

EventId = Annotated[int, Field(ge=0, le=MAX_ID)]

_FRAME = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "The event's id."},
        "data": {"type": "string", "contentMediaType": "application/json", "description": "The event."},
        "event": {"type": "string"},
        "retry": {"type": "integer"},
    },
}
_STREAM: Responses = {
    200: {"description": "Events as they happen.", "content": {MEDIA_TYPE: {"schema": _FRAME}}},
}


@router.get("/v1/events", responses=responses(404))
def events(
    have: Have,
    _: Reader,
    after: EventId | Absent = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ref: Annotated[str, Field(max_length=400)] | Absent = None,
) -> out.EventsOut:
    """Events, oldest first: those after the id `after`, or without it the newest ones."""
    about = None if ref is None else named(ref)
    # Before the events: one that is written in between is then read twice rather than never.
    newest = have.catalog.last_event_id()
    if after is None:
        found = have.catalog.events(limit=limit, ref=about, newest_first=True)[::-1]
    else:
        found = have.catalog.events(after=after, limit=limit, ref=about)
    last_id = found[-1].id if found else max(newest, after or 0)
    return out.EventsOut(items=[have.look.event(e) for e in found], last_id=last_id)


@router.get("/v1/events/stream", response_class=StreamingResponse, response_model=None, responses=responses() | _STREAM)
async def event_stream(
    request: Request,
    have: Have,
    _: Reader,
    after: EventId | Absent = None,
    last_event_id: Annotated[EventId | Absent, Header()] = None,
) -> StreamingResponse:
    """Server-sent events as they happen, from now on, or after `Last-Event-ID` (or `after`).

    The id of each is the event's id, its data the event as JSON. A comment is sent now and then, so that a broken
    connection is noticed. The stream ends when the daemon stops; connect again with the last id. A thousand may listen
    at the same time; more are refused with 503 for the time being.
    """
    waited(request.scope, math.inf)  # it lasts as long as its client wants
    begin = last_event_id if last_event_id is not None else after
    return StreamingResponse(have.event_streams.listen(have.watch, begin), media_type=MEDIA_TYPE)

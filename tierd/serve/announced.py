"""Shapes of announced use: announcements, schedules, advice."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from tierd.model.announced import AnnouncedBy
from tierd.serve.schemas import Body, Holder, Moment, Note, RequestKey, Shape

DEFAULT_USE_S = 3600
_LONGEST_USE_S = 366 * 86_400


class AnnouncementIn(Body):
    """What will be read from `at` on: `until` then, or for `for_s` seconds (an hour by default)."""

    ref: Annotated[
        str, Field(min_length=1, max_length=400, description="DATASET/latest: the snapshot that was found last.")
    ]
    at: Moment
    until: Moment | None = None
    for_s: Annotated[float, Field(ge=0, le=_LONGEST_USE_S, allow_inf_nan=False)] | None = None
    holder: Holder | None = None
    confidence: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, description="How likely it is to happen.")] = 1
    note: Note | None = None
    request_key: RequestKey | None = None
    source: Annotated[
        Literal["caller", "scheduler"], Field(description="scheduler: a batch system, for a job in its queue.")
    ] = "caller"


class AnnouncementOut(Shape):
    id: int
    ref: str
    source: AnnouncedBy
    holder: str
    at: datetime
    until: datetime
    confidence: float
    note: str | None


class AnnouncementsOut(Shape):
    items: list[AnnouncementOut]


class NewsOut(Shape):
    """What last became of a schedule."""

    at: datetime
    kind: str
    use_at: datetime | None
    ref: str | None
    message: str


class ScheduleOut(Shape):
    """A schedule of the configuration.

    `lead_s` null: from measured rates; `next_at`: the next times; `in_use_until`: of the use that goes on;
    `matches`: what is meant now; `recall_bytes`: of it that is not on flash; `begins_at`: when warming begins.
    """

    name: str
    snapshots: str
    cron: str
    time_zone: str
    for_s: float
    lead_s: float | None
    next_at: list[datetime]
    in_use_until: datetime | None
    matches: list[str]
    recall_bytes: int
    begins_at: datetime | None
    last: NewsOut | None


class SchedulesOut(Shape):
    items: list[ScheduleOut]


class AdviceOut(Shape):
    """A regular use that no schedule covers; `toml`: what to add to the configuration."""

    ref: str
    rhythm: str
    when: str
    cron: str
    time_zone: str | None
    for_s: float
    seen: int
    says: str
    toml: str


class AdviceListOut(Shape):
    items: list[AdviceOut]

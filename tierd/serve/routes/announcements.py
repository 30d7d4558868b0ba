"""Announced use: what somebody said will be read, what schedules say, and what could be scheduled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from fastapi import APIRouter, Response

from tierd.decide.advisor import LOOK_BACK, advise
from tierd.decide.naming import Names
from tierd.decide.schedules import Turn, occurrences, turns
from tierd.errors import Conflict, InvalidRequest
from tierd.model.announced import AnnouncedBy, Announcement, AnnouncementId
from tierd.model.dataset import Snapshot, SnapshotRef
from tierd.model.event import Event
from tierd.model.observation import Span
from tierd.model.schedule import LATEST, Schedule
from tierd.serve import announced as out
from tierd.serve import asking
from tierd.serve.asking import Id, Reader, Warmer
from tierd.serve.parts import Have, Parts
from tierd.serve.problems import responses

router = APIRouter(tags=["announcements"])

_SHOWN = 3
_EVER = timedelta(days=20_000)


@router.post("/v1/announcements", status_code=201, responses=responses(404, 409, 413))
async def announce(body: out.AnnouncementIn, have: Have, caller: Warmer) -> out.AnnouncementOut:
    """Say that a snapshot will be read, and when: what is needed soon does not leave flash before other things.

    Nothing is held or brought to flash for it; a warm does that. The same `request_key` changes what was announced.
    """
    return await have.writers.run(partial(_announce, have, body, body.holder or caller.name))


@router.get("/v1/announcements", responses=responses())
def announcements(have: Have, _: Reader) -> out.AnnouncementsOut:
    """All announced uses that are not over, the next one first; those of schedules are among them."""
    found = have.catalog.announcements(now=have.clock())
    return out.AnnouncementsOut(items=[_shown(a, have.views.ref(a.snapshot_id)) for a in found])


@router.delete("/v1/announcements/{announcement_id}", status_code=204, responses=responses(404, 409))
async def withdraw(announcement_id: Id, have: Have, _: Warmer) -> Response:
    """Withdraw what was announced; nothing happens if it is over already."""
    await have.writers.run(partial(_withdraw, have, AnnouncementId(announcement_id)))
    return Response(status_code=204)


@router.get("/v1/schedules", responses=responses())
def schedules(have: Have, _: Reader) -> out.SchedulesOut:
    """The schedules of the configuration: when each comes next, what it concerns, and what last became of it."""
    view, news, now = have.views.recent(), have.catalog.schedule_events(), have.clock()
    names = Names(view.snapshots)
    return out.SchedulesOut(
        items=[_schedule(s, turns(s, view, names, now, _EVER), news.get(s.name), now) for s in have.config.schedules]
    )


@router.get("/v1/advice", responses=responses())
def advice(have: Have, _: Reader) -> out.AdviceListOut:
    """Uses of the last five weeks that came regularly and that no schedule covers. Nothing is done about them."""
    now, snapshots = have.clock(), have.views.recent().snapshots
    names = Names(snapshots)
    scheduled = {s.ref for each in have.config.schedules for s in names.matching(each.snapshots)}
    found = advise(_hours(have, now - LOOK_BACK), have.config.time_zone, now, scheduled=scheduled)
    present = {s.ref for s in snapshots}
    return out.AdviceListOut(
        items=[
            out.AdviceOut(
                ref=str(a.ref),
                rhythm=a.rhythm,
                when=a.when,
                cron=a.cron,
                time_zone=a.zone,
                for_s=a.use_for.total_seconds(),
                seen=a.seen,
                says=a.says,
                toml=a.toml,
            )
            for a in found
            if a.ref in present
        ]
    )


def _announce(have: Parts, body: out.AnnouncementIn, holder: str) -> out.AnnouncementOut:
    if body.until is not None and body.for_s is not None:
        raise Conflict("`until` and `for_s` contradict each other", hint="Send one of the two.")
    about = _named(have, asking.named(body.ref))
    made = have.catalog.announce(
        snapshot_id=about.id,
        source=AnnouncedBy(body.source),
        holder=holder,
        use_at=body.at,
        until=body.until or _end(body.at, out.DEFAULT_USE_S if body.for_s is None else body.for_s),
        confidence=body.confidence,
        note=body.note,
        request_key=body.request_key,
        now=have.clock(),
    )
    have.ports.wake()
    return _shown(made, about.ref)


def _end(begins: datetime, seconds: float) -> datetime:
    try:
        return begins + timedelta(seconds=seconds)
    except OverflowError as error:
        raise InvalidRequest("the use would end after the year 9999", hint="Announce it when it is nearer.") from error


def _named(have: Parts, ref: SnapshotRef) -> Snapshot:
    have.finder.dataset(ref.dataset)
    found = Names(have.views.current().snapshots).named(ref) if ref.name == LATEST else None
    return have.catalog.snapshot(ref) if found is None else found.snapshot


def _withdraw(have: Parts, announcement_id: AnnouncementId) -> None:
    found = have.catalog.announcement(announcement_id)
    if found.source is AnnouncedBy.SCHEDULE:
        raise Conflict(
            f"announcement {announcement_id} comes from {found.holder.replace(':', ' ', 1)}",
            hint="Change or remove that [[schedules]] entry of the configuration, and reload it.",
        )
    have.catalog.end_announcement(announcement_id, have.clock())
    have.ports.wake()


def _shown(a: Announcement, ref: SnapshotRef) -> out.AnnouncementOut:
    return out.AnnouncementOut(
        id=a.id,
        ref=str(ref),
        source=a.source,
        holder=a.holder,
        at=a.use_at,
        until=a.until,
        confidence=a.confidence,
        note=a.note,
    )


def _schedule(schedule: Schedule, found: list[Turn], news: Event | None, now: datetime) -> out.ScheduleOut:
    running = next((t for t in found if t.use_at <= now), None)
    # While a use goes on and something of it is still missing, that is what is warmed now.
    coming = running if running is not None and running.missing else next((t for t in found if t.use_at > now), None)
    about = found[0] if found else None
    return out.ScheduleOut(
        name=schedule.name,
        snapshots=schedule.snapshots,
        cron=schedule.cron,
        time_zone=str(schedule.time_zone or "UTC"),
        for_s=schedule.use_for.total_seconds(),
        lead_s=None if schedule.lead is None else schedule.lead.total_seconds(),
        next_at=list(islice(occurrences(schedule, now), _SHOWN)),
        in_use_until=None if running is None else running.until,
        matches=[] if about is None else [str(s.ref) for s in about.snapshots],
        recall_bytes=0 if about is None else about.recall_bytes,
        begins_at=None if coming is None else coming.begins_at,
        last=None if news is None else _news(news),
    )


def _news(event: Event) -> out.NewsOut:
    use_at = event.detail.get("use_at")
    return out.NewsOut(
        at=event.at,
        kind=event.kind,
        use_at=datetime.fromisoformat(use_at) if isinstance(use_at, str) else None,
        ref=None if event.ref is None else str(event.ref),
        message=event.message,
    )


def _hours(have: Parts, since: datetime) -> Iterator[Span]:
    for dataset in have.config.datasets:
        after = None
        while True:
            page, after = have.catalog.spans(dataset.name, since=since, by_hour=True, after=after)
            yield from page
            if after is None:
                break

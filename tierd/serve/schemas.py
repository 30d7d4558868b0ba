"""The shapes of requests and responses. Strict: an unknown key or a number sent as text is an error, never a guess.

Times are RFC 3339 in UTC, durations seconds, sizes bytes, rates bytes per second, shares 0-1.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tierd.catalog import RankedBy
from tierd.model.dataset import AccessSource
from tierd.model.hold import HoldKind
from tierd.model.phase import Phase
from tierd.model.placement import PlacementState, Residency
from tierd.model.plan import Action
from tierd.model.tier import TierKind
from tierd.model.transfer import TransferKind, TransferState
from tierd.model.webhook import WebhookState

LONGEST_LEASE_S = 366 * 86_400
DEFAULT_LEASE_S = 3600

_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
"""No control characters: what callers say about themselves is shown on terminals."""


def _whole(value: object) -> object:
    # To JSON 3.0 is a whole number like 3; to a strict model it is not.
    return int(value) if isinstance(value, float) and value.is_integer() else value


_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def _moment(value: object) -> datetime:
    if not isinstance(value, str) or _RFC_3339.fullmatch(value) is None:
        raise ValueError('not a time with its zone, like "2026-03-01T12:00:00Z"')
    whole, dot, rest = value.upper().partition(".")
    if dot:  # fractions may have any number of digits; Python reads at most six
        digits = re.match(r"\d+", rest)
        assert digits is not None
        whole += f".{digits[0][:6]:0<6}{rest[digits.end() :]}"
    return datetime.fromisoformat(whole)


Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=datetime)]
"""A time as RFC 3339 writes it, with its zone; never a number, never a date alone."""

Whole = Annotated[int, Field(ge=1, le=2**53 - 1), BeforeValidator(_whole)]
LeaseSeconds = Annotated[float, Field(gt=0, le=LONGEST_LEASE_S, allow_inf_nan=False)]
Holder = Annotated[
    str, Field(min_length=1, max_length=200, pattern=_PRINTABLE, description="Who holds it; the caller by default.")
]
Note = Annotated[str, Field(max_length=500, pattern=_PRINTABLE)]
Pattern = Annotated[str, Field(min_length=1, max_length=500, pattern=_PRINTABLE)]
"""Of paths below a snapshot, as in a shell; `*` also matches slashes."""
RequestKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=_PRINTABLE,
        description="Chosen by the caller; a repetition with the same key renews the same lease, it makes no second.",
    ),
]


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Shape(BaseModel):
    """A part of a response."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Fault(Shape):
    """One thing that is wrong with a request."""

    where: str
    problem: str


class Problem(Shape):
    """What went wrong (RFC 9457); `code` is stable, `hint` says what to do next."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str | None
    instance: str
    faults: list[Fault] | None = None


class TierOut(Shape):
    """A tier; when it is offline its sizes are the last known ones or 0. `reserved_bytes`: promised to transfers.

    `root`: a directory, or `s3://BUCKET/PREFIX`. `capacity_bytes` 0: it has no limit; then what is used are the bytes
    of the copies known there.
    """

    name: str
    kind: TierKind
    rank: int
    root: str
    is_online: bool
    offline_reason: str | None
    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    used_ratio: float
    capacity_inodes: int
    used_inodes: int
    high: float
    low: float
    reserved_bytes: int
    read_rate: int | None
    write_rate: int | None


class TiersOut(Shape):
    items: list[TierOut]


class PolicyOut(Shape):
    """A dataset's policy. Ages of null: only under pressure; `…_to_s`, `…_from_s`: by tier, for those with an age of
    their own. `keep_deleted_s` null: what is left of deleted snapshots is kept for ever.
    """

    settle_after_s: float
    migrate_after_s: float | None
    release_after_s: float | None
    migrate_after_to_s: dict[str, float | None]
    release_after_from_s: dict[str, float | None]
    keep_deleted_s: float | None
    min_residency_s: float
    verify: str
    leaves: int = Field(description="When flash is short of room, lower leaves first. Set by the phase.")
    keeps_flash: bool = Field(description="It is never released from flash. Set by the phase.")


class DatasetOut(Shape):
    """A dataset in its present phase: the `given_phase` of an operator, else the configured one."""

    name: str
    path: str
    home: str
    pattern: str | None
    phase: Phase
    configured_phase: Phase
    given_phase: Phase | None
    policy: PolicyOut
    snapshots: int
    size_bytes: int


class DatasetsOut(Shape):
    items: list[DatasetOut]


class PlacementOut(Shape):
    tier: str
    state: PlacementState
    location: str | None
    content_id: str | None
    size_bytes: int
    entries: int
    verified_at: datetime | None


class LeaseOut(Shape):
    """A hold: a lease, or a pin (which has no end)."""

    id: int
    ref: str
    kind: HoldKind
    holder: str
    since: datetime
    expires_at: datetime | None
    generation: int
    note: str | None
    pid: int | None
    job: str | None


class LeasesOut(Shape):
    items: list[LeaseOut]


class TransferOut(Shape):
    """A transfer. While it is `restoring`, `expected_at` is when an archive class should have made the copy readable;
    `restore_cost` is what that was estimated to cost, in the currency of the source's prices.
    """

    id: int
    ref: str
    kind: TransferKind
    state: TransferState
    source: str
    destination: str
    release: bool
    reason: str
    requested_by: str
    attempt: int
    not_before: datetime | None
    error: str | None
    error_code: str | None
    bytes_total: int
    bytes_done: int
    files_total: int
    files_done: int
    rate_bytes_per_s: float | None
    eta_s: float | None
    step: str
    expected_at: datetime | None
    restore_cost: float | None
    is_paused: bool
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    due_at: datetime | None
    only: list[str] = Field(description="Patterns of the files that a recall of a part brings; empty: the whole.")
    is_late: bool


class TransfersOut(Shape):
    items: list[TransferOut]


class SnapshotOut(Shape):
    """A snapshot. `gone_at`: when its owner deleted it; `kept_until`: from when on what is left of it may be removed,
    null for never.
    """

    ref: str
    dataset: str
    name: str
    path: str
    residency: Residency
    size_bytes: int
    disk_bytes: int
    files: int
    entries: int
    first_seen_at: datetime
    changed_at: datetime
    accessed_at: datetime
    access_source: AccessSource
    read_at: datetime | None
    written_at: datetime | None
    episodes: int
    warmed_at: datetime | None
    is_settled: bool
    gone_at: datetime | None
    kept_until: datetime | None
    problem: str | None
    placements: list[PlacementOut]
    holds: list[LeaseOut]
    transfer: TransferOut | None


class SnapshotsOut(Shape):
    items: list[SnapshotOut]
    next_cursor: str | None


class ReceiptOut(Shape):
    """Proof that a snapshot, or the part of it that `only` names, is wholly on flash, for scripts to check."""

    ref: str
    path: str
    content_id: str | None
    entries: int
    size_bytes: int
    residency: Residency
    tier: str
    resident_ratio: float
    only: list[str] = []
    at: datetime


class ReportedAccess(Body):
    """One use, or `count` of them until `at` (now, if it is left out). `uid`, `job`, `program`: who it was."""

    ref: Annotated[str, Field(min_length=1, max_length=400)]
    kind: Literal["read", "write"] = "read"
    at: Moment | None = None
    count: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_whole)] = 1
    program: Annotated[str, Field(min_length=1, max_length=100, pattern=_PRINTABLE)] | None = None
    uid: Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(_whole)] | None = None
    job: Annotated[str, Field(min_length=1, max_length=100, pattern=_PRINTABLE)] | None = None


class AccessIn(Body):
    accesses: Annotated[list[ReportedAccess], Field(min_length=1, max_length=100)]


class ReportedOut(Shape):
    accepted: int


class EpisodeOut(Shape):
    """A time of use by one reader; `reads` and `writes` are lower bounds. What is null is not known."""

    id: int
    ref: str
    program: str | None
    uid: int | None
    job: str | None
    source: AccessSource
    first_at: datetime
    last_at: datetime
    reads: int
    writes: int


class EpisodesOut(Shape):
    items: list[EpisodeOut]


class RankedOut(Shape):
    """`size_bytes`: of the snapshots that were used, each counted once."""

    name: str | None
    snapshots: int
    episodes: int
    reads: int
    writes: int
    size_bytes: int
    last_at: datetime


class TopOut(Shape):
    by: RankedBy
    since: datetime
    items: list[RankedOut]


class SpanOut(Shape):
    """`episodes`: uses that began then, whoever it was."""

    ref: str
    start: datetime
    reads: int
    writes: int
    episodes: int


class SpansOut(Shape):
    by: Literal["day", "hour"]
    since: datetime
    items: list[SpanOut]
    next_cursor: str | None


class Tied(Body):
    """What a lease ends with, besides its time: at most one of the three. While that lives the lease goes on."""

    tie: Annotated[Literal["caller"] | None, Field(description="The calling process, as the Unix socket tells.")] = None
    pid: (
        Annotated[int, Field(ge=1, lt=2**31, description="A process of this machine."), BeforeValidator(_whole)] | None
    ) = None
    job: Annotated[str, Field(pattern=r"^[0-9]{1,12}(_[0-9]{1,9})?$", description="A Slurm job.")] | None = None


class WarmIn(Tied):
    lease_s: LeaseSeconds = DEFAULT_LEASE_S
    holder: Holder | None = None
    request_key: RequestKey | None = None
    note: Note | None = None
    restore: Annotated[
        bool, Field(description="Have an archived copy restored first, for the time and money that the refusal names.")
    ] = False
    first: Annotated[
        list[Pattern], Field(max_length=100, description="Files to bring before the others, from a bucket.")
    ] = []
    only: Annotated[
        list[Pattern],
        Field(max_length=100, description="Only these files: on flash at the path of the answer, while it is held."),
    ] = []
    by: Annotated[
        Moment | None, Field(description="When it must be there: promised, or refused with the earliest time.")
    ] = None
    urgency: Annotated[int, Field(ge=-5, le=5), BeforeValidator(_whole)] = 0


class WarmOut(Shape):
    """The answer to a warm. `ready`: with a receipt. `accepted`: wait for `transfer` to end as done; `ready_at`: when
    that will be, as far as measured rates and the queue tell.
    """

    answer: Literal["ready", "accepted"]
    reason: str
    path: str
    eta_s: float | None
    ready_at: datetime | None
    lease: LeaseOut
    transfer: TransferOut | None
    receipt: ReceiptOut | None


class MigrateIn(Body):
    release: bool = False


class PhaseIn(Body):
    # Strict bodies take no text for an enum, and JSON has nothing else.
    phase: Phase | None = Field(strict=False, description="The phase from now on; null: as configured.")


class PinIn(Body):
    note: Note | None = None


class LeaseIn(Tied):
    ref: Annotated[str, Field(min_length=1, max_length=400)]
    lease_s: LeaseSeconds
    holder: Holder | None = None
    request_key: RequestKey | None = None
    note: Note | None = None


class HandOverIn(Tied):
    lease_s: LeaseSeconds
    holder: Holder | None = None
    generation: Whole | None = None


class RenewIn(Body):
    lease_s: LeaseSeconds
    generation: Whole | None = None


class EventOut(Shape):
    id: int
    at: datetime
    kind: str
    ref: str | None
    transfer_id: int | None
    message: str
    detail: dict[str, str | int | float | bool | None]


class EventsOut(Shape):
    """Events, oldest first; `last_id` is what to send as `after` next."""

    items: list[EventOut]
    last_id: int


class WebhookOut(Shape):
    """How one webhook is doing; counts are since the daemon's start.

    `url` is shown as far as its host; `failures` are requests, the other counts events.
    """

    name: str
    url: str
    events: list[str]
    state: WebhookState
    delivered: int
    missed: int
    failures: int
    pending: int
    oldest_pending_at: datetime | None
    last_success_at: datetime | None
    last_error: str | None
    last_error_at: datetime | None
    next_attempt_at: datetime | None


class WebhooksOut(Shape):
    items: list[WebhookOut]


class WebhookTestOut(Shape):
    """What a receiver answered; `status` of HTTP, null where there was no answer."""

    webhook: str
    is_delivered: bool
    status: int | None
    message: str
    took_s: float


class StepOut(Shape):
    action: Action
    ref: str
    source: str
    destination: str
    reason: str
    frees_bytes: int
    copies_bytes: int


class PlanOut(Shape):
    made_at: datetime
    steps: list[StepOut]
    kept: dict[str, str]
    notes: list[str]


class FindingOut(Shape):
    rule: str
    holds: bool
    detail: str
    until: datetime | None


class TermOut(Shape):
    name: str
    amount: float
    detail: str


class WorthOut(Shape):
    policy: str
    value: float
    terms: list[TermOut]
    rank: int | None
    of: int


class PartOut(Shape):
    """Some files of a snapshot on flash, while it is held. What was written to it after `as_of` may not be in them."""

    only: list[str]
    tier: str
    path: str
    entries: int
    size_bytes: int
    as_of: datetime


class ExplanationOut(Shape):
    ref: str
    residency: Residency
    summary: str
    findings: list[FindingOut]
    next_step: StepOut | None
    next_event: str
    worth: WorthOut | None
    parts: list[PartOut]
    events: list[EventOut]


class TrackerOut(Shape):
    name: str
    is_degraded: bool
    detail: str
    events_seen: int
    events_lost: int


class CountsOut(Shape):
    by_residency: dict[str, int]


class SnapshotProblemOut(Shape):
    ref: str
    problem: str


class StatusOut(Shape):
    version: str
    started_at: datetime
    uptime_s: float
    tiers: list[TierOut]
    counts: CountsOut
    live_transfers: int
    leases: int
    pins: int
    is_paused: bool
    io_pressure: float | None = Field(
        description="Share of time in which others wait for the disks; null: not known, or mover.busy_io is off."
    )
    slowed_transfers: int = Field(description="Transfers that go slower for it now.")
    tracker: TrackerOut
    last_scan_at: datetime | None
    problems: list[SnapshotProblemOut]


class PausedOut(Shape):
    is_paused: bool


class HealthOut(Shape):
    """`checks`: by name, "ok" or what is wrong."""

    status: Literal["ok", "failing"]
    checks: dict[str, str]

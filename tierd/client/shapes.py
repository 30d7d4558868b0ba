"""What the daemon answers, as frozen values. Times are aware datetimes in UTC, sizes bytes, `…_s` seconds.

States and kinds are plain text: they compare equal to the enums of `tierd.model`, and a newer daemon may send others.
Keys that are not known here are left out, so that an older client can talk to a newer daemon.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from tierd.errors import TierdError

_hints_of = functools.cache(typing.get_type_hints)

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A lease, or a pin (`kind` says which; a pin never expires).

    `generation` grows with each renewal.
    """

    id: int
    ref: str
    kind: str
    holder: str
    since: datetime
    expires_at: datetime | None
    generation: int
    note: str | None = None
    pid: int | None = None
    job: str | None = None


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A transfer with its progress. `error` is what ended the latest attempt.

    `expected_at`: while it is restoring, when an archived copy should be readable; `restore_cost`: what that was
    estimated to cost, in the currency of the source's prices.
    """

    id: int
    ref: str
    kind: str
    state: str
    source: str
    destination: str
    release: bool = False
    reason: str = ""
    requested_by: str = ""
    attempt: int = 1
    not_before: datetime | None = None
    error: str | None = None
    error_code: str | None = None
    bytes_total: int = 0
    bytes_done: int = 0
    files_total: int = 0
    files_done: int = 0
    rate_bytes_per_s: float | None = None
    eta_s: float | None = None
    step: str = ""
    expected_at: datetime | None = None
    restore_cost: float | None = None
    is_paused: bool = False
    cancel_requested: bool = False
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    due_at: datetime | None = None
    only: list[str] = field(default_factory=list)
    is_late: bool = False

    @property
    def is_finished(self) -> bool:
        return self.state in {"done", "failed", "cancelled"}


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """A use that somebody announced: it begins about `at`; `confidence`: how likely it is, up to 1."""

    id: int
    ref: str
    source: str
    holder: str
    at: datetime
    until: datetime
    confidence: float = 1.0
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class News:
    """What last became of a schedule."""

    at: datetime
    kind: str
    use_at: datetime | None
    ref: str | None
    message: str


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule of the daemon's configuration.

    `lead_s` None: from measured rates; `next_at`: the next times; `in_use_until`: of the use that goes on;
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
    last: News | None


@dataclass(frozen=True, kw_only=True)
class Advice:
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


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof that a snapshot (or the part that `only` names) was wholly on flash at a moment; `content_id` names the
    exact content, where known.
    """

    ref: str
    path: str
    content_id: str | None
    entries: int
    size_bytes: int
    residency: str
    tier: str
    resident_ratio: float
    at: datetime
    only: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class WarmAnswer:
    """The daemon's answer to a warm: `ready` with a receipt, or `accepted` with a transfer to wait for."""

    answer: str
    reason: str
    path: str
    eta_s: float | None
    lease: Lease
    transfer: Transfer | None
    receipt: Receipt | None
    ready_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One copy of a snapshot on one tier."""

    tier: str
    state: str
    location: str | None
    content_id: str | None
    size_bytes: int
    entries: int
    verified_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One version of a dataset: where it is, how it is used, who holds it.

    `gone_at`: when its owner deleted it; `kept_until`: from when on what is left of it may be removed, None for never.
    """

    ref: str
    dataset: str
    name: str
    path: str
    residency: str
    size_bytes: int
    disk_bytes: int
    files: int
    entries: int
    first_seen_at: datetime
    changed_at: datetime
    accessed_at: datetime
    access_source: str
    read_at: datetime | None
    written_at: datetime | None
    episodes: int
    warmed_at: datetime | None
    is_settled: bool
    gone_at: datetime | None = None
    kept_until: datetime | None = None
    problem: str | None
    placements: list[Placement]
    holds: list[Lease]
    transfer: Transfer | None


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A time of use of a snapshot by one reader; `reads` and `writes` are lower bounds, what is None is not known."""

    id: int
    ref: str
    program: str | None
    uid: int | None
    job: str | None
    source: str
    first_at: datetime
    last_at: datetime
    reads: int
    writes: int


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A line of a ranking by job, user, program, snapshot or dataset; `name` None: nobody knows."""

    name: str | None
    snapshots: int
    episodes: int
    reads: int
    writes: int
    size_bytes: int
    last_at: datetime


@dataclass(frozen=True, kw_only=True)
class Span:
    """What was seen of a snapshot in the day or hour that begins at `start`; `episodes`: uses that began then."""

    ref: str
    start: datetime
    reads: int
    writes: int
    episodes: int = 0


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A tier and how full it is; nothing but its name can be trusted while it is offline.

    `root`: a directory or `s3://BUCKET/PREFIX`; `capacity_bytes` 0: it has no limit.
    """

    name: str
    kind: str
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


@dataclass(frozen=True, kw_only=True)
class Policy:
    settle_after_s: float
    migrate_after_s: float | None
    release_after_s: float | None
    migrate_after_to_s: dict[str, float | None] = field(default_factory=dict)
    release_after_from_s: dict[str, float | None] = field(default_factory=dict)
    keep_deleted_s: float | None = None
    min_residency_s: float
    verify: str
    leaves: int = 0
    keeps_flash: bool = False


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset in its present phase, with what is known of it.

    `phase` is the `given_phase` of an operator, else the configured one.
    """

    name: str
    path: str
    home: str
    pattern: str | None
    phase: str = "train"
    configured_phase: str = "train"
    given_phase: str | None = None
    policy: Policy
    snapshots: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Counts:
    by_residency: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """How accesses are noticed, and how well."""

    name: str
    is_degraded: bool
    detail: str
    events_seen: int
    events_lost: int


@dataclass(frozen=True, kw_only=True)
class SnapshotProblem:
    ref: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """The daemon at a glance."""

    version: str
    started_at: datetime
    uptime_s: float
    tiers: list[Tier]
    counts: Counts
    live_transfers: int
    leases: int
    pins: int
    is_paused: bool
    io_pressure: float | None = None
    slowed_transfers: int = 0
    tracker: Tracker
    last_scan_at: datetime | None
    problems: list[SnapshotProblem]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing the planner would have done."""

    action: str
    ref: str
    source: str
    destination: str
    reason: str
    frees_bytes: int
    copies_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be done now; `kept`: why every other snapshot stays as it is."""

    made_at: datetime
    steps: list[Step]
    kept: dict[str, str]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One condition, whether it is met, and until when."""

    rule: str
    holds: bool
    detail: str
    until: datetime | None


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened; ids grow."""

    id: int
    at: datetime
    kind: str
    ref: str | None = None
    transfer_id: int | None = None
    message: str = ""
    detail: dict[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of a value, and where it comes from."""

    name: str
    amount: float
    detail: str


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What a snapshot is worth on flash; `rank`: 1 would leave first of `of`, None where it is not there."""

    policy: str
    value: float
    terms: list[Term]
    rank: int | None
    of: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some files of a snapshot on flash, while it is held; what was written to it after `as_of` may not be in them."""

    only: list[str]
    tier: str
    path: str
    entries: int
    size_bytes: int
    as_of: datetime


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a snapshot is where it is, what holds it, and what would move it."""

    ref: str
    residency: str
    summary: str
    findings: list[Finding]
    next_step: Step | None
    next_event: str
    events: list[Event]
    worth: Worth | None = None
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Events:
    """A batch of events; `last_id` is where to go on."""

    items: list[Event]
    last_id: int


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """How one webhook is doing; counts are since the daemon's start.

    `url` as far as its host; `state`: working, failing or disabled; `failures` are requests, other counts events.
    """

    name: str
    url: str
    events: list[str]
    state: str
    delivered: int
    missed: int
    failures: int
    pending: int
    oldest_pending_at: datetime | None
    last_success_at: datetime | None
    last_error: str | None
    last_error_at: datetime | None
    next_attempt_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class WebhookTest:
    """What a receiver answered to a test event; `status` of HTTP, None where there was no answer."""

    webhook: str
    is_delivered: bool
    status: int | None
    message: str
    took_s: float


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Everything at a glance, cut to what people can look at: `…_total` says how long a list is.

    `seconds_to_high`: when tiers reach their high watermark, if they go on to fill. Events: the newest first.
    """

    at: datetime
    status: Status
    seconds_to_high: dict[str, float]
    transfers: list[Transfer]
    holds: list[Lease]
    holds_total: int
    steps: list[Step]
    steps_total: int
    notes: list[str]
    events: list[Event]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A snapshot, what it is worth on flash, and what happens to it next, or why nothing does."""

    snapshot: Snapshot
    value: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows from `offset` on, of those that match; `policy` says in which unit values are."""

    items: list[Row]
    offset: int
    matching: int
    total: int
    policy: str


@dataclass(frozen=True, kw_only=True)
class Paused:
    """Whether all transfers rest."""

    is_paused: bool


def decode(cls: type[_T], value: object) -> _T:
    """Make a shape from parsed JSON.

    Raises:
        TierdError: the value does not have that shape.
    """
    try:
        found = _decode(cls, value)
    except (KeyError, TypeError, ValueError) as e:
        raise _misfit(cls.__name__) from e
    if not isinstance(found, cls):
        raise _misfit(cls.__name__)
    return found


def decode_items(cls: type[_T], value: object) -> list[_T]:
    """Make a list of shapes from `{"items": […]}`."""
    items = value.get("items") if isinstance(value, dict) else None
    if not isinstance(items, list):
        raise _misfit(f"list of {cls.__name__}")
    return [decode(cls, item) for item in items]


def encode(value: object) -> Json:
    """The JSON of a shape, as the daemon would send it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Sequence):
        return [encode(v) for v in value]
    return str(value)


def _misfit(what: str) -> TierdError:
    return TierdError(
        f"the daemon's answer is no {what} as this client knows it",
        hint="Compare the versions: `tierd --version` and `tierd status`; something else may listen at that address.",
    )


def _decode(hint: object, value: object) -> object:
    """Follow a type annotation: dataclasses, lists, dicts, unions with None, datetimes, plain values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        if value is None and types.NoneType in arguments:
            return None
        known = [a for a in arguments if a is not types.NoneType]
        return _decode(known[0], value) if len(known) == 1 else value
    if origin is list and isinstance(value, list):
        return [_decode(arguments[0], item) for item in value]
    if origin is dict and isinstance(value, dict):
        return {str(k): _decode(arguments[1], v) for k, v in value.items()}
    if hint is datetime and isinstance(value, str):
        return _aware(datetime.fromisoformat(value))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = _hints_of(hint)
        return hint(
            **{f.name: _decode(hints[f.name], value[f.name]) for f in dataclasses.fields(hint) if f.name in value}
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(hint, type) or not isinstance(value, hint):
        raise TypeError(f"{value!r} where {hint} belongs")
    return value


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment

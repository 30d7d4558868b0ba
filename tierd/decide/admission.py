"""Whether a warm can be granted: answered at once, from what is known now."""

from __future__ import annotations

from datetime import datetime

from tierd.decide.eligibility import obstacle
from tierd.decide.planner import cold_tier, coldest_first
from tierd.decide.room import Ledger, ledgers, occupies
from tierd.errors import NotFound
from tierd.model.dataset import SnapshotRef
from tierd.model.plan import Action, Admission, SnapshotView, Step, View, WarmAnswer
from tierd.model.tier import TierName
from tierd.model.transfer import TransferKind, TransferState
from tierd.model.units import format_size


def admit(view: View, ref: SnapshotRef, now: datetime) -> Admission:
    """Answer a warm of one snapshot.

    Raises:
        NotFound: there is no such snapshot.
    """
    s = view.find(ref)
    if s is None:
        raise NotFound(f"there is no snapshot {ref}", hint="`tierd ls` lists what there is.")
    flash = view.flash_tier.name
    books = ledgers(view)
    book = books[flash]
    if s.live is not None and s.live.kind is TransferKind.RECALL:
        return Admission(
            answer=WarmAnswer.ACCEPTED,
            reason=f"joins transfer {s.live.id}, which is {s.live.state}",
            needs_bytes=max(0, s.live.bytes_total - s.live.bytes_done),
            source=s.live.source,
        )
    if s.on(flash) is not None and book.is_online:
        if s.live is not None and s.live.state is TransferState.RELEASING:
            return Admission(
                answer=WarmAnswer.ACCEPTED, reason=f"transfer {s.live.id} is releasing it; the release is stopped first"
            )
        return Admission(answer=WarmAnswer.READY, reason=f"it is on {flash}")
    return _from_below(s, view, books, book, now)


def _from_below(s: SnapshotView, view: View, books: dict[TierName, Ledger], book: Ledger, now: datetime) -> Admission:
    flash, size = book.tier.name, s.snapshot.size_bytes
    if not book.is_online:
        return _refused(size, f"tier {flash} is offline")
    source = cold_tier(s, view)
    if source is None:
        where = [p.tier for p in s.placements if s.on(p.tier) is not None]
        why = f"its copy is on {where[0]}, which is offline" if where else "no verified copy of it exists"
        return _refused(size, why)
    if s.snapshot.problem is not None:
        return _refused(size, s.snapshot.problem, source)
    if size > book.capacity_bytes:
        return _refused(
            size, f"its {format_size(size)} are more than all of {flash} ({format_size(book.capacity_bytes)})", source
        )
    missing = book.missing_for_coming(size)
    if missing <= 0:
        return Admission(
            answer=WarmAnswer.ACCEPTED, reason=f"{format_size(size)} from {source}", needs_bytes=size, source=source
        )
    victims = _make_room(view, s, book, missing, now)
    if victims is None:
        return _refused(size, _why_no_room(view, s, book, missing, now), source)
    return Admission(
        answer=WarmAnswer.ACCEPTED,
        reason=f"{format_size(size)} from {source}, after {len(victims)} colder snapshots left {flash}",
        needs_bytes=size,
        source=source,
        releases=victims,
    )


def _make_room(view: View, wanted: SnapshotView, book: Ledger, missing: int, now: datetime) -> tuple[Step, ...] | None:
    """The coldest snapshots whose release frees enough, or None when all together do not."""
    steps = []
    for s in coldest_first(view.snapshots):
        if missing <= 0:
            break
        cold = cold_tier(s, view)
        if s.ref == wanted.ref or s.on(book.tier.name) is None or cold is None or obstacle(s, now) is not None:
            continue
        missing -= occupies(s)
        steps.append(
            Step(
                action=Action.RELEASE,
                snapshot_id=s.snapshot.id,
                ref=s.ref,
                source=book.tier.name,
                destination=cold,
                reason=f"makes room for {wanted.ref}: coldest first",
                frees_bytes=occupies(s),
            )
        )
    return tuple(steps) if missing <= 0 else None


def _why_no_room(view: View, wanted: SnapshotView, book: Ledger, missing: int, now: datetime) -> str:
    there = [s for s in view.snapshots if s.on(book.tier.name) is not None and s.ref != wanted.ref]
    stuck = [(s, o) for s in there if (o := obstacle(s, now)) is not None]
    largest = sorted(stuck, key=lambda pair: -occupies(pair[0]))[:3]
    names = "; ".join(f"{s.ref} ({format_size(occupies(s))}): {o.detail}" for s, o in largest)
    return (
        f"{format_size(missing)} more are needed on {book.tier.name}, where {format_size(book.free_bytes)} are free"
        f" and {format_size(book.coming_bytes)} promised" + (f"; what cannot leave: {names}" if names else "")
    )


def _refused(size: int, why: str, source: TierName | None = None) -> Admission:
    return Admission(answer=WarmAnswer.REFUSED, reason=why, needs_bytes=size, source=source)

"""Admission: ready, accepted or refused, with what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.decide.decide_world import (
    ARCHIVE,
    DAY,
    FLASH,
    GIB,
    HDD,
    HOUR,
    NOW,
    lease,
    leaving,
    offline,
    pin,
    recall,
    ref,
    snapshot,
    usage,
    view,
)
from tierd.decide import admit, plan
from tierd.errors import NotFound
from tierd.model.plan import Admission, SnapshotView, View, WarmAnswer
from tierd.model.transfer import TransferState

READY, ACCEPTED, REFUSED = WarmAnswer.READY, WarmAnswer.ACCEPTED, WarmAnswer.REFUSED
WANTED = snapshot("new", on=[HDD])


def asked(seen: View, name: str = "new") -> Admission:
    return admit(seen, ref(name), NOW)


def there(name: str, **more: object) -> SnapshotView:
    return snapshot(name, on=[FLASH, HDD], **more)  # type: ignore[arg-type]  # a choice of keyword arguments


def test_what_is_on_flash_is_ready() -> None:
    assert asked(view(there("new"))) == Admission(answer=READY, reason="it is on flash")


def test_what_is_leaving_is_ready_because_the_lease_stops_it() -> None:
    live = leaving()
    got = asked(view(there("new", live=live)))
    assert got.answer is READY
    assert got.reason == (
        f"it is on flash; a lease stops its release (transfer {live.id}, a migrate with release "
        "from flash to hdd, is releasing)"
    )


def test_what_has_been_let_go_is_accepted_and_its_own_room_counts() -> None:
    gone = snapshot("new", on=[HDD], live=leaving(), holds=[lease()])
    got = asked(view(gone, used=950))
    assert (got.answer, got.source, got.releases) == (ACCEPTED, HDD, ())
    assert "when what is under way has ended" in got.reason


def test_a_live_recall_is_joined() -> None:
    live = recall(TransferState.COPYING, bytes_done=25 * GIB)
    got = asked(view(snapshot("new", on=[HDD], live=live), used=999))
    assert (got.answer, got.needs_bytes, got.source) == (ACCEPTED, 75 * GIB, HDD)
    assert got.reason == f"joins what is under way: transfer {live.id}, a recall from hdd to flash, is copying (25%)"


def test_it_comes_from_the_fastest_tier_that_is_online() -> None:
    both = snapshot("new", on=[ARCHIVE, HDD])
    assert asked(view(both)).source == HDD
    assert asked(view(both, hdd=offline(HDD))).source == ARCHIVE
    answer = asked(view(both))
    assert (answer.answer, answer.needs_bytes, answer.source) == (ACCEPTED, 100 * GIB, HDD)
    assert answer.reason == "100 GiB to be copied from hdd"


def test_the_high_watermark_does_not_limit_a_warm_but_a_spare_stays_free() -> None:
    assert asked(view(WANTED, used=899)).answer is ACCEPTED
    assert asked(view(WANTED, used=899.5)).answer is REFUSED


def test_the_coldest_leave_for_it() -> None:
    seen = view(WANTED, *(there(f"v{n}", unused=n * HOUR) for n in range(1, 5)), used=1000)
    got = asked(seen)
    assert got.answer is ACCEPTED
    assert [s.ref.name for s in got.releases] == ["v4", "v3"]
    assert got.reason == "100 GiB to be copied from hdd, after 2 colder snapshots left flash (200 GiB)"
    assert got.releases[0].reason == (
        "unused for 4h and among the coldest: room for ds/new (100 GiB); a copy on hdd was verified 2d ago"
    )


def test_victims_may_be_copied_first_if_there_is_room_below() -> None:
    seen = view(WANTED, snapshot("v1"), used=950)
    (step,) = asked(seen).releases
    assert (step.copies_bytes, step.destination) == (100 * GIB, HDD)
    full = replace(seen, usage={**seen.usage, HDD: usage(HDD, 9500, 10_000), ARCHIVE: offline(ARCHIVE)})
    assert asked(full).answer is REFUSED
    assert "1 snapshot cannot leave because no colder tier has room" in asked(full).reason


@pytest.mark.parametrize(
    "stays",
    [
        {"holds": [pin()]},
        {"changed_at": NOW},
        {"warmed_at": NOW - HOUR},
        {"problem": "odd"},
        {"live": leaving(is_paused=True)},
    ],
)
def test_what_must_stay_stays_and_the_refusal_names_it(stays: dict[str, object]) -> None:
    got = asked(view(WANTED, there("v1", **stays), used=950))
    assert (got.answer, got.releases) == (REFUSED, ())
    assert got.reason.startswith(
        "it needs 100 GiB on flash: 50 GiB are free (1 GiB stay free), 0 B can be released; "
        "what has to stay: ds/v1 (100 GiB; "
    )


def test_a_refusal_says_when_there_could_be_room() -> None:
    got = asked(view(WANTED, there("v1", holds=[lease()]), used=950))
    assert got.reason.endswith("; it could be room enough on 2026-11-20 18:00 UTC")


def test_room_promised_to_others_is_not_given_twice() -> None:
    other = snapshot("other", on=[HDD], live=recall())
    assert asked(view(WANTED, other, used=799)).answer is ACCEPTED
    got = asked(view(WANTED, other, used=800))
    assert got.answer is REFUSED
    assert "200 GiB are free (100 GiB of them promised to 1 other recall, 1 GiB stay free)" in got.reason


def test_inodes_are_room_too() -> None:
    few = usage(FLASH, 0, 1000, capacity_inodes=1000, used_inodes=985)
    got = asked(view(WANTED, flash=few))
    assert got.answer is REFUSED
    assert got.reason.startswith("it needs 11 inodes on flash: 15 inodes are free (10 stay free), 0 inodes can be")
    assert asked(view(WANTED, there("v1"), flash=few)).answer is ACCEPTED


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (
            view(snapshot("new", on=[HDD], gib=2048)),
            "its 2 TiB are more than fits on flash, which holds 0.98 TiB in all",
        ),
        (view(WANTED, hdd=offline(HDD)), "its copy cannot be reached: tier hdd is offline: the disk is missing"),
        (view(replace(WANTED, placements=())), "no verified copy of it is known on any tier"),
        (view(WANTED, flash=offline(FLASH)), "tier flash is offline: the disk is missing"),
        (view(snapshot("new", on=[HDD], problem="odd")), "it is not looked after: odd"),
    ],
)
def test_a_refusal_says_what_is_missing(seen: View, reason: str) -> None:
    got = asked(seen)
    assert (got.answer, got.reason) == (REFUSED, reason)


def test_the_plan_agrees_with_what_was_granted() -> None:
    victims = [there(f"v{n}", unused=n * DAY) for n in range(1, 5)]
    granted = asked(view(WANTED, *victims, used=1000))
    waiting = snapshot("new", on=[HDD], number=WANTED.snapshot.id, live=recall())
    # Below the watermarks, so that only the recall asks for room.
    calm = replace(view(waiting, *victims), usage=view(used=1000).usage)
    tiers = tuple(replace(t, high=1.0) for t in calm.tiers)
    planned = plan(replace(calm, tiers=tiers), NOW)
    assert [s.ref for s in planned.steps] == [s.ref for s in granted.releases]


def test_an_unknown_snapshot_is_not_found() -> None:
    with pytest.raises(NotFound, match="ds/v9"):
        asked(view(), "v9")

"""Archived copies: a warm tells the hours and the money before anybody has to pay them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.decide.decide_world import (
    CLOUD,
    HDD,
    HOUR,
    MINUTE,
    NOW,
    VAULT,
    chain,
    cloud,
    offline,
    recall,
    ref,
    snapshot,
    vault,
)
from tierd.decide import admit, plan
from tierd.model.plan import WarmAnswer
from tierd.model.s3 import Prices
from tierd.model.transfer import TransferState


@pytest.mark.parametrize(
    ("storage_class", "retrieval", "takes"),
    [
        ("GLACIER", "Expedited", 5 * MINUTE),
        ("GLACIER", "Standard", 5 * HOUR),
        ("GLACIER", "Bulk", 12 * HOUR),
        ("DEEP_ARCHIVE", "Standard", 12 * HOUR),
        ("DEEP_ARCHIVE", "Bulk", 48 * HOUR),
    ],
)
def test_the_answer_tells_how_long_a_restore_takes(storage_class: str, retrieval: str, takes: timedelta) -> None:
    seen = chain(snapshot("v1", on=[VAULT]), below=[vault(storage_class, retrieval=retrieval)])
    got = admit(seen, ref("v1"), NOW)
    assert got.answer is WarmAnswer.ACCEPTED
    assert got.restore is not None
    assert got.restore.takes == takes
    assert f"archived as {storage_class}: restoring it ({retrieval}) takes about" in got.reason


def test_the_cost_is_that_of_the_bytes_and_of_the_requests() -> None:
    prices = Prices(retrieval=0.01, get=0.4, put=6.0, egress=0.09, currency="EUR")
    seen = chain(snapshot("v1", on=[VAULT], gib=100), below=[vault(prices=prices)])
    restore = admit(seen, ref("v1"), NOW).restore
    assert restore is not None
    assert restore.cost is not None
    objects = 100 * 1024 // 64
    assert restore.cost == pytest.approx(100 * (0.01 + 0.09) + objects * (0.4 + 6.0) / 1000)
    assert admit(seen, ref("v1"), NOW).reason.endswith("takes about 5h and costs about 20.24 EUR")


def test_without_prices_the_cost_is_said_to_be_unknown() -> None:
    got = admit(chain(snapshot("v1", on=[VAULT]), below=[vault(prices=Prices(get=0.4))]), ref("v1"), NOW)
    assert got.restore is not None
    assert got.restore.cost is None
    assert got.reason.endswith("cost unknown: no retrieval price is configured for tier vault")


def test_a_faster_copy_spares_the_restore() -> None:
    for tier, more in ((HDD, vault()), (CLOUD, cloud())):
        below = [more, vault()] if tier == CLOUD else [vault()]
        got = admit(chain(snapshot("v1", on=[tier, VAULT]), below=below), ref("v1"), NOW)
        assert got.source == tier
        assert got.restore is None


def test_the_archive_is_asked_when_the_faster_tier_is_offline() -> None:
    got = admit(chain(snapshot("v1", on=[HDD, VAULT]), below=[vault()], hdd=offline(HDD)), ref("v1"), NOW)
    assert got.source == VAULT
    assert got.restore is not None


def test_who_comes_later_joins_the_restore_under_way() -> None:
    waiting = recall(TransferState.RESTORING, source=VAULT, waits_for="about 5h for GLACIER")
    got = admit(chain(snapshot("v1", on=[VAULT], live=waiting), below=[vault()]), ref("v1"), NOW)
    assert got.answer is WarmAnswer.ACCEPTED
    assert got.restore is None
    assert "is restoring, waits: about 5h for GLACIER" in got.reason


def test_room_is_kept_for_what_is_being_restored() -> None:
    """It needs its room when the restore is over: nobody else is promised it, and room is made for it meanwhile."""
    waiting = recall(TransferState.RESTORING, source=VAULT)
    coming = snapshot("v1", on=[VAULT], gib=400, live=waiting)
    other = snapshot("v2", on=[HDD], gib=200)
    assert admit(chain(coming, other, used=500, below=[vault()]), ref("v2"), NOW).answer is WarmAnswer.REFUSED
    cold = snapshot("v3", gib=300)
    (step,) = plan(chain(coming, cold, used=800, below=[vault()]), NOW).steps
    assert step.ref == ref("v3")
    assert "room for the recall of ds/v1" in step.reason

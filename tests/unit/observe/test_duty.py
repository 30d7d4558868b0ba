"""When opens are listened for: constantly while they are few, sparingly while they are many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tierd.observe.duty import (
    CONFIRM_S,
    FEW,
    MANY,
    PERIOD_S,
    PROBE_S,
    RECHECK_S,
    WINDOW_S,
    Duty,
)

BUSY = int(MANY * PROBE_S) + 1
QUIET = int(FEW * PROBE_S) - 1
NEVER = float("inf")


def sparing(now: float = 0.0) -> Duty:
    duty = Duty(now)
    duty.probed(now, BUSY, PROBE_S)
    duty.probed(now + CONFIRM_S, BUSY, PROBE_S)
    assert duty.is_sparing
    return duty


def test_at_first_it_is_listened_all_the_time_and_the_first_opens_are_probed() -> None:
    duty = Duty(100.0)
    assert not duty.is_sparing
    assert duty.window_due == NEVER
    assert duty.wants_probe(100.0)
    assert duty.coverage(160.0) == 1.0


def test_one_burst_does_not_make_it_sparing() -> None:
    duty = Duty(0.0)
    duty.probed(0.0, 100 * BUSY, PROBE_S)
    assert not duty.is_sparing
    assert duty.wants_probe(CONFIRM_S), "it is looked at again soon"
    duty.probed(CONFIRM_S, 0, PROBE_S)
    assert not duty.is_sparing
    assert not duty.wants_probe(CONFIRM_S + RECHECK_S / 2)
    duty.probed(CONFIRM_S + RECHECK_S, BUSY, PROBE_S)
    assert not duty.is_sparing, "bursts that are apart do not add up"


def test_many_opens_in_two_probes_make_it_sparing() -> None:
    duty = sparing()
    assert CONFIRM_S < duty.window_due <= CONFIRM_S + PERIOD_S


def test_many_events_at_once_make_it_sparing_without_a_probe() -> None:
    duty = Duty(0.0)
    duty.gathered(0.1, int(MANY * 0.1) - 1, 0.1)
    assert not duty.is_sparing
    duty.gathered(0.2, int(MANY * 0.1), 0.1)
    assert duty.is_sparing


def test_a_few_opens_within_an_instant_are_not_many() -> None:
    """The queue is emptied twice in a row when somebody waits for it."""
    duty = Duty(0.0)
    duty.gathered(1.0, 2, 0.00005)
    duty.gathered(1.0, 2, 0.0)
    assert not duty.is_sparing


def test_it_listens_constantly_again_after_three_calm_probes_in_a_row() -> None:
    duty = sparing()
    for at, opens in enumerate((QUIET, QUIET, BUSY, QUIET, QUIET), start=1):
        duty.probed(float(at), opens, PROBE_S)
        assert duty.is_sparing
    duty.probed(6.0, QUIET, PROBE_S)
    assert not duty.is_sparing
    assert duty.window_due == NEVER


def test_between_few_and_many_it_stays_as_it_is() -> None:
    between = int((FEW + MANY) / 2 * PROBE_S)
    constant, spare = Duty(0.0), sparing()
    for at in range(1, 20):
        constant.probed(float(at), between, PROBE_S)
        spare.probed(float(at), between, PROBE_S)
    assert not constant.is_sparing
    assert spare.is_sparing


def test_windows_come_unevenly_but_as_often_as_was_said() -> None:
    duty = sparing()
    now, gaps = duty.window_due, []
    for _ in range(1000):
        duty.windowed(now, WINDOW_S)
        gaps.append(duty.window_due - now)
        now = duty.window_due
    assert abs(sum(gaps) / len(gaps) - PERIOD_S) < PERIOD_S / 100
    assert all(PERIOD_S / 2 <= gap < PERIOD_S * 3 / 2 for gap in gaps)
    assert len({round(gap, 4) for gap in gaps}) > 100


def test_a_reader_that_goes_round_at_the_pace_of_the_windows_is_seen_everywhere() -> None:
    """Ten snapshots, each read for a tenth of a period, over and over: an even pace would always meet the same one."""
    duty = sparing()
    now, seen = duty.window_due, set()
    for _ in range(60):
        seen.add(int(now / PERIOD_S * 10) % 10)
        duty.windowed(now, WINDOW_S)
        now = duty.window_due
    assert seen == set(range(10))


def test_the_share_of_the_time_is_told() -> None:
    duty = sparing()
    now = duty.window_due
    while now < 300.0:
        duty.windowed(now, WINDOW_S)
        now = duty.window_due
    assert abs(duty.coverage(now) - WINDOW_S / PERIOD_S) < 0.01


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["probe", "gather", "window", "look"]),
            st.floats(0.0, 100.0),
            st.integers(0, 10**6),
            st.floats(0.0, 10.0),
        ),
        max_size=60,
    )
)
def test_whatever_is_counted_a_window_is_due_exactly_while_it_is_sparing(
    steps: list[tuple[str, float, int, float]],
) -> None:
    duty, now = Duty(0.0), 0.0
    for what, passed, opens, seconds in steps:
        now += passed
        match what:
            case "probe":
                duty.probed(now, opens, seconds)
            case "gather":
                duty.gathered(now, opens, seconds)
            case "window" if duty.is_sparing:
                duty.windowed(now, min(seconds, passed))
            case _:
                assert duty.coverage(now) >= 0.0
        assert duty.is_sparing == (duty.window_due < NEVER)
        if duty.is_sparing:
            assert duty.window_due <= now + PERIOD_S * 3 / 2

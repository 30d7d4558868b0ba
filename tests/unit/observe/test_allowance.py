"""A share of a core, whatever others do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tierd.observe.allowance import Allowance


def test_what_was_saved_up_may_be_spent_at_once_and_comes_back_slowly() -> None:
    allowance = Allowance(share=0.05, most_s=1.0)
    assert allowance.has_some(100.0)
    allowance.spend(1.5)
    assert not allowance.has_some(100.0)
    assert not allowance.has_some(109.9)
    assert allowance.has_some(110.1)
    allowance.spend(0.1)
    assert allowance.has_some(1000.0)
    allowance.spend(1.0)
    assert not allowance.has_some(1000.0)


def test_none_is_none() -> None:
    allowance = Allowance(share=0.0, most_s=0.0)
    assert not allowance.has_some(0.0)
    assert not allowance.has_some(1e9)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 0.01)), max_size=200))
def test_no_more_than_the_share_is_spent_in_the_long_run(steps: list[tuple[float, float]]) -> None:
    allowance, now, spent = Allowance(share=0.05, most_s=1.0), 0.0, 0.0
    for pause, cost in steps:
        now += pause
        if allowance.has_some(now):
            allowance.spend(cost)
            spent += cost
    assert spent <= 1.0 + 0.05 * now + 0.01 + 1e-9

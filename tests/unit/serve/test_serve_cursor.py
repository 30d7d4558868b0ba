"""Cursors: what was encoded comes back, anything else names no page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd.errors import NotFound
from tierd.serve.cursor import Sort, decode, encode


@given(sort=st.sampled_from(Sort), number=st.integers(), name=st.text(), snapshot_id=st.integers(min_value=1))
def test_a_cursor_comes_back_as_the_place_it_was_made_of(sort: Sort, number: int, name: str, snapshot_id: int) -> None:
    assert decode(encode(sort, (number, name, snapshot_id)), sort) == (number, name, snapshot_id)


@given(st.text())
def test_any_other_text_is_no_page_and_no_crash(text: str) -> None:
    with pytest.raises(NotFound):
        decode(text, Sort.NAME)


def test_a_cursor_of_another_order_is_refused() -> None:
    with pytest.raises(NotFound):
        decode(encode(Sort.SIZE, (1, "a", 7)), Sort.NAME)

"""Quantities as people write them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd.errors import InvalidRequest
from tierd.model.units import (
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_moment,
    parse_percent,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        ("2 TiB", 2 * 2**40),
        ("500GB", 500 * 10**9),
        ("1.5 MiB", 3 * 2**19),
        (" 10 kb ", 10_000),
        ("17 B", 17),
        ("1024", 1024),
        (1024, 1024),
        (1.6, 2),
        (0, 0),
        ("0.1 KB", 100),
        ("7 EiB", 7 * 2**60),
    ],
)
def test_sizes_are_read_exactly(written: str | float, size_bytes: int) -> None:
    assert parse_size(written) == size_bytes


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("", "not a size"),
        ("TiB", "not a size"),
        ("2 2 TiB", "not a size"),
        ("1e3", "unknown unit|not a size"),
        ("1,5 GB", "not a size"),
        ("٣ GB", "not a size"),
        ("-5 GB", "is negative"),
        (-5, "is negative"),
        ("10 G", "could mean GB or GiB"),
        ("10 Mb", "could mean bits"),
        ("10 Gib", "could mean bits"),
        ("10 parsec", "unknown unit 'parsec'"),
        ("8 EiB", "too large"),
        ("9" * 100, "not a size"),
        (float("nan"), "not a size"),
        (float("inf"), "not a size"),
        (10**400, "too large"),
        (True, "true is not a size"),
    ],
)
def test_a_size_that_cannot_be_meant_is_refused_with_a_hint(written: str | float, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as refused:
        parse_size(written)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("written", "rate"), [("200 MB/s", 200 * 10**6), ("1.5GiB / s", 3 * 2**29), ("5 B/s", 5), (7, 7)]
)
def test_rates_are_read_exactly(written: str | float, rate: int) -> None:
    assert parse_rate(written) == rate


@pytest.mark.parametrize("written", ["200 MB", "200 Mb/s", "200 MB/min", "MB/s", "200 MB/s/s", "10 G/s"])
def test_a_rate_needs_a_size_per_second(written: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_rate(written)


@pytest.mark.parametrize(
    ("written", "duration"),
    [
        ("14d", timedelta(days=14)),
        ("8h", timedelta(hours=8)),
        ("1h30m", timedelta(minutes=90)),
        ("1 hour 30 minutes", timedelta(minutes=90)),
        ("90s", timedelta(seconds=90)),
        ("90", timedelta(seconds=90)),
        ("2 weeks", timedelta(days=14)),
        ("250ms", timedelta(milliseconds=250)),
        ("1.5h", timedelta(minutes=90)),
        (0.5, timedelta(milliseconds=500)),
        (0, timedelta(0)),
    ],
)
def test_durations_are_read_exactly(written: str | float, duration: timedelta) -> None:
    assert parse_duration(written) == duration
    assert parse_duration(written, or_never=True) == duration


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("", "not a duration"),
        ("never", "not a duration"),
        ("soon", "not a duration"),
        ("3 months", "unknown unit 'months'"),
        ("3 M", "unknown unit 'M'"),
        ("30m1h", "from large units to small"),
        ("1h1h", "from large units to small"),
        ("1h30", "not a duration"),
        ("-1h", "is negative"),
        ("200y", "unknown unit"),
        ("50000d", "longer than a century"),
        (1e300, "longer than a century"),
        (float("nan"), "not a duration"),
    ],
)
def test_a_duration_that_cannot_be_meant_is_refused(written: str | float, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        parse_duration(written)


def test_never_is_none_only_where_it_is_asked_for() -> None:
    assert parse_duration("never", or_never=True) is None
    with pytest.raises(InvalidRequest, match="not a duration") as refused:
        parse_duration("always", or_never=True)
    assert '"never"' in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("written", "ratio"),
    [("90%", 0.9), ("90 %", 0.9), (0.9, 0.9), ("0.9", 0.9), (1, 1.0), ("0%", 0.0), ("12.5%", 0.125)],
)
def test_percentages_are_ratios(written: str | float, ratio: float) -> None:
    assert parse_percent(written) == ratio


def test_a_percentage_without_its_sign_is_refused_and_the_meant_one_proposed() -> None:
    with pytest.raises(InvalidRequest, match="more than 100") as refused:
        parse_percent(90)
    assert refused.value.hint == 'Write "90%" for 90 percent.'


@pytest.mark.parametrize("written", ["101%", "ninety", "%", "-1%", -0.1, True, float("nan"), 1e9])
def test_a_share_outside_the_whole_is_refused(written: str | float) -> None:
    with pytest.raises(InvalidRequest):
        parse_percent(written)


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (2 * 2**40, "2 TiB"),
        (10**9, "954 MiB"),
        (1023 * 2**20, "1 GiB"),
        (-1536, "-1.5 KiB"),
        (2**70, "1024 EiB"),
    ],
)
def test_sizes_are_shown_with_three_digits(size_bytes: int, shown: str) -> None:
    assert format_size(size_bytes) == shown


def test_rates_are_shown_per_second() -> None:
    assert format_rate(200_000_000) == "191 MiB/s"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.42, "0.4s"),
        (9.96, "10s"),
        (59.6, "1m"),
        (90, "1m 30s"),
        (119.7, "2m"),
        (3600, "1h"),
        (5400, "1h 30m"),
        (86399, "1d"),
        (14 * 86400, "14d"),
        (86400 + 5000, "1d 1h"),
        (-90, "-1m 30s"),
    ],
)
def test_durations_are_shown_in_two_units(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown
    assert format_duration(timedelta(seconds=seconds)) == shown


def test_no_duration_is_never() -> None:
    assert format_duration(None) == "never"


@given(st.integers(0, 2**62))
def test_a_shown_size_reads_back_within_its_digits(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.006, abs=1)


@given(st.floats(0, 3e9))
def test_a_shown_duration_reads_back_within_its_digits(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)).total_seconds() == pytest.approx(seconds, rel=0.03, abs=0.06)


def complaint_about(parse: Callable[[str], object], text: str) -> InvalidRequest | None:
    try:
        parse(text)
    except InvalidRequest as refused:
        return refused
    return None


@given(st.text(max_size=80) | st.from_regex(r"[0-9.]{1,5} ?[a-zA-Z%/]{0,4}", fullmatch=True))
def test_any_text_is_read_or_refused_with_a_hint(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration, parse_percent):
        refused = complaint_about(parse, text)
        assert refused is None or refused.hint


def test_moments_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        now = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)  # the night before summer time begins
        assert parse_moment("2h", now) == now + timedelta(hours=2)
        assert parse_moment("+90s", now) == now + timedelta(seconds=90)
        assert parse_moment("2026-03-01T12:00:00Z", now) == datetime(2026, 3, 1, 12, tzinfo=UTC)
        assert parse_moment("2026-03-01 12:00", now) == datetime(2026, 3, 1, 11, tzinfo=UTC)
        assert parse_moment("13:30", now) == datetime(2026, 3, 28, 12, 30, tzinfo=UTC)
        assert parse_moment("09:00", now) == datetime(2026, 3, 29, 7, tzinfo=UTC)
        for wrong in ("soon", "25:00", "", "2026-13-01", "9" * 30 + "h"):
            with pytest.raises(InvalidRequest):
                parse_moment(wrong, now)
    finally:
        monkeypatch.undo()
        time.tzset()

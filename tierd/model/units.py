"""Sizes, rates, durations and percentages as people write them, and back.

Numbers without a unit are SI base units (bytes, bytes/s, seconds, a share of 1). Decimal and binary prefixes are
kept apart: `1 GB` is 10⁹ bytes, `1 GiB` is 2³⁰. What is formatted here can be parsed here.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, overload

from tierd.errors import InvalidRequest

NEVER = "never"
_TIME_OF_DAY = re.compile(r"[0-9]{1,2}:[0-9]{2}")

_PREFIXES = "KMGTPE"
_SIZE_UNITS: Mapping[str, int] = MappingProxyType(
    {"b": 1, "byte": 1, "bytes": 1}
    | {f"{p.lower()}b": 1000**i for i, p in enumerate(_PREFIXES, 1)}
    | {f"{p.lower()}ib": 1024**i for i, p in enumerate(_PREFIXES, 1)}
)
_SECONDS: Mapping[str, Fraction] = MappingProxyType(
    {
        name: seconds
        for names, seconds in (
            (("ms", "millisecond", "milliseconds"), Fraction(1, 1000)),
            (("s", "sec", "second", "seconds"), Fraction(1)),
            (("m", "min", "minute", "minutes"), Fraction(60)),
            (("h", "hour", "hours"), Fraction(3600)),
            (("d", "day", "days"), Fraction(86400)),
            (("w", "week", "weeks"), Fraction(7 * 86400)),
        )
        for name in names
    }
)
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_QUANTITY = re.compile(rf"({_NUMBER})\s*([A-Za-z]*)")
_DURATION = re.compile(rf"(?:{_NUMBER}\s*[A-Za-z]+\s*)+")
_DURATION_PART = re.compile(rf"({_NUMBER})\s*([A-Za-z]+)")

_MAX_LENGTH = 64
"""Longer texts are no quantity; without a bound a hostile number would cost seconds to convert."""
_MAX_BYTES = 2**63 - 1
"""What SQLite and the kernel's file offsets hold."""
_MAX_DURATION = timedelta(days=36_500)
"""A century: subtracting it from any clock reading stays a valid date."""

_SIZE_HINT = 'Write a number and a unit, like "500 GB" (10⁹ bytes each) or "2 TiB" (2⁴⁰ bytes each).'
_RATE_HINT = 'Write a size per second, like "200 MB/s" or "1.5 GiB/s".'
_DURATION_HINT = 'Write a number and a unit out of ms, s, m, h, d, w: "90s", "8h", "1h30m", "14d".'
_PERCENT_HINT = 'Write "90%" or 0.9.'


def parse_size(value: str | int | float) -> int:
    """Read a size; a number without a unit is bytes, fractions of a byte are rounded to the nearest.

    Raises:
        InvalidRequest: it is no size, negative, or larger than 2⁶³-1 bytes.
    """
    return _parse_bytes(value, noun="size", hint=_SIZE_HINT)


def parse_rate(value: str | int | float) -> int:
    """Read a rate in bytes/s; a text needs its `/s`, a number is bytes/s.

    Raises:
        InvalidRequest: it is no rate (bits per second are none), negative, or larger than 2⁶³-1 bytes/s.
    """
    if isinstance(value, str):
        quantity, slash, per = value.partition("/")
        if not slash or per.strip() not in {"s", "sec", "second"}:
            raise InvalidRequest(f"{_shown(value)} is not a rate", hint=_RATE_HINT)
        value = quantity
    return _parse_bytes(value, noun="rate", hint=_RATE_HINT)


@overload
def parse_duration(value: str | int | float) -> timedelta: ...
@overload
def parse_duration(value: str | int | float, *, or_never: Literal[True]) -> timedelta | None: ...


def parse_duration(value: str | int | float, *, or_never: bool = False) -> timedelta | None:
    """Read a duration; a number (also as text) is seconds.

    Args:
        value: `"14d"`, `"1h30m"`, `"90 s"`, `90`.
        or_never: `"never"` is allowed too, and means None.

    Raises:
        InvalidRequest: it is no duration, negative, or longer than a century.
    """
    if or_never and isinstance(value, str) and value.strip().lower() == NEVER:
        return None
    hint = f'{_DURATION_HINT} "never" switches it off.' if or_never else _DURATION_HINT
    seconds = _seconds_in(value, hint) if isinstance(value, str) else _finite(value, "duration", hint)
    if seconds > _MAX_DURATION.total_seconds():
        raise InvalidRequest(f"{_shown(value)} is longer than a century", hint=hint)
    return timedelta(microseconds=round(seconds * 1_000_000))


def parse_moment(value: str, now: datetime) -> datetime:
    """A time: ISO 8601 (local without a zone), a time of day ("09:00": the next one), or a duration from now ("2h").

    Raises:
        InvalidRequest: it cannot be read.
    """
    hint = 'Write it like "2026-03-01 12:00", "2026-03-01T12:00:00Z", "09:00", or "2h" from now.'
    text = value.strip()
    if _TIME_OF_DAY.fullmatch(text):
        hour, minute = map(int, text.split(":"))
        if hour > 23 or minute > 59:
            raise InvalidRequest(f"{value!r} is no time of day", hint=hint)
        today = now.astimezone().replace(hour=hour, minute=minute, second=0, microsecond=0, tzinfo=None).astimezone()
        later = (today.replace(tzinfo=None) + timedelta(days=1)).astimezone()
        return today if today > now else later
    with contextlib.suppress(ValueError, OverflowError):
        found = datetime.fromisoformat(text)
        return found if found.tzinfo is not None else found.astimezone()
    try:
        return now + parse_duration(text.removeprefix("+"))
    except (InvalidRequest, OverflowError):
        raise InvalidRequest(f"{value!r} is no time", hint=hint) from None


def parse_percent(value: str | int | float) -> float:
    """Read a share of a whole as a ratio: `"90%"`, `0.9` and `"0.9"` are all 0.9.

    Raises:
        InvalidRequest: it is no share, or not within 0-100 %.
    """
    if isinstance(value, str):
        text = value.strip()
        number = text.removesuffix("%").strip()
        if len(text) > _MAX_LENGTH or re.fullmatch(_NUMBER, number) is None:
            raise _misfit(value, "percentage", _PERCENT_HINT)
        ratio = Fraction(number) / (100 if text.endswith("%") else 1)
    else:
        ratio = _finite(value, "percentage", _PERCENT_HINT)
    if ratio > 1:
        meant = f'Write "{float(ratio):g}%" for {float(ratio):g} percent.' if 1 < ratio <= 100 else _PERCENT_HINT
        is_plain = not (isinstance(value, str) and value.strip().endswith("%"))
        raise InvalidRequest(f"{_shown(value)} is more than 100 %", hint=meant if is_plain else _PERCENT_HINT)
    return float(ratio)


def format_size(size_bytes: int | float) -> str:
    """A size with a binary unit and three significant digits: `1.5 TiB`, `640 KiB`, `17 B`."""
    sign, rest = ("-", -size_bytes) if size_bytes < 0 else ("", size_bytes)
    exponent = 0
    # 999.5 of a unit would round to a fourth digit: that is shown in the next unit.
    while rest >= 999.5 and exponent < len(_PREFIXES):
        rest /= 1024
        exponent += 1
    if exponent == 0:
        return f"{sign}{rest:.0f} B"
    return f"{sign}{_three_digits(rest)} {_PREFIXES[exponent - 1]}iB"


def format_rate(rate_bytes_per_s: int | float) -> str:
    """A rate as people read it: `191 MiB/s`."""
    return f"{format_size(rate_bytes_per_s)}/s"


def format_percent(ratio: float) -> str:
    """A share of 0-1 for people: "90%"."""
    return f"{ratio:.0%}"


def format_duration(duration: timedelta | float | None) -> str:
    """A duration in its two largest units: `14d`, `1h 30m`, `2m 5s`, `0.4s`; None is `never`; a number is seconds."""
    if duration is None:
        return NEVER
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 9.95:
        return f"{sign}{seconds:.1f}".removesuffix(".0") + "s"
    # Round to the smaller of the two units first, so that 119.7 s is 2m and never «1m 60s».
    whole = round(seconds)
    if whole >= 86400:
        whole = round(seconds / 3600) * 3600
    elif whole >= 3600:
        whole = round(seconds / 60) * 60
    return sign + _in_units(whole)


@lru_cache(maxsize=1 << 13)  # rounded like this there are few, and a plan says thousands of them
def _in_units(seconds: int) -> str:
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)


def _parse_bytes(value: str | int | float, *, noun: str, hint: str) -> int:
    if isinstance(value, str):
        text = value.strip()
        match = _QUANTITY.fullmatch(text) if len(text) <= _MAX_LENGTH else None
        if match is None:
            raise _misfit(value, noun, hint)
        amount = Fraction(match[1]) * _size_unit(match[2], value, hint)
    else:
        amount = _finite(value, noun, hint)
    if amount > _MAX_BYTES:
        raise InvalidRequest(f"{_shown(value)} is too large for a {noun}", hint=hint)
    return round(amount)


def _size_unit(unit: str, value: str, hint: str) -> int:
    if not unit:
        return 1
    # «Mb» is how bits are written, but «mb» is how people type «MB»: only the first is refused.
    if unit != "b" and unit.endswith("b") and not unit.islower():
        raise InvalidRequest(f"{_shown(value)} could mean bits", hint=hint)
    try:
        return _SIZE_UNITS[unit.lower()]
    except KeyError:
        if unit.upper() in _PREFIXES:
            letter = unit.upper()
            raise InvalidRequest(
                f"{_shown(value)} could mean {letter}B or {letter}iB",
                hint=f"Write {letter}B for powers of 1000 or {letter}iB for powers of 1024.",
            ) from None
        raise InvalidRequest(f"{_shown(value)} has the unknown unit {_shown(unit)}", hint=hint) from None


def _seconds_in(text: str, hint: str) -> Fraction:
    stripped = text.strip()
    if len(stripped) <= _MAX_LENGTH:
        if re.fullmatch(_NUMBER, stripped):
            return Fraction(stripped)
        if _DURATION.fullmatch(stripped):
            total, smallest = Fraction(0), None
            for number, unit in _DURATION_PART.findall(stripped):
                seconds = _duration_unit(unit, text, hint)
                if smallest is not None and seconds >= smallest:
                    raise InvalidRequest(f"{_shown(text)} does not go from large units to small ones", hint=hint)
                total, smallest = total + Fraction(number) * seconds, seconds
            return total
    raise _misfit(text, "duration", hint)


def _duration_unit(unit: str, text: str, hint: str) -> Fraction:
    # «M» is how months are written elsewhere, so the one-letter minute must be lower case.
    found = _SECONDS.get(unit if unit == "M" else unit.lower())
    if found is None:
        raise InvalidRequest(f"{_shown(text)} has the unknown unit {_shown(unit)}", hint=hint)
    return found


def _finite(value: int | float, noun: str, hint: str) -> Fraction:
    # bool is an int to Python; `true` where a quantity belongs is a mistake, never 1.
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)) or value < 0:
        raise _misfit(value, noun, hint)
    return Fraction(value)


def _misfit(value: str | int | float, noun: str, hint: str) -> InvalidRequest:
    is_negative = value.strip().startswith("-") if isinstance(value, str) else -math.inf < value < 0
    return InvalidRequest(f"{_shown(value)} is {'negative' if is_negative else f'not a {noun}'}", hint=hint)


def _three_digits(number: float) -> str:
    decimals = 2 if number < 9.995 else 1 if number < 99.95 else 0
    text = f"{number:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 1]}…"

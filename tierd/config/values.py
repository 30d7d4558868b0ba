"""Readers of single values: from what TOML gives to what the settings hold, or a precise complaint.

Each reader takes any TOML value and raises `InvalidRequest` (message: what is wrong, hint: what to write).
"""

from __future__ import annotations

import difflib
import os
import pwd
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from tierd.errors import InvalidRequest
from tierd.model.dataset import WHOLE, is_dataset_name
from tierd.model.phase import Phase
from tierd.model.tier import TierKind
from tierd.model.units import parse_duration, parse_percent, parse_rate, parse_size
from tierd.model.value import PolicyName

Reader = Callable[[object], object]

OFF = "off"
AUTO = "auto"
UNLIMITED = "unlimited"

_TYPE_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}
_NAME_HINT = "Use letters, digits, dot, dash and underscore, at most 100, and no dot at the start."
_MODE = re.compile(r"0[0-7]{3}")
_LISTEN = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


def type_name(value: object) -> str:
    """What a person calls the type of a TOML value."""
    return _TYPE_NAMES.get(type(value), "a date or time")


def text(value: object) -> str:
    """Text that is not empty."""
    if not isinstance(value, str):
        raise InvalidRequest(f"is {type_name(value)}, not text", hint="Put it in quotes.")
    if not value.strip() or not value.isprintable():
        raise InvalidRequest(f"{value!r} is empty or has unprintable characters", hint="Write plain text.")
    return value


def name(value: object) -> str:
    """The name of a tier or dataset."""
    word = text(value)
    if not is_dataset_name(word):
        raise InvalidRequest(f"{word!r} cannot be used as a name", hint=_NAME_HINT)
    return word


def choice(*allowed: str) -> Callable[[object], str]:
    """A reader for one of these words."""

    def read(value: object) -> str:
        listed = " or ".join(f'"{word}"' for word in allowed)
        if not isinstance(value, str) or value not in allowed:
            raise InvalidRequest(f"{value!r} is unknown", hint=f"Write {listed}.")
        return value

    return read


def tier_kind(value: object) -> TierKind:
    """The storage driver of a tier."""
    return TierKind(choice(*TierKind)(value))


def path(value: object) -> Path:
    """An absolute path without `..`."""
    written = text(value)
    if not written.startswith("/"):
        why = "~ is not expanded" if written.startswith("~") else "there is no directory it could be relative to"
        raise InvalidRequest(f"{written!r} is not absolute", hint=f"Write the full path, starting with /; {why}.")
    if ".." in written.split("/"):
        # Where `..` leads depends on links on the way, which may change after this check.
        raise InvalidRequest(f"{written!r} contains ..", hint="Write the path without it.")
    # POSIX leaves a leading // open; to Linux it is /.
    return Path("/" + os.path.normpath(written).lstrip("/"))


def path_or_off(value: object) -> Path | None:
    """An absolute path, or "off" for none."""
    return None if value == OFF else path(value)


def boolean(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise InvalidRequest(f"is {type_name(value)}, not true or false", hint="Write true or false, without quotes.")
    return value


def whole(lowest: int, highest: int | None = None) -> Reader:
    """A reader for a whole number within bounds."""

    def read(value: object) -> int:
        bounds = f"from {lowest} to {highest}" if highest is not None else f"of at least {lowest}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequest(f"is {type_name(value)}, not a whole number", hint=f"Write a whole number {bounds}.")
        if value < lowest or (highest is not None and value > highest):
            raise InvalidRequest(f"{value} is out of range", hint=f"Write a whole number {bounds}.")
        return value

    return read


def _quantity(value: object, hint: str) -> str | int | float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidRequest(f"is {type_name(value)}, not a quantity", hint=hint)
    return value


def duration(value: object) -> timedelta:
    """A duration longer than zero."""
    length = duration_or_zero(value)
    if not length:
        raise InvalidRequest("is zero", hint='Write a duration longer than zero, like "30s".')
    return length


def duration_or_zero(value: object) -> timedelta:
    """A duration, zero included."""
    return parse_duration(_quantity(value, 'Write a duration, like "30s" or "6h".'))


def duration_or_never(value: object) -> timedelta | None:
    """A duration, zero included, or "never"."""
    return parse_duration(_quantity(value, 'Write a duration, like "14d", or "never".'), or_never=True)


def ages(value: object) -> timedelta | dict[str, timedelta | None] | None:
    """A duration or "never"; or a table of them by the names of tiers."""
    if not isinstance(value, dict):
        return duration_or_never(value)
    hint = 'Write a duration, like "14d", or "never"; or one for each tier, like { hdd = "14d", cloud = "90d" }.'
    if not value:
        raise InvalidRequest("is an empty table", hint=hint)
    found: dict[str, timedelta | None] = {}
    wrong: list[str] = []
    for tier, age in value.items():
        try:
            found[tier] = duration_or_never(age)
        except InvalidRequest as error:
            wrong.append(f"{tier!r}: {error.message}")
    if wrong:
        raise InvalidRequest("; ".join(wrong), hint=hint)
    return found


def seconds(value: object) -> float:
    """A duration longer than zero, as seconds."""
    return duration(value).total_seconds()


def seconds_or_zero(value: object) -> float:
    """A duration, zero included, as seconds."""
    return duration_or_zero(value).total_seconds()


def share(value: object) -> float:
    """A share of a whole above zero, as a ratio."""
    ratio = parse_percent(_quantity(value, 'Write "90%" or 0.9.'))
    if not ratio:
        raise InvalidRequest("is zero", hint="Write a share above 0 % and up to 100 %.")
    return ratio


def share_or_off(value: object) -> float | None:
    """A share of a whole above zero, or "off"."""
    return None if value == OFF else share(value)


def size_or_auto(value: object) -> int | None:
    """A size above zero, or "auto"."""
    if value == AUTO:
        return None
    size_bytes = parse_size(_quantity(value, 'Write a size, like "2 TiB", or "auto".'))
    if not size_bytes:
        raise InvalidRequest("is zero", hint='Write a size above zero, like "2 TiB", or "auto".')
    return size_bytes


def size_or_unlimited(value: object) -> int | None:
    """A size above zero, or "unlimited"."""
    if value == UNLIMITED:
        return None
    size_bytes = parse_size(_quantity(value, 'Write a size, like "2 TB", or "unlimited".'))
    if not size_bytes:
        raise InvalidRequest("is zero", hint='Write a size above zero, like "2 TB", or "unlimited".')
    return size_bytes


def phase(value: object) -> Phase:
    """A phase of a dataset's life."""
    if not isinstance(value, str) or value not in list(Phase):
        near = difflib.get_close_matches(str(value).lower(), list(Phase), n=1)
        meant = f'Did you mean "{near[0]}"? ' if near else ""
        listed = ", ".join(f'"{name}"' for name in Phase)
        raise InvalidRequest(f"{value!r} is no phase", hint=f"{meant}There are {listed}.")
    return Phase(value)


def policy_name(value: object) -> PolicyName:
    """A value policy."""
    near = difflib.get_close_matches(str(value), list(PolicyName), n=1)
    listed = ", ".join(f'"{name}"' for name in PolicyName)
    if not isinstance(value, str) or value not in list(PolicyName):
        meant = f'Did you mean "{near[0]}"? ' if near else ""
        raise InvalidRequest(f"{value!r} is no policy", hint=f"{meant}There are {listed}.")
    return PolicyName(value)


def factor(value: object) -> float:
    """A factor of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 1000:
        raise InvalidRequest(f"{value!r} is not a factor", hint="Write a number from 1 to 1000, like 1.25.")
    return float(value)


def money_or_none(value: object) -> float | None:
    """An amount of money above zero, or "off"."""
    if value == OFF:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < float(str(value)) < 1e9:
        raise InvalidRequest(f"{value!r} is not an amount above zero", hint='Write a number, like 30.0, or "off".')
    return float(str(value))


def rate_or_unlimited(value: object) -> int | None:
    """A rate above zero, or "unlimited"."""
    if value == UNLIMITED:
        return None
    rate_bytes_per_s = parse_rate(_quantity(value, 'Write a rate, like "200 MB/s", or "unlimited".'))
    if not rate_bytes_per_s:
        raise InvalidRequest("is zero", hint='Write a rate above zero, like "200 MB/s", or "unlimited".')
    return rate_bytes_per_s


def snapshot_pattern(value: object) -> str | None:
    """A shell pattern for directory names; "self" (the directory itself) is None."""
    pattern = text(value)
    if pattern == WHOLE:
        return None
    if "/" in pattern or pattern.startswith("."):
        raise InvalidRequest(
            f"{pattern!r} cannot match a snapshot's name",
            hint='Snapshots are direct children of the path: write "*", a pattern like "v*", or "self".',
        )
    return pattern


def mode(value: object) -> int:
    """File permissions as four octal digits in quotes."""
    # A bare 666 would be read as decimal and give quite different permissions.
    if not isinstance(value, str) or _MODE.fullmatch(value) is None:
        raise InvalidRequest(f"{value!r} is not a file mode", hint='Write four octal digits in quotes, like "0666".')
    return int(value, 8)


def user_names(value: object) -> tuple[str, ...]:
    """A list of user names."""
    hint = 'Write a list of user names, like ["alice", "bob"].'
    if not isinstance(value, list):
        raise InvalidRequest(f"is {type_name(value)}, not a list", hint=hint)
    if not all(isinstance(user, str) and user.strip() and user.isprintable() for user in value):
        raise InvalidRequest("has an entry that is no user name", hint=hint)
    return tuple(value)


def patterns(value: object) -> tuple[str, ...]:
    """A list of shell patterns."""
    if not isinstance(value, list):
        raise InvalidRequest(f"is {type_name(value)}, not a list", hint='Write a list, like ["restic", "borg*"].')
    return tuple(text(each) for each in value)


def user_ids(value: object) -> tuple[int, ...]:
    """A list of users of this machine, by name or number, as numbers."""
    hint = 'Write a list of users, like ["backup", 1234].'
    if not isinstance(value, list):
        raise InvalidRequest(f"is {type_name(value)}, not a list", hint=hint)
    found: list[int] = []
    for user in value:
        if isinstance(user, int) and not isinstance(user, bool) and user >= 0:
            found.append(user)
            continue
        if not isinstance(user, str):
            raise InvalidRequest(f"has an entry {user!r} that is no user", hint=hint)
        try:
            found.append(pwd.getpwnam(user).pw_uid)
        except (KeyError, ValueError):
            raise InvalidRequest(f"has a user {user!r} that this machine does not know", hint=hint) from None
    return tuple(found)


def listen_or_off(value: object) -> str | None:
    """`host:port`, or "off"."""
    if value == OFF:
        return None
    hint = 'Write "HOST:PORT", like "127.0.0.1:8920" or "[::1]:8920", or "off".'
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < int(match[1]) < 65536:
        raise InvalidRequest(f"{value!r} is not an address to listen on", hint=hint)
    return match[0]


def host_names(value: object) -> tuple[str, ...]:
    """A list of host names, without ports."""
    hint = 'Write a list of names without ports, like ["gpu1.example.com"].'
    if not isinstance(value, list):
        raise InvalidRequest(f"is {type_name(value)}, not a list", hint=hint)
    if not all(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in value):
        raise InvalidRequest("has an entry that is no host name", hint=hint)
    return tuple(value)

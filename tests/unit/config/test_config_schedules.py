"""Schedules in the configuration: what they become, and which make no sense."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd.config import Mounts, check, load
from tierd.config.schedule_values import cron
from tierd.errors import InvalidRequest
from tierd.model.schedule import Schedule

BASE = """
time_zone = "America/New_York"
[[tiers]]
name = "flash"
root = "/mnt/flash"
rank = 0
[[datasets]]
name = "imagenet"
path = "/mnt/flash/datasets/imagenet"
[[datasets]]
name = "laion"
path = "/mnt/flash/datasets/laion"
snapshots = "self"
"""
WHOLE = {"name": "weekly", "snapshots": "imagenet/latest", "cron": "0 9 * * 1", "for": "8h"}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A configuration with schedules; None leaves a key out."""

    def run(*schedules: dict[str, str | None]) -> Path:
        file, text = tmp_path / "config.toml", BASE
        for schedule in schedules:
            lines = (f"{key} = {value!r}" for key, value in {**WHOLE, **schedule}.items() if value is not None)
            text += "\n[[schedules]]\n" + "\n".join(lines)
        file.write_text(text)
        return file

    return run


def test_a_schedule_is_read_with_the_zone_of_the_file(write: Write) -> None:
    both = load(write({}, {"name": "b", "lead": "2h", "time_zone": "Europe/Berlin"}), mounts=Mounts.IGNORED).schedules
    weekly = Schedule(
        name="weekly",
        snapshots="imagenet/latest",
        cron="0 9 * * 1",
        use_for=timedelta(hours=8),
        time_zone=ZoneInfo("America/New_York"),
    )
    assert both[0] == weekly
    assert (both[1].lead, both[1].time_zone) == (timedelta(hours=2), ZoneInfo("Europe/Berlin"))
    assert both[0].holder == "schedule:weekly"


@pytest.mark.parametrize("target", ["laion", "laion/latest", "imagenet/v3", "imagenet/2026-*", "*/latest", "la*"])
def test_these_can_be_meant(write: Write, target: str) -> None:
    assert check(write({"snapshots": target}), mounts=Mounts.IGNORED) == []


@pytest.mark.parametrize(
    ("key", "value", "reason", "instead"),
    [
        ("cron", None, "is missing", "Add `cron = …`"),
        ("for", None, "is missing", "Add `for = …`"),
        ("for", "0s", "is zero", "longer than zero"),
        ("cron", "0 9 * *", "has 4 fields, not 5", '"0 9 * * 1" is Mondays at 9:00'),
        ("cron", "0 0 9 * * 1", "has 6 fields, not 5", "five fields"),
        ("cron", "61 9 * * 1", "minute cannot be read", "five fields"),
        ("cron", "0 9 * * MOO", "day-of-week cannot be read", "five fields"),
        ("cron", "0 0 30 2 *", "day-of-month cannot be read", "five fields"),
        ("time_zone", "Europe/Berln", "is no time zone", "Europe/Berlin"),
        ("lead", "soon", "is not a duration", "number and a unit"),
        ("snapshots", "imagnet/latest", "no dataset 'imagnet' is configured", "Did you mean `imagenet`?"),
        ("snapshots", "coco/*", "no dataset 'coco' is configured", "imagenet, laion"),
        ("snapshots", "imagenet", "is a dataset of several snapshots", '"imagenet/latest"'),
        ("snapshots", "/mnt/flash/datasets/imagenet/v3", "cannot name a snapshot", "DATASET/SNAPSHOT"),
        ("name", "my schedule", "cannot be used as a name", "letters"),
        ("every", "week", "is an unknown key", "cron"),
    ],
)
def test_what_makes_no_sense_is_named(write: Write, key: str, value: str | None, reason: str, instead: str) -> None:
    (fault,) = check(write({key: value}), mounts=Mounts.IGNORED)
    assert fault.key.startswith("schedules[")
    assert fault.key.endswith(f".{key}")
    assert reason in fault.reason
    assert instead in fault.instead


def test_a_name_is_used_once(write: Write) -> None:
    (fault,) = check(write({}, {}), mounts=Mounts.IGNORED)
    assert "used twice" in fault.reason


@given(st.one_of(st.text(), st.lists(st.text("0123456789*/,-LW#? MONJA", min_size=1), min_size=5, max_size=5)))
def test_whatever_is_written_is_read_or_refused(written: str | list[str]) -> None:
    text = written if isinstance(written, str) else " ".join(written)
    with contextlib.suppress(InvalidRequest):  # and nothing else
        assert len(cron(text).split()) == 5

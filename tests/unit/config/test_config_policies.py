"""Ages by tier: which setting each becomes, and which make no sense."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tierd.config import Fault, Mounts, check, load
from tierd.model.policy import Policy
from tierd.model.tier import TierName

# Out of order: ranks count, not places in the file.
TIERS = """
[[tiers]]
name = "cloud"
kind = "s3"
rank = 2
bucket = "cold"
[[tiers]]
name = "hdd"
root = "/mnt/hdd"
rank = 1
[[tiers]]
name = "flash"
root = "/mnt/flash"
rank = 0
"""
DATASET = """
[[datasets]]
name = "imagenet"
path = "/mnt/flash/datasets/imagenet"
"""
HDD, CLOUD = TierName("hdd"), TierName("cloud")
DAY = timedelta(days=1)

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def run(text: str) -> Path:
        file = tmp_path / "config.toml"
        file.write_text(text)
        return file

    return run


def policy(file: Path) -> Policy:
    return load(file, mounts=Mounts.IGNORED).datasets[0].policy


def faults(file: Path) -> list[Fault]:
    return check(file, mounts=Mounts.IGNORED)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Policy()),
        ("migrate_after = '10d'", Policy(migrate_after=10 * DAY)),
        (
            "migrate_after = { hdd = '14d', cloud = '90d' }",
            Policy(migrate_after=14 * DAY, migrate_after_to={CLOUD: 90 * DAY}),
        ),
        (
            "migrate_after = { cloud = '20d' }",  # not named: never
            Policy(migrate_after=None, migrate_after_to={CLOUD: 20 * DAY}),
        ),
        (
            "migrate_after = { hdd = 'never', cloud = 'never' }",
            Policy(migrate_after=None, migrate_after_to={CLOUD: None}),
        ),
        (
            "release_after = { flash = '30d', hdd = '180d' }",
            Policy(release_after=30 * DAY, release_after_from={HDD: 180 * DAY}),
        ),
        ("release_after.hdd = '180d'", Policy(release_after=None, release_after_from={HDD: 180 * DAY})),
        ("keep_deleted = '90d'", Policy(keep_deleted=90 * DAY)),
        ("keep_deleted = 'never'", Policy(keep_deleted=None)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["[datasets.policy]", "[defaults]"])
def test_ages_become_settings(write: Write, text: str, expected: Policy, place: str) -> None:
    assert policy(write(f"{TIERS}{DATASET}\n{place}\n{text}")) == expected


def test_a_dataset_s_age_replaces_those_of_all_tiers_in_the_defaults(write: Write) -> None:
    defaults = "[defaults]\nmigrate_after = { hdd = '14d', cloud = '90d' }\nrelease_after = { hdd = '100d' }\n"
    never = policy(write(defaults + TIERS + DATASET + "[datasets.policy]\nmigrate_after = 'never'"))
    assert (never.migrate_after, never.migrate_after_to) == (None, {})
    assert never.release_after_from == {HDD: 100 * DAY}

    other = policy(write(defaults + TIERS + DATASET + "[datasets.policy]\nmigrate_after = { cloud = '1d' }"))
    assert (other.migrate_after, other.migrate_after_to) == (None, {CLOUD: DAY})


@pytest.mark.parametrize(
    ("text", "key", "reason", "instead"),
    [
        ("migrate_after = { clod = '90d' }", "migrate_after.clod", "is the name of no tier", "Did you mean `cloud`?"),
        ("migrate_after = { tape = '90d' }", "migrate_after.tape", "is the name of no tier", "here: hdd, cloud"),
        ("migrate_after = { flash = '90d' }", "migrate_after.flash", "nothing is migrated to flash", "hdd, cloud"),
        ("release_after = { cloud = '90d' }", "release_after.cloud", "coldest tier", "possible here: flash, hdd"),
        ("migrate_after = {}", "migrate_after", "is an empty table", "{ hdd ="),
        ("migrate_after = { hdd = 'x', cloud = '5 y' }", "migrate_after", "'hdd': 'x' is not a", "one for each tier"),
        ("migrate_after = { hdd = 'x', cloud = '5 y' }", "migrate_after", "; 'cloud': '5 y'", "one for each tier"),
        ("migrate_after = true", "migrate_after", "is true or false, not a quantity", '"14d"'),
        ("keep_deleted = 'always'", "keep_deleted", "is not a duration", '"never" switches it off'),
        (
            "release_after = { hdd = '60d' }\nmigrate_after = { hdd = '14d', cloud = '90d' }",
            "release_after.hdd",
            "release_after.hdd (60d) is shorter than migrate_after.cloud (90d)",
            'Write release_after.hdd = "90d" or more, or "never".',
        ),
        (
            "release_after = { flash = '10d', hdd = '90d' }",
            "release_after.flash",
            "release_after.flash (10d) is shorter than migrate_after (14d); migrate_after is not set here",
            'Write release_after.flash = "14d"',
        ),
        (
            "migrate_after = { cloud = '90d' }",
            "migrate_after.cloud",
            "release_after (30d) is shorter than migrate_after.cloud (90d); release_after is not set here",
            'Write release_after = "90d" or more',
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["defaults", "datasets[imagenet].policy"])
def test_ages_that_make_no_sense_are_named(
    write: Write, text: str, key: str, reason: str, instead: str, place: str
) -> None:
    table = "[defaults]" if place == "defaults" else "[datasets.policy]"
    (fault,) = faults(write(f"{TIERS}{DATASET}\n{table}\n{text}"))
    assert fault.key == f"{place}.{key}"
    assert reason in fault.reason
    assert instead in fault.instead


def test_tiers_whose_ranks_are_at_fault_bring_no_complaints_about_ages(write: Write) -> None:
    text = TIERS.replace("rank = 1", "rank = 2") + DATASET + "[datasets.policy]\nmigrate_after = { hdd = '1d' }"
    assert [fault.key for fault in faults(write(text))] == ["tiers[hdd].rank"]

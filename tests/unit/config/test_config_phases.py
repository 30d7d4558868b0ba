"""The phase of a dataset: what it sets, and what is written beside it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.config.test_config_policies import CLOUD, DATASET, DAY, HDD, TIERS
from tierd.config import Mounts, check, load
from tierd.model.dataset import Dataset
from tierd.model.phase import Phase
from tierd.model.policy import Policy

NOW = timedelta(0)


def dataset(at: Path, rest: str, *, defaults: str = "") -> Dataset:
    file = at / "config.toml"
    file.write_text(f"{TIERS}{DATASET}{rest}\n[defaults]\n{defaults}")
    return load(file, mounts=Mounts.IGNORED).datasets[0]


def test_without_a_word_a_dataset_is_in_training_with_the_defaults(tmp_path: Path) -> None:
    found = dataset(tmp_path, "")
    assert (found.phase, found.policy) == (Phase.TRAIN, Policy())
    assert dataset(tmp_path, 'phase = "train"', defaults='migrate_after = "9d"').policy.migrate_after == 9 * DAY


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("collect", Policy(migrate_after=NOW, migrate_after_to={CLOUD: NOW}, leaves=-1)),
        ("build", Policy(migrate_after=7 * DAY, release_after=30 * DAY)),
        ("archive", Policy(migrate_after=DAY, release_after=3 * DAY, min_residency=timedelta(hours=1))),
        ("deploy", Policy(migrate_after=NOW, release_after=None, keeps_flash=True)),
    ],
)
def test_each_phase_sets_its_rules(tmp_path: Path, phase: str, expected: Policy) -> None:
    found = dataset(tmp_path, f'phase = "{phase}"')
    assert (found.phase, found.policy) == (phase, expected)


def test_a_phase_goes_before_the_defaults_and_the_dataset_s_own_policy_before_both(tmp_path: Path) -> None:
    defaults = 'migrate_after = "20d"\nrelease_after = { flash = "40d", hdd = "200d" }\nverify = "size"'
    found = dataset(tmp_path, 'phase = "archive"\n[datasets.policy]\nrelease_after = "10d"', defaults=defaults)
    assert (found.policy.migrate_after, found.policy.release_after) == (DAY, 10 * DAY)
    assert found.policy.verify == "size"
    # The ages of tiers further down are the defaults' own where the phase says nothing of them.
    inherited = dataset(tmp_path, 'phase = "archive"', defaults=defaults)
    assert (inherited.policy.release_after, inherited.policy.release_after_from) == (3 * DAY, {HDD: 200 * DAY})


def test_a_phase_given_later_brings_its_policy_and_taking_it_back_the_configured_one(tmp_path: Path) -> None:
    found = dataset(tmp_path, 'phase = "build"\n[datasets.policy]\nkeep_deleted = "5d"')
    moved = found.given(Phase.DEPLOY)
    assert (moved.phase, moved.configured_phase) == (Phase.DEPLOY, Phase.BUILD)
    assert moved.policy == replace(
        Policy(), migrate_after=NOW, release_after=None, keeps_flash=True, keep_deleted=5 * DAY
    )
    assert moved.given(None) == found


@pytest.mark.parametrize(
    ("written", "says"),
    [('"archvie"', 'Did you mean "archive"?'), ('"Train"', 'Did you mean "train"?'), ("3", '"collect"')],
)
def test_a_wrong_phase_is_a_fault_that_names_the_right_ones(tmp_path: Path, written: str, says: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"{TIERS}{DATASET}phase = {written}\n")
    (fault,) = check(file, mounts=Mounts.IGNORED)
    assert fault.key == "datasets[imagenet].phase"
    assert says in fault.instead


def test_an_own_release_age_below_what_the_phase_migrates_after_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'{TIERS}{DATASET}phase = "build"\n[datasets.policy]\nrelease_after = "2d"\n')
    (fault,) = check(file, mounts=Mounts.IGNORED)
    assert "migrate_after (7d)" in fault.reason

"""What a sound configuration becomes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tierd.config import DEFAULT_PATH, Config, Mounts, config_path, load
from tierd.model.policy import Policy

TEXT = """
decide_interval = 5
[[tiers]]
name = "flash"
root = "/mnt/flash"
rank = 0
capacity = "2 TiB"
high = 0.95
read_rate = "200 MB/s"
[[tiers]]
name = "hdd"
root = "/mnt/hdd"
rank = 3
[[datasets]]
name = "imagenet"
path = "/mnt/flash/datasets/imagenet"
snapshots = "v*"
[datasets.policy]
migrate_after = "never"
min_residency = 0
[[datasets]]
name = "laion"
path = "/mnt/hdd/archive/laion/"
snapshots = "self"
[defaults]
settle_after = "1m"
[api]
socket = "off"
socket_mode = "0660"
admins = ["alice"]
listen = "[::1]:80"
[api.tokens]
"0000000000000000000000000000000000000000000000000000000000000000" = "admin"
[mover]
backoff = "1m"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(TEXT)
    return load(file, mounts=Mounts.IGNORED)


def test_quantities_become_base_units(config: Config) -> None:
    flash = config.tiers[0]
    assert (flash.capacity_bytes, flash.read_rate, flash.write_rate) == (2 * 2**40, 200_000_000, None)
    assert (flash.high, flash.low) == (0.95, 0.80)
    assert (config.decide_interval_s, config.mover.backoff_s) == (5.0, 60.0)


def test_a_dataset_is_at_home_on_the_tier_that_holds_its_path(config: Config) -> None:
    assert [(d.name, d.home, d.pattern) for d in config.datasets] == [
        ("imagenet", "flash", "v*"),
        ("laion", "hdd", None),
    ]
    assert config.datasets[1].path == Path("/mnt/hdd/archive/laion")


def test_a_dataset_s_policy_is_laid_over_the_defaults(config: Config) -> None:
    imagenet, laion = config.datasets
    assert laion.policy == Policy(settle_after=timedelta(minutes=1))
    assert imagenet.policy == Policy(settle_after=timedelta(minutes=1), migrate_after=None, min_residency=timedelta(0))


def test_the_api_is_read_as_written(config: Config) -> None:
    api = config.api
    assert (api.socket, api.socket_mode, api.admins, api.listen) == (None, 0o660, ("alice",), "[::1]:80")
    assert api.tokens == {"0" * 64: "admin"}


def test_a_configuration_knows_its_file(config: Config, tmp_path: Path) -> None:
    assert config.source == tmp_path / "config.toml"


def test_the_environment_may_name_the_file() -> None:
    assert config_path({}) == config_path({"TIERD_CONFIG": ""}) == DEFAULT_PATH
    assert config_path({"TIERD_CONFIG": "/x/y.toml"}) == Path("/x/y.toml")

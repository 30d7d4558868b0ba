"""`config.example.toml` says what the code does."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tierd.config import ApiConfig, Config, LogConfig, Mounts, MoverConfig, ObserveConfig, check, keys, load
from tierd.config.keys import Key
from tierd.model.dataset import Dataset
from tierd.model.policy import Policy
from tierd.model.tier import Tier

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"
RAW: dict[str, Any] = tomllib.loads(EXAMPLE.read_text())

SECTIONS: list[tuple[str, type, Sequence[Key], dict[str, Any]]] = [
    ("tiers", Tier, keys.TIER, RAW["tiers"][0]),
    ("datasets", Dataset, keys.DATASET, RAW["datasets"][0]),
    ("defaults", Policy, keys.POLICY, RAW["defaults"]),
    ("api", ApiConfig, keys.API, RAW["api"]),
    ("mover", MoverConfig, keys.MOVER, RAW["mover"]),
    ("observe", ObserveConfig, keys.OBSERVE, RAW["observe"]),
    ("log", LogConfig, keys.LOG, RAW["log"]),
    ("", Config, keys.TOP, RAW),
]
NOT_WRITTEN = {
    ("datasets", "home"): "follows from the path",
    ("datasets", "policy"): "a table of its own",
    ("api", "tokens"): "a table of its own",
    ("", "source"): "is the file",
    **{("", section): "a table of its own" for section in ("tiers", "datasets", "api", "mover", "observe", "log")},
}
BY_NAME = [pytest.param(*section, id=section[0] or "top") for section in SECTIONS]


def test_the_example_is_sound() -> None:
    assert check(EXAMPLE, mounts=Mounts.IGNORED) == []
    config = load(EXAMPLE, mounts=Mounts.IGNORED)
    assert [dataset.home for dataset in config.datasets] == ["flash", "hdd"]


@pytest.mark.parametrize(("section", "cls", "known", "shown"), BY_NAME)
def test_every_setting_has_a_key_and_every_key_is_shown(
    section: str, cls: type, known: Sequence[Key], shown: dict[str, Any]
) -> None:
    fields = {field.name for field in dataclasses.fields(cls)} - {
        name for place, name in NOT_WRITTEN if place == section
    }
    assert {key.attribute for key in known} == fields
    assert {key.name for key in known} <= shown.keys()


@pytest.mark.parametrize(("section", "cls", "known", "shown"), BY_NAME)
def test_every_default_shown_is_the_code_s_default(
    section: str, cls: type, known: Sequence[Key], shown: dict[str, Any]
) -> None:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in known:
        default = fields[key.attribute].default
        assert key.is_required == (default is dataclasses.MISSING), f"{section}.{key.name}"
        if not key.is_required:
            assert key.read(shown[key.name]) == default, f"{section}.{key.name}"


def test_tables_inside_sections_are_shown() -> None:
    assert RAW["api"]["tokens"] == ApiConfig().tokens == {}
    assert any("policy" in dataset for dataset in RAW["datasets"])
    assert set(RAW) == {key.name for key in keys.TOP} | {name for name in keys.SECTIONS if "." not in name}

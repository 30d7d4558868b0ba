"""check-config and run, as far as they get without a daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tierd.cli.program import program

FAULTY = """
databse = "/var/lib/tierd/tierd.db"
[[tiers]]
name = "flash"
root = "/nowhere/flash"
rank = 0
high = "70%"
low = "80%"
"""


@pytest.fixture
def faulty(tmp_path: Path) -> str:
    file = tmp_path / "config.toml"
    file.write_text(FAULTY)
    return str(file)


def test_every_fault_is_reported_at_once_with_what_to_write_instead(faulty: str) -> None:
    result = CliRunner().invoke(program, ["check-config", "--config", faulty, "--text-only"])
    assert result.exit_code == 2
    head, *faults = result.stdout.splitlines()
    assert head.split() == ["KEY", "FAULT", "INSTEAD"]
    assert any(fault.startswith("databse") for fault in faults)
    assert any("high" in fault or "low" in fault for fault in faults)
    assert f"{faulty} has {len(faults)} faults" in result.stderr


def test_the_faults_as_json(faulty: str) -> None:
    result = CliRunner().invoke(program, ["check-config", "--config", faulty, "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["is_valid"]) == (2, False)
    assert all(fault["instead"] for fault in found["faults"])


def test_a_sound_configuration_exits_with_0() -> None:
    example = Path(__file__).parents[3] / "config.example.toml"
    result = CliRunner().invoke(program, ["check-config", "--config", str(example), "--text-only"])
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_file_comes_from_the_environment(faulty: str) -> None:
    assert CliRunner().invoke(program, ["check-config"], env={"TIERD_CONFIG": faulty}).exit_code == 2


def test_run_lists_the_faults_and_does_not_start(faulty: str) -> None:
    result = CliRunner().invoke(program, ["run", "--config", faulty])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"tierd: the configuration {faulty} has ")
    assert "\n  databse: " in result.stderr


def test_the_demo_configuration_is_sound(tmp_path: Path) -> None:
    from tierd.cli import demo_world
    from tierd.config import Mounts, check

    file = tmp_path / "config.toml"
    file.write_text(demo_world.CONFIG.format(root=tmp_path, port=8920, digest="0" * 64))
    assert check(file, mounts=Mounts.IGNORED) == []

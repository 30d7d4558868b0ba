"""`tierd phase`: one command moves a dataset, and says what follows from it."""

from __future__ import annotations

import json

from tests.api_world import ApiWorld
from tests.unit.cli.conftest import Call


def test_phases_are_listed_with_where_they_come_from(world: ApiWorld, call: Call) -> None:
    assert call("phase", "imagenet", "archive").exit_code == 0
    lines = call("phase").stdout.splitlines()
    assert lines[1].split()[:6] == ["imagenet", "archive", "tierd", "phase;", "configured:", "train"]
    assert lines[2].split()[:3] == ["laion", "train", "configuration"]
    assert "released after 3d" in lines[1]


def test_a_phase_is_given_told_of_and_taken_back(world: ApiWorld, call: Call) -> None:
    given = json.loads(call("phase", "imagenet", "deploy", "--json").stdout)
    assert (given["phase"], given["given_phase"], given["configured_phase"]) == ("deploy", "deploy", "train")
    assert given["policy"]["keeps_flash"]
    assert world.ports.wakes == 1
    assert "never leaves flash" in call("phase", "imagenet").stdout
    assert "dataset imagenet is now in phase deploy" in call("events").stdout
    assert call("phase", "imagenet", "configured").stdout.startswith("imagenet is in phase train (configuration)")


def test_a_deployed_snapshot_is_not_released_and_the_refusal_says_how(world: ApiWorld, call: Call) -> None:
    world.put_cold_copy(world.add("v1"))
    call("phase", "imagenet", "deploy")
    refused = call("release", "imagenet/v1")
    assert refused.exit_code == 5
    assert "in phase deploy, which keeps it on flash" in refused.stderr
    assert "tierd phase imagenet train" in refused.stderr
    assert "keeps it on flash" in call("explain", "imagenet/v1").stdout
    call("phase", "imagenet", "train")
    assert call("release", "imagenet/v1").exit_code == 0


def test_wrong_names_are_told_with_the_near_ones(world: ApiWorld, call: Call) -> None:
    wrong = call("phase", "imagenet", "archiv")
    assert wrong.exit_code == 2
    assert "Did you mean archive?" in wrong.stderr
    unknown = call("phase", "imagnet", "archive")
    assert unknown.exit_code == 4
    assert "Did you mean imagenet?" in unknown.stderr


def test_the_phase_survives_a_new_start(world: ApiWorld, call: Call) -> None:
    call("phase", "imagenet", "collect")
    world.catalog.configure(world.config.tiers, world.config.datasets)
    assert "imagenet is in phase collect" in call("phase", "imagenet").stdout

"""Announced use over the API, by the client and on the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.api_world import START, ApiWorld, api_world, connect, listening
from tierd.cli.program import program
from tierd.client import Tierd
from tierd.errors import Conflict, InvalidRequest, NotFound
from tierd.model.announced import AnnouncedBy
from tierd.model.dataset import AccessSource
from tierd.model.observation import AccessBatch
from tierd.model.schedule import Schedule
from tierd.serve import ApiServer

HOUR = timedelta(hours=1)
AT = (START + 2 * HOUR).isoformat()
WEEKLY = Schedule(name="weekly", snapshots="imagenet/latest", cron="0 9 * * 1", use_for=8 * HOUR)
NONE = Schedule(name="none", snapshots="imagenet/x*", cron="0 9 * * 1", use_for=8 * HOUR)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        made.config = replace(made.config, schedules=(WEEKLY, NONE))
        yield made


@pytest.fixture
def server(world: ApiWorld) -> Iterator[ApiServer]:
    with listening(world) as made:
        yield made


@pytest.fixture
def client(server: ApiServer) -> Iterator[httpx.Client]:
    with connect(server) as made:
        yield made


@pytest.fixture
def tierd(server: ApiServer) -> Tierd:
    return Tierd(f"unix://{server.socket}")


def call(server: ApiServer, *words: str) -> Result:
    return CliRunner().invoke(program, list(words), env={"TIERD_URL": f"unix://{server.socket}", "TZ": "UTC"})


def test_a_use_is_announced_listed_and_withdrawn(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    said = {"ref": "imagenet/v1", "at": AT, "for_s": 28800, "holder": "slurm:991", "confidence": 0.8, "note": "n"}
    made = client.post("/v1/announcements", json=said | {"source": "scheduler", "request_key": "991"})
    assert made.status_code == 201
    assert made.json() == {
        "id": 1,
        "ref": "imagenet/v1",
        "source": "scheduler",
        "holder": "slurm:991",
        "at": "2026-03-01T14:00:00Z",
        "until": "2026-03-01T22:00:00Z",
        "confidence": 0.8,
        "note": "n",
    }
    assert client.get("/v1/announcements").json()["items"] == [made.json()]
    again = client.post("/v1/announcements", json=said | {"source": "scheduler", "request_key": "991", "for_s": 60})
    assert (again.json()["id"], again.json()["until"]) == (1, "2026-03-01T14:01:00Z")
    assert [client.delete("/v1/announcements/1").status_code for _ in range(2)] == [204, 204]
    assert client.get("/v1/announcements").json()["items"] == []
    assert client.delete("/v1/announcements/7").status_code == 404


@pytest.mark.parametrize(
    ("more", "status", "what"),
    [
        ({"at": (START - 2 * HOUR).isoformat()}, 422, "over since"),
        ({"until": (START + HOUR).isoformat()}, 422, "before it begins"),
        ({"until": AT, "for_s": 60}, 409, "contradict"),
        ({"confidence": 1.5}, 422, ""),
        ({"source": "schedule"}, 422, ""),
        ({"at": "9999-12-31T23:59:59Z"}, 422, "after the year 9999"),
        ({"ref": "imagenet/v9"}, 404, "there is no snapshot imagenet/v9"),
        ({"ref": "other/v1"}, 404, "no dataset 'other'"),
    ],
)
def test_what_cannot_be_announced_is_refused_with_a_reason(
    world: ApiWorld, client: httpx.Client, more: dict[str, Any], status: int, what: str
) -> None:
    world.add("v1")
    refused = client.post("/v1/announcements", json={"ref": "imagenet/v1", "at": AT} | more)
    assert refused.status_code == status
    assert what in refused.json()["detail"]
    assert client.get("/v1/announcements").json()["items"] == []


def test_the_latest_is_resolved_at_once_and_named(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v9")
    world.later(minutes=1)
    world.add("v10")
    assert tierd.announce("imagenet/latest", START + HOUR).ref == "imagenet/v10"
    with pytest.raises(NotFound):
        tierd.announce("laion/latest", START + HOUR)


def test_the_client_says_times_with_their_zone(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v1")
    made = tierd.announce("imagenet/v1", START + HOUR, lasts="8h", confidence=0.5, holder="me")
    assert (made.at, made.until, made.confidence) == (START + HOUR, START + 9 * HOUR, 0.5)
    local = (START + 3 * HOUR).astimezone().replace(tzinfo=None)
    assert tierd.announce("imagenet/v1", local, until=START + 4 * HOUR).at == START + 3 * HOUR
    assert [a.id for a in tierd.announcements()] == [1, 2]
    with pytest.raises(InvalidRequest, match="over since"):
        tierd.announce("imagenet/v1", START - 9 * HOUR)
    tierd.withdraw(1)
    assert [a.id for a in tierd.announcements()] == [2]


def test_what_a_schedule_announced_is_withdrawn_in_the_configuration(world: ApiWorld, tierd: Tierd) -> None:
    s = world.add("v1")
    world.catalog.announce(
        snapshot_id=s.id,
        source=AnnouncedBy.SCHEDULE,
        holder="schedule:weekly",
        use_at=START,
        until=START + HOUR,
        now=START,
    )
    with pytest.raises(Conflict, match="comes from schedule weekly"):
        tierd.withdraw(1)


def test_schedules_show_what_is_next(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v1", size=10**11)
    weekly, none = tierd.schedules()
    monday = datetime(2026, 3, 2, 9, tzinfo=UTC)
    assert weekly.next_at == [monday + timedelta(weeks=w) for w in range(3)]
    assert (weekly.matches, weekly.recall_bytes, weekly.in_use_until) == (["imagenet/v1"], 10**11, None)
    assert weekly.begins_at == monday - timedelta(seconds=60 + 1.3 * 100)
    assert (none.matches, none.last) == ([], None)

    world.now = monday + HOUR
    detail = {"schedule": "weekly", "use_at": monday.isoformat()}
    world.catalog.add_event("schedule.refused", now=world.now, message="flash is full", detail=detail)
    weekly, _ = tierd.schedules()
    assert weekly.in_use_until == monday + 8 * HOUR
    assert weekly.last is not None
    assert (weekly.last.message, weekly.last.use_at) == ("flash is full", monday)


def test_regular_uses_are_advised(world: ApiWorld, tierd: Tierd) -> None:
    world.config = replace(world.config, schedules=())
    s = world.add("v1")
    for week in range(5, 0, -1):
        at = START - timedelta(weeks=week, hours=-3)
        seen = AccessBatch(
            snapshot_id=s.id, read_at=at, written_at=None, reads=9, writes=0, source=AccessSource.EVENTS, readers=()
        )
        world.catalog.record_access([seen], now=at)
    with listening(world) as server:
        (found,) = Tierd(f"unix://{server.socket}").advice()
        assert found.says == "imagenet/v1 looks weekly (Sundays about 15:00): schedule it?"
        shown = call(server, "schedules", "--advise")
        assert tomllib.loads(shown.stdout)["schedules"][0]["cron"] == found.cron == "0 15 * * 0"


def test_the_verbs_announce_list_and_withdraw(world: ApiWorld, server: ApiServer) -> None:
    world.now = datetime.now(UTC)  # times are relative to the clock of the command line
    world.add("v1")
    made = call(server, "announce", "imagenet/latest", "--at", "+2h", "--for", "8h", "--holder", "slurm:991")
    assert made.exit_code == 0, made.stderr
    assert "imagenet/v1 is read from" in made.stdout
    assert "slurm:991" in call(server, "announcements").stdout
    (listed,) = json.loads(call(server, "announcements", "--json").stdout)["items"]
    begins, ends = datetime.fromisoformat(listed["at"]), datetime.fromisoformat(listed["until"])
    assert ends - begins == 8 * HOUR
    assert abs(begins - world.now - 2 * HOUR) < timedelta(minutes=1)
    assert call(server, "announce", "--withdraw", str(listed["id"])).exit_code == 0
    assert json.loads(call(server, "announcements", "--json").stdout)["items"] == []


def test_the_verbs_refuse_clearly(world: ApiWorld, server: ApiServer) -> None:
    world.now = datetime.now(UTC)
    world.add("v1")
    past = call(server, "announce", "imagenet/v1", "--at", "2020-01-01 09:00")
    assert past.exit_code == 2
    assert "over since" in past.stderr
    assert call(server, "announce", "imagenet/v1").exit_code == 2
    assert "is no time" in call(server, "announce", "imagenet/v1", "--at", "soon").stderr
    assert "more than 100 %" in call(server, "announce", "imagenet/v1", "--at", "1h", "--confidence", "110%").stderr
    assert call(server, "announce", "--withdraw", "7").exit_code == 4


def test_the_table_of_schedules_says_what_matters(world: ApiWorld, server: ApiServer) -> None:
    world.add_migrated("v1")
    shown = call(server, "schedules").stdout
    assert "weekly" in shown
    assert "2026-03-02 09:00" in shown
    assert "nothing is imagenet/x*" in shown
    assert "931 MiB" in shown or "954 MiB" in shown
    assert len(json.loads(call(server, "schedules", "--json").stdout)["items"]) == 2

"""The verbs about use, against the real API, and the picture that one of them draws."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result

from tests.api_world import START, ApiWorld, client_of
from tierd.cli import heatmap
from tierd.client import Span
from tierd.model.dataset import AccessSource, Snapshot
from tierd.model.observation import AccessBatch, Reader, ReaderTally

Call = Callable[..., Result]
SVG = "{http://www.w3.org/2000/svg}"
DAY = timedelta(days=1)
NOW = datetime.now(UTC)


def used(world: ApiWorld, s: Snapshot, at: datetime, *, reads: int = 1, job: str | None = "slurm:7") -> None:
    reader = Reader(program="python3", uid=0, job=job)
    tally = ReaderTally(reader=reader, first_at=at, last_at=at, reads=reads)
    batch = AccessBatch(snapshot_id=s.id, read_at=at, reads=reads, readers=(tally,))
    world.catalog.record_access([batch], now=at)


def test_top_ranks_jobs_and_users_by_name(world: ApiWorld, call: Call) -> None:
    one, two = world.add("v1"), world.add("v2")
    used(world, one, NOW, reads=9)
    used(world, two, NOW, job=None)
    jobs = call("top", "--by", "job").stdout.splitlines()
    assert jobs[0].split() == ["JOB", "SNAPSHOTS", "SIZE", "EPISODES", "READS", "WRITES", "LAST"]
    assert [line.split()[0] for line in jobs[1:]] == ["slurm:7", "unknown"]
    assert call("top", "--by", "user").stdout.splitlines()[1].split()[:2] == ["root", "2"]
    found = json.loads(call("top", "--by", "program", "--json").stdout)
    assert [(r["name"], r["reads"]) for r in found["items"]] == [("python3", 10)]
    used(world, one, NOW - 3 * DAY, reads=500, job="slurm:6")
    assert "slurm:6" not in call("top", "--by", "job").stdout
    assert "slurm:6" in call("top", "--by", "job", "--since", "7d").stdout


@pytest.mark.parametrize(
    "verb", [("top",), ("history",), ("heatmap", "imagenet"), ("heatmap", "imagenet", "--by=hour")]
)
def test_looking_back_further_than_there_is_anything_shows_everything(
    world: ApiWorld, call: Call, verb: tuple[str, ...]
) -> None:
    used(world, world.add("v1"), NOW)
    century = call(*verb, "--since", "36500d")
    assert (century.exit_code, "imagenet/v1" in century.stdout) == (0, True)
    longer = call(*verb, "--since", f"{'9' * 30}d")
    assert longer.exit_code == 2
    assert "longer than a century" in longer.stderr


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00", "9999-12-31T23:59:59", "0001-01-01T00:00:00+14:00"])
def test_the_ends_of_the_calendar_are_no_times_of_use(world: ApiWorld, call: Call, at: str) -> None:
    world.add("v1")
    refused = call("access", "imagenet/v1", "--at", at)
    assert refused.exit_code == 2
    assert at in refused.stderr


def test_accesses_lists_episodes_and_unknown_names_fail(world: ApiWorld, call: Call) -> None:
    used(world, world.add("v1"), NOW)
    row = call("accesses", "imagenet/v1").stdout.splitlines()[1]
    assert {"python3", "root", "slurm:7", "events"} <= set(row.split())
    result = call("accesses", "imagenet/v9")
    assert result.exit_code == 4
    assert "imagenet/v9" in result.stderr


def test_an_access_can_be_told(world: ApiWorld, call: Call) -> None:
    s = world.add("v1")
    assert call("access", "imagenet/v1", "--at", "2026-02-27T10:00:00Z", "--job", "nfs:3").exit_code == 0
    (told,) = world.ports.told
    assert (told.snapshot_id, told.source, told.reads, told.writes) == (s.id, AccessSource.REPORTED, 1, 0)
    assert told.read_at == datetime(2026, 2, 27, 10, tzinfo=UTC)
    assert told.readers[0].reader == Reader(job="nfs:3")
    assert call("access", "imagenet/v1", "--write").exit_code == 0
    assert (world.ports.told[1].writes, world.ports.told[1].written_at) == (1, START)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("imagenet/v9",), 4, "imagenet/v9"),
        (("imagenet/v1", "--at", "yesterday"), 2, "'yesterday' is no time"),
        (("imagenet/v1", "--at", "2099-01-01T00:00:00Z"), 2, "lies in the future"),
    ],
)
def test_what_cannot_have_been_is_refused(
    world: ApiWorld, call: Call, words: tuple[str, ...], code: int, said: str
) -> None:
    world.add("v1")
    result = call("access", *words)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert world.ports.told == []


def test_of_several_reports_all_are_taken_or_none(world: ApiWorld) -> None:
    world.add("v1")
    good = {"ref": "imagenet/v1", "count": 3, "uid": 1000}
    with client_of(world) as client:
        assert client.post("/v1/access", json={"accesses": [good, {"ref": "imagenet/v9"}]}).status_code == 404
        assert client.post("/v1/access", json={"accesses": []}).status_code == 422
        assert client.post("/v1/access", json={"accesses": [good] * 101}).status_code == 422
        naive = {**good, "at": "2026-02-01T00:00:00"}
        assert client.post("/v1/access", json={"accesses": [naive]}).status_code == 422
        assert world.ports.told == []
        answer = client.post("/v1/access", json={"accesses": [good, good]})
        assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    assert [b.reads for b in world.ports.told] == [3, 3]


def test_history_is_a_csv_that_other_programs_read(world: ApiWorld, call: Call) -> None:
    one = world.add("v1")
    used(world, one, NOW - 3 * DAY)
    used(world, one, NOW)
    lines = call("history").stdout.splitlines()
    assert lines[0] == "time,snapshot,bytes,passes"
    assert [line.split(",")[1:] for line in lines[1:]] == [["imagenet/v1", str(one.size_bytes), "1"]] * 2
    assert datetime.fromisoformat(lines[1].split(",")[0]) == NOW - 3 * DAY
    assert len(call("history", "--since", "1d").stdout.splitlines()) == 2
    as_json = [json.loads(line) for line in call("history", "--json").stdout.splitlines()]
    assert [(u["snapshot"], u["passes"]) for u in as_json] == [("imagenet/v1", 1)] * 2
    assert call("history", "--dataset", "nope").exit_code == 4


def test_the_heat_map_on_a_terminal_and_as_a_picture(world: ApiWorld, call: Call, tmp_path: Path) -> None:
    used(world, world.add("v1"), NOW, reads=100_000)
    used(world, world.add("v2"), NOW - 2 * DAY)
    drawn = call("heatmap", "imagenet").stdout.splitlines()
    assert drawn[0].split() == ["imagenet/v1", "··█"]
    assert drawn[1].split() == ["imagenet/v2", "░··"]
    path = tmp_path / "map.svg"
    assert call("heatmap", "imagenet", "-o", str(path)).exit_code == 0
    titles = [t.text for t in ElementTree.parse(path).iter(f"{SVG}title")]
    assert f"imagenet/v1, {NOW:%Y-%m-%d} UTC: 100000 reads, 0 writes" in titles
    assert "nothing was seen" in call("heatmap", "laion").stderr
    assert call("heatmap", "nope").exit_code == 4
    refused = call("heatmap", "imagenet", "-o", str(tmp_path / "no" / "map.svg"))
    assert (refused.exit_code, "cannot be written" in refused.stderr) == (2, True)


def test_the_picture_lies_within_its_borders_and_escapes_names() -> None:
    start = datetime(2026, 1, 30, tzinfo=UTC)
    names = ['d/<script>alert("x")</script>', "d/ordinary", "d/" + "long" * 30]
    spans = [Span(ref=n, start=start + day * DAY, reads=day, writes=day % 2) for n in names for day in range(40)]
    drawn = heatmap.svg(spans, title="Use of <d>", step=DAY, until=start + 45 * DAY)
    assert "<script" not in drawn
    root = ElementTree.fromstring(drawn)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    cells = list(root.iter(f"{SVG}rect"))
    assert len(cells) == 3 * 46 + heatmap.LEVELS
    for cell in cells:
        at, wide = {k: float(cell.attrib[k]) for k in ("x", "y")}, float(cell.attrib["width"])
        assert 0 <= at["x"] <= width - wide
        assert 0 <= at["y"] <= height - wide
    places = {(c.attrib["x"], c.attrib["y"]) for c in cells}
    assert len(places) == len(cells)
    labels = [t.text for t in root.iter(f"{SVG}text")]
    assert "Jan 2026" in labels
    assert "Mar 2026" in labels  # February would run into January, whose label begins two days before
    assert names[1] in labels


@pytest.mark.parametrize(("count", "most", "expected"), [(0, 10, 0), (1, 1, 1), (1, 10**6, 1), (10**6, 10**6, 4)])
def test_levels_follow_the_order_of_magnitude(count: int, most: int, expected: int) -> None:
    assert heatmap.level(count, most) == expected
    levels = [heatmap.level(10**n, 10**8) for n in range(9)]
    assert levels == sorted(levels)
    assert set(levels) == {1, 2, 3, 4}


def test_asking_for_a_picture_loads_no_server(tmp_path: Path) -> None:
    code = "import tierd.cli.using, sys; print(any(m in sys.modules for m in ('sqlalchemy', 'fastapi')))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"

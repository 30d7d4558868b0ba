"""`tierd simulate`: from a recorded history to a table, JSON or a picture, and what it says of a log that is faulty."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from tests.api_world import ApiWorld
from tests.unit.cli.conftest import Call
from tierd.cli import curves
from tierd.cli.program import program
from tierd.model.observation import AccessBatch, Reader, ReaderTally

SVG = "{http://www.w3.org/2000/svg}"
HEAD = "time,snapshot,bytes,passes\n"
LOOP = HEAD + "".join(f"2026-01-{day:02}T00:00:00Z,ds/v{day % 3},{10**9},1\n" for day in range(1, 31))
"""Three snapshots in turn, of 1 GB each: the worst that can happen to lru with room for two."""


def simulated(log: str, tmp_path: Path, *words: str) -> Result:
    path = tmp_path / "uses.csv"
    path.write_text(log)
    return CliRunner().invoke(program, ["simulate", str(path), *words])


def rows(table: str) -> dict[str, list[str]]:
    body = table.partition("POLICY")[2].partition("no policy can")[0]
    return {cells[0]: cells[1:] for line in body.splitlines()[1:] if (cells := line.split())}


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_history_writes_is_replayed(world: ApiWorld, call: Call, tmp_path: Path, form: tuple[str, ...]) -> None:
    ids = [world.add("v1").id, world.add("v, \N{SNOWMAN}").id]
    now = datetime.now(UTC)
    for n, snapshot_id in enumerate([ids[0], ids[1], ids[0], ids[0]]):
        at = now - timedelta(days=9 - n)
        tally = ReaderTally(reader=Reader(program="p", uid=0), first_at=at, last_at=at, reads=1)
        batch = AccessBatch(snapshot_id=snapshot_id, read_at=at, reads=1, readers=(tally,))
        world.catalog.record_access([batch], now=at)
    log = tmp_path / "uses.log"
    log.write_text(call("history", *form).stdout)
    found = json.loads(call("simulate", str(log), "--policy", "lru", "--flash", "100%", "--json").stdout)
    assert (found["uses"], found["snapshots"]) == (4, 2)
    (result,) = found["results"]
    assert (result["accesses"], result["misses"]) == (4, 2)
    assert result["missed_bytes"] == result["moved_bytes"] == found["total_bytes"]


def test_the_table_tells_every_figure_and_the_bound(tmp_path: Path) -> None:
    result = simulated(LOOP, tmp_path, "--flash", "2 GB", "--policy", "lru", "--policy", "belady", "--rate", "1 GB/s")
    assert result.exit_code == 0
    table = rows(result.stdout)
    assert result.stdout.startswith("30 uses of 3 snapshots (2.79 GiB) in 29d\n")
    assert table["lru"] == ["100.0%", "100.0%", "27.9", "GiB", "0", "B", "1m", "27", "(25.1", "GiB)"]
    assert table["belady"][:2] == ["53.3%", "53.3%"]
    assert "no policy can miss less than 40.0% of the bytes (linear program)" in result.stdout


def test_it_says_where_ewr_is_not_the_better_one(tmp_path: Path) -> None:
    """Snapshots that were used often long ago hold on to flash while others are used in turn."""
    old = "".join(f"{n * 60},old/v{k},{10**9}\n" for n in range(40) for k in range(2))
    new = "".join(f"{90_000 + n * 60},new/v{n // 3 % 2},{10**9}\n" for n in range(40))
    result = simulated("time,snapshot,bytes\n" + old + new, tmp_path, "--flash", "2 GB", "--policy=ewr", "--policy=lru")
    table = rows(result.stdout)
    assert float(table["ewr"][0].rstrip("%")) > float(table["lru"][0].rstrip("%"))
    assert f"ewr is not the best here: {table['ewr'][0]}, less is missed by lru ({table['lru'][0]})" in result.stdout
    alike = simulated(LOOP, tmp_path, "--flash", "100%", "--policy", "ewr", "--policy", "lru")
    assert "ewr and lru miss the same here" in alike.stdout
    assert "not the best" not in alike.stdout


def test_sizes_are_shares_or_sizes_and_may_be_repeated(tmp_path: Path) -> None:
    found = simulated(LOOP, tmp_path, "--flash", "10%,2 GB", "--flash", "50%", "--policy", "lru", "--json")
    sizes = [result["flash_bytes"] for result in json.loads(found.stdout)["results"]]
    assert sizes == [300_000_000, 1_500_000_000, 2_000_000_000]


def test_rates_say_how_long_is_waited(tmp_path: Path) -> None:
    log = "time,snapshot,bytes,files\n0,ds/v1,1000000000,5000\n"
    words = [
        "--rate",
        "100 MB/s",
        "--file-rate",
        "500",
        "--start",
        "1m",
        "--flash",
        "100%",
        "--policy",
        "lru",
        "--json",
    ]
    (result,) = json.loads(simulated(log, tmp_path, *words).stdout)["results"]
    assert result["stall_s"] == pytest.approx(10 + 10 + 60)


def test_announced_uses_make_nobody_wait_and_the_bound_is_of_what_is_brought(tmp_path: Path) -> None:
    result = simulated(LOOP, tmp_path, "--flash", "2 GB", "--policy", "lru", "--announced", "100%", "--lead", "1h")
    assert rows(result.stdout)["lru"] == ["0.0%", "0.0%", "27.9", "GiB", "0", "B", "0s", "27", "(25.1", "GiB)"]
    assert "no policy can bring less than 40.0% of the bytes" in result.stdout


def test_the_picture_has_a_curve_for_each_policy_in_light_and_dark(tmp_path: Path) -> None:
    picture = tmp_path / "misses.svg"
    result = simulated(LOOP, tmp_path, "--policy", "lru", "--policy", "ewr", "--svg", str(picture))
    assert f"wrote {picture}" in result.stderr
    drawn = ElementTree.fromstring(picture.read_text())
    texts = [each.text or "" for each in drawn.iter(f"{SVG}text")]
    assert {
        "ewr",
        "lru",
        "no policy can beat",
        "size of flash; down is better: bytes that had to be waited for",
    } <= set(texts)
    curves = list(drawn.iter(f"{SVG}polyline"))
    assert len(curves) == 3
    assert all(len(curve.attrib["points"].split()) == 4 for curve in curves)
    style = next(drawn.iter(f"{SVG}style")).text or ""
    assert "prefers-color-scheme: dark" in style
    refused = simulated(LOOP, tmp_path, "--policy", "lru", "--svg", str(tmp_path / "no" / "x.svg"))
    assert refused.exit_code == 2
    assert "cannot be written" in refused.stderr


def test_the_schedules_of_a_configuration_are_replayed_with_it(tmp_path: Path) -> None:
    example = (Path(__file__).parents[3] / "config.example.toml").read_text()
    config = tmp_path / "config.toml"
    config.write_text(example)
    words = ["--flash", "2 GB", "--policy", "lru", "--schedules", str(config)]
    none = simulated(LOOP, tmp_path, *words)
    assert none.exit_code == 2
    assert "has no [[schedules]]" in none.stderr
    nightly = 'name = "nightly"\nsnapshots = "imagenet/v*"\ncron = "50 23 * * *"\nfor = "1h"\ntime_zone = "UTC"\n'
    config.write_text(f"{example}\n[[schedules]]\n{nightly}")
    found = simulated(LOOP.replace("ds/", "imagenet/"), tmp_path, *words)
    assert "30 of 30 uses were foreseen by 1 schedules" in found.stderr
    assert rows(found.stdout)["lru"][:2] == ["0.0%", "0.0%"]
    assert "no policy can bring less than 40.0% of the bytes" in found.stdout


@pytest.mark.parametrize(
    ("most", "marks"),
    [(1.0, ["0%", "20%", "40%", "60%", "80%", "100%"]), (0.0907, ["0%", "2%", "4%", "6%", "8%", "10%"]),
     (0.021, ["0%", "0.5%", "1%", "1.5%", "2%", "2.5%"]), (0.0, ["0%", "20%", "40%", "60%", "80%", "100%"])],
)  # fmt: skip
def test_the_picture_has_round_marks_and_labels_that_do_not_touch(most: float, marks: list[str]) -> None:
    drawn = ElementTree.fromstring(
        curves.svg({f"p{n}": [(size, most) for size in range(10**9, 2 * 10**9, 10**7)] for n in range(11)}, title="<&>")
    )
    texts = list(drawn.iter(f"{SVG}text"))
    assert [each.text for each in texts if each.attrib.get("text-anchor") == "end"] == marks
    at = [float(each.attrib["x"]) for each in texts if each.attrib.get("text-anchor") == "middle"]
    assert len(at) > 5
    assert min(b - a for a, b in itertools.pairwise(at)) >= 60
    assert len({line.attrib["stroke"] for line in drawn.iter(f"{SVG}polyline")}) == 11


def test_standard_input_is_read_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "uses.csv"
    path.write_text("\ufeff" + LOOP)
    command = [sys.executable, "-m", "tierd", "simulate", "--policy", "lru", "--json"]
    for log in (path.read_text(), LOOP):
        told = subprocess.run([*command, "-"], input=log, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(told.stdout)["uses"] == 30
    assert json.loads(CliRunner().invoke(program, ["simulate", str(path), "--json"]).stdout)["uses"] == 30
    nothing = CliRunner().invoke(program, ["simulate"], input=LOOP)
    assert nothing.exit_code == 2
    broken = CliRunner().invoke(program, ["simulate", "-"], input=HEAD + "now,ds/v1,5,1\n")
    assert "standard input, line 2: 'now' is no time" in broken.stderr


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("", "has no column time, snapshot, bytes"),
        ("time,bytes\n1,2\n", "has no column snapshot"),
        (HEAD, "has no uses"),
        (HEAD + "1,ds/v1,5,1\n\nyesterday,ds/v1,5,1\n", "line 4: 'yesterday' is no time"),
        (HEAD + "nan,ds/v1,5,1\n", "line 2: 'nan' is no time in seconds"),
        (HEAD + "1767225600000,ds/v1,5,1\n", "line 2: '1767225600000' is no time in seconds"),
        (HEAD + "1,ds/v1,-5,1\n", "line 2: '-5' is not a whole number"),
        (HEAD + "1,ds/v1,5.5,1\n", "line 2: '5.5' is not a whole number"),
        (HEAD + "1,ds/v1,5,many\n", "line 2: 'many' is not a whole number"),
        (HEAD + "1,ds/v1\n", "line 2: it has too few columns"),
        (HEAD + "1,,5,1\n", "line 2: it names no snapshot"),
        (HEAD + "1,ds/v1,5\x00,1\n", "line 2: "),
        ('{"time": 1, "snapshot": "ds/v1", "bytes": 5}\n{"time": 1, "snapshot": "ds/v1"}\n', "line 2: it has no bytes"),
        ('{"time": 1, "snapshot": "ds/v1", "bytes": 5}\n[1]\n', "line 2: it has no time, snapshot, bytes"),
        ('{"time": 1,\n', "line 1: it is not JSON"),
    ],
)
def test_faulty_lines_are_named(tmp_path: Path, log: str, why: str) -> None:
    result = simulated(log, tmp_path)
    assert result.exit_code == 2
    assert why in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--policy", "lru-k"), "Did you mean lru?"),
        (("--policy", "qqq"), "There are ewr, lru,"),
        (("--flash", "0%"), "flash of 0% holds nothing"),
        (("--flash", "120%"), "more than 100 %"),
        (("--flash", "10% 20%"), "is not a percentage"),
        (("--rate", "0 MB/s"), "a rate of nothing"),
        (("--announced", "150%"), "more than 100 %"),
        (("--lead", "-1d"), "negative"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    result = simulated(LOOP, tmp_path, *words)
    assert result.exit_code == 2
    assert why in result.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        result = CliRunner().invoke(program, ["simulate", str(path)])
        assert result.exit_code == 2
        assert re.search(rf"{path} cannot be read: ", result.stderr)


def test_without_scipy_the_bound_is_weaker_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    result = simulated(LOOP, tmp_path, "--flash", "2 GB", "--policy", "lru")
    assert result.exit_code == 0
    assert "(pfoo-l, weaker than the linear program)" in result.stdout
    assert "pip install 'tierd[simulate]'" in result.stderr

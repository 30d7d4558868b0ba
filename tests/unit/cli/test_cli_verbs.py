"""The other verbs: what they print in a pipe, as JSON, and when something is wrong."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.api_world import ApiWorld
from tests.unit.cli.conftest import Call, Started
from tierd import __version__
from tierd.cli.program import program
from tierd.cli.terminal import escape
from tierd.errors import TierdError
from tierd.model.observation import TrackerStatus
from tierd.model.pressure import Busy


def all_verbs(group: click.Group = program, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, verb in group.commands.items():
        words = (*before, name)
        found += all_verbs(verb, words) if isinstance(verb, click.Group) else [words]
    return found


@pytest.mark.parametrize("verb", all_verbs(), ids=" ".join)
def test_every_verb_teaches_by_examples(verb: tuple[str, ...]) -> None:
    result = CliRunner().invoke(program, [*verb, "--help"])
    assert result.exit_code == 0
    examples = result.stdout.partition("\n\n")[2]
    assert f"tierd {' '.join(verb)}" in examples


@pytest.mark.parametrize("verb", [v for v in all_verbs() if v not in {("run",), ("demo",)}], ids=" ".join)
def test_every_verb_knows_json(verb: tuple[str, ...]) -> None:
    assert "--json" in CliRunner().invoke(program, [*verb, "--help"]).stdout


def test_every_exit_code_is_documented() -> None:
    help_text = CliRunner().invoke(program, ["--help"]).stdout
    todo, codes = [TierdError], set()
    while todo:
        cls = todo.pop()
        codes.add(cls.exit_code)
        todo += cls.__subclasses__()
    for code in codes | {124, 126, 130, 141}:
        assert f"\n    {code:<5}" in help_text, code


def test_the_version() -> None:
    assert CliRunner().invoke(program, ["--version"]).stdout == f"tierd {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from tierd.cli import main
sys.argv = ["tierd", "--help"]
try:
    main()
finally:
    print(*{m.partition(".")[0] for m in sys.modules}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"httpx", "rich", "sqlalchemy", "fastapi", "pydantic", "blake3", "asyncio"} & set(done.stderr.split())


def test_status_tells_how_use_is_seen_and_what_is_missed(world: ApiWorld, call: Call) -> None:
    world.ports.tracker = TrackerStatus(name="fanotify", detail="opens are listened for only 4% of the time")
    text = call("status").stdout
    assert "seen by fanotify, no events lost\n" in text
    assert "opens are listened for only 4% of the time" in text
    world.ports.tracker = TrackerStatus(name="watchdog", is_degraded=True, detail="raise the sysctl", events_lost=1)
    text = call("status").stdout
    assert "seen by watchdog, events lost once, degraded\n" in text
    assert "raise the sysctl" in text


def test_status(world: ApiWorld, call: Call) -> None:
    world.add("v3")
    world.add("v4", problem="a hard link leads outside")
    text = call("status").stdout
    assert re.search(r"^flash +40%", text, re.MULTILINE)
    assert "2 resident" in text
    assert "imagenet/v4: a hard link leads outside" in text
    assert json.loads(call("status", "--json").stdout)["tiers"][0]["name"] == "flash"


def test_status_says_that_busy_disks_slow_transfers(world: ApiWorld, call: Call) -> None:
    assert "slowed" not in call("status").stdout
    world.ports.disks = Busy(io_pressure=0.35, slowed=2)
    assert "2 slowed: the disks are busy (io pressure 35%)" in call("status").stdout
    assert json.loads(call("status", "--json").stdout)["slowed_transfers"] == 2


def test_ls_in_a_pipe_is_aligned_text(world: ApiWorld, call: Call) -> None:
    world.add("v3")
    world.add_migrated("v4")
    head, first, second = call("ls").stdout.splitlines()
    assert head.startswith("SNAPSHOT     RESIDENCY")
    assert first.startswith("imagenet/v3  resident")
    assert second.startswith("imagenet/v4  migrated")
    assert [i["ref"] for i in json.loads(call("ls", "--residency", "migrated", "--json").stdout)["items"]] == [
        "imagenet/v4"
    ]


def test_ls_of_one_snapshot_shows_everything(world: ApiWorld, call: Call) -> None:
    world.put_cold_copy(world.add("v3"))
    call("pin", "imagenet/v3", "--note", "demo on Friday")
    text = call("ls", "imagenet/v3").stdout
    assert "premigrated" in text
    assert "demo on Friday" in text
    assert "c0ffee" in text
    assert json.loads(call("ls", "imagenet/v3", "--json").stdout)["ref"] == "imagenet/v3"


def test_ls_of_a_dataset_that_is_the_snapshot_shows_everything(world: ApiWorld, call: Call) -> None:
    world.add("self", dataset="laion")
    assert "COPY ON" in call("ls", "laion").stdout


def test_ls_of_an_unknown_dataset_is_an_error(call: Call) -> None:
    result = call("ls", "nothing")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith("tierd: ")


def test_plan_and_explain(world: ApiWorld, call: Call) -> None:
    world.add("v3")
    assert call("plan", "--all").exit_code == 0
    assert "kept" in json.loads(call("plan", "--json").stdout)
    text = call("explain", "imagenet/v3").stdout
    assert text.startswith("imagenet/v3  resident\n")
    assert json.loads(call("explain", "imagenet/v3", "--json").stdout)["ref"] == "imagenet/v3"


def test_leases_from_grant_to_end(world: ApiWorld, call: Call) -> None:
    world.add("v3")
    number = call("lease", "grant", "imagenet/v3", "--lease", "8h", "--holder", "alice").stdout
    assert number == "1\n"
    assert "until" in call("lease", "renew", "1", "--lease", "9h").stdout
    assert "alice" in call("lease", "list").stdout
    assert world.catalog.holds(now=world.now)[0].expires_at == world.now + timedelta(hours=9)
    assert call("lease", "end", "1", "1").exit_code == 0
    assert json.loads(call("lease", "list", "--json").stdout) == {"items": []}


def test_all_leases_of_a_job_end_together(world: ApiWorld, call: Call) -> None:
    world.add("v3")
    for job in ("991", "991", "99"):
        assert call("lease", "grant", "imagenet/v3", "--lease", "8h", "--job", job).exit_code == 0
    ended = json.loads(call("lease", "end", "--job", "991", "--json").stdout)
    assert ended == {"ended": [1, 2]}
    assert [held["job"] for held in json.loads(call("lease", "list", "--json").stdout)["items"]] == ["99"]
    assert call("lease", "end", "--job", "7").exit_code == 0
    assert call("lease", "end").exit_code == 2


def test_a_held_snapshot_is_not_released(world: ApiWorld, call: Call) -> None:
    world.add("v3")
    assert "without end" in call("pin", "imagenet/v3").stdout
    result = call("release", "imagenet/v3")
    assert result.exit_code == 5
    message, hint = result.stderr.splitlines()
    assert message.startswith("tierd: imagenet/v3 is held by pin 1")
    assert hint
    assert call("unpin", "imagenet/v3").stdout == "imagenet/v3 is not pinned\n"


def test_transfers_are_made_shown_and_steered(world: ApiWorld, call: Call) -> None:
    world.add("v3")
    assert "imagenet/v3: transfer 1, migrate to hdd, is queued" in call("migrate", "imagenet/v3", "--release").stdout
    assert "migrate and release to hdd" in call("transfers").stdout
    assert "asked by" in call("transfers", "1").stdout
    assert call("pause", "1").stdout == "imagenet/v3: transfer 1 rests\n"
    assert "paused" in call("transfers", "--live").stdout
    assert call("resume", "1").exit_code == 0
    assert "All transfers rest" in call("pause").stdout
    assert "all transfers are paused" in call("status").stdout
    assert json.loads(call("resume", "--json").stdout) == {"is_paused": False}
    assert call("cancel", "1").stdout == "imagenet/v3: transfer 1 is cancelled\n"
    assert call("cancel", "1").exit_code == 5
    assert call("cancel", "99").exit_code == 4


def test_events(world: ApiWorld, call: Call) -> None:
    world.add("v3")
    assert "snapshot.found" in call("events").stdout
    assert json.loads(call("events", "imagenet/v3", "--json").stdout)["items"][0]["ref"] == "imagenet/v3"


def test_events_are_followed_until_ctrl_c(world: ApiWorld, start: Started) -> None:
    world.add("v3")
    child = start("events", "--follow", "--json", "--limit", "1")
    assert child.stdout is not None
    assert json.loads(child.stdout.readline())["ref"] == "imagenet/v3"
    world.add("v4")
    assert json.loads(child.stdout.readline())["ref"] == "imagenet/v4"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, "Traceback" in err) == (130, False)


def test_a_reader_that_leaves_early_is_no_traceback(world: ApiWorld, start: Started) -> None:
    for number in range(150):
        world.add(f"v{number:03}")
    child = start("ls", "--json")
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (141, "")


def test_no_daemon_is_told_with_its_address_and_exits_with_3(tmp_path: Path) -> None:
    result = CliRunner().invoke(program, ["ls", "--url", f"unix://{tmp_path}/t.sock"])
    assert (result.exit_code, result.stdout) == (3, "")
    message, hint = result.stderr.splitlines()
    assert message == f"tierd: no tierd daemon runs at unix://{tmp_path}/t.sock: there is no socket"
    assert "systemctl start tierd" in hint


def test_wrong_usage_says_where_help_is() -> None:
    result = CliRunner().invoke(program, ["ls", "--zz"])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == ["tierd: no such option '--zz'", "Try `tierd ls --help`."]


def test_names_cannot_steer_the_terminal(call: Call) -> None:
    result = call("explain", "\x1b[2J\x07imagenet")
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr
    assert escape("a\x1b[31m\n\u202eb\udcff/größe") == r"a\x1b[31m\n\u202eb\udcff/größe"


def test_completion_offers_the_names_of_snapshots(
    world: ApiWorld, start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("v3")
    # The shell's side of click's protocol.
    words = {"_TIERD_COMPLETE": "bash_complete", "COMP_WORDS": "tierd explain imagenet/", "COMP_CWORD": "2"}
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    out, _ = start().communicate(timeout=20)
    assert out == "plain,imagenet/v3\n"

"""The live view without a terminal: what keys do, and what is drawn of what the daemon says."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len

from tests.api_world import FLASH, GB, START, ApiWorld, listening
from tierd.cli.top.asking import Asking
from tierd.cli.top.frame import fits, frame
from tierd.cli.top.keys import Keys
from tierd.cli.top.lines import Column, columns
from tierd.cli.top.state import Name, Seen, State, press, settle
from tierd.client import Overview, Rows, Status, Tierd, Transfer
from tierd.client.shapes import Counts, Lease, Row, Snapshot, Step, Tier, Tracker
from tierd.model.transfer import TransferKind

HOUR = timedelta(hours=1)
HOSTILE = "x\x1b]0;owned\x07\x1b[2J\u202e\n"


def tier(**more: object) -> Tier:
    known: dict[str, object] = {
        "name": "flash",
        "kind": "posix",
        "rank": 0,
        "root": "/flash",
        "is_online": True,
        "offline_reason": None,
        "capacity_bytes": 100 * GB,
        "used_bytes": 40 * GB,
        "free_bytes": 60 * GB,
        "used_ratio": 0.4,
        "capacity_inodes": 0,
        "used_inodes": 0,
        "high": 0.9,
        "low": 0.8,
        "reserved_bytes": 0,
        "read_rate": None,
        "write_rate": None,
    }
    return Tier(**(known | more))  # type: ignore[arg-type]


def overview(*, tiers: list[Tier] | None = None, **more: object) -> Overview:
    status = Status(
        version="1.2",
        started_at=START,
        uptime_s=60,
        tiers=tiers if tiers is not None else [tier()],
        counts=Counts(by_residency={}),
        live_transfers=0,
        leases=0,
        pins=0,
        is_paused=False,
        tracker=Tracker(name="fanotify", is_degraded=False, detail="", events_seen=0, events_lost=0),
        last_scan_at=None,
        problems=[],
    )
    known: dict[str, object] = {
        "at": START,
        "status": status,
        "seconds_to_high": {},
        "transfers": [],
        "holds": [],
        "holds_total": 0,
        "steps": [],
        "steps_total": 0,
        "notes": [],
        "events": [],
    }
    return Overview(**(known | more))  # type: ignore[arg-type]


def transfer(number: int, **more: object) -> Transfer:
    known: dict[str, object] = {
        "id": number,
        "ref": f"ds/v{number}",
        "kind": "recall",
        "state": "copying",
        "source": "hdd",
        "destination": "flash",
        "created_at": START,
        "requested_by": "alice",
    }
    return Transfer(**(known | more))  # type: ignore[arg-type]


def snapshot(name: str) -> Snapshot:
    return Snapshot(
        ref=f"ds/{name}",
        dataset="ds",
        name=name,
        path=f"/flash/ds/{name}",
        residency="resident",
        size_bytes=GB,
        disk_bytes=GB,
        files=1,
        entries=1,
        first_seen_at=START,
        changed_at=START,
        accessed_at=START,
        access_source="events",
        read_at=None,
        written_at=None,
        episodes=0,
        warmed_at=None,
        is_settled=True,
        problem=None,
        placements=[],
        holds=[],
        transfer=None,
    )


def rows(names: list[str], *, offset: int = 0, matching: int | None = None) -> Rows:
    items = [Row(snapshot=snapshot(name), value=1.0, why="because") for name in names]
    return Rows(items=items, offset=offset, matching=matching or len(names), total=matching or len(names), policy="lru")


def screen(state: State, seen: Seen, columns: int = 120, lines: int = 40) -> str:
    state = settle(replace(state, fits=fits(state.view, lines)), seen)
    shown = frame(state, seen, columns, lines, START)
    assert len(shown) == lines
    for each in shown:
        assert sum(cell_len(cell.text) for cell in each) == columns
    return "\n".join("".join(cell.text for cell in each).rstrip() for each in shown)


def typed(state: State, keys: str | list[str], seen: Seen) -> State:
    for key in keys:
        state, action = press(state, key, seen)
        assert action is None
    return state


# ---------------------------------------------------------------------- keys


def test_bytes_become_keys_however_they_are_cut() -> None:
    keys = Keys()
    assert keys.feed(b"q\x1b[A\x1bOB\x1b[5~\r\t\x7f") == ["q", "up", "down", "page up", "enter", "tab", "backspace"]
    assert keys.feed(b"\x1b") == []
    assert keys.is_waiting
    assert keys.feed(b"[6~") == ["page down"]
    assert keys.feed("ü".encode()[:1]) == []
    assert keys.feed("ü".encode()[1:]) == ["ü"]
    keys.feed(b"\x1b")
    assert keys.flush() == ["esc"]
    assert keys.feed(b"\x1bq\x1b\x1b[A") == ["esc", "q", "esc", "up"]  # typed fast, or through a slow line
    assert keys.feed(b"\x1b[200~\x00\x01\xff") == ["\ufffd"]  # paste marks and control characters are no keys
    assert keys.feed(b"\x1b[" + b"1" * 100) == []
    assert not keys.is_waiting


# ---------------------------------------------------------------------- state


def test_ten_thousand_snapshots_are_paged_by_the_daemon() -> None:
    seen = Seen(overview=overview(), rows=rows([f"v{n}" for n in range(20)], matching=10_000))
    state = typed(State(fits=20), ["2"], seen)
    assert (state.wanted.offset, state.wanted.limit) == (0, 20)
    state = typed(state, ["page down"], seen)
    assert (state.chosen, state.wanted.offset) == (19, 0)
    state = typed(state, ["page down", "page down"], seen)
    assert (state.chosen, state.wanted.offset) == (57, 38)
    state = typed(state, ["end"], seen)
    assert (state.chosen, state.wanted.offset) == (9999, 9980)
    assert typed(state, ["home"], seen).wanted.offset == 0
    # All but three are gone meanwhile.
    state = settle(state, replace(seen, rows=rows(["v1", "v2", "v3"])))
    assert (state.chosen, state.wanted.offset) == (2, 0)


def test_sorting_twice_turns_the_order_round_and_begins_at_the_top() -> None:
    seen = Seen(overview=overview(), rows=rows([f"v{n}" for n in range(20)]))
    state = typed(State(), ["2", "down", "down", "v"], seen)
    assert (state.sort, state.is_reversed, state.chosen) == ("value", False, 0)
    state = typed(state, "v", seen)
    assert (state.sort, state.is_reversed) == ("value", True)
    state = typed(state, "u", seen)
    assert (state.sort, state.is_reversed) == ("accessed", False)


def test_a_filter_takes_every_character_also_those_that_are_keys_otherwise() -> None:
    seen = Seen(overview=overview(), rows=rows(["v1"]))
    state = typed(State(), "/q?1", seen)
    assert (state.view, state.text, state.is_over) == (Name.SNAPSHOTS, "q?1", False)
    state = typed(state, ["backspace", "enter", "q"], seen)
    assert (state.text, state.is_over) == ("q?", True)
    assert typed(state, ["esc"], seen).text == ""


def test_what_is_chosen_stays_chosen_when_others_come_and_go() -> None:
    seen = Seen(overview=overview(), transfers=(transfer(1), transfer(2), transfer(3)))
    state = typed(State(), ["3", "down"], seen)
    assert state.transfer_id == 2
    state = settle(state, replace(seen, transfers=(transfer(2), transfer(3), transfer(1, state="done"))))
    assert (state.transfer_id, state.chosen) == (2, 0)
    state = settle(state, replace(seen, transfers=(transfer(3),)))
    assert state.transfer_id == 3


def test_nothing_is_done_without_y() -> None:
    seen = Seen(overview=overview(), rows=rows(["v1", "v2"]), transfers=(transfer(7), transfer(6, state="done")))
    asking = typed(State(), ["3", "c"], seen)
    assert asking.asks is not None
    assert "cancel transfer 7" in screen(asking, seen)
    for key in ("enter", "n", "c", "q"):
        state, action = press(asking, key, seen)
        assert (action, state.asks, state.is_over) == (None, None, False)
    _, action = press(asking, "y", seen)
    assert action is not None
    assert (action.verb, action.target) == ("cancel", "7")
    assert "is over" in typed(State(), ["3", "down", "c"], seen).message
    warming = typed(State(), ["2", "down", "w"], seen)
    assert warming.asks is not None
    assert (warming.asks.verb, warming.asks.target) == ("warm", "ds/v2")


# ---------------------------------------------------------------------- drawing


@pytest.mark.parametrize("view", Name)
@pytest.mark.parametrize(("width", "height"), [(40, 12), (1, 1), (7, 3), (80, 24), (300, 100)])
def test_every_view_fits_every_window(view: Name, width: int, height: int) -> None:
    many = [transfer(n, bytes_total=GB, bytes_done=n * 10**7, reason="for the job " * 9) for n in range(40)]
    found = overview(transfers=many, notes=["flash is too full " * 9])
    seen = Seen(
        overview=found, rows=rows([f"日本{n}" * 20 for n in range(99)]), rows_for=State().wanted, transfers=tuple(many)
    )
    screen(State(view=view), seen, width, height)
    screen(State(view=view, shows_help=True), seen, width, height)


def test_names_of_others_cannot_write_on_the_terminal() -> None:
    held = Lease(
        id=1,
        ref=HOSTILE,
        kind="lease",
        holder=HOSTILE,
        since=START,
        expires_at=START + HOUR,
        generation=1,
        note=HOSTILE,
    )
    step = Step(
        action="release", ref=HOSTILE, source="a", destination="b", reason=HOSTILE, frees_bytes=1, copies_bytes=0
    )
    bad = transfer(1, ref=HOSTILE, reason=HOSTILE, step=HOSTILE, requested_by=HOSTILE)
    found = overview(
        tiers=[tier(name=HOSTILE), tier(is_online=False, offline_reason=HOSTILE)],
        transfers=[bad],
        steps=[step],
        holds=[held],
        notes=[HOSTILE],
    )
    seen = Seen(
        overview=found, rows=rows([HOSTILE]), rows_for=State(text=HOSTILE).wanted, transfers=(bad,), trouble=HOSTILE
    )
    for view in Name:
        text = screen(State(view=view, text=HOSTILE), seen, 200)
        assert all(c.isprintable() for c in text.replace("\n", ""))
    assert "\\x1b]0;owned\\x07" in screen(State(view=Name.SNAPSHOTS), seen, 200)


def test_tiers_tell_what_is_used_reserved_and_when_it_is_full() -> None:
    full = tier(used_ratio=0.85, reserved_bytes=5 * GB)
    seen = Seen(overview=overview(tiers=[full, tier(name="hdd", is_online=False, offline_reason="unplugged")]))
    seen = replace(seen, overview=replace(seen.overview, seconds_to_high={"flash": 7200.0}))
    wide, narrow = screen(State(), seen), screen(State(), seen, 40)
    for text in (wide, narrow):
        assert "85% of" in text
        assert "90% in 2h" in text
        assert "offline: unplugged" in text
        assert "▒" in text
    assert "reserved · releases above 90%, down to 80%" in wide
    bar = next(each for each in narrow.splitlines() if each.startswith("["))
    assert len(bar) == 40
    assert bar.count("█") + bar.count("▒") + bar.count("░") + bar.count("│") == 38


def test_a_transfer_tells_how_far_it_is_and_that_it_will_be_late() -> None:
    moving = transfer(
        5, bytes_total=2 * GB, bytes_done=GB, rate_bytes_per_s=1e8, eta_s=10.0, step="copying", due_at=START + HOUR
    )
    found = overview(transfers=[moving, replace(moving, id=6, is_late=True)])
    text = screen(State(), Seen(overview=found), 200)
    first, late = (line for line in text.splitlines() if "ds/v5" in line)
    for part in ("█████░░░░░", "50%", "95.4 MiB/s", "10s", "copying, due in 1h"):
        assert part in first
    assert "LATE, due in 1h" in late
    assert "50%" in screen(State(), Seen(overview=found), 40)
    assert "LATE, due in" in screen(State(), Seen(overview=found), 40)


def test_each_part_gets_its_first_row_before_another_gets_its_second() -> None:
    many = [transfer(n) for n in range(50)]
    lease = Lease(id=1, ref="ds/held", kind="pin", holder="bob", since=START, expires_at=None, generation=1)
    found = overview(transfers=many, holds=[lease], holds_total=1)
    found = replace(found, status=replace(found.status, live_transfers=50))
    text = screen(State(), Seen(overview=found), 80, 24)
    assert "bob" in text
    moving = re.search(r"MOVING (\d+) of 50", text)
    assert moving is not None
    assert int(moving[1]) == text.count("recall") >= 5


def test_columns_without_room_are_left_out_the_least_important_first() -> None:
    head = (Column(title="A", grows=True, least=4), Column(title="B", drop=2), Column(title="C", drop=1, right=True))
    data = [("a" * 30, "bbbb", "cccc")]

    def drawn(width: int) -> list[str]:
        return ["".join(cell.text for cell in each).rstrip() for each in columns(head, data, width)]

    assert drawn(50)[1] == "a" * 30 + "  bbbb  cccc"
    assert drawn(20)[1] == "aaaaaaa…  bbbb  cccc"
    assert drawn(12)[1] == "aaaaa…  cccc"
    assert drawn(6)[1] == "aaaaa…"


# ---------------------------------------------------------------------- asking


def test_what_is_asked_for_is_what_is_shown(world: ApiWorld) -> None:
    recalled = world.add_migrated("v1")
    world.add("v2", size=3 * GB)
    world.enqueue(recalled, TransferKind.RECALL)
    with listening(world) as server:
        asking = Asking(Tierd(f"unix://{server.socket}"), since=HOUR, ranked=5)
        state = State(view=Name.SNAPSHOTS, sort="size")
        seen = asking.first(state.wanted)
        text = screen(state, seen)
        assert "▸ imagenet/v2" in text
        assert "snapshots by size · 1–2 of 2" in text
        seen = asking.again(seen, State(view=Name.TRANSFERS).wanted, only_list=False)
        assert "1 under way or waiting" in screen(State(view=Name.TRANSFERS), seen)
        assert "imagenet/v1" in screen(State(), seen)
        world.ports.usages[FLASH] = replace(world.ports.usages[FLASH], is_online=False, offline_reason="gone")
        seen = asking.again(seen, State().wanted, only_list=False)
        assert "offline: gone" in screen(State(), seen)
    away = asking.again(seen, State().wanted, only_list=False)
    assert "not reachable, trying again" in screen(State(), away)
    assert "imagenet/v1" in screen(State(), away)


def test_a_refusal_is_told_and_warming_twice_holds_once(world: ApiWorld) -> None:
    world.now = datetime.now(UTC)
    world.add("v1")
    seen = Seen(overview=overview(), rows=replace(rows(["v1"]), items=[Row(snapshot=snapshot("v1"), value=1, why="")]))
    _, warm = press(typed(State(), "2w", seen), "y", seen)
    assert warm is not None
    with listening(world) as server:
        tierd = Tierd(f"unix://{server.socket}")
        asking = Asking(tierd, since=HOUR, ranked=5)
        assert "no dataset 'ds' is configured. Configured are" in asking.carry_out(warm)
        known = replace(warm, target="imagenet/v1")
        for _ in range(2):
            assert asking.carry_out(known).startswith("imagenet/v1: ")
        assert [h.ref for h in tierd.leases()] == ["imagenet/v1"]
        assert "999" in asking.carry_out(replace(warm, verb="cancel", target="999"))

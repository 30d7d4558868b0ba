"""`tierd top` on a real terminal, of a real daemon: what a person sees, and how the terminal is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.daemon_process import DaemonProcess
from tests.terminal import OnTerminal

MB = 1_000_000
Watch = Callable[..., OnTerminal]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    # The cold tier is slow enough for a transfer to be watched.
    daemon = DaemonProcess(tmp_path_factory.mktemp("top"), hdd_extra='write_rate = "1500 KB/s"')
    for name, size in (("small", 1000), ("large", 60 * MB), ("middle", 10_000)):
        (daemon.dataset / name).mkdir()
        (daemon.dataset / name / "data").write_bytes(os.urandom(size))
    daemon.start()
    yield daemon
    daemon.close()


@pytest.fixture
def watch(daemon: DaemonProcess) -> Iterator[Watch]:
    begun: list[OnTerminal] = []

    def watched(*words: str, columns: int = 120, lines: int = 30, **environment: str) -> OnTerminal:
        command = [sys.executable, "-W", "error", "-m", "tierd", "top", "--every", "300ms", *words]
        begun.append(OnTerminal(command, daemon.environment | environment, columns=columns, lines=lines))
        return begun[-1]

    yield watched
    for each in begun:
        each.close()


def order(screen: str) -> list[str]:
    return re.findall(r"ds/(\w+)  ", screen)


def test_a_transfer_is_watched_cancelled_and_the_terminal_given_back(daemon: DaemonProcess, watch: Watch) -> None:
    top = watch()
    text = top.until("MOVING nothing")
    assert re.search(r"flash .*\d+% of .*iB", text)
    assert re.search(r"hdd .*releases above 90%, down to 80%", text)
    assert top.screen.alternate
    assert not top.screen.cursor_shown
    daemon.wait_until(lambda: daemon.snapshot("ds/large")["is_settled"], "it is settled")
    number = daemon.post("/v1/snapshots/ds/large/migrate").json()["id"]
    top.until(lambda text: "MOVING 1" in text and "ds/large" in text and re.search(r"\d [KM]i?B/s", text), "its rate")
    seen = top.until(lambda text: [n for n in re.findall(r" (\d+)%  ", text) if 3 < int(n) < 90], "how far it is")
    assert "↓ migrate" in seen
    top.type("c")
    top.until("press 3")
    top.type("3")
    top.until("▸ ")
    top.type("c")
    assert f"cancel transfer {number}, the migrate of ds/large? y/n" in top.until("y/n")
    top.type("n")
    top.until("nothing was done")
    assert daemon.get(f"/v1/transfers/{number}").json()["cancel_requested"] is False
    top.type("cy")
    top.until("none under way or waiting")
    top.until("cancelled")
    assert daemon.get(f"/v1/transfers/{number}").json()["state"] == "cancelled"
    top.type("q")
    assert top.end() == 0
    assert top.is_as_before


def test_snapshots_are_sorted_filtered_chosen_and_warmed(daemon: DaemonProcess, watch: Watch) -> None:
    top = watch()
    top.until("tierd 0.")
    top.type("\t")
    assert order(top.until("by name")) == ["large", "middle", "small"]
    top.type("s")
    assert order(top.until("by size")) == ["large", "middle", "small"]
    top.type("s")
    assert order(top.until("by size, reversed")) == ["small", "middle", "large"]
    top.type("\x1b[B")
    assert top.until("▸ ds/middle")
    top.type("w")
    top.until("warm ds/middle and hold it for an hour? y/n")
    top.type("y")
    daemon.wait_until(lambda: bool(daemon.get("/v1/leases").json()["items"]), "it is held")
    holds = daemon.get("/v1/leases").json()["items"]
    assert [(h["ref"], h["note"]) for h in holds] == [("ds/middle", "from tierd top")]
    top.until(lambda text: re.search(rf"ds/middle .*{re.escape(holds[0]['holder'][:4])}", text), "who holds it")
    top.type("/LAR")
    assert order(top.until("1 of 3 with 'LAR'")) == ["large"]
    top.type("\x1b")
    top.until("of 3\n")
    top.type("?")
    top.until("the other way round")
    top.type("xq")
    assert (top.end(), top.is_as_before) == (0, True)


def test_it_goes_on_when_the_daemon_is_back(daemon: DaemonProcess, watch: Watch) -> None:
    top = watch()
    top.until("tierd 0.")
    daemon.stop()
    top.until("not reachable, trying again")
    top.type("2")
    daemon.start()
    text = top.until(lambda text: "ds/large" in text and "not reachable" not in text, "that it goes on")
    assert "by name" in text
    top.type("q")
    assert (top.end(), top.is_as_before) == (0, True)


def test_a_daemon_that_hangs_keeps_nobody_from_leaving(daemon: DaemonProcess, watch: Watch) -> None:
    top = watch()
    top.until("tierd 0.")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        top.until("has not answered for")
        top.type("2?")
        top.until("the other way round")
        top.type("qq")
        assert (top.end(), top.is_as_before) == (0, True)
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def test_a_window_that_is_closed_ends_it(daemon: DaemonProcess, watch: Watch) -> None:
    top = watch()
    top.until("tierd 0.")
    top.hang_up()
    assert top.process.wait(60) in (128 + signal.SIGHUP, 0)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_signals_leave_the_terminal_as_it_was(
    daemon: DaemonProcess, watch: Watch, number: signal.Signals, code: int
) -> None:
    top = watch()
    top.until("tierd 0.")
    assert not top.is_as_before
    if number is signal.SIGINT:
        top.type("\x03")
    else:
        top.send(number)
    assert top.end() == code
    assert top.is_as_before
    assert "Traceback" not in top.screen.text


def test_a_stopped_program_gives_the_terminal_back_and_takes_it_again(daemon: DaemonProcess, watch: Watch) -> None:
    top = watch()
    top.until("tierd 0.")
    top.type("\x1a")
    top.until(lambda _: top.is_as_before, "that the terminal is free")
    top.send(signal.SIGCONT)
    top.until(lambda text: top.screen.alternate and "MOVING" in text, "that it goes on")
    top.type("q")
    assert (top.end(), top.is_as_before) == (0, True)


def test_it_fits_windows_of_any_size(daemon: DaemonProcess, watch: Watch) -> None:
    top = watch(columns=40, lines=12)
    text = top.until("MOVING")
    assert "flash" in text
    top.type("2")
    assert order(top.until("▸ ds/large")) == ["large", "middle", "small"]
    top.resize(150, 30)
    assert "RESIDENCY" in top.until("/datasets/ds/large")
    top.resize(8, 2)
    top.until(lambda _: top.process.poll() is None and top.screen.text.strip(), "something")
    top.resize(80, 24)
    top.until("RESIDENCY")
    top.type("q")
    assert (top.end(), top.is_as_before) == (0, True)


def test_without_colour_there_is_none(watch: Watch) -> None:
    top = watch(NO_COLOR="1")
    top.until("tierd 0.")
    top.type("2")
    top.until("▸ ds/large")
    coloured = [s for s in top.screen.styles if re.search(r"(^|;)(3[0-8]|4[0-8]|9[0-7])(;|$)", s)]
    assert coloured == []
    top.type("q")
    assert top.end() == 0


def test_a_terminal_that_has_no_bars_gets_letters(watch: Watch) -> None:
    top = watch(PYTHONIOENCODING="ascii")
    assert re.search(r"flash \[#*-*\|", top.until("MOVING"))
    top.type("2")
    assert top.until("> ds/large").isascii()
    top.type("q")
    assert top.end() == 0


def test_where_no_screen_can_be_drawn_the_ranking_is_printed_once(daemon: DaemonProcess, watch: Watch) -> None:
    dumb, once = watch(TERM="dumb"), watch("--once", "--by", "job")
    assert (dumb.end(), once.end()) == (0, 0)
    assert dumb.screen.text.split()[:2] == ["SNAPSHOT", "SNAPSHOTS"]
    assert once.screen.text.split()[0] == "JOB"
    assert not dumb.screen.alternate
    piped = subprocess.run(
        [sys.executable, "-m", "tierd", "top"], env=daemon.environment, capture_output=True, text=True, check=True
    )
    assert piped.stdout.split()[0] == "SNAPSHOT"
    assert "\x1b" not in piped.stdout


def test_by_begins_with_the_ranking(watch: Watch) -> None:
    top = watch("--by", "program")
    top.until("uses by program")
    top.type("b")
    top.until("uses by snapshot")
    top.type("q")
    assert top.end() == 0
    assert "uses by snapshot" in watch("--since", "7d").until("uses by")


def test_without_a_daemon_it_says_so_and_takes_no_terminal(daemon: DaemonProcess, watch: Watch) -> None:
    top = watch(TIERD_URL="unix:///nowhere.sock")
    assert top.end() == 3
    assert "no tierd daemon runs at" in top.screen.text
    assert top.is_as_before

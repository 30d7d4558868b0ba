"""The page in a real browser, on a daemon that really moves data."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon_process import DaemonProcess

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
    # What the browser's own processes leave behind when they end.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

AXE = Path(__file__).parent / "vendored" / "axe.min.js"
TOKEN = "token-of-the-browser"
MB = 1_000_000


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path)
    made.address = f"127.0.0.1:{free_port()}"  # type: ignore[attr-defined]
    text = made.config.read_text()
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    api = f'[api]\nlisten = "{made.address}"'  # type: ignore[attr-defined]
    made.config.write_text(text.replace("[api]", api) + f'\n[api.tokens]\n"{digest}" = "admin"\n')
    for name, size in (("v1", 4 * MB), ("v2", MB), ("<b>odd", MB)):
        (made.dataset / name).mkdir()
        (made.dataset / name / "data").write_bytes(os.urandom(size))
    made.start()
    yield made
    made.close()


@pytest.fixture
def page(daemon: DaemonProcess, tmp_path: Path) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(base_url=f"http://{daemon.address}", viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
        context.set_default_timeout(20_000)
        shown = context.new_page()
        shown.faults = []
        shown.on("console", lambda m: shown.faults.append(m.text) if m.type in ("error", "warning") else None)
        shown.on("pageerror", lambda e: shown.faults.append(str(e)))
        shown.goto("/login")
        shown.get_by_label("Token").fill(TOKEN)
        shown.get_by_role("button", name="Sign in").click()
        shown.get_by_text("live", exact=True).wait_for()
        yield shown
        browser.close()


def shoot(page: Any, name: str) -> None:
    """A picture for people, where they asked for pictures."""
    directory = os.environ.get("TIERD_SCREENSHOTS")
    if directory:
        page.screenshot(path=str(Path(directory) / f"{name}.png"), full_page=True)


def accessibility_faults(page: Any) -> list[str]:
    # Through the debugger, which the page's policy does not concern.
    page.evaluate(AXE.read_text())
    found = page.evaluate(
        "axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' ')))"
    )
    return [str(each) for each in found]


def test_an_operator_looks_filters_warms_pins_and_is_refused_a_release(daemon: DaemonProcess, page: Any) -> None:
    daemon.wait_until(lambda: len(daemon.get("/v1/snapshots").json()["items"]) >= 2, "snapshots were found")
    daemon.wait_until(lambda: daemon.post("/v1/snapshots/ds/v1/release", check=False).status_code == 202, "settled")
    daemon.wait_for_residency("ds/v1", "migrated")

    page.goto("/")
    page.get_by_role("heading", name="flash").wait_for()
    page.get_by_label("Name or holder").fill("v1")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("region", name="Snapshots").get_by_role("link", name="ds/v1").click()
    page.get_by_text("migrated", exact=True).first.wait_for()

    page.get_by_role("link", name="Warm").click()
    page.get_by_text("accepted").wait_for()
    page.get_by_role("button", name="Warm").click()
    # Without loading the page again: it is told.
    page.locator(".badge.premigrated").wait_for()
    page.get_by_text("transfer.done").first.wait_for()
    assert (daemon.dataset / "v1" / "data").stat().st_size == 4 * MB
    shoot(page, "snapshot")

    page.get_by_role("link", name="Pin", exact=True).click()
    page.get_by_label("Note").fill("for the paper")
    page.get_by_role("button", name="Pin").click()
    page.get_by_text("for the paper").first.wait_for()
    page.get_by_role("link", name="Release").click()
    page.get_by_text("It is held: pin").wait_for()
    assert page.faults == []
    page.get_by_role("button", name="Release").click()
    page.get_by_role("alert").filter(has_text="held").wait_for()
    assert daemon.snapshot("ds/v1")["residency"] == "premigrated"
    # A refusal is an answer with a status of its own, which the browser notes.
    assert [f for f in page.faults if "409" not in f] == []


def test_a_transfer_is_cancelled(daemon: DaemonProcess, page: Any) -> None:
    daemon.post("/v1/pause")
    daemon.wait_until(lambda: daemon.post("/v1/snapshots/ds/v1/migrate", check=False).status_code == 202, "settled")
    page.get_by_role("link", name="Cancel the migrate of ds/v1").click()
    page.get_by_role("button", name="Cancel the transfer").click()
    page.get_by_text("Nothing moves.").wait_for()
    assert page.faults == []


def test_the_page_comes_back_after_a_restart_of_the_daemon(daemon: DaemonProcess, page: Any) -> None:
    daemon.stop()
    page.get_by_text("no answer from the daemon").wait_for()
    (daemon.dataset / "v3").mkdir()
    (daemon.dataset / "v3" / "data").write_bytes(b"x" * MB)
    daemon.start()
    page.get_by_text("live", exact=True).wait_for()
    page.get_by_role("link", name="ds/v3").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_everybody_can_use_it(daemon: DaemonProcess, page: Any, scheme: str, width: int) -> None:
    daemon.wait_until(lambda: daemon.post("/v1/snapshots/ds/v2/pin", check=False).status_code == 200, "found")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for path, name in (
        ("/", "overview"),
        ("/snapshots/ds/v2", "snapshot"),
        ("/snapshots/ds/v2/unpin", "confirm"),
        ("/docs", "docs"),
    ):
        page.goto(path)
        assert accessibility_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shoot(page, f"{name}-{scheme}-{width}")
    assert page.faults == []

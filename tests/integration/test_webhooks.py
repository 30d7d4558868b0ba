"""Webhooks against a real receiver: order, signatures, retries, and what is done when nobody takes anything."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.receiver import KEY, Receiver, free_port, receiver, secret_file
from tierd.catalog import Catalog
from tierd.daemon.webhooks import Webhooks
from tierd.daemon.webhooks.hook import Pace
from tierd.model.dataset import SnapshotRef
from tierd.model.webhook import Webhook, WebhookState, WebhookStatus

QUICK = Pace(first_s=0.02, most_s=0.1)
Make = Callable[..., Webhook]


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(tmp_path / "tierd.db", wait_s=0) as opened:
        yield opened


@pytest.fixture
def make(tmp_path: Path, there: Receiver) -> Make:
    def made(name: str = "ops", **more: object) -> Webhook:
        values = {"url": there.url, "secret_file": secret_file(tmp_path), "timeout_s": 5.0, **more}
        return Webhook(name=name, **values)  # type: ignore[arg-type]

    return made


@contextmanager
def running(catalog: Catalog, clock: Clock, *webhooks: Webhook) -> Iterator[Webhooks]:
    hooks = Webhooks(webhooks, catalog, clock, pace=QUICK)
    hooks.start()
    try:
        yield hooks
    finally:
        stop(hooks, catalog)


def stop(hooks: Webhooks, catalog: Catalog) -> float:
    began = time.monotonic()
    hooks.stop_soon()
    catalog.add_event("daemon.stopped", now=datetime.now(UTC))
    hooks.finish()
    return time.monotonic() - began


def happen(catalog: Catalog, clock: Clock, *messages: str, kind: str = "transfer.failed") -> None:
    for message in messages:
        catalog.add_event(
            kind,
            now=clock(),
            ref=SnapshotRef("ds", "v1"),
            message=message,
            detail={"tier": "hdd", "n": 3},
        )


def said(there: Receiver) -> list[str]:
    return [event["message"] for event in there.taken()]


def only(hooks: Webhooks) -> WebhookStatus:
    (status,) = hooks.statuses()
    return status


def test_events_come_signed_in_order_and_in_the_shape_of_the_api(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    happen(catalog, clock, "before it was configured")
    with running(catalog, clock, make()) as hooks:
        happen(catalog, clock, "one")
        happen(catalog, clock, "nobody need look", kind="transfer.done")
        happen(catalog, clock, *(f"{n}" for n in range(250)))
        there.wait_for(lambda: len(said(there)) == 251, "all came")
        assert said(there) == ["one", *(f"{n}" for n in range(250))]
        status = only(hooks)
        there.wait_for(lambda: only(hooks).delivered == 251, "it is counted")
        assert (only(hooks).pending, status.failures, status.state) == (0, 0, WebhookState.WORKING)
    for got in there.got:
        assert got.is_signed_with(KEY)
        assert not got.is_signed_with(b"another" * 5)
        assert got.headers["content-type"] == "application/json"
        assert (got.document["version"], got.document["webhook"], got.document["missed"]) == (1, "ops", 0)
    assert len({got.headers["webhook-id"] for got in there.got}) == len(there.got)
    first = there.taken()[0]
    in_catalog = next(e for e in catalog.events() if e.message == "one")
    assert datetime.fromisoformat(first.pop("at")) == in_catalog.at
    assert first == {
        "id": in_catalog.id,
        "kind": "transfer.failed",
        "ref": "ds/v1",
        "transfer_id": None,
        "message": "one",
        "detail": {"tier": "hdd", "n": 3},
    }


def test_patterns_choose_what_is_sent(catalog: Catalog, clock: Clock, there: Receiver, make: Make) -> None:
    with running(catalog, clock, make(events=("tier.*", "transfer.done"))):
        for kind in ("tier.offline", "transfer.failed", "transfer.done", "tier.online"):
            happen(catalog, clock, kind, kind=kind)
        there.wait_for(lambda: len(said(there)) == 3, "three came")
    assert said(there) == ["tier.offline", "transfer.done", "tier.online"]


def test_hostile_names_and_texts_arrive_as_they_are(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    name, text = 'v1 "}],\u2028\u202e', '\r\nwebhook-id: forged\x00\x1b[31m \udcff {"kind":"x"}'
    with running(catalog, clock, make()):
        catalog.add_event(
            "snapshot.problem", now=clock(), ref=SnapshotRef("ds", name), message=text.replace("\udcff", "")
        )
        there.wait_for(lambda: len(there.taken()) == 1, "it came")
    (event,) = there.taken()
    assert (event["ref"], event["message"]) == (f"ds/{name}", text.replace("\udcff", ""))
    assert there.got[0].is_signed_with(KEY)


def test_a_failed_request_is_repeated_as_the_same_delivery_and_nothing_overtakes_it(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    there.replies = [(500, {}), (503, {"retry-after": "0"}), (404, {}), (302, {"location": "/elsewhere"})]
    with running(catalog, clock, make()) as hooks:
        happen(catalog, clock, "one")
        there.wait_for(lambda: len(there.got) >= 2, "it is tried again")
        happen(catalog, clock, "two")
        there.wait_for(lambda: said(there) == ["one", "two"], "both came")
        there.wait_for(lambda: only(hooks).delivered == 2, "both are counted")
        status = only(hooks)
    assert [got.answered for got in there.got] == [500, 503, 404, 302, 200, 200]
    tries = there.got[:5]
    assert len({got.headers["webhook-id"] for got in tries}) == 1
    assert len({got.content for got in tries}) == 1
    assert all(got.is_signed_with(KEY) and got.path == "/hook?token=in-the-url" for got in there.got)
    assert (status.failures, status.delivered, status.missed) == (4, 2, 0)
    assert status.last_error is not None
    assert status.last_error.startswith("HTTP 302")


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_it_waits_as_long_as_the_receiver_asks(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make, form: str
) -> None:
    later = "2" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    there.replies = [(429, {"retry-after": later})]
    began = time.monotonic()
    with running(catalog, clock, make()) as hooks:
        happen(catalog, clock, "one")
        there.wait_for(lambda: only(hooks).next_attempt_at is not None, "it is refused")
        there.wait_for(lambda: said(there) == ["one"], "it came")
    assert time.monotonic() - began > 1.5


def test_a_batch_that_is_refused_for_good_is_given_up_and_the_next_one_tells_how_many_were_missed(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    there.otherwise = (400, {})
    with running(catalog, clock, make(events=("*",))) as hooks:
        happen(catalog, clock, "bad")
        there.wait_for(lambda: only(hooks).missed == 1, "it is given up")
        there.otherwise = (200, {})
        happen(catalog, clock, "good")
        there.wait_for(lambda: said(there) == ["good"], "the next one came")
    taken = [got for got in there.got if got.answered == 200]
    assert taken[0].document["missed"] == 1
    (told,) = [e for e in catalog.events() if e.kind == "webhook.failed"]
    assert told.detail == {"webhook": "ops", "missed": 1}
    assert "HTTP 400 Bad Request: what the receiver says" in told.message
    # With "*" too: what tells of its failure would follow itself.
    assert all("webhook.failed" not in got.kinds for got in there.got)


def test_two_receivers_that_are_away_do_not_tell_of_each_other_for_ever(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    there.otherwise = (400, {})
    with running(catalog, clock, make("a"), make("b")) as hooks:
        happen(catalog, clock, "bad")
        # Its own, and that the other one gave up.
        there.wait_for(lambda: [s.missed for s in hooks.statuses()] == [2, 2], "all is given up")
        happen(catalog, clock, "last", kind="transfer.done")
        there.wait_for(lambda: [s.pending for s in hooks.statuses()] == [0, 0], "nothing waits")
    assert [e.detail["webhook"] for e in catalog.events() if e.kind == "webhook.failed"] in (["a", "b"], ["b", "a"])


def test_a_receiver_that_is_gone_is_left_alone_until_the_next_start(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    there.replies = [(410, {})]
    with running(catalog, clock, make()) as hooks:
        happen(catalog, clock, "one")
        there.wait_for(lambda: only(hooks).state is WebhookState.DISABLED, "it is disabled")
        happen(catalog, clock, "two")
        there.wait_for(lambda: only(hooks).pending == 2, "both wait")
        assert len(there.got) == 1
    assert [e.detail for e in catalog.events() if e.kind == "webhook.failed"] == [{"webhook": "ops", "missed": 0}]
    with running(catalog, clock, make()):
        there.wait_for(lambda: said(there) == ["one", "two"], "both came")


def test_after_a_day_without_the_receiver_old_events_are_dropped_and_counted(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    there.otherwise = (500, {})
    with running(catalog, clock, make()) as hooks:
        happen(catalog, clock, "old 1", "old 2")
        there.wait_for(lambda: only(hooks).failures >= 1, "it failed")
        assert only(hooks).missed == 0
        clock.ahead = timedelta(hours=25)
        happen(catalog, clock, "new")
        there.wait_for(lambda: only(hooks).missed == 2, "the old ones are dropped")
    # What was dropped is remembered over a restart, and what is new waits.
    with running(catalog, clock, make()):
        there.otherwise = (200, {})
        there.wait_for(lambda: said(there) == ["new"], "the new one came")
    taken = [got for got in there.got if got.answered == 200]
    assert taken[0].document["missed"] == 2


@pytest.mark.parametrize("how", [0, -1])
def test_a_receiver_that_hangs_or_drips_costs_no_more_than_the_timeout(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make, how: int
) -> None:
    there.replies = [(how, {})]
    with running(catalog, clock, make(timeout_s=0.5)) as hooks:
        happen(catalog, clock, "one")
        there.wait_for(lambda: said(there) == ["one"], "it came at the second attempt")
        assert only(hooks).last_error == "no answer within 0.5 s"


def test_one_that_hangs_delays_neither_the_others_nor_the_stop(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    with receiver() as other:
        other.otherwise = (0, {})
        hooks = Webhooks([make("slow", url=other.url, timeout_s=60.0), make()], catalog, clock, pace=QUICK)
        hooks.start()
        happen(catalog, clock, "one")
        there.wait_for(lambda: said(there) == ["one"] and other.hanging == 1, "one has it, the other hangs")
        assert stop(hooks, catalog) < 10
        before = (catalog.path.with_name("webhooks.json")).read_bytes()
        assert json.loads(before)["slow"]["sending"]["last"] > json.loads(before)["slow"]["after"]
        other.otherwise = (200, {})
        with running(catalog, clock, make("slow", url=other.url, timeout_s=60.0), make()):
            other.wait_for(lambda: said(other) == ["one"], "it is sent again")
    assert len({got.headers["webhook-id"] for got in other.got}) == 1
    assert said(there) == ["one"]


def test_nothing_is_lost_or_repeated_over_a_restart(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    with running(catalog, clock, make()):
        happen(catalog, clock, "one")
        there.wait_for(lambda: said(there) == ["one"], "it came")
    happen(catalog, clock, "while nobody sent")
    with running(catalog, clock, make()) as hooks:
        happen(catalog, clock, "two")
        there.wait_for(lambda: said(there)[-1] == "two", "the rest came")
        assert only(hooks).last_success_at is not None
    assert said(there) == ["one", "while nobody sent", "two"]


def test_one_that_was_taken_away_and_comes_back_is_a_new_one(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    with running(catalog, clock, make()):
        happen(catalog, clock, "one")
        there.wait_for(lambda: said(there) == ["one"], "it came")
    with running(catalog, clock):
        happen(catalog, clock, "not told to anybody")
    with running(catalog, clock, make()):
        happen(catalog, clock, "two")
        there.wait_for(lambda: said(there)[-1] == "two", "it came")
    assert said(there) == ["one", "two"]


def test_nobody_listens_and_then_somebody_does(catalog: Catalog, clock: Clock, make: Make) -> None:
    port = free_port()
    with running(catalog, clock, make(url=f"http://127.0.0.1:{port}/secret-path")) as hooks:
        happen(catalog, clock, "one")
        deadline = time.monotonic() + 30
        while only(hooks).failures < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "refused" in (only(hooks).last_error or "")
        with receiver(port) as back:
            back.wait_for(lambda: said(back) == ["one"], "it came")


def test_a_secret_that_is_missing_is_told_and_taken_up_when_it_is_there(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "later"
    with caplog.at_level(logging.DEBUG), running(catalog, clock, make(secret_file=missing)) as hooks:
        happen(catalog, clock, "one")
        there.wait_for(lambda: only(hooks).failures > 0, "it failed")
        assert only(hooks).last_error == f"the secret file {missing} cannot be read: no such file or directory"
        assert not hooks.test("ops").is_delivered
        missing.write_text("hunter2hunter2\n")
        there.wait_for(lambda: "is no secret (it is not shown)" in (only(hooks).last_error or ""), "it is no secret")
        other = b"n" * 24
        secret_file(tmp_path, other, KEY).rename(missing)
        there.wait_for(lambda: said(there) == ["one"], "it came")
    # While a secret is replaced, receivers with either of the two can check.
    assert there.got[-1].is_signed_with(KEY)
    assert there.got[-1].is_signed_with(other)
    assert "hunter2" not in caplog.text


def test_a_test_event_is_sent_at_once_and_says_what_came_back(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make
) -> None:
    with running(catalog, clock, make()) as hooks:
        found = hooks.test("ops")
        assert (found.is_delivered, found.status, found.message) == (True, 200, "HTTP 200 OK")
        assert there.got[0].kinds == ["webhook.test"]
        assert there.got[0].is_signed_with(KEY)
        assert there.got[0].document["type"] == "tierd.test"
        there.replies = [(401, {})]
        found = hooks.test("ops")
        assert (found.is_delivered, found.status) == (False, 401)
        assert found.message == "HTTP 401 Unauthorized: what the receiver says"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"ops": 3}', b'{"ops": {"after": "x"}}', b'{"ops": {"b": 1}}'])
def test_a_damaged_file_costs_history_and_never_the_start(
    catalog: Catalog, clock: Clock, there: Receiver, make: Make, content: bytes
) -> None:
    happen(catalog, clock, "before")
    catalog.path.with_name("webhooks.json").write_bytes(content)
    with running(catalog, clock, make()):
        happen(catalog, clock, "after")
        there.wait_for(lambda: said(there) == ["after"], "what is new came")


def test_over_tls_only_a_receiver_with_a_trusted_certificate_gets_anything(
    catalog: Catalog, clock: Clock, make: Make, tmp_path: Path
) -> None:
    certificate = tmp_path / "receiver.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(certificate), "-out", str(tmp_path / "ca.pem"),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    certificate.write_text(certificate.read_text() + (tmp_path / "ca.pem").read_text())
    with receiver(certificate=certificate) as secure:
        trusted = make("trusted", url=secure.url, ca_bundle=tmp_path / "ca.pem", timeout_s=1.0)
        hooks = [trusted, make("not", url=secure.url), make("broken", url=secure.url, ca_bundle=tmp_path)]
        with running(catalog, clock, *hooks) as running_hooks:
            not_trusted = running_hooks.test("not")
            assert "certificate verify failed" in not_trusted.message
            assert not running_hooks.test("broken").is_delivered
            assert secure.got == []
            # Cut while it hangs, and sent again.
            secure.replies = [(0, {})]
            happen(catalog, clock, "one")
            secure.wait_for(lambda: said(secure) == ["one"], "it came")
    assert {got.document["webhook"] for got in secure.got} == {"trusted"}

"""Webhooks over the API, by the client, on the command line, and as metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.api_world import START, TOKENS, ApiWorld, api_world, connect, listening
from tierd.cli.program import program
from tierd.client import Tierd
from tierd.errors import NotFound
from tierd.model.webhook import Webhook, WebhookState, WebhookStatus, WebhookTest
from tierd.serve import ApiServer

WELL = WebhookStatus(
    webhook=Webhook(name="chat", url="https://chat.example.com/hooks/s3cr3t", secret_file=Path("/etc/tierd/chat")),
    delivered=12,
    last_success_at=START,
)
ILL = WebhookStatus(
    webhook=Webhook(name="on-call", url="http://10.0.0.7:8080", secret_file=Path("/etc/x"), events=("tier.*",)),
    state=WebhookState.FAILING,
    failures=3,
    missed=2,
    pending=5,
    oldest_pending_at=START - timedelta(minutes=7),
    last_error="HTTP 500 Oops\x1b[31m",
    last_error_at=START,
    next_attempt_at=START + timedelta(minutes=5),
)
TAKEN = WebhookTest(webhook="chat", is_delivered=True, status=204, message="HTTP 204 No Content", took_s=0.25)
NOT_TAKEN = WebhookTest(webhook="on-call", is_delivered=False, message="no answer within 10 s", took_s=10.0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        made.ports.webhooks = [WELL, ILL]
        made.ports.tested = {"chat": TAKEN, "on-call": NOT_TAKEN}
        yield made


@pytest.fixture
def server(world: ApiWorld) -> Iterator[ApiServer]:
    with listening(world) as made:
        yield made


def call(server: ApiServer, *words: str) -> Result:
    return CliRunner().invoke(program, list(words), env={"TIERD_URL": f"unix://{server.socket}"})


def test_the_api_tells_how_each_is_doing_and_no_secret(server: ApiServer) -> None:
    with connect(server) as client:
        answer = client.get("/v1/webhooks")
    assert "s3cr3t" not in answer.text
    assert "/etc" not in answer.text
    chat, on_call = answer.json()["items"]
    assert (chat["name"], chat["url"], chat["state"], chat["delivered"]) == (
        "chat",
        "https://chat.example.com/…",
        "working",
        12,
    )
    assert (on_call["pending"], on_call["oldest_pending_at"]) == (5, "2026-03-01T11:53:00Z")
    assert Tierd(f"unix://{server.socket}").webhooks()[1].next_attempt_at == ILL.next_attempt_at


def test_only_an_operator_may_send_a_test(world: ApiWorld) -> None:
    with listening(world, listen="127.0.0.1:0") as server:
        tierd = Tierd(f"unix://{server.socket}")
        assert tierd.test_webhook("on-call").message == "no answer within 10 s"
        with pytest.raises(NotFound, match="there is no webhook 'nobody'"):
            tierd.test_webhook("nobody")
        assert server.tcp_address is not None
        with httpx.Client(base_url=f"http://127.0.0.1:{server.tcp_address[1]}") as client:
            path = "/v1/webhooks/chat/test"
            allowed = {
                role: client.post(path, headers={"authorization": f"Bearer {token}"}).status_code
                for role, token in TOKENS.items()
            }
            listed = client.get("/v1/webhooks", headers={"authorization": f"Bearer {TOKENS['read']}"}).status_code
    assert allowed == {"read": 403, "warm": 403, "admin": 200}
    assert listed == 200


def test_the_command_shows_them_and_exits_by_what_came_back(server: ApiServer) -> None:
    shown = call(server, "webhook", "list")
    assert shown.exit_code == 0
    assert "on-call" in shown.stdout
    assert "5 since" in shown.stdout
    assert "HTTP 500 Oops\\x1b[31m" in shown.stdout
    assert len(json.loads(call(server, "webhook", "list", "--json").stdout)["items"]) == 2
    good = call(server, "webhook", "test", "chat")
    assert (good.exit_code, "HTTP 204 No Content" in good.stdout) == (0, True)
    both = call(server, "webhook", "test", "--json")
    assert both.exit_code == 1
    assert [t["is_delivered"] for t in json.loads(both.stdout)["items"]] == [True, False]
    none = call(server, "webhook", "test", "nobody")
    assert (none.exit_code, "there is no webhook 'nobody'" in none.stderr) == (4, True)


def test_doctor_names_the_one_that_fails(server: ApiServer) -> None:
    found = call(server, "doctor", "--url", f"unix://{server.socket}", "--config", "/nonexistent", "--json")
    looks = {look["what"]: look for look in json.loads(found.stdout)["looks"]}
    assert looks["webhook on-call"]["verdict"] == "bad"
    assert "5 events wait" in looks["webhook on-call"]["found"]
    assert "tierd webhook test on-call" in looks["webhook on-call"]["advice"]
    assert "webhook chat" not in looks


def test_metrics_tell_the_lag(server: ApiServer) -> None:
    with connect(server) as client:
        lines = client.get("/metrics").text.splitlines()
    assert 'tierd_webhook_delivered_total{webhook="chat"} 12.0' in lines
    assert 'tierd_webhook_failing{webhook="on-call"} 1.0' in lines
    assert 'tierd_webhook_missed_total{webhook="on-call"} 2.0' in lines
    assert 'tierd_webhook_pending_events{webhook="on-call"} 5.0' in lines
    oldest = [line for line in lines if line.startswith("tierd_webhook_oldest_pending_timestamp_seconds{")]
    assert len(oldest) == 1
    assert float(oldest[0].split()[-1]) == (START - timedelta(minutes=7)).timestamp()

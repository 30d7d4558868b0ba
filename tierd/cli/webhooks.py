"""The verb webhook: list, test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tierd.cli.options import Ask, remote
from tierd.cli.terminal import Cell, Shown, ago, say, table, until
from tierd.errors import TierdError
from tierd.model.units import format_duration

if TYPE_CHECKING:
    from tierd.client import Webhook, WebhookTest

_STYLES = {"working": "green", "failing": "bold red", "disabled": "bold red"}
_NONE = "no [[webhook]] is configured"


@click.group("webhook")
def webhook() -> None:
    """Show and test who is told of events: list, test."""


@webhook.command("list")
@remote
def list_(ask: Ask) -> None:
    """Show how each webhook is doing: its last success, its last error, and what waits.

    \b
    tierd webhook list
    """
    found = ask.daemon.webhooks()
    if ask.as_json:
        ask.json({"items": found})
    elif not found:
        say(_NONE)
    else:
        head = ("WEBHOOK", "TO", "STATE", "LAST SUCCESS", "PENDING", "MISSED", "NEXT TRY", "LAST ERROR")
        table(head, [_row(w) for w in found], right=("PENDING", "MISSED"))


def _row(w: Webhook) -> list[Shown]:
    waits = str(w.pending) if w.oldest_pending_at is None else f"{w.pending} since {ago(w.oldest_pending_at)}"
    error = "" if w.last_error is None else f"{w.last_error} ({ago(w.last_error_at)})"
    again = "" if w.next_attempt_at is None else until(w.next_attempt_at)
    state = Cell(w.state, _STYLES.get(w.state, ""))
    return [w.name, w.url, state, ago(w.last_success_at), waits, str(w.missed), again, error]


@webhook.command("test")
@click.argument("name", metavar="NAME", required=False, shell_complete=lambda ctx, _, word: _complete(ctx, word))
@remote
def test(ask: Ask, name: str | None) -> None:
    """Let the daemon send a test event to a webhook, or to all, and show what came back.

    It is signed like all others, sent once, and not repeated. Exits with 1 where a receiver did not take it.

    \b
    tierd webhook test
    tierd webhook test on-call
    """
    names = [name] if name is not None else [w.name for w in ask.daemon.webhooks()]
    found = [ask.daemon.test_webhook(each) for each in names]
    if ask.as_json:
        ask.json({"items": found})
    elif not found:
        say(_NONE)
    else:
        table(("WEBHOOK", "", "ANSWER", "TOOK"), [_answer(t) for t in found])
    click.get_current_context().exit(0 if all(t.is_delivered for t in found) else TierdError.exit_code)


def _answer(t: WebhookTest) -> list[Shown]:
    mark = Cell("✓", "green") if t.is_delivered else Cell("✗", "bold red")
    return [t.webhook, mark, t.message, format_duration(t.took_s)]


def _complete(ctx: click.Context, word: str) -> list[str]:
    from tierd.client import Tierd

    try:
        names = [w.name for w in Tierd(ctx.params.get("url"), ctx.params.get("token")).webhooks()]
    except TierdError:
        return []
    return [name for name in names if name.startswith(word)]

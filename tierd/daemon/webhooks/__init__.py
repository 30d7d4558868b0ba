"""Webhooks: each receiver is told of the events it wants, in order and at least once, by signed requests.

hook: the thread of one webhook · backlog: the events that wait for it · cursors: how far each came, kept on disk ·
payload: what is sent, and its signature · post: one request.
"""

from tierd.daemon.webhooks.hooks import Webhooks

__all__ = ["Webhooks"]

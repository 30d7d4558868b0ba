"""Filling an empty catalog from what lies on the tiers: look, plan (pure), apply."""

from __future__ import annotations

from tierd.move.rebuild.apply import apply
from tierd.move.rebuild.look import look
from tierd.move.rebuild.plan import plan
from tierd.move.rebuild.values import Action, Copy, Found, HomeTree, Left, Plan, Restore

__all__ = ["Action", "Copy", "Found", "HomeTree", "Left", "Plan", "Restore", "apply", "look", "plan"]

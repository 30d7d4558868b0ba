"""Deciding: pure functions of what is known and the time. The daemon, `plan` and `explain` run the same code."""

from tierd.decide.admission import admit
from tierd.decide.explain import explain
from tierd.decide.planner import plan

__all__ = ["admit", "explain", "plan"]

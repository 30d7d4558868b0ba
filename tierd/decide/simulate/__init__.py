"""Replays a recorded access log against policies and sizes of flash: what would have been, byte by byte.

trace: what was used when · order: the score functions of the planner as numbers that time does not change · ranking:
who leaves next · replay: one policy, one size · bounds: what no policy can beat ·
planned: what schedules foresee. Pure; no clock, no files.
"""

from tierd.decide.simulate.bounds import lower_bound
from tierd.decide.simulate.planned import planned
from tierd.decide.simulate.replay import Options, Outcome, replay
from tierd.decide.simulate.trace import Access, Trace

__all__ = ["Access", "Options", "Outcome", "Trace", "lower_bound", "planned", "replay"]

"""What should move, why, and whether a warm can be granted: pure functions of a view and a moment.

scene: what is the same for every snapshot · eligibility: the one list of checks · room: what fits where ·
victims: who leaves to make room · planner, explain, admission: the three answers made of these ·
withdrawal: what was begun and shall not be finished.
Knows no file, no database and no clock.
"""

from tierd.decide.admission import admit
from tierd.decide.explain import explain
from tierd.decide.planner import plan
from tierd.decide.withdrawal import withdrawn

__all__ = ["admit", "explain", "plan", "withdrawn"]

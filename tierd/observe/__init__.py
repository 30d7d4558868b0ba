"""What happens on the mounts: which snapshots there are, how large, how full the tiers, and when they are used.

measure: one walk over a tree · usage: how full a tier is · discover, reconcile: which snapshots exist, and what
that means for those already known · tracker: the interface of access tracking; fanotify_tracker, watchdog_tracker
(with forest, planter, inotify) and atime_tracker are its back ends, choose picks one · ledger: what they have seen ·
who, cgroups: who it was.

Parts of fanotify_tracker: filesystems: what is marked · listening, duty: when opens are listened for · intake: what
events mean · directories: whose an event is, allowance: how much time that may take · doubts: what was not seen ·
holders, holding: who has files open or mapped since before anybody listened.

Nothing here knows the catalog: observations are values of `tierd.model`, and the daemon carries them over.
"""

from tierd.observe.choose import choose
from tierd.observe.discover import Discovery, Found, FoundKind, Ignored, discover
from tierd.observe.measure import keeps_atime, measure
from tierd.observe.reconcile import Appeared, Back, Change, Gone, Renamed, Replaced, reconcile
from tierd.observe.tracker import Dirty, Tracker, TrackerStatus, Watch
from tierd.observe.usage import usage

__all__ = [
    "Appeared",
    "Back",
    "Change",
    "Dirty",
    "Discovery",
    "Found",
    "FoundKind",
    "Gone",
    "Ignored",
    "Renamed",
    "Replaced",
    "Tracker",
    "TrackerStatus",
    "Watch",
    "choose",
    "discover",
    "keeps_atime",
    "measure",
    "reconcile",
    "usage",
]

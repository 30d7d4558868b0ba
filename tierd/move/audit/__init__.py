"""Comparing what the catalog says with what lies on the tiers, and removing litter.

values: what is found · run: in which order · trees, objects: one kind of tier each · litter: what is in nobody's use
"""

from __future__ import annotations

from tierd.move.audit.run import audit
from tierd.move.audit.values import Finding, Kind, Question, Report

__all__ = ["Finding", "Kind", "Question", "Report", "audit"]

"""What was measured and must not begin anew with each start: rates of transfers, and counters."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from tierd.catalog.schema import counter, rate
from tierd.catalog.session import Session
from tierd.model.tier import TierName
from tierd.model.value import Cost

FLOOR = "floor"
Pair = tuple[TierName, TierName]


def count(conn: Connection, name: str, by: float = 1.0) -> None:
    """Add to a counter, in the transaction of what is counted."""
    added = insert(counter).values(name=name, value=by)
    conn.execute(added.on_conflict_do_update(index_elements=["name"], set_={"value": counter.c.value + by}))


class Measured(Session):
    """Rates and counters."""

    def measured_rates(self) -> dict[Pair, tuple[Cost, list[float]]]:
        """What transfers cost, by source and destination, and the sums that the next one is added to."""
        with self._reading() as conn:
            return {
                (TierName(r.source), TierName(r.destination)): (
                    Cost(start_s=r.start_s, s_per_byte=r.s_per_byte, s_per_file=r.s_per_file, samples=r.samples),
                    json.loads(r.learned),
                )
                for r in conn.execute(select(rate))
            }

    def keep_measured_rate(self, pair: Pair, cost: Cost, learned: list[float]) -> None:
        values = {
            "start_s": cost.start_s,
            "s_per_byte": cost.s_per_byte,
            "s_per_file": cost.s_per_file,
            "samples": cost.samples,
            "learned": json.dumps(learned),
        }
        kept = insert(rate).values(source=pair[0], destination=pair[1], **values)
        with self._writing() as conn:
            conn.execute(kept.on_conflict_do_update(index_elements=["source", "destination"], set_=values))

    def counters(self) -> Mapping[str, float]:
        """All counters since the catalog was made, by name; one that never counted is missing."""
        with self._reading() as conn:
            return {r.name: r.value for r in conn.execute(select(counter))}

    def raise_floor(self, value: float) -> None:
        """What left flash was worth so much: what is used from now on counts from there. See `Score.is_ageing`."""
        with self._writing() as conn:
            raised = insert(counter).values(name=FLOOR, value=value)
            higher = func.max(counter.c.value, raised.excluded.value)
            conn.execute(raised.on_conflict_do_update(index_elements=["name"], set_={"value": higher}))

    def count(self, name: str, by: float = 1.0) -> None:
        with self._writing() as conn:
            count(conn, name, by)

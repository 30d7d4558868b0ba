"""What is configured (tiers, datasets) as far as rows refer to it, and the few settings that survive a restart."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.sqlite import insert

from tierd.catalog import events
from tierd.catalog.lookup import dataset_must_exist, tier_must_exist
from tierd.catalog.schema import dataset, setting, tier
from tierd.catalog.session import Session
from tierd.model.dataset import Dataset, SnapshotRef
from tierd.model.phase import Phase
from tierd.model.tier import Tier, TierName

_ALL_PAUSED = "all_paused"


def is_all_paused(conn: Connection) -> bool:
    return conn.scalar(select(setting.c.value).where(setting.c.name == _ALL_PAUSED)) == "1"


def in_given_phases(conn: Connection, datasets: Sequence[Dataset]) -> list[Dataset]:
    """Configured datasets, each in the phase that an operator gave it."""
    query = select(dataset.c.name, dataset.c.phase).where(dataset.c.phase.is_not(None))
    given: dict[str, Phase] = {r.name: r.phase for r in conn.execute(query)}
    return [d.given(given.get(d.name)) for d in datasets]


class Settings(Session):
    """Tiers, datasets with their phases, and the pause of everything."""

    def configure(self, tiers: Sequence[Tier], datasets: Sequence[Dataset]) -> None:
        """Learn the configured tiers and datasets; those no longer configured keep their rows."""
        with self._writing() as conn:
            conn.execute(update(tier).values(is_configured=False))
            conn.execute(update(dataset).values(is_configured=False))
            for t in tiers:
                values = {"kind": t.kind, "root": t.root, "rank": t.rank, "is_configured": True}
                upsert = insert(tier).values(name=t.name, **values)
                conn.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=values))
            for d in datasets:
                home = {"path": d.path, "home": d.home, "pattern": d.pattern, "is_configured": True}
                upsert = insert(dataset).values(name=d.name, **home)
                conn.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=home))

    def in_given_phases(self, datasets: Sequence[Dataset]) -> list[Dataset]:
        """Configured datasets, each in the phase that an operator gave it: their policies are what counts now."""
        with self._reading() as conn:
            return in_given_phases(conn, datasets)

    def set_phase(self, name: str, phase: Phase | None, *, by: str, now: datetime) -> bool:
        """Give a dataset a phase, or None to leave it to the configuration; False when that is so already.

        Raises:
            NotFound: there is no such dataset.
        """
        with self._writing() as conn:
            dataset_must_exist(conn, name)
            if conn.scalar(select(dataset.c.phase).where(dataset.c.name == name)) == phase:
                return False
            conn.execute(update(dataset).where(dataset.c.name == name).values(phase=phase))
            what = "is in its configured phase again" if phase is None else f"is now in phase {phase}"
            detail = {"dataset": name, "phase": phase, "by": by}
            message = f"dataset {name} {what}, by {by}"
            events.append(conn, "dataset.phase", now=now, ref=SnapshotRef(name), message=message, detail=detail)
            return True

    def tier_identity(self, name: TierName) -> str | None:
        """The uuid of the store that belongs to this tier; None when it was never seen.

        Raises:
            NotFound: there is no such tier.
        """

        def read(conn: Connection) -> str | None:
            tier_must_exist(conn, name)
            return conn.scalar(select(tier.c.uuid).where(tier.c.name == name))

        return self._known(("identity of", name), read)

    def set_tier_identity(self, name: TierName, uuid: str) -> None:
        """Remember which store belongs to this tier.

        Raises:
            NotFound: there is no such tier.
        """
        with self._writing() as conn:
            tier_must_exist(conn, name)
            conn.execute(update(tier).where(tier.c.name == name).values(uuid=uuid))

    @property
    def all_paused(self) -> bool:
        """Whether no transfer shall be worked on."""
        with self._reading() as conn:
            return is_all_paused(conn)

    def set_all_paused(self, is_paused: bool, now: datetime) -> None:
        """Pause or resume all transfers; survives a restart."""
        with self._writing() as conn:
            if is_all_paused(conn) == is_paused:
                return
            value = {"value": "1" if is_paused else "0"}
            upsert = insert(setting).values(name=_ALL_PAUSED, **value)
            conn.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=value))
            events.append(conn, "transfers.paused" if is_paused else "transfers.resumed", now=now)

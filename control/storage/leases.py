"""Leases of executors: who of the processes that carry out sync work is alive.

An executor is one start of one region process; its id is never used again. Taking over is one conditional UPDATE, so
that of several takers one wins; a taker that dies half-way lapses too (``taken_at``). Times are the database's clock on
PostgreSQL, where several machines' clocks would differ, and this machine's on SQLite.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bootplane.control.storage.database import Database
from bootplane.control.storage.models import LeaseRow


class LeaseRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, executor_id: str) -> None:
        with self._database.begin() as session:
            now = self._now(session)
            done = session.execute(sa.update(LeaseRow).where(LeaseRow.id == executor_id).values(beat=now, taker=None))
            if done.rowcount == 0:  # type: ignore[attr-defined]
                session.add(LeaseRow(id=executor_id, beat=now, taker=None, taken_at=None))

    def claim_lapsed(self, taker: str, lease_s: float) -> list[str]:
        """Executors whose lease has lapsed and which *taker* may now take over; nobody else gets them for a lease.

        A lease of 0 claims every other executor at once: for a region that holds its data directory's lock and so
        knows that all earlier processes are gone.
        """
        with self._database.begin() as session:
            now = self._now(session)
            rows = session.execute(
                sa.update(LeaseRow)
                .where(
                    LeaseRow.id != taker,
                    LeaseRow.beat <= now - lease_s,
                    sa.or_(LeaseRow.taker.is_(None), LeaseRow.taken_at <= now - lease_s),
                )
                .values(taker=taker, taken_at=now)
                .returning(LeaseRow.id)
            )
            return sorted(rows.scalars())

    def release(self, executor_id: str) -> None:
        """Nothing is left of this executor: it ended by itself, or all its work was taken over."""
        with self._database.begin() as session:
            session.execute(sa.delete(LeaseRow).where(LeaseRow.id == executor_id))

    def _now(self, session: Session) -> float:
        if session.get_bind().dialect.name == "sqlite":
            return time.time()
        return float(session.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())

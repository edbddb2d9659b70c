"""Syncs and the attempts they made.

Invariant: at most one run is unfinished. It survives its process: a region that starts and finds one goes on with it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import sqlalchemy as sa

from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.models import AttemptRow, RunRow

FAILED_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Run:
    id: int
    state: str
    starts: int  # processes that have worked on it
    started: str
    finished: str | None
    error: str | None


class RunRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self) -> Run:
        """The unfinished run if there is one, else a new one; its count of starts goes up."""
        with self._database.begin() as session:
            row = session.scalar(sa.select(RunRow).where(RunRow.finished.is_(None)).order_by(RunRow.id.desc()))
            if row is None:
                row = RunRow(state="refreshing", starts=0, started=now_text(), finished=None, error=None)
                session.add(row)
            row.starts += 1
            session.flush()
            return _run(row)

    def unfinished(self) -> Run | None:
        with self._database.read() as session:
            row = session.scalar(sa.select(RunRow).where(RunRow.finished.is_(None)).order_by(RunRow.id.desc()))
            return _run(row) if row else None

    def last(self) -> Run | None:
        with self._database.read() as session:
            row = session.scalar(sa.select(RunRow).order_by(RunRow.id.desc()).limit(1))
            return _run(row) if row else None

    def failed_in_a_row(self) -> int:
        """How many of the last finished runs failed, the last one first; stopped ones do not count either way."""
        with self._database.read() as session:
            states = session.scalars(
                sa.select(RunRow.state)
                .where(RunRow.finished.is_not(None), RunRow.state != "stopped")
                .order_by(RunRow.id.desc())
                .limit(FAILED_COUNTED)
            )
            return sum(1 for _ in itertools.takewhile(lambda state: state == "failed", states))

    def enter(self, run_id: int, state: str) -> None:
        with self._database.begin() as session:
            session.execute(sa.update(RunRow).where(RunRow.id == run_id).values(state=state))

    def finish(self, run_id: int, state: str, error: str | None) -> None:
        with self._database.begin() as session:
            session.execute(
                sa.update(RunRow).where(RunRow.id == run_id).values(state=state, finished=now_text(), error=error)
            )
            session.execute(sa.delete(AttemptRow))  # attempts belong to a run; the next one starts afresh

    def attempt(self, work_id: str) -> int:
        """Count one more beginning of *work_id*; returns how many there have been, this one included."""
        with self._database.begin() as session:
            row = session.get(AttemptRow, work_id)
            if row is None:
                row = AttemptRow(work_id=work_id, count=0, error=None)
                session.add(row)
            row.count += 1
            return row.count

    def attempt_failed(self, work_id: str, error: str) -> None:
        with self._database.begin() as session:
            session.execute(sa.update(AttemptRow).where(AttemptRow.work_id == work_id).values(error=error))

    def attempt_error(self, work_id: str) -> str | None:
        with self._database.read() as session:
            row = session.get(AttemptRow, work_id)
            return row.error if row else None


def _run(row: RunRow) -> Run:
    return Run(row.id, row.state, row.starts, row.started, row.finished, row.error)

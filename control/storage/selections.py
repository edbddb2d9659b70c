"""Selections: what the operator wants mirrored."""

from __future__ import annotations

import sqlalchemy as sa

from bootplane.control.domain.images import Selection
from bootplane.control.errors import Conflict, NotFound
from bootplane.control.storage.database import Database
from bootplane.control.storage.models import SelectionRow


class SelectionRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> list[Selection]:
        with self._database.read() as session:
            return [_selection(row) for row in session.scalars(sa.select(SelectionRow).order_by(SelectionRow.id))]

    def add(
        self, os: str, release: str, arches: tuple[str, ...], subarches: tuple[str, ...], labels: tuple[str, ...]
    ) -> Selection:
        """Raises Conflict when the very same selection exists."""
        with self._database.begin() as session:
            for row in session.scalars(sa.select(SelectionRow)):
                same = (row.os, row.release, tuple(row.arches), tuple(row.subarches), tuple(row.labels))
                if same == (os, release, arches, subarches, labels):
                    raise Conflict(f"selection {os} {release} for {', '.join(arches)}: it exists already, id {row.id}")
            row = SelectionRow(
                os=os, release=release, arches=list(arches), subarches=list(subarches), labels=list(labels)
            )
            session.add(row)
            session.flush()
            return _selection(row)

    def remove(self, selection_id: str) -> Selection:
        with self._database.begin() as session:
            row = session.get(SelectionRow, int(selection_id)) if selection_id.isdecimal() else None
            if row is None:
                raise NotFound(f"selection {selection_id!r}: there is none with this id")
            selection = _selection(row)
            session.delete(row)
            return selection


def _selection(row: SelectionRow) -> Selection:
    return Selection(str(row.id), row.os, row.release, tuple(row.arches), tuple(row.subarches), tuple(row.labels))

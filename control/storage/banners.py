"""Banners: conditions an operator should see until they end."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.models import BannerRow


@dataclass(frozen=True, slots=True)
class Banner:
    id: str
    text: str
    since: str
    remedy: str


class BannerRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> list[Banner]:
        with self._database.read() as session:
            rows = session.scalars(sa.select(BannerRow).order_by(BannerRow.since))
            return [Banner(row.id, row.text, row.since, row.remedy) for row in rows]

    def raise_(self, banner_id: str, text: str, remedy: str) -> bool:
        """Show it; True when it was not shown before or says something new. ``since`` is kept while it lasts."""
        with self._database.begin() as session:
            row = session.get(BannerRow, banner_id)
            if row is None:
                session.add(BannerRow(id=banner_id, text=text, since=now_text(), remedy=remedy))
                return True
            changed = (row.text, row.remedy) != (text, remedy)
            row.text, row.remedy = text, remedy
            return changed

    def end(self, banner_id: str) -> bool:
        """True when it was shown."""
        with self._database.begin() as session:
            done = session.execute(sa.delete(BannerRow).where(BannerRow.id == banner_id))
            return bool(done.rowcount)  # type: ignore[attr-defined]

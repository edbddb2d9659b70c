"""Banners: conditions an operator should see until they end."""

from __future__ import annotations

from collections.abc import Callable
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
    """*changed* is told of each banner that begins, says something new or ends: (banner, whether it stands)."""

    def __init__(self, database: Database, changed: Callable[[Banner, bool], None] | None = None) -> None:
        self._database = database
        self._changed = changed

    def list(self) -> list[Banner]:
        with self._database.read() as session:
            rows = session.scalars(sa.select(BannerRow).order_by(BannerRow.since))
            return [Banner(row.id, row.text, row.since, row.remedy) for row in rows]

    def raise_(self, banner_id: str, text: str, remedy: str) -> bool:
        """Show it; True when it was not shown before or says something new. ``since`` is kept while it lasts."""
        with self._database.begin() as session:
            row = session.get(BannerRow, banner_id)
            changed = row is None or (row.text, row.remedy) != (text, remedy)
            if row is None:
                row = BannerRow(id=banner_id, since=now_text())
                session.add(row)
            row.text, row.remedy = text, remedy
            banner = Banner(banner_id, text, row.since, remedy)
        if changed and self._changed is not None:
            self._changed(banner, True)
        return changed

    def end(self, banner_id: str) -> bool:
        """True when it was shown."""
        with self._database.begin() as session:
            row = session.get(BannerRow, banner_id)
            if row is None:
                return False
            banner = Banner(row.id, row.text, row.since, row.remedy)
            session.delete(row)
        if self._changed is not None:
            self._changed(banner, False)
        return True

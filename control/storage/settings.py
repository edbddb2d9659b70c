"""Facts of the region itself, by key."""

from __future__ import annotations

from bootplane.control.storage.database import Database
from bootplane.control.storage.models import SettingRow

REGION_ID = "region_id"
CATALOGUE_VERSION = "catalogue_version"
CATALOGUE_DIGEST = "catalogue_digest"
SYNC_DECIDED = "sync_decided"  # id of the last run that read all sources and found all that is selected


class SettingsRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        with self._database.read() as session:
            row = session.get(SettingRow, key)
            return row.value if row else None

    def put(self, values: dict[str, str]) -> None:
        """All of *values* in one transaction."""
        with self._database.begin() as session:
            for key, value in values.items():
                session.merge(SettingRow(key=key, value=value))

    def get_or_put(self, key: str, value: str) -> str:
        """What stands under *key*, after writing *value* if nothing did."""
        with self._database.begin() as session:
            row = session.get(SettingRow, key)
            if row is None:
                row = SettingRow(key=key, value=value)
                session.add(row)
            return row.value

"""Racks and the secrets they speak with (kept as SHA-256: random 256-bit secrets need no slow hash)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.models import RackRow
from bootplane.dataplane.limits import Limits


@dataclass(frozen=True, slots=True)
class RackRecord:
    id: str
    name: str
    secret_sha256: str
    created: str
    last_seen: str | None = None
    http: str | None = None  # as machines reach it
    tftp: str | None = None
    catalogue_version: int | None = None
    cache: Mapping[str, Any] | None = None
    https: str | None = None


class RackRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> list[RackRecord]:
        """Racks whose token is valid, in the order of their making."""
        with self._database.read() as session:
            rows = session.scalars(sa.select(RackRow).where(RackRow.revoked.is_(None)).order_by(RackRow.created))
            return [
                RackRecord(
                    row.id,
                    row.name,
                    row.secret_sha256,
                    row.created,
                    row.last_seen,
                    row.http,
                    row.tftp,
                    row.catalogue_version,
                    row.cache,
                    row.https,
                )
                for row in rows
            ]

    def add(self, rack_id: str, name: str, secret_sha256: str) -> RackRecord:
        record = RackRecord(rack_id, name, secret_sha256, now_text())
        with self._database.begin() as session:
            session.add(RackRow(id=rack_id, name=name, secret_sha256=secret_sha256, created=record.created))
        return record

    def revoke(self, rack_id: str) -> None:
        with self._database.begin() as session:
            session.execute(sa.update(RackRow).where(RackRow.id == rack_id).values(revoked=now_text()))

    def limits(self) -> dict[str, Limits]:
        """What is set for each rack, by its id."""
        columns = RackRow.id, RackRow.limit_cache_bytes, RackRow.limit_upstream_bytes_s, RackRow.limit_shares
        with self._database.read() as session:
            found = session.execute(sa.select(*columns).where(RackRow.revoked.is_(None)))
            return {rack_id: Limits(cache_bytes, rate, shares) for rack_id, cache_bytes, rate, shares in found}

    def set_limits(self, rack_id: str, changes: Mapping[str, int | str | None]) -> Limits:
        """Sets what *changes* names (fields of Limits), and leaves the others alone; returns all."""
        with self._database.begin() as session:
            row = session.get_one(RackRow, rack_id)
            for key, value in changes.items():
                setattr(row, f"limit_{key}", value)
            return Limits(row.limit_cache_bytes, row.limit_upstream_bytes_s, row.limit_shares)

    def seen(self, record: RackRecord) -> None:
        """Keep what its last beat said."""
        with self._database.begin() as session:
            session.execute(
                sa.update(RackRow)
                .where(RackRow.id == record.id)
                .values(
                    last_seen=record.last_seen,
                    http=record.http,
                    tftp=record.tftp,
                    https=record.https,
                    catalogue_version=record.catalogue_version,
                    cache=dict(record.cache) if record.cache is not None else None,
                )
            )

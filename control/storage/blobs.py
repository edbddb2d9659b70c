"""Blobs of the store and files derived from boot loader archives.

Invariant: a row without ``removed`` means the file stands complete under its final name; the row is written after the
rename and its directory's fsync. reconcile() restores this at start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.models import BlobRow, DerivedRow


@dataclass(frozen=True, slots=True)
class BlobRecord:
    sha256: str
    size: int  # bytes
    root: str


@dataclass(frozen=True, slots=True)
class DerivedFile:
    """One file of an unpacked archive."""

    name: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Usage:
    blobs: int
    bytes: int


class BlobRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def present(self) -> dict[str, BlobRecord]:
        with self._database.read() as session:
            rows = session.scalars(sa.select(BlobRow).where(BlobRow.removed.is_(None)))
            return {row.sha256: BlobRecord(row.sha256, row.size, row.root) for row in rows}

    def usage(self) -> Usage:
        with self._database.read() as session:
            query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(BlobRow.size), 0))
            count, total = session.execute(query.where(BlobRow.removed.is_(None))).one()
            return Usage(int(count), int(total))

    def get(self, sha256: str) -> BlobRecord | None:
        with self._database.read() as session:
            row = session.get(BlobRow, sha256)
            return BlobRecord(row.sha256, row.size, row.root) if row and row.removed is None else None

    def is_removed(self, sha256: str) -> bool:
        """True when it was here once and has been taken away."""
        with self._database.read() as session:
            row = session.get(BlobRow, sha256)
            return row is not None and row.removed is not None

    def record(self, blobs: Iterable[BlobRecord]) -> None:
        with self._database.begin() as session:
            for blob in blobs:
                session.merge(
                    BlobRow(sha256=blob.sha256, size=blob.size, root=blob.root, created=now_text(), removed=None)
                )

    def unused_since(self, used: set[str], before: str) -> list[str]:
        """Present blobs that are not in *used* and were made before the time *before*."""
        with self._database.read() as session:
            rows = session.scalars(sa.select(BlobRow.sha256).where(BlobRow.removed.is_(None), BlobRow.created < before))
            return sorted(set(rows) - used)

    def mark_removed(self, digests: Sequence[str]) -> None:
        with self._database.begin() as session:
            session.execute(sa.update(BlobRow).where(BlobRow.sha256.in_(digests)).values(removed=now_text()))

    def forget(self, digests: Sequence[str]) -> None:
        """Drop rows whose file has vanished: not removed by us, so to be fetched again."""
        with self._database.begin() as session:
            session.execute(sa.delete(BlobRow).where(BlobRow.sha256.in_(digests)))

    def record_derived(self, archive_sha256: str, files: Sequence[DerivedFile], blobs: Sequence[BlobRecord]) -> None:
        """The files of one archive with their blobs, in one transaction: unpacked means all of them are there."""
        with self._database.begin() as session:
            session.execute(sa.delete(DerivedRow).where(DerivedRow.archive_sha256 == archive_sha256))
            for blob in blobs:
                session.merge(
                    BlobRow(sha256=blob.sha256, size=blob.size, root=blob.root, created=now_text(), removed=None)
                )
            for file in files:
                session.add(
                    DerivedRow(archive_sha256=archive_sha256, name=file.name, sha256=file.sha256, size=file.size)
                )

    def derived(self) -> Mapping[str, tuple[DerivedFile, ...]]:
        """Archive's sha256 -> its files."""
        found: dict[str, tuple[DerivedFile, ...]] = {}
        with self._database.read() as session:
            for row in session.scalars(sa.select(DerivedRow).order_by(DerivedRow.archive_sha256, DerivedRow.name)):
                found[row.archive_sha256] = (
                    *found.get(row.archive_sha256, ()),
                    DerivedFile(row.name, row.sha256, row.size),
                )
        return found

    def forget_derived(self, archives: Sequence[str]) -> None:
        with self._database.begin() as session:
            session.execute(sa.delete(DerivedRow).where(DerivedRow.archive_sha256.in_(archives)))

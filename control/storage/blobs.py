"""Blobs of the store and files derived from boot loader archives.

Invariants: a row with neither ``removed`` nor ``lost`` means the file stands complete under its final name; the row is
written after the rename and its directory's fsync. reconcile() restores this at start. A lost blob has been promised to
racks, and those that hold it go on serving it; its file is wanted again. What a set names is never taken away:
take_away() looks at the sets in the transaction in which it decides.

Of what was removed the newest REMOVED_KEPT are known, and at most BATCH more: a mirror of a hundred products of five
files with two versions a month takes away 60,000 in five years, one of daily images a million, and nobody but a rack
that has slept asks for any. It is told 410 for those and 404 for older ones, and does the same about either in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.models import BlobRow, DerivedRow, FileRow, UploadFileRow, UploadRow


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


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A blob that nothing names. *unnamed_in*: the first catalogue version without it."""

    sha256: str
    size: int  # bytes
    created: str
    marked: str
    unnamed_in: int


@dataclass(frozen=True, slots=True)
class Checks:
    """How far the re-hash is. *oldest*: every blob has been seen to be right since then; None: not every one has."""

    due: int
    oldest: str | None
    newest: str | None


UPLOADED = "complete"  # state of an upload that has become a set
BATCH = 500  # digests in one statement
REMOVED_KEPT = 10_000  # most lately removed ones that are told from those that were never here
_HERE = sa.and_(BlobRow.removed.is_(None), BlobRow.lost.is_(None))


class BlobRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def present(self) -> dict[str, BlobRecord]:
        return self._records(_HERE)

    def promised(self) -> dict[str, BlobRecord]:
        """Those that are present, and those that are lost."""
        return self._records(BlobRow.removed.is_(None))

    def _records(self, which: sa.ColumnElement[bool]) -> dict[str, BlobRecord]:
        with self._database.read() as session:
            rows = session.execute(sa.select(BlobRow.sha256, BlobRow.size, BlobRow.root).where(which))
            return {sha256: BlobRecord(sha256, size, root) for sha256, size, root in rows}

    def lost(self) -> set[str]:
        with self._database.read() as session:
            query = sa.select(BlobRow.sha256).where(BlobRow.removed.is_(None), BlobRow.lost.is_not(None))
            return set(session.scalars(query))

    def usage(self) -> Usage:
        with self._database.read() as session:
            query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(BlobRow.size), 0))
            count, total = session.execute(query.where(_HERE)).one()
            return Usage(int(count), int(total))

    def get(self, sha256: str) -> BlobRecord | None:
        with self._database.read() as session:
            row = session.get(BlobRow, sha256)
            is_here = row is not None and row.removed is None and row.lost is None
            return BlobRecord(row.sha256, row.size, row.root) if row and is_here else None

    def is_removed(self, sha256: str) -> bool:
        """True when it was here once and has been taken away."""
        with self._database.read() as session:
            row = session.get(BlobRow, sha256)
            return row is not None and row.removed is not None

    def removed(self) -> list[str]:
        """Those that were here once and have been taken away, as far as that is known."""
        with self._database.read() as session:
            return list(session.scalars(sa.select(BlobRow.sha256).where(BlobRow.removed.is_not(None))))

    def record(self, blobs: Iterable[BlobRecord], *, is_checked: bool = True) -> None:
        """Their files are here. *is_checked*: all of their bytes have just been hashed."""
        with self._database.begin() as session:
            for blob in blobs:
                session.merge(_row(blob, is_checked=is_checked))

    # -- what nothing names

    def mark(self, used: Iterable[str], published: Iterable[str], version: int) -> tuple[int, int]:
        """Marks what neither sets (*used*) nor the catalogue (*published*, which is *version*) name, and un-marks what
        they do; how many of each."""
        named = {*used, *published}
        with self._database.begin() as session:
            rows = session.execute(sa.select(BlobRow.sha256, BlobRow.marked).where(BlobRow.removed.is_(None))).all()
            wanted = [row.sha256 for row in rows if row.marked is not None and row.sha256 in named]
            unnamed = [row.sha256 for row in rows if row.marked is None and row.sha256 not in named]
            for batch in _batches(wanted):
                query = sa.update(BlobRow).where(BlobRow.sha256.in_(batch))
                session.execute(query.values(marked=None, unnamed_in=None))
            for batch in _batches(unnamed):
                query = sa.update(BlobRow).where(BlobRow.sha256.in_(batch))
                session.execute(query.values(marked=now_text(), unnamed_in=version))
        return len(unnamed), len(wanted)

    def unnamed(self) -> list[Unnamed]:
        """What is marked and here, the oldest first."""
        query = sa.select(BlobRow).where(BlobRow.removed.is_(None), BlobRow.marked.is_not(None))
        with self._database.read() as session:
            return [
                Unnamed(row.sha256, row.size, row.created, row.marked or "", row.unnamed_in or 0)
                for row in session.scalars(query.order_by(BlobRow.marked, BlobRow.sha256))
            ]

    def marked_bytes(self) -> int:
        with self._database.read() as session:
            query = sa.select(sa.func.coalesce(sa.func.sum(BlobRow.size), 0))
            return int(session.scalar(query.where(_HERE, BlobRow.marked.is_not(None))) or 0)

    def take_away(self, digests: Sequence[str]) -> list[str]:
        """Of these, those that no set and no upload names count as removed from here on: their files may go. Returns
        them."""
        named = sa.select(FileRow.sha256)
        uploaded = sa.select(UploadFileRow.sha256).join(UploadRow, UploadRow.id == UploadFileRow.upload_id)
        uploaded = uploaded.where(UploadRow.state != UPLOADED)
        of_archives = sa.select(DerivedRow.sha256).where(DerivedRow.archive_sha256.in_(named))
        gone: list[str] = []
        with self._database.begin() as session:
            for batch in _batches(digests):
                query = sa.select(BlobRow.sha256).where(BlobRow.sha256.in_(batch), BlobRow.removed.is_(None))
                for users in (named, uploaded, of_archives):
                    query = query.where(BlobRow.sha256.not_in(users))
                found = list(session.scalars(query))
                session.execute(sa.update(BlobRow).where(BlobRow.sha256.in_(found)).values(removed=now_text()))
                gone += found
            latest = sa.select(BlobRow.removed).where(BlobRow.removed.is_not(None)).order_by(BlobRow.removed.desc())
            if oldest := session.scalar(latest.offset(REMOVED_KEPT - 1).limit(1)):
                session.execute(sa.delete(BlobRow).where(BlobRow.removed < oldest))
        return gone

    # -- whether their bytes are still right

    def due(self, before: str) -> BlobRecord | None:
        """The present blob to be looked at first: one nobody has seen to be right, else the one seen longest ago, if
        that was before the time *before*."""
        is_due = sa.or_(BlobRow.checked.is_(None), BlobRow.checked < before)
        query = sa.select(BlobRow).where(_HERE, is_due)
        query = query.order_by(BlobRow.checked.is_not(None), BlobRow.checked, BlobRow.sha256).limit(1)
        with self._database.read() as session:
            row = session.scalar(query)
            return BlobRecord(row.sha256, row.size, row.root) if row else None

    def checked(self, sha256: str) -> None:
        """All of its bytes were read and are right."""
        with self._database.begin() as session:
            session.execute(sa.update(BlobRow).where(BlobRow.sha256 == sha256).values(checked=now_text()))

    def doubt(self, digests: Sequence[str]) -> int:
        """Those of them that are here are to be looked at soon; how many."""
        count = 0
        with self._database.begin() as session:
            for batch in _batches(digests):
                query = sa.update(BlobRow).where(BlobRow.sha256.in_(batch), _HERE)
                done = session.execute(query.values(checked=None))
                count += int(done.rowcount)  # type: ignore[attr-defined]
        return count

    def doubt_since(self, created: str) -> int:
        """Those that came at or after the time *created* are to be looked at soon; how many."""
        with self._database.begin() as session:
            query = sa.update(BlobRow).where(BlobRow.created >= created, _HERE)
            done = session.execute(query.values(checked=None))
            return int(done.rowcount)  # type: ignore[attr-defined]

    def checks(self, before: str) -> Checks:
        """*before*: as for due()."""
        is_due = sa.case((sa.or_(BlobRow.checked.is_(None), BlobRow.checked < before), 1), else_=0)
        is_new = sa.case((BlobRow.checked.is_(None), 1), else_=0)
        columns = sa.func.sum(is_due), sa.func.sum(is_new), sa.func.min(BlobRow.checked), sa.func.max(BlobRow.checked)
        with self._database.read() as session:
            due, new, oldest, newest = session.execute(sa.select(*columns).where(_HERE)).one()
            return Checks(int(due or 0), None if new else oldest, newest)

    def lose(self, digests: Sequence[str]) -> None:
        """Their files have vanished, or are not what they were: not removed by us, so to be fetched again."""
        with self._database.begin() as session:
            for batch in _batches(digests):
                query = sa.update(BlobRow).where(BlobRow.sha256.in_(batch), _HERE)
                session.execute(query.values(lost=now_text()))

    def record_derived(self, archive_sha256: str, files: Sequence[DerivedFile], blobs: Sequence[BlobRecord]) -> None:
        """The files of one archive with their blobs, in one transaction: unpacked means all of them are there."""
        with self._database.begin() as session:
            session.execute(sa.delete(DerivedRow).where(DerivedRow.archive_sha256 == archive_sha256))
            for blob in blobs:
                session.merge(_row(blob, is_checked=True))
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


def _row(blob: BlobRecord, *, is_checked: bool) -> BlobRow:
    now = now_text()
    return BlobRow(
        sha256=blob.sha256,
        size=blob.size,
        root=blob.root,
        created=now,
        removed=None,
        marked=None,
        unnamed_in=None,
        checked=now if is_checked else None,
        lost=None,
    )


def _batches(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(digests), BATCH):
        yield digests[at : at + BATCH]

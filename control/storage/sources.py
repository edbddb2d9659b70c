"""Boot sources and the newest documents accepted from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bootplane.control.domain.images import BootSource
from bootplane.control.errors import Conflict, NotFound
from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.models import SourceDocumentRow, SourceReleaseRow, SourceRow

OFFERED_CHARACTERS = 64  # of an os or release that can be a name of ours


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A boot source and what the last look at it said."""

    source: BootSource
    fingerprints: tuple[str, ...]
    last_checked: str | None  # ours: when it was last looked at with success or without
    last_updated: str | None  # its own: `updated` of the accepted index
    error: str | None  # the sentence of the last refusal; None after a success
    older_since: str | None = None  # what it says is older than what was accepted, since then


class SourceRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> list[SourceRecord]:
        """Highest priority first."""
        with self._database.read() as session:
            rows = session.scalars(sa.select(SourceRow).order_by(SourceRow.priority.desc(), SourceRow.id))
            return [_record(row) for row in rows]

    def find(self, key: str) -> SourceRecord:
        """By id or name. Raises NotFound."""
        with self._database.read() as session:
            return _record(_row(session, key))

    def add(
        self,
        *,
        name: str,
        url: str,
        keyring: bytes | None,
        unsigned: bool,
        priority: int | None,
        fingerprints: Sequence[str],
        updated: str | None,
        ca: str = "",
    ) -> SourceRecord:
        """Raises Conflict when the URL or the name is taken. No *priority* means one above the highest."""
        with self._database.begin() as session:
            _refuse_taken(session, name, url)
            if priority is None:
                priority = (session.scalar(sa.select(sa.func.max(SourceRow.priority))) or 0) + 1
            row = SourceRow(
                name=name,
                url=url,
                keyring=keyring,
                unsigned=unsigned,
                priority=priority,
                enabled=True,
                fingerprints=list(fingerprints),
                last_checked=now_text(),
                last_updated=updated,
                error=None,
                ca=ca or None,
                older_since=None,
            )
            session.add(row)
            session.flush()
            return _record(row)

    def refuse_taken(self, *, name: str | None = None, url: str | None = None, but: str = "0") -> None:
        """Raises Conflict when a source other than *but* has this name or URL."""
        with self._database.read() as session:
            _refuse_taken(session, name, url, int(but))

    def change(self, source_id: str, values: Mapping[str, Any]) -> SourceRecord:
        """*values*: column -> value. Raises NotFound, and Conflict as ``add`` does."""
        with self._database.begin() as session:
            row = _row(session, source_id)
            _refuse_taken(session, values.get("name"), values.get("url"), row.id)
            for name, value in values.items():
                setattr(row, name, value)
            session.flush()
            return _record(row)

    def checked(self, source_id: str, *, updated: str | None, error: str | None) -> None:
        """Note the outcome of a look at it: *updated* is the accepted index's own date, "" when it has none; None when
        nothing was accepted. An *error* leaves what was accepted before as it is."""
        with self._database.begin() as session:
            row = session.get(SourceRow, int(source_id))
            if row is None:
                return  # removed meanwhile
            row.last_checked = now_text()
            row.error = error
            if updated is not None:  # it was accepted
                row.last_updated = updated or row.last_updated
                row.older_since = None

    def older(self, source_id: str) -> str:
        """It says less than before, once more; returns since when."""
        with self._database.begin() as session:
            row = session.get(SourceRow, int(source_id))
            if row is None:
                return now_text()
            row.older_since = row.older_since or now_text()
            return row.older_since

    def accepted(self, source_id: str) -> dict[str, str]:
        """content id -> `updated` (ISO 8601, UTC) of the newest accepted document; "" is the index."""
        with self._database.read() as session:
            rows = session.scalars(sa.select(SourceDocumentRow).where(SourceDocumentRow.source_id == int(source_id)))
            return {row.content_id: row.updated for row in rows}

    def accept(self, source_id: str, updated: Mapping[str, str]) -> None:
        """From now on these are the newest accepted documents of the source. What is not among them keeps its date: a
        list that goes and comes back must not come back older."""
        with self._database.begin() as session:
            if session.get(SourceRow, int(source_id)) is None:
                return  # removed meanwhile
            for content_id, when in updated.items():
                session.merge(
                    SourceDocumentRow(
                        source_id=int(source_id), content_id=content_id, updated=when, accepted=now_text()
                    )
                )

    def offer(self, source_id: str, releases: Iterable[tuple[str, str]]) -> None:
        """From now on the source offers these (os, release), wanted or not."""
        with self._database.begin() as session:
            if session.get(SourceRow, int(source_id)) is None:
                return  # removed meanwhile
            session.execute(sa.delete(SourceReleaseRow).where(SourceReleaseRow.source_id == int(source_id)))
            for os, release in sorted(set(releases)):
                if len(os) <= OFFERED_CHARACTERS and len(release) <= OFFERED_CHARACTERS:
                    session.add(SourceReleaseRow(source_id=int(source_id), os=os, release=release))

    def offered(self) -> set[tuple[str, str]]:
        """(os, release) of all sources; a boot loader's release is empty."""
        with self._database.read() as session:
            return {(row.os, row.release) for row in session.scalars(sa.select(SourceReleaseRow))}

    def remove(self, key: str) -> SourceRecord:
        with self._database.begin() as session:
            row = _row(session, key)
            record = _record(row)
            session.delete(row)
            return record


def _row(session: Session, key: str) -> SourceRow:
    row = session.get(SourceRow, int(key)) if key.isdecimal() and len(key) < 10 else None
    row = row or session.scalar(sa.select(SourceRow).where(SourceRow.name == key))
    if row is None:
        raise NotFound(f"boot source {key!r}: there is none with this id or name")
    return row


def _refuse_taken(session: Session, name: str | None, url: str | None, but: int = 0) -> None:
    for column, value in ((SourceRow.url, url), (SourceRow.name, name)):
        query = sa.select(SourceRow).where(column == value, SourceRow.id != but)
        other = session.scalar(query) if value is not None else None
        if other is not None:
            raise Conflict(f"boot source {value!r}: there is one already, `{other.name}` with URL {other.url}")


def _record(row: SourceRow) -> SourceRecord:
    source = BootSource(
        id=str(row.id),
        name=row.name,
        url=row.url,
        keyring=row.keyring,
        unsigned=row.unsigned,
        priority=row.priority,
        enabled=row.enabled,
        ca=row.ca or "",
    )
    return SourceRecord(source, tuple(row.fingerprints), row.last_checked, row.last_updated, row.error, row.older_since)

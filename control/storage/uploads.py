"""Uploads under way, and those that came in lately: what a client announced, so that it can go on after any stop.

How much has arrived is not here: the store's partial file says that, and it alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import selectinload

from bootplane.control.domain.images import UPLOADED, UPLOADED_LABEL, BootResource, ResourceFile
from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.models import UploadFileRow, UploadRow

RECEIVING, COMPLETE, FAILED = "receiving", "complete", "failed"


@dataclass(frozen=True, slots=True)
class Upload:
    id: str
    resource: BootResource
    files: tuple[ResourceFile, ...]
    state: str
    version: str | None  # of the set it became
    error: str | None
    created: str
    touched: str  # last sign of life

    @property
    def size(self) -> int:
        """Bytes of the distinct files."""
        return sum({file.sha256: file.size for file in self.files}.values())


class UploadRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> list[Upload]:
        """The oldest first."""
        query = sa.select(UploadRow).options(selectinload(UploadRow.files)).order_by(UploadRow.created, UploadRow.id)
        with self._database.read() as session:
            return [_upload(row) for row in session.scalars(query)]

    def get(self, upload_id: str) -> Upload | None:
        with self._database.read() as session:
            row = session.get(UploadRow, upload_id)
            return _upload(row) if row is not None else None

    def add(self, resource: BootResource, files: Sequence[ResourceFile]) -> Upload:
        now = now_text()
        with self._database.begin() as session:
            row = UploadRow(
                id=secrets.token_hex(8),
                os=resource.os,
                release=resource.release,
                arch=resource.arch,
                subarch=resource.subarch,
                title=resource.title,
                base_image=resource.base_image,
                state=RECEIVING,
                version=None,
                error=None,
                created=now,
                touched=now,
                files=[UploadFileRow(name=f.name, ftype=f.ftype, sha256=f.sha256, size=f.size) for f in files],
            )
            session.add(row)
            session.flush()
            return _upload(row)

    def renew(self, upload_id: str, resource: BootResource) -> None:
        """Its client has come back: it is received again, under this title and base image."""
        self._set(
            upload_id,
            state=RECEIVING,
            error=None,
            title=resource.title,
            base_image=resource.base_image,
            touched=now_text(),
        )

    def touch(self, upload_id: str) -> None:
        self._set(upload_id, touched=now_text())

    def complete(self, upload_id: str, version: str) -> None:
        self._set(upload_id, state=COMPLETE, version=version, error=None, touched=now_text())

    def fail(self, upload_id: str, error: str) -> None:
        self._set(upload_id, state=FAILED, error=error, touched=now_text())

    def remove(self, upload_id: str) -> None:
        with self._database.begin() as session:
            session.execute(sa.delete(UploadRow).where(UploadRow.id == upload_id))

    def digests(self) -> set[str]:
        """Of every file of every upload that no image names yet."""
        query = sa.select(UploadFileRow.sha256).join(UploadRow, UploadRow.id == UploadFileRow.upload_id)
        with self._database.read() as session:
            return set(session.scalars(query.where(UploadRow.state != COMPLETE)))

    def _set(self, upload_id: str, **values: str | None) -> None:
        with self._database.begin() as session:
            session.execute(sa.update(UploadRow).where(UploadRow.id == upload_id).values(**values))


def _upload(row: UploadRow) -> Upload:
    resource = BootResource(
        os=row.os,
        arch=row.arch,
        release=row.release,
        subarch=row.subarch,
        label=UPLOADED_LABEL,
        title=row.title,
        rtype=UPLOADED,
        base_image=row.base_image,
    )
    files = tuple(ResourceFile(f.name, f.ftype, f.sha256, f.size) for f in row.files)
    return Upload(row.id, resource, files, row.state, row.version, row.error, row.created, row.touched)

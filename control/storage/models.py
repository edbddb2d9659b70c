"""The tables, as SQLAlchemy models. Plain columns that mean the same on SQLite and PostgreSQL.

Times are ISO 8601 UTC text (database.now_text): SQLite drops time zones from its own types, and text compares alike
everywhere; those that are reckoned with (leases, boot events) are Unix seconds. Lists are JSON. Only repositories of
this folder read or write these; nothing outside sees a model.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
Sha256 = sa.String(64)
Time = sa.String(32)


class Model(DeclarativeBase):
    metadata = sa.MetaData(naming_convention=NAMING)


class SettingRow(Model):
    """Facts of the region itself: its id, the catalogue's version and digest."""

    __tablename__ = "settings"
    key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    value: Mapped[str] = mapped_column(sa.Text)


class SourceRow(Model):
    __tablename__ = "boot_sources"
    __table_args__ = (sa.UniqueConstraint("url"), sa.UniqueConstraint("name"))
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(128))
    url: Mapped[str] = mapped_column(sa.String(2048))
    priority: Mapped[int]
    enabled: Mapped[bool]
    unsigned: Mapped[bool]
    keyring: Mapped[bytes | None] = mapped_column(sa.LargeBinary)  # binary form, as gpgv wants it
    fingerprints: Mapped[list[str]] = mapped_column(sa.JSON)
    last_checked: Mapped[str | None] = mapped_column(Time)
    last_updated: Mapped[str | None] = mapped_column(Time)  # the index's own `updated`
    error: Mapped[str | None] = mapped_column(sa.Text)
    ca: Mapped[str | None] = mapped_column(sa.Text)  # PEM
    older_since: Mapped[str | None] = mapped_column(Time)  # it has said less than before since then


class SourceDocumentRow(Model):
    """The newest accepted document of one (source, content id): what rollback is measured against. "" is the index."""

    __tablename__ = "source_documents"
    source_id: Mapped[int] = mapped_column(sa.ForeignKey("boot_sources.id", ondelete="CASCADE"), primary_key=True)
    content_id: Mapped[str] = mapped_column(sa.String(256), primary_key=True)
    updated: Mapped[str] = mapped_column(sa.String(64))
    accepted: Mapped[str] = mapped_column(Time)


class SelectionRow(Model):
    __tablename__ = "selections"
    id: Mapped[int] = mapped_column(primary_key=True)
    os: Mapped[str] = mapped_column(sa.String(64))
    release: Mapped[str] = mapped_column(sa.String(64))
    arches: Mapped[list[str]] = mapped_column(sa.JSON)
    subarches: Mapped[list[str]] = mapped_column(sa.JSON)
    labels: Mapped[list[str]] = mapped_column(sa.JSON)


class ResourceRow(Model):
    """One product we mirror: ubuntu/noble/amd64/ga-24.04, or a boot loader."""

    __tablename__ = "boot_resources"
    __table_args__ = (sa.UniqueConstraint("name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    source_id: Mapped[int | None] = mapped_column(sa.ForeignKey("boot_sources.id", ondelete="SET NULL"))
    name: Mapped[str] = mapped_column(sa.String(256))
    os: Mapped[str] = mapped_column(sa.String(64))
    release: Mapped[str] = mapped_column(sa.String(64))
    arch: Mapped[str] = mapped_column(sa.String(32))
    subarch: Mapped[str] = mapped_column(sa.String(64))
    kflavor: Mapped[str] = mapped_column(sa.String(32))
    label: Mapped[str] = mapped_column(sa.String(64))
    title: Mapped[str] = mapped_column(sa.String(256))
    codename: Mapped[str] = mapped_column(sa.String(128))
    bootloader_type: Mapped[str] = mapped_column(sa.String(32))
    rtype: Mapped[str] = mapped_column(sa.String(16), default="synced", server_default="synced")
    base_image: Mapped[str] = mapped_column(sa.String(128), default="", server_default="")  # of an upload
    sets: Mapped[list[SetRow]] = relationship(
        back_populates="resource", cascade="all, delete-orphan", order_by="SetRow.id", passive_deletes=True
    )


class SetRow(Model):
    """One version of a resource. wanted: its files are being fetched; complete: every file is here."""

    __tablename__ = "resource_sets"
    __table_args__ = (sa.UniqueConstraint("resource_id", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    resource_id: Mapped[int] = mapped_column(sa.ForeignKey("boot_resources.id", ondelete="CASCADE"))
    version: Mapped[str] = mapped_column(sa.String(64))
    complete: Mapped[bool]
    created: Mapped[str] = mapped_column(Time)
    marked: Mapped[str | None] = mapped_column(Time)  # superseded or dropped at; removed after the grace time
    told: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))  # by its source: domain.images.Told
    resource: Mapped[ResourceRow] = relationship(back_populates="sets")
    files: Mapped[list[FileRow]] = relationship(
        back_populates="resource_set", cascade="all, delete-orphan", order_by="FileRow.id", passive_deletes=True
    )


class FileRow(Model):
    __tablename__ = "resource_files"
    __table_args__ = (sa.UniqueConstraint("set_id", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    set_id: Mapped[int] = mapped_column(sa.ForeignKey("resource_sets.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(sa.String(256))  # its last part on the wire
    ftype: Mapped[str] = mapped_column(sa.String(64))
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    size: Mapped[int] = mapped_column(sa.BigInteger)
    path: Mapped[str] = mapped_column(sa.String(2048))  # relative to the boot source
    kparams: Mapped[str] = mapped_column(sa.Text)
    resource_set: Mapped[SetRow] = relationship(back_populates="files")


class BlobRow(Model):
    """A complete, verified file of the store. Its row follows the rename; one without its file is lost."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(Sha256, primary_key=True)
    size: Mapped[int] = mapped_column(sa.BigInteger)
    root: Mapped[str] = mapped_column(Sha256)
    created: Mapped[str] = mapped_column(Time)
    removed: Mapped[str | None] = mapped_column(Time)  # set: it was here; a rack that asks is told 410
    marked: Mapped[str | None] = mapped_column(Time)  # nothing names it since
    unnamed_in: Mapped[int | None]  # the first catalogue version without it
    checked: Mapped[str | None] = mapped_column(Time)  # its bytes were last seen to be right; null: look soon
    lost: Mapped[str | None] = mapped_column(Time)  # its file is not here since then, or is not what it was


class DerivedRow(Model):
    """A file unpacked from a boot loader archive; it lives in the store as a blob of its own."""

    __tablename__ = "derived_files"
    archive_sha256: Mapped[str] = mapped_column(Sha256, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(256), primary_key=True)
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    size: Mapped[int] = mapped_column(sa.BigInteger)


class RackRow(Model):
    """A rack and the token it speaks with. The secret is kept as its SHA-256 only."""

    __tablename__ = "racks"
    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(128))
    secret_sha256: Mapped[str] = mapped_column(Sha256)
    created: Mapped[str] = mapped_column(Time)
    revoked: Mapped[str | None] = mapped_column(Time)
    last_seen: Mapped[str | None] = mapped_column(Time)
    http: Mapped[str | None] = mapped_column(sa.String(64))
    tftp: Mapped[str | None] = mapped_column(sa.String(64))
    catalogue_version: Mapped[int | None]
    cache: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)
    limit_cache_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)  # null: the rack's own command line holds
    limit_upstream_bytes_s: Mapped[int | None] = mapped_column(sa.BigInteger)  # 0: no limit
    limit_shares: Mapped[str | None] = mapped_column(sa.Text)  # in the words of dataplane.shares
    https: Mapped[str | None] = mapped_column(sa.String(64))


class RunRow(Model):
    """One sync. At most one is unfinished; a region that starts and finds one goes on with it."""

    __tablename__ = "sync_runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(sa.String(16))
    starts: Mapped[int]  # processes that have worked on it; part of work ids, so that a restart can ask anew
    started: Mapped[str] = mapped_column(Time)
    finished: Mapped[str | None] = mapped_column(Time)
    error: Mapped[str | None] = mapped_column(sa.Text)


class AttemptRow(Model):
    """How often one piece of work was begun: the engine forgets this when it resumes, so a poison file needs us."""

    __tablename__ = "attempts"
    work_id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    count: Mapped[int]
    error: Mapped[str | None] = mapped_column(sa.Text)


class LeaseRow(Model):
    """One executor (one start of a region process) and its last sign of life."""

    __tablename__ = "executors"
    id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    beat: Mapped[float]  # seconds since 1970 by the database's clock on PostgreSQL, by ours on SQLite
    taker: Mapped[str | None] = mapped_column(sa.String(128))
    taken_at: Mapped[float | None]


class BannerRow(Model):
    """A condition an operator should see until it ends."""

    __tablename__ = "banners"
    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    text: Mapped[str] = mapped_column(sa.Text)
    since: Mapped[str] = mapped_column(Time)
    remedy: Mapped[str] = mapped_column(sa.Text)


class BootEventRow(Model):
    """One event of a machine's timeline. (rack, start, seq) is the rack's own count: what it tells twice is one."""

    __tablename__ = "boot_events"
    id: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)
    at: Mapped[float] = mapped_column(sa.Double)  # Unix seconds
    kind: Mapped[str] = mapped_column(sa.String(16))
    mac: Mapped[str | None] = mapped_column(sa.String(17))
    address: Mapped[str] = mapped_column(sa.String(64))  # the machine's
    rack: Mapped[str] = mapped_column(sa.String(64))
    name: Mapped[str] = mapped_column(sa.String(512))
    outcome: Mapped[str] = mapped_column(sa.String(32))
    detail: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    start: Mapped[str | None] = mapped_column(sa.String(16))  # null: the region's own
    seq: Mapped[int | None] = mapped_column(sa.BigInteger)
    __table_args__ = (
        sa.UniqueConstraint("rack", "start", "seq"),
        # Two partial ones, so that SQLite does not look for what has no MAC in the index of MACs.
        sa.Index(
            "ix_boot_events_mac",
            "mac",
            "at",
            sqlite_where=sa.text("mac IS NOT NULL"),
            postgresql_where=sa.text("mac IS NOT NULL"),
        ),
        sa.Index("ix_boot_events_address", "address", "at"),
        sa.Index(  # what a name or a neighbour may still give a MAC to
            "ix_boot_events_nameless",
            "address",
            "rack",
            "at",
            sqlite_where=sa.text("mac IS NULL"),
            postgresql_where=sa.text("mac IS NULL"),
        ),
    )


class UploadRow(Model):
    """A custom image on its way in, or one that came in lately. Its bytes are the store's, under their digests."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    os: Mapped[str] = mapped_column(sa.String(64))
    release: Mapped[str] = mapped_column(sa.String(64))
    arch: Mapped[str] = mapped_column(sa.String(32))
    subarch: Mapped[str] = mapped_column(sa.String(64))
    title: Mapped[str] = mapped_column(sa.String(256))
    base_image: Mapped[str] = mapped_column(sa.String(128))
    state: Mapped[str] = mapped_column(sa.String(16))
    version: Mapped[str | None] = mapped_column(sa.String(64))  # of the set it became
    error: Mapped[str | None] = mapped_column(sa.Text)
    created: Mapped[str] = mapped_column(Time)
    touched: Mapped[str] = mapped_column(Time)  # last sign of life: it expires a while after that
    files: Mapped[list[UploadFileRow]] = relationship(
        cascade="all, delete-orphan", order_by="UploadFileRow.id", passive_deletes=True
    )


class UploadFileRow(Model):
    __tablename__ = "upload_files"
    __table_args__ = (sa.UniqueConstraint("upload_id", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(sa.ForeignKey("uploads.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(sa.String(256))
    ftype: Mapped[str] = mapped_column(sa.String(64))
    sha256: Mapped[str] = mapped_column(Sha256)
    size: Mapped[int] = mapped_column(sa.BigInteger)


class SourceReleaseRow(Model):
    """An os and release that a boot source offers, wanted or not: names that no upload may take."""

    __tablename__ = "source_releases"
    source_id: Mapped[int] = mapped_column(sa.ForeignKey("boot_sources.id", ondelete="CASCADE"), primary_key=True)
    os: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    release: Mapped[str] = mapped_column(sa.String(64), primary_key=True)

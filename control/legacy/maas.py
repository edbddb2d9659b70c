"""The images in a MAAS database up to 3.4, as plain rows: the only SQL about MAAS's tables.

Bytes are PostgreSQL large objects: ``maasserver_largefile`` has one row for each content (sha256, total_size, size,
content oid), ``maasserver_bootresourcefile`` names it in a set of a resource. Rows are read as JSON, so that a column
that came or went with a version is a key that is there or not.

Invariants: everything of one ``read`` is one snapshot; nothing is written but by ``unlink``. An object is read in
pieces by the server's lo_get, so memory is bounded by CHUNK_BYTES. Left to others: what rows mean (mapping), where
bytes go (migrate).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from bootplane.control.errors import BootplaneError

CHUNK_BYTES = 1 << 20
CONNECT_S = 10
LO_READ = 0x40000  # INV_READ of libpq/libpq-fs.h
SPACE_QUERY = (
    "select coalesce(sum(total_size), 0) from maasserver_largefile"  # runs on 3.4; the documented one does not
)
TABLES = (
    "maasserver_bootresource",
    "maasserver_bootresourceset",
    "maasserver_bootresourcefile",
    "maasserver_largefile",
)


class MaasError(BootplaneError):
    """The MAAS database cannot be read, or is not one; one sentence."""

    status = 422
    title = "cannot migrate"
    kind = "maas"


@dataclass(frozen=True, slots=True)
class Content:
    """One row of maasserver_largefile. *object_bytes*: what its object really has; None without an object."""

    id: int
    sha256: str
    total_size: int  # bytes of the whole file
    size: int  # bytes that have been downloaded, by MAAS's account
    oid: int | None
    object_bytes: int | None


@dataclass(frozen=True, slots=True)
class File:
    """One row of maasserver_bootresourcefile."""

    id: int
    filename: str
    filetype: str
    extra: Mapping[str, Any]
    content_id: int | None


@dataclass(frozen=True, slots=True)
class Set:
    id: int
    version: str
    label: str
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Resource:
    """One row of maasserver_bootresource, its sets by id. *rtype*: 0 synced, 1 generated, 2 uploaded."""

    id: int
    rtype: int
    name: str
    architecture: str
    extra: Mapping[str, Any]
    kflavor: str
    bootloader_type: str
    base_image: str
    sets: tuple[Set, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one snapshot of the database holds."""

    resources: tuple[Resource, ...]
    contents: Mapping[int, Content]  # by id
    orphans: tuple[int, ...]  # large objects that no row names; they may be anybody's
    asked_bytes: int  # what SPACE_QUERY answers
    others: int  # further sessions on this database: MAAS is running


class MaasDatabase:
    """A connection to the database of a MAAS; a context manager. Raises MaasError in one sentence."""

    def __init__(self, url: str) -> None:
        self._url = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
        try:
            self.name = _shown(self._url)
        except psycopg.Error:  # its words would show the text, and a password in it
            raise MaasError("MAAS database: expected postgresql://USER@HOST/NAME, got something else") from None
        try:
            self._connection = psycopg.connect(
                self._url, connect_timeout=CONNECT_S, autocommit=True, application_name="bootplane migrate-maas"
            )
        except psycopg.Error as error:
            raise MaasError(f"{self.name}: cannot be opened: {_words(error)}") from None

    def read(self) -> Inventory:
        try:
            with self._connection.transaction():
                self._connection.execute("set transaction isolation level repeatable read, read only")
                self._check_schema()
                return self._inventory()
        except psycopg.Error as error:
            raise MaasError(f"{self.name}: cannot be read: {_words(error)}") from None

    def chunks(self, oid: int, start: int, size: int) -> Iterator[bytes]:
        """Bytes *start* to *size* of an object; ends early where the object does."""
        offset = start
        while offset < size:
            try:
                row = self._connection.execute(
                    "select lo_get(%s::oid, %s::bigint, %s::int)",
                    (oid, offset, min(CHUNK_BYTES, size - offset)),
                    binary=True,
                ).fetchone()
            except psycopg.errors.UndefinedObject:
                return  # it went since the inventory
            except psycopg.Error as error:
                raise MaasError(
                    f"{self.name}: object {oid} at byte {offset}: cannot be read: {_words(error)}"
                ) from None
            assert row is not None
            if not row[0]:
                return
            offset += len(row[0])
            yield row[0]

    def unlink(self, content: Content) -> bool:
        """Remove the object of *content*, if its row still says the same; False when there is none. One transaction."""
        try:
            with self._connection.transaction():
                row = self._connection.execute(
                    "select content::text, sha256, total_size from maasserver_largefile where id = %s for update",
                    (content.id,),
                ).fetchone()
                if row is None or (row[0], row[1].lower(), row[2]) != (
                    str(content.oid), content.sha256, content.total_size,
                ):  # fmt: skip
                    return False
                there = self._connection.execute(
                    "select 1 from pg_largeobject_metadata where oid = %s::oid", (content.oid,)
                ).fetchone()
                if there is None:
                    return False
                self._connection.execute("select lo_unlink(%s::oid)", (content.oid,))
                return True
        except psycopg.Error as error:
            raise MaasError(f"{self.name}: object {content.oid}: cannot be removed: {_words(error)}") from None

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- reading

    def _check_schema(self) -> None:
        missing = [table for table in TABLES if self._one("select to_regclass(%s)", (table,)) is None]
        if missing == ["maasserver_largefile"]:
            raise MaasError(
                f"{self.name}: expected the database of MAAS 3.4 or older, got a newer one: its images are on disk, "
                "and a sync fetches them again"
            )
        if missing:
            raise MaasError(f"{self.name}: expected the database of a MAAS, got one without the table {missing[0]}")

    def _inventory(self) -> Inventory:
        contents = {row["id"]: self._content(row) for row in self._rows("maasserver_largefile")}
        files: dict[int, list[File]] = {}
        for row in self._rows("maasserver_bootresourcefile"):
            found = File(
                row["id"],
                row["filename"] or "",
                row["filetype"] or "",
                _extra(row.get("extra")),
                row.get("largefile_id"),
            )
            files.setdefault(row["resource_set_id"], []).append(found)
        sets: dict[int, list[Set]] = {}
        for row in self._rows("maasserver_bootresourceset"):
            each = Set(row["id"], row["version"] or "", row["label"] or "", tuple(files.get(row["id"], ())))
            sets.setdefault(row["resource_id"], []).append(each)
        resources = tuple(
            Resource(
                id=row["id"],
                rtype=int(row["rtype"]),
                name=row["name"] or "",
                architecture=row["architecture"] or "",
                extra=_extra(row.get("extra")),
                kflavor=row.get("kflavor") or "",
                bootloader_type=row.get("bootloader_type") or "",
                base_image=row.get("base_image") or "",
                sets=tuple(sets.get(row["id"], ())),
            )
            for row in self._rows("maasserver_bootresource")
        )
        named = {content.oid for content in contents.values()}
        objects = [
            int(row[0]) for row in self._connection.execute("select oid from pg_largeobject_metadata order by oid")
        ]
        return Inventory(
            resources=resources,
            contents=contents,
            orphans=tuple(oid for oid in objects if oid not in named),
            asked_bytes=int(self._one(SPACE_QUERY) or 0),
            others=int(
                self._one(
                    "select count(*) from pg_stat_activity "
                    "where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
                )
                or 0
            ),
        )

    def _content(self, row: Mapping[str, Any]) -> Content:
        oid = int(row["content"]) if row.get("content") else None
        total = int(row["total_size"])
        return Content(
            id=row["id"],
            sha256=(row["sha256"] or "").strip().lower(),
            total_size=total,
            size=int(row["size"]) if row.get("size") is not None else total,
            oid=oid,
            object_bytes=self._object_bytes(oid) if oid else None,
        )

    def _object_bytes(self, oid: int) -> int | None:
        if self._one("select 1 from pg_largeobject_metadata where oid = %s::oid", (oid,)) is None:
            return None
        descriptor = self._one("select lo_open(%s::oid, %s)", (oid, LO_READ))
        size = int(self._one("select lo_lseek64(%s, 0, 2)", (descriptor,)) or 0)
        self._one("select lo_close(%s)", (descriptor,))
        return size

    def _rows(self, table: str) -> list[dict[str, Any]]:
        query = sql.SQL("select to_jsonb(r) from {} r order by r.id").format(sql.Identifier(table))
        return [row[0] for row in self._connection.execute(query)]

    def _one(self, query: Any, parameters: tuple[Any, ...] | None = None) -> Any:
        row = self._connection.execute(query, parameters).fetchone()
        return row[0] if row else None


def _extra(raw: Any) -> Mapping[str, Any]:
    """jsonb in MAAS 3.4; before, text that holds JSON."""
    if isinstance(raw, str):
        with contextlib.suppress(ValueError):
            raw = json.loads(raw)
    return raw if isinstance(raw, dict) else {}


def _shown(url: str) -> str:
    """What the database is called in messages: no user's password, no more than host and name."""
    parts = conninfo_to_dict(url)
    place = f"{parts.get('host') or 'local'}" + (f":{parts['port']}" if parts.get("port") else "")
    return f"MAAS database {parts.get('dbname') or parts.get('user') or ''} at {place}"


def _words(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()

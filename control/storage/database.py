"""The database of a region: one synchronous SQLAlchemy engine, migrated at start.

SQLite for one region (WAL; a commit survives a killed process, and the last few may be lost with the machine's power:
every fact here can be had again from the source or the store), PostgreSQL for several. Repositories take a Database
and open one transaction per call; nothing on the per-packet or per-boot path comes here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session

from bootplane.control.errors import StartError

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
BUSY_TIMEOUT_MS = 10_000
READ_ONLY = "bootplane_read_only"  # execution option of read()


def now_text() -> str:
    """UTC as ISO 8601 with microseconds: one fixed-width form that sorts as text on every backend."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def document_time(text: str | None) -> str | None:
    """A time of the database as documents say it: to the second, UTC, with a Z."""
    return text[:19] + "Z" if text else None


def known_revisions() -> set[str]:
    """Of the schema, the newest one's and all before."""
    return {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}


class Database:
    """Owns the engine. ``begin()`` gives a session in one transaction that may write: committed at the end, rolled back
    on an error. ``read()`` gives one that must not, and that on SQLite waits for no writer."""

    def __init__(self, url: str) -> None:
        """Opens no connection yet. Raises StartError for a URL of another kind of database."""
        self.url = url
        try:
            self.engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
            is_known = self.engine.dialect.name in ("sqlite", "postgresql")
        except (sa.exc.ArgumentError, ImportError, ValueError):
            is_known = False
        if not is_known:  # a URL may hold a password: only its kind is said
            kind = f"one that begins with {url.partition('://')[0][:40]!r}" if "://" in url else "no URL"
            raise StartError(f"database: expected a URL like postgresql://USER@HOST:PORT/NAME, got {kind}")
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _sqlite_pragmas)
            sa.event.listen(self.engine, "begin", _sqlite_begin)

    @contextlib.contextmanager
    def begin(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.connection(execution_options={READ_ONLY: True})
            yield session

    def migrate(self) -> None:
        """Bring the schema to the newest revision. Raises StartError in one sentence, as for one that is newer."""
        logging.getLogger("alembic").setLevel(logging.WARNING)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        try:
            with self.engine.begin() as connection:
                self.refuse_newer(MigrationContext.configure(connection).get_current_revision())
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except sa.exc.DBAPIError as error:
            raise StartError(f"database {self.engine.url!r}: cannot be opened or migrated: {error.orig}") from None

    def revision(self) -> str | None:
        """The schema's revision as it stands; None without one."""
        with self.engine.connect().execution_options(**{READ_ONLY: True}) as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def refuse_newer(self, revision: str | None) -> None:
        """Raises StartError for a schema that this version does not know."""
        if revision is not None and revision not in known_revisions():
            raise StartError(
                f"database {self.engine.url!r}: expected schema {self.head()} or older, got {revision}, which a newer "
                "version of bootplane made: start that version, or restore a backup of this one"
            )

    @staticmethod
    def head() -> str | None:
        """The newest revision this version knows."""
        return ScriptDirectory(str(MIGRATIONS)).get_current_head()

    def make_durable(self) -> None:
        """What is committed survives a power cut from here on. PostgreSQL sees to that by itself."""
        if self.engine.dialect.name == "sqlite":
            with contextlib.closing(self.engine.raw_connection()) as connection:  # outside of any transaction
                connection.cursor().execute("PRAGMA wal_checkpoint(FULL)").close()

    def close(self) -> None:
        self.engine.dispose()


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    # sqlite3's own transaction control begins late (at the first write) and turns read-then-write into SQLITE_BUSY
    # that no timeout heals; with it off, _sqlite_begin says when a transaction starts.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    # A writer takes the lock at once and waits for it (busy_timeout); a reader gets a snapshot and no lock.
    is_read = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")

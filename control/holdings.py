"""What a region holds, read beside it: for commands that work on its data directory on the same host.

The region may run meanwhile: only the database is read (on SQLite a reader waits for no writer), and files of the store
are opened by digest. A set may therefore go between the reading and the opening; whoever opens reads again then.

Invariant: nothing here writes to the data directory or migrates the database; one of another version is refused in one
sentence. Left to others: what is done with the holdings (source_publish, export_tree, backup).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from bootplane.control import config
from bootplane.control.config import Settings
from bootplane.control.errors import StartError
from bootplane.control.storage.blobs import BlobRecord, BlobRepository, DerivedFile
from bootplane.control.storage.database import Database
from bootplane.control.storage.images import ImageRepository, StoredSet
from bootplane.control.storage.settings import REGION_ID, SettingsRepository
from bootplane.dataplane.store import Store

SQLITE = "sqlite:///"
READS = 5  # of the database, while sets go that are being looked at


@dataclass(frozen=True, slots=True)
class Read:
    """One look: sets oldest first within their resource, blobs by digest, boot loader files by archive."""

    sets: tuple[StoredSet, ...]
    present: Mapping[str, BlobRecord]
    derived: Mapping[str, tuple[DerivedFile, ...]]


class Holdings:
    """The database and the store of one data directory, for reading."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self.store = Store(settings.data, read_only=True)

    @property
    def region_id(self) -> str:
        return SettingsRepository(self.database).get(REGION_ID) or "region"

    def read(self) -> Read:
        """Sets, blobs and boot loader files that agree: no complete set lacks a file, lost or removed meanwhile."""
        for _ in range(READS):
            found = Read(
                tuple(ImageRepository(self.database).sets()),
                BlobRepository(self.database).present(),
                BlobRepository(self.database).derived(),
            )
            whole = [each for each in found.sets if not each.complete or each.resource_set.is_complete(found.present)]
            if len(whole) == len(found.sets):
                return found
        return replace(found, sets=tuple(whole))  # the others have lost a file


@contextmanager
def holdings(data: Path, database: str | None = None) -> Iterator[Holdings]:
    """The holdings of the region whose data directory is *data*; *database* as the region's ``--database``.

    Raises StartError in one sentence when there is no region, or one whose database another version made.
    """
    settings = config.load(data, database=database)
    with opened(settings.database_url) as found:
        yield Holdings(settings, found)


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """A database of this version that exists already; never made, never migrated. Raises StartError."""
    if url.startswith(SQLITE) and not Path(url.removeprefix(SQLITE)).is_file():
        path = Path(url.removeprefix(SQLITE))
        raise StartError(f"{path.parent}: expected the data directory of a region, got one without {path.name}")
    database = Database(url)
    try:
        try:
            revision = database.revision()
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", None) or error
            raise StartError(f"database {shown(database)}: cannot be read: {str(reason).strip()}") from None
        database.refuse_newer(revision)
        if revision != database.head():
            raise StartError(
                f"database {shown(database)}: expected schema {database.head()}, got {revision or 'none'}: "
                "start the region once with this version of bootplane"
            )
        yield database
    finally:
        database.close()


def shown(database: Database) -> str:
    """The database's URL without its password."""
    return database.engine.url.render_as_string(hide_password=True)

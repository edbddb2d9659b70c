"""Whose store this is: the owner file in it, held against what the database says of itself.

    image-storage/.owner    {"format", "store", "region", "database", "count", "claimed", "strange", "catalogue"}

A store outlives databases: one is lost, another is restored from last week's backup, a disk is put into another host.
What a database does not know must not be deleted on its word then. Each start of a region and each new catalogue counts
one up in the database, on stable storage, and in the file after it: a database that is behind its store was set back.

Invariants: judge() is pure, and whatever it cannot explain is STRANGE: nothing of the store is deleted, and nothing is
believed that was not hashed. The file is written whole or not at all. A store that is STRANGE stays so over restarts
(``strange`` in the file) until custody says that it has been settled.

Left to others: what follows from a judgement (custody), one process at a time on the store (its lock, custody).
"""

from __future__ import annotations

import enum
import json
import logging
import secrets
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from bootplane.control.errors import StartError
from bootplane.control.storage.database import now_text
from bootplane.control.storage.settings import SettingsRepository
from bootplane.dataplane.durable import write_durably

FORMAT = 1
NAME = ".owner"
ID_BYTES = 8
_LOG = logging.getLogger("bootplane.store")
DATABASE_ID, STORE_ID, STORE_COUNT = "database_id", "store_id", "store_count"  # settings


class Verdict(enum.Enum):
    NEW = "new"  # empty
    OURS = "ours"
    STRANGE = "strange"


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner file."""

    store: str
    region: str
    database: str
    count: int
    claimed: str  # when this region first had it
    strange: str = ""  # since when, and why; "": it is not
    catalogue: int = 0  # the highest version that was published: racks refuse an older one
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Claim:
    """What a database says of itself and of its store."""

    database: str
    store: str  # "": it never had one with an owner file
    count: int
    knows_blobs: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    why: str = ""  # one clause, for STRANGE


def judge(owner: Owner | None, is_readable: bool, claim: Claim, *, has_files: bool) -> Judgement:
    """*owner*: the file; None when there is none, or it is not *is_readable*. *has_files*: whether the store holds any
    file with the name of a blob."""
    if not has_files and (owner is None or not owner.strange):
        return Judgement(Verdict.NEW)
    if not is_readable:
        return Judgement(Verdict.STRANGE, "its owner file cannot be read")
    if owner is None:
        if claim.knows_blobs and not claim.store:  # of a version that wrote no owner file
            return Judgement(Verdict.OURS)
        lacking = "and the database knows none of its files" if not claim.knows_blobs else "and had one before"
        return Judgement(Verdict.STRANGE, f"it has no owner file {lacking}")
    if not claim.store and not claim.knows_blobs:
        return Judgement(Verdict.STRANGE, f"the database is new, and the store is of region {owner.region}")
    if owner.store != claim.store:
        return Judgement(
            Verdict.STRANGE, f"expected store {claim.store or 'none'}, got {owner.store} of {owner.region}"
        )
    if owner.database != claim.database:
        return Judgement(Verdict.STRANGE, f"it was last used with database {owner.database}, not {claim.database}")
    if owner.count > claim.count:
        behind = owner.count - claim.count
        return Judgement(Verdict.STRANGE, f"the database is {behind} changes behind it: it was set back, by a backup?")
    return Judgement(Verdict.OURS)


class OwnerFile:
    """The file in *directory*, and its other half in the database."""

    def __init__(self, directory: Path, settings: SettingsRepository, make_durable: Callable[[], None]) -> None:
        self.path = directory / NAME
        self._settings = settings
        self._make_durable = make_durable  # what the database has committed
        self._lock = threading.Lock()
        self._owner: Owner | None = None

    def claim_of(self, *, knows_blobs: bool) -> Claim:
        """What the database says; it gets an identity of its own at the first call."""
        database = self._settings.get_or_put(DATABASE_ID, secrets.token_hex(ID_BYTES))
        count = int(self._settings.get(STORE_COUNT) or 0)
        return Claim(database, self._settings.get(STORE_ID) or "", count, knows_blobs)

    def read(self) -> tuple[Owner | None, bool]:
        """(the file, whether it can be understood). Raises StartError for one of a newer bootplane."""
        try:
            document = json.loads(self.path.read_bytes())
            if isinstance(document.get("format"), int) and document["format"] > FORMAT:
                raise StartError(
                    f"{self.path}: expected a store of format {FORMAT}, got {document['format']}: a newer bootplane "
                    "has used it; start that one, or give this one another data directory"
                )
            owner = Owner(**{name: document[name] for name in Owner.__dataclass_fields__ if name in document})
            wrong = [name for name in ("count", "format", "catalogue") if not isinstance(getattr(owner, name), int)]
            return (None, False) if wrong else (owner, True)
        except FileNotFoundError:
            return None, True
        except (ValueError, KeyError, TypeError, AttributeError):
            return None, False
        except OSError as error:
            raise StartError(f"{self.path}: cannot be read: {error.strerror}") from None

    def take(self, owner: Owner | None, claim: Claim, region: str, strange: str) -> Owner:
        """Makes the store this region's, one count later. The database is first: one that is ahead lost nothing."""
        count = max(claim.count, owner.count if owner else 0) + 1
        store = owner.store if owner else secrets.token_hex(ID_BYTES)
        is_same = owner is not None and (owner.region, owner.database) == (region, claim.database)
        claimed = owner.claimed if owner is not None and is_same else now_text()
        if strange:  # before the database can forget that it was behind
            was = owner or Owner(store, region, claim.database, 0, claimed)
            self._owner = replace(was, strange=strange)
            self._write()
        if not self._put({STORE_ID: store, STORE_COUNT: str(count)}, must=strange != "" or not is_same):
            count = owner.count if owner else 0  # the file must not be ahead of what the database may have lost
        catalogue = owner.catalogue if owner else 0
        self._owner = Owner(store, region, claim.database, count, claimed, strange, catalogue)
        if is_same and not strange:
            self._try_write()
        else:
            self._write()
        return self._owner

    @property
    def catalogue(self) -> int:
        """The highest version that was ever published of this store."""
        return self._owner.catalogue if self._owner else 0

    def count(self, catalogue: int) -> None:
        """What the database knows of the store has changed: this version was published."""
        with self._lock:
            assert self._owner is not None
            highest, count = max(self._owner.catalogue, catalogue), self._owner.count + 1
            if self._put({STORE_COUNT: str(count)}):
                self._owner = replace(self._owner, count=count, catalogue=highest)
                self._try_write()

    def settle(self) -> None:
        """The store is no longer strange."""
        with self._lock:
            assert self._owner is not None
            self._owner = replace(self._owner, strange="")
            self._write()

    def _put(self, values: dict[str, str], *, must: bool = False) -> bool:
        """Whether the database has taken *values*, on stable storage. A full disk is only told, unless it *must*."""
        try:
            self._settings.put(values)
            self._make_durable()
        except (SQLAlchemyError, sqlite3.Error) as error:
            if must:
                raise
            _LOG.warning("the store's count stays where it is, the database says: %s", getattr(error, "orig", error))
            return False
        return True

    def _try_write(self) -> None:
        """A full disk is only told: a database that is ahead of its store does no harm."""
        try:
            self._write()
        except StartError as error:
            _LOG.warning("%s", error)

    def _write(self) -> None:
        assert self._owner is not None
        try:
            write_durably(self.path, (json.dumps(asdict(self._owner), indent=1) + "\n").encode())
        except OSError as error:
            raise StartError(f"{self.path}: cannot be written: {error.strerror}") from None

"""A region moves from SQLite to PostgreSQL, where several regions can share one database.

The region must be stopped: its lock says so. Every row is copied in one transaction and compared; then the SQLite file
gets another name, so that a region that is started without ``--database`` cannot go on in the past. One that is killed
between the two is made again: a target that has these very rows will do.
The sync engine's own database is not taken along: an unfinished sync goes on with new works.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bootplane.control import config, datadir
from bootplane.control.backup import BackupError, Meter, fill_empty, settle
from bootplane.control.holdings import SQLITE, opened

KEPT_SUFFIX = ".before-postgresql"


@dataclass(frozen=True, slots=True)
class Moved:
    """*rows*: by table. *kept*: where the SQLite database stands now."""

    rows: dict[str, int]
    kept: str


def migrate_database(data: Path, url: str, meter: Meter = lambda _what, _total, _unit: lambda _n: None) -> Moved:
    """Raises StartError, BackupError or TransferError in one sentence; then the SQLite database is as it was."""
    settings = config.load(data)
    if not settings.database_url.startswith(SQLITE):
        raise BackupError(f"{settings.data}: expected a region on SQLite, got one that is on another database already")
    if not url.startswith("postgresql"):
        raise BackupError("--to: expected postgresql://..., got another kind of database")
    path = Path(settings.database_url.removeprefix(SQLITE))
    kept = path.with_name(path.name + KEPT_SUFFIX)
    if kept.exists():
        raise BackupError(f"{kept}: expected no database of an earlier move, got one: take it away first")
    with ExitStack() as stack:
        if settings.data.is_dir():
            stack.callback(datadir.Lock(settings.data / "region.lock", "region").release)
        with opened(settings.database_url) as source:
            source.close()
            _settle(path)  # before anything is copied: who has it open would stop us afterwards
            rows = fill_empty(source, url, meter, or_same=True)
        _settle(path)
        path.rename(kept)
    return Moved(rows, str(kept))


def _settle(path: Path) -> None:
    try:
        settle(path)
    except sqlite3.Error as error:
        raise BackupError(f"{path}: expected to be the only one who has it open, got: {error}") from None

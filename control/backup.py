"""A region's memory in one file, and back: database, keys, owner file. Not the images: a restored region finds its
store again, or downloads it.

    FILE (mode 0600): a tar archive, zstd-compressed
      backup.json       format, version, schema, region, when, digest and size of the other members
      region.sqlite     every row, in one snapshot; from PostgreSQL too
      region-key admin-token rack-token publish-key bootplane.toml owner      those that are there

Invariants: a backup is whole under its name or not there; the region may run meanwhile. A restore verifies every member
before it gives anything a name, refuses a directory with anything in it but image-storage, and lifts the catalogue's
version above every one that racks have seen since: they refuse older ones. One that is killed is made again: until it
has ended, ``.restoring`` names what it has put there, and no region starts on that directory.
Left to others: copying rows (storage.transfer), what becomes of the store after it (sync).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import zstandard

from bootplane import __version__
from bootplane.control import config, datadir
from bootplane.control.errors import BootplaneError
from bootplane.control.holdings import SQLITE, holdings, opened, shown
from bootplane.control.placing import write_whole
from bootplane.control.storage.database import Database, known_revisions, now_text
from bootplane.control.storage.models import Model
from bootplane.control.storage.settings import CATALOGUE_DIGEST, CATALOGUE_VERSION, REGION_ID, SettingsRepository
from bootplane.control.storage.transfer import copy_all, count_rows, same_rows
from bootplane.dataplane.durable import sync_directory

FORMAT = 1
MANIFEST, DATABASE, OWNER = "backup.json", "region.sqlite", "owner"
OWNER_FILE = Path("image-storage") / ".owner"
SECRETS = (datadir.REGION_KEY, datadir.ADMIN_TOKEN, datadir.RACK_TOKEN, "publish-key")
PLAIN = (config.TOML_NAME,)
MANIFEST_BYTES = 1 << 20
SMALL_BYTES = 4 << 20  # of a member that is no database
VERSIONS_SINCE = 1_704_067_200.0  # Unix seconds, 2024: a version for each second since, far more than are published
CATALOGUE_LEAP = 1_000_000  # versions, where a clock says less than that
COPY_BYTES = 1 << 20
_ASIDE = ".bootplane-backup-"
_DATABASE_LINE = re.compile(r"^\s*database\s*=", re.MULTILINE)

Meter = Callable[[str, int, str], Callable[[int], None]]  # what is done, how much, of what


class BackupError(BootplaneError):
    """A backup cannot be made or restored; one sentence."""

    status = 422
    title = "cannot back up or restore"
    kind = "backup"


@dataclass(frozen=True, slots=True)
class Backup:
    """*bytes*: of the file."""

    file: str
    region: str
    version: str
    schema: str
    created: str
    members: tuple[str, ...]
    rows: int
    bytes: int


def back_up(
    file: Path, data: Path, database: str | None = None, meter: Meter = lambda _what, _total, _unit: lambda _n: None
) -> Backup:
    """Write the backup of the region in *data* to *file*, which must be new. Raises BackupError, StartError."""
    file = file.absolute()
    if file.exists():
        raise BackupError(f"{file}: expected a name that is free, got one that is taken")
    with holdings(data, database) as held, _beside(file) as folder:
        snapshot = folder / DATABASE
        rows = _snapshot(held.database, snapshot, meter)
        directory = held.settings.data
        members = {DATABASE: snapshot}
        members |= {name: directory / name for name in (*SECRETS, *PLAIN) if (directory / name).is_file()}
        if (directory / OWNER_FILE).is_file():
            members[OWNER] = directory / OWNER_FILE
        contents = {name: path.read_bytes() for name, path in members.items() if name != DATABASE}
        manifest = {
            "format": FORMAT,
            "version": __version__,
            "schema": held.database.head(),
            "region": held.region_id,
            "created": now_text(),
            "members": {name: [_sha256(path), path.stat().st_size] for name, path in {DATABASE: snapshot}.items()}
            | {name: [hashlib.sha256(text).hexdigest(), len(text)] for name, text in contents.items()},
        }
        archive = folder / "archive"
        _pack(archive, manifest, contents, snapshot)
        archive.rename(file)
        sync_directory(file.parent)
    return _described(file, manifest, rows)


def restore(
    file: Path, data: Path, database: str | None = None, meter: Meter = lambda _what, _total, _unit: lambda _n: None
) -> Backup:
    """The region of *file* in *data*, whose database becomes *database* (else the environment's, as for the region) or
    SQLite. Raises BackupError, StartError, TransferError."""
    file, data = file.absolute(), data.expanduser().absolute()
    datadir.prepare(data, is_restore=True)
    begun = _begun(data)
    names = {entry.name for entry in data.iterdir()} - {"image-storage", "lost+found", "region.lock", *begun}
    foreign = sorted(name for name in names if not name.startswith((".restor", "..restor")))  # of one that was killed
    if foreign:
        raise BackupError(
            f"{data}: expected a directory with nothing in it but image-storage, got one with {foreign[0]!r}"
        )
    database = config.load(data, database=database).database
    lock = datadir.Lock(data / "region.lock", "region")
    folder = data / f".restore-{os.getpid()}"
    try:
        for left in data.glob(".restore-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder.mkdir(mode=0o700)
        manifest = _unpack(file, folder)
        revision = str(manifest["schema"])
        if revision not in known_revisions():
            raise BackupError(
                f"{file}: expected a schema that version {__version__} knows, got {revision} of version "
                f"{manifest['version']}: restore with that one or a newer one"
            )
        rows = _revive(folder / DATABASE)
        _unset_database(folder / config.TOML_NAME)
        given = [name for name in (*SECRETS, *PLAIN) if (folder / name).exists()]
        journal = json.dumps({"names": sorted({*begun, *given, DATABASE})})
        write_whole(data / datadir.RESTORING, journal.encode() + b"\n")
        try:
            for name in begun:
                (data / name).unlink(missing_ok=True)
            for name in given:
                (folder / name).rename(data / name)
            if database is not None:
                rows = _fill(folder / DATABASE, database, meter, manifest["region"] if begun else None)
            else:
                (folder / DATABASE).rename(data / DATABASE)
            store = data / "image-storage"
            if (folder / OWNER).exists() and not (store.is_dir() and any(store.iterdir())):
                store.mkdir(exist_ok=True)
                (folder / OWNER).rename(data / OWNER_FILE)
            sync_directory(data)
        except Exception:
            for name in given:
                (data / name).unlink(missing_ok=True)
            (data / datadir.RESTORING).unlink()
            raise
        (data / datadir.RESTORING).unlink()  # the last: with that the region is there
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise BackupError(f"{data}: cannot be restored to: {reason or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (data / "region.lock").unlink()
        lock.release()
    return _described(file, manifest, rows)


def _begun(data: Path) -> list[str]:
    """What a restore that was killed has put into *data*. Raises BackupError."""
    path = data / datadir.RESTORING
    try:
        names = [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["names"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{path}: expected what a restore that was killed has left, got {error}") from None
    return [name for name in names if name in (DATABASE, *SECRETS, *PLAIN)]


# -- making one


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A folder for its owner alone on *file*'s file system."""
    try:
        with datadir.private_folder(file.parent, _ASIDE) as folder:
            yield folder
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        named = error.filename if isinstance(error, OSError) else None
        where = named if named and _ASIDE not in str(named) else file
        raise BackupError(f"{where}: cannot be read or written: {reason or error}") from None


def _snapshot(database: Database, target: Path, meter: Meter) -> int:
    """Every row at one moment, as an SQLite database with the schema of this version; how many rows."""
    if database.url.startswith(SQLITE):
        source = Path(database.url.removeprefix(SQLITE))
        _require_room(target.parent, 2 * source.stat().st_size)
        with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
            old.backup(new)  # one step is one snapshot, and with a write-ahead log no writer waits for it
            new.execute("pragma journal_mode=delete")
            found = new.execute("pragma integrity_check").fetchone()[0]
            if found != "ok":
                raise BackupError(f"{source}: expected a sound database, got: {found}")
        with _connected(f"{SQLITE}{target}") as connection:
            return count_rows(connection)
    made = Database(f"{SQLITE}{target}")
    try:
        made.migrate()
        with _frozen(database) as old_rows, made.engine.begin() as connection:
            progress = meter("copying the database", count_rows(old_rows), "rows")
            rows = sum(copy_all(old_rows, connection, progress).values())
    finally:
        made.close()
    settle(target)
    return rows


@contextmanager
def _frozen(database: Database) -> Iterator[sa.Connection]:
    """A PostgreSQL as it is at this moment, however long it is read."""
    with database.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            yield connection


@contextmanager
def _connected(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _pack(archive: Path, manifest: dict[str, Any], contents: dict[str, bytes], snapshot: Path) -> None:
    members = {MANIFEST: json.dumps(manifest, indent=1).encode() + b"\n", **contents}
    descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        with (
            zstandard.ZstdCompressor(write_checksum=True).stream_writer(out, closefd=False) as packed,
            tarfile.open(mode="w|", fileobj=packed) as tar,
            snapshot.open("rb") as file,
        ):
            for name, content in members.items():
                tar.addfile(_member(name, len(content)), io.BytesIO(content))
            tar.addfile(_member(DATABASE, snapshot.stat().st_size), file)
        out.flush()
        os.fsync(out.fileno())


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


# -- restoring one


def _unpack(file: Path, folder: Path) -> dict[str, Any]:
    """Every member into *folder*, verified; the manifest."""
    try:
        with (
            file.open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw) as packed,
            tarfile.open(mode="r|", fileobj=packed) as tar,
        ):
            manifest = _members(tar, file, folder)
            while packed.read(COPY_BYTES):  # to the checksum at its end: a flipped bit counts wherever it is
                pass
            return manifest
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        if error.filename != str(file):
            raise
        raise BackupError(f"{file}: expected a backup, got: {error.strerror}") from None
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise BackupError(f"{file}: expected a backup that `bootplane backup` made, got: {error}") from None


def _members(tar: tarfile.TarFile, file: Path, folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = {}
    missing: dict[str, Any] = {}
    for member in tar:
        source = tar.extractfile(member) if member.isreg() else None
        if source is None:
            raise BackupError(f"{file}: expected regular files, got {member.name!r}")
        if not manifest:
            if member.name != MANIFEST or member.size > MANIFEST_BYTES:
                raise BackupError(f"{file}: expected {MANIFEST} first, got {member.name!r}")
            manifest = _manifest(source.read(), file)
            missing = dict(manifest["members"])
            _require_room(folder, sum(size for _, size in missing.values()))
            continue
        expected = missing.pop(member.name, None)
        if expected is None:
            raise BackupError(f"{file}: expected the members its {MANIFEST} names, got {member.name!r}, too")
        got = _write(folder / member.name, source, int(expected[1]))
        if got != expected[0]:
            raise BackupError(f"{file}: {member.name}: expected the sha256 {expected[0]}, got {got}")
    if not manifest or missing:
        raise BackupError(f"{file}: expected {', '.join(missing) or MANIFEST}, got the end of the file")
    return manifest


def _manifest(raw: bytes, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(raw)
        allowed = {DATABASE, OWNER, *SECRETS, *PLAIN}
        members = {str(name): (str(facts[0]), int(facts[1])) for name, facts in found["members"].items()}
        if found["format"] != FORMAT:
            raise BackupError(f"{file}: expected format {FORMAT}, got {found['format']} of version {found['version']}")
        if DATABASE not in members or not members.keys() <= allowed:
            raise BackupError(f"{file}: expected members among {', '.join(sorted(allowed))}, got {', '.join(members)}")
        return {**{key: found[key] for key in ("version", "schema", "region", "created")}, "members": members}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BackupError(f"{file}: {MANIFEST} cannot be read: {error!r}") from None


def _write(path: Path, source: Any, size: int) -> str:
    """At most *size* bytes and one more of *source* to *path*, mode 0600; their sha256."""
    hasher = hashlib.sha256()
    left = size + 1
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        while block := source.read(min(COPY_BYTES, left)):
            hasher.update(block)
            out.write(block)
            left -= len(block)
        out.flush()
        os.fsync(out.fileno())
    return hasher.hexdigest()


def _unset_database(path: Path) -> None:
    """The settings of a region on PostgreSQL name its database: the rows are not there now."""
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text(encoding="utf-8")
        changed = _DATABASE_LINE.sub(r"# before the restore: \g<0>", text)
        if changed != text:
            path.write_text(changed, encoding="utf-8")


def _revive(path: Path) -> int:
    """Bring a backup's rows to this version's schema and its catalogue above all that racks may have; row count."""
    made = Database(f"{SQLITE}{path}")
    try:
        made.migrate()
        settings = SettingsRepository(made)
        version = int(settings.get(CATALOGUE_VERSION) or 0)
        lifted = int(time.time() - VERSIONS_SINCE)
        if lifted <= version:
            lifted = version + CATALOGUE_LEAP
        settings.put({CATALOGUE_VERSION: str(lifted), CATALOGUE_DIGEST: "restored"})
        with made.engine.connect() as connection:
            rows = count_rows(connection)
    finally:
        made.close()
    settle(path)
    return rows


def settle(path: Path) -> None:
    """All of an SQLite database that nobody has open in its one file, durably: no journal beside it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode=delete")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fill(source: Path, url: str, meter: Meter, region: str | None) -> int:
    """*region*: an earlier try may have filled it with the rows of this one, and was killed before it could say so."""
    if region is not None:
        target = Database(url)
        try:
            with contextlib.suppress(sa.exc.DBAPIError):
                if SettingsRepository(target).get(REGION_ID) == region:
                    with target.engine.connect() as connection:
                        return count_rows(connection)
        finally:
            target.close()
    with opened(f"{SQLITE}{source}") as old:
        return sum(fill_empty(old, url, meter).values())


def fill_empty(source: Database, url: str, meter: Meter, *, or_same: bool = False) -> dict[str, int]:
    """Every row of *source* into the database at *url*, made if it has no tables yet. Table -> rows.

    *or_same*: one that has these very rows will do; whoever put them there was killed after that. Raises BackupError
    when there is anything else in it, TransferError when a row does not arrive.
    """
    target = Database(url)
    try:
        try:
            taken = _taken(target)
            if taken is not None:
                with source.engine.connect() as old, target.engine.connect() as new:
                    if or_same and target.revision() == target.head() and (there := same_rows(old, new)):
                        return there
                raise BackupError(f"database {shown(target)}: expected an empty one, got {taken}")
        except sa.exc.DBAPIError as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise BackupError(f"database {shown(target)}: cannot be opened: {reason}") from None
        target.migrate()
        with source.engine.connect() as old, old.begin(), target.engine.begin() as new:
            return copy_all(old, new, meter("copying the database", count_rows(old), "rows"))
    finally:
        target.close()


def _taken(target: Database) -> str | None:
    """What is in it already, in words; None when it is empty."""
    ours = {table.name for table in Model.metadata.sorted_tables} | {"alembic_version"}
    with target.engine.connect() as connection:
        tables = set(sa.inspect(connection).get_table_names())
        foreign = sorted(tables - ours)
        if foreign:
            return f"one with the table {foreign[0]}"
        for table in Model.metadata.sorted_tables:
            if (
                table.name in tables
                and connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()
            ):
                return f"rows in {table.name}"
    return None


def _require_room(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if nbytes + datadir.NEW_BYTES > free:
        raise BackupError(f"{folder.parent}: expected {nbytes + datadir.NEW_BYTES} bytes free, got {free}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _described(file: Path, manifest: dict[str, Any], rows: int) -> Backup:
    return Backup(
        file=str(file),
        region=manifest["region"],
        version=manifest["version"],
        schema=manifest["schema"],
        created=str(manifest["created"])[:19] + "Z",
        members=tuple(manifest["members"]),
        rows=rows,
        bytes=file.stat().st_size,
    )

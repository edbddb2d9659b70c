"""The one-time migration of images out of a MAAS database: large objects in, verified files and sets out.

In order: the inventory in one snapshot; the plan; room on the disk for all of it or nothing; each content once, read
by pieces, its digest and size proved by the store's ingest, its row written; each set as soon as its files are here;
and, only when all that has succeeded and only when asked to, the objects are removed.

Every step may be repeated and each file is a commit of its own, so that a migration that is killed goes on where it
stopped: whole files stay, of the one that was on its way the beginning is hashed again and the rest is read. One bad
file stops no other; the migration has not succeeded while MAAS's word about a file is wrong, unless it is told to leave
those there.

Invariant: an object is removed only when the store has its content, verified and on stable storage, and the region's
database names it. Left to others: MAAS's tables (maas), what they mean (mapping), what waits for its success (state).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bootplane.control import config, datadir
from bootplane.control.banners import Board
from bootplane.control.errors import Conflict, StartError
from bootplane.control.legacy import state
from bootplane.control.legacy.maas import CHUNK_BYTES, SPACE_QUERY, Content, Inventory, MaasDatabase
from bootplane.control.legacy.mapping import Migration, Wanted, plan, selections_of
from bootplane.control.storage.banners import BannerRepository
from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.images import ImageRepository, WantedSet
from bootplane.control.storage.selections import SelectionRepository
from bootplane.control.storage.settings import SettingsRepository
from bootplane.control.sync.housekeeping import Housekeeper
from bootplane.core.digest import Verifier, chunk_root
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.store import InsufficientSpace, Store, StoreError

_LOG = logging.getLogger("bootplane.migrate")
_DAY = re.compile(r"\d{8}(?=\.|\Z)")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table a dry run shows. Sizes in bytes."""

    name: str
    version: str
    kind: str  # "synced", "uploaded" or "boot loader"
    files: int
    bytes: int
    state: str  # "comes", "here"


@dataclass(frozen=True, slots=True)
class Report:
    """What would be done, or has been. Sizes in bytes."""

    database: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]
    damaged: tuple[str, ...]  # those of the remarks that keep the migration from succeeding
    space_query: str
    space_query_bytes: int  # what it answers: everything in the database, what nobody names included
    bytes_total: int  # of the contents that come
    bytes_needed: int  # of those, what the store has not got yet
    free_bytes: int
    others: int  # further sessions on the MAAS database
    succeeded: bool
    removed_objects: int = 0
    removed_bytes: int = 0


Meter = Callable[[str, int], Callable[[int], None]]  # what is done, bytes -> a function told of bytes done


class Target:
    """The region's side: its database and store, for the one process that may write them."""

    def __init__(self, data: Path, database: Database, keep_free_bytes: int) -> None:
        try:
            self.store = Store(data, keep_free_bytes=keep_free_bytes)
        except StoreError as error:
            raise StartError(str(error)) from None
        self.database = database
        self.settings = SettingsRepository(database)
        self.board = Board(BannerRepository(database))
        self.blobs = BlobRepository(database)
        self.images = ImageRepository(database)
        self.selections = SelectionRepository(database)
        self.housekeeper = Housekeeper(self.store, self.blobs, self.images, 0.0)


@contextmanager
def target(data: Path) -> Iterator[Target]:
    """The region whose data directory is *data*, made when it is new. It must not run: its lock says so."""
    settings = config.load(data)
    with ExitStack() as stack:
        datadir.prepare(settings.data)
        stack.callback(datadir.Lock(settings.data / "region.lock", "region").release)
        database = Database(settings.database_url)
        stack.callback(database.close)
        database.migrate()
        region = Target(settings.data, database, settings.disk_reserve_bytes)
        stack.callback(datadir.Lock(region.store.directory / ".lock", "region").release)
        yield region


def present_in(data: Path) -> tuple[dict[str, int], int]:
    """For a dry run, which changes nothing: digest -> size of what the store in *data* has, and its free bytes."""
    settings = config.load(data)
    store = Store(settings.data, read_only=True, keep_free_bytes=settings.disk_reserve_bytes)
    found: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError):
        found = dict(store.complete())
    place = next(path for path in (store.directory, *store.directory.parents) if path.exists())
    return found, max(_free(place) - settings.disk_reserve_bytes, 0)


def describe(maas: MaasDatabase, present: dict[str, int], free_bytes: int) -> Report:
    """A dry run: what would come, what would not, and whether it fits."""
    inventory = maas.read()
    return _report(maas, inventory, plan(inventory, present), present, free_bytes, succeeded=False)


def migrate(
    maas: MaasDatabase,
    region: Target,
    *,
    leave_damaged: bool = False,
    unlink: bool = False,
    meter: Meter = lambda _what, _total: lambda _n: None,
) -> Report:
    """Carry it out. Raises MaasError, StoreError and InsufficientSpace; what has come until then stays."""
    inventory = maas.read()
    damaged: set[str] = set()
    made = plan(inventory, _here(region, inventory))
    lacking = _lacking(region, made)
    if lacking or not state.is_done(region.settings):  # not before it is known that this is the database of a MAAS
        state.begin(region.settings, region.board)
    _require_room(region, made)
    progress = meter("migrating", sum(content.total_size for content in lacking.values()))
    while True:
        bad = _fetch_all(maas, region, made, progress)
        if not bad:
            break
        damaged |= bad
        made = plan(inventory, _here(region, inventory), damaged)  # an older version may be whole
        _require_room(region, made)
    refused = _complete(region, made)
    _select(region, made.wanted)
    blocking = [str(remark) for remark in made.remarks if remark.damaged] + refused
    present = _here(region, inventory)
    succeeded = not blocking or leave_damaged
    report = _report(
        maas, inventory, made, present, max(region.store.free_bytes(), 0), succeeded=succeeded, refused=tuple(refused)
    )
    if not succeeded:
        state.begin(region.settings, region.board, f"Damaged or refused: {len(blocking)}.")
        return report
    state.succeed(region.settings, region.board)
    return _unlinked(maas, region, inventory, report, meter) if unlink else report


def give_up(region: Target) -> None:
    """The MAAS database has gone, or nobody wants it any more: what has come is all. Raises Conflict."""
    if not state.is_pending(region.settings):
        raise Conflict("migration from MAAS: expected one that has begun and not succeeded, got none")
    state.succeed(region.settings, region.board)


# -- files


def _here(region: Target, inventory: Inventory) -> dict[str, int]:
    """Digest -> size of the contents of *inventory* that the store has whole."""
    wanted = {content.sha256: content.total_size for content in inventory.contents.values()}
    return {sha256: size for sha256, size in region.store.complete() if wanted.get(sha256) == size}


def _lacking(region: Target, made: Migration) -> dict[str, Content]:
    return {
        sha256: content
        for sha256, content in made.contents().items()
        if not region.store.has(sha256, content.total_size)
    }


def _require_room(region: Target, made: Migration) -> None:
    """Half an image boots nothing: room for all of it, or nothing is begun. Raises InsufficientSpace."""
    needed = sum(
        max(content.total_size - _begun_bytes(region, sha256), 0) for sha256, content in _lacking(region, made).items()
    )
    free = region.store.free_bytes()
    if needed > free:
        raise InsufficientSpace(region.store.directory, needed, max(free, 0))


def _begun_bytes(region: Target, sha256: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return region.store.partial_path(sha256).stat().st_size
    return 0


def _fetch_all(maas: MaasDatabase, region: Target, made: Migration, progress: Callable[[int], None]) -> set[str]:
    """Every content that is not here yet; sets are committed as they become whole. Returns damaged digests."""
    damaged: set[str] = set()
    known = region.blobs.present()
    for sha256, content in made.contents().items():
        if region.store.has(sha256, content.total_size) and (sha256 in known or _is_right(region, content)):
            continue
        try:
            _fetch(maas, region, content, progress)
        except DigestMismatch as error:
            _LOG.warning("%s", error)
            damaged.add(sha256)
            continue
        _complete(region, made, quiet=True)
    return damaged


def _is_right(region: Target, content: Content) -> bool:
    """Whether a file that the database does not know is what its name says; then its row is written.

    It lost its row by a kill between rename and commit, or it is somebody's: its name alone is no proof.
    """
    verifier = Verifier(content.sha256, content.total_size, str(region.store.path_of(content.sha256)))
    try:
        with region.store.path_of(content.sha256).open("rb") as file:
            while block := file.read(CHUNK_BYTES):
                verifier.update(block)
        root = verifier.finish().root
        if chunk_root(region.store.chunk_list(content.sha256)) != root:
            return False
    except (DigestMismatch, OSError) as error:
        _LOG.warning("%s; taking it from the MAAS database again", error)
        return False
    region.blobs.record([BlobRecord(content.sha256, content.total_size, root)])
    return True


def _fetch(maas: MaasDatabase, region: Target, content: Content, progress: Callable[[int], None]) -> None:
    """One object into the store. Raises DigestMismatch, with nothing left behind."""
    name = f"content {content.sha256[:16]} of {maas.name}"
    with (
        region.store.reserve(max(content.total_size - _begun_bytes(region, content.sha256), 0)) as reservation,
        region.store.begin(content.sha256, content.total_size, name, reservation) as ingest,
    ):
        progress(ingest.offset)
        if content.oid is not None:
            for piece in maas.chunks(content.oid, ingest.offset, content.total_size):
                ingest.write(piece)
                progress(len(piece))
        verified = ingest.commit()
    region.blobs.record([BlobRecord(verified.sha256, verified.size, verified.root)])


# -- sets


def _complete(region: Target, made: Migration, quiet: bool = False) -> list[str]:
    """Store the sets that are whole now. Returns why boot loader archives were refused, a sentence each."""
    present = region.blobs.present()
    known = {(each.resource_set.resource.name, each.resource_set.version): each for each in region.images.sets()}
    newest: dict[str, str] = {}
    for (name, version), stored in known.items():
        if stored.complete:
            newest[name] = max(newest.get(name, ""), version)
    whole = [
        each
        for each in made.wanted
        if each.resource_set.is_complete(present)
        and newest.get(each.resource_set.resource.name, "") < each.resource_set.version
    ]
    synced = [each for each in whole if not each.resource_set.resource.is_uploaded]
    region.images.decide([WantedSet(each.resource_set, None, each.paths) for each in synced], (), ())
    refused = _add_uploads(region, [each for each in whole if each.resource_set.resource.is_uploaded], newest)
    names = {(each.resource_set.resource.name, each.resource_set.version) for each in made.wanted}
    stored_sets = [
        each
        for each in region.images.sets()
        if (each.resource_set.resource.name, each.resource_set.version) in names and not each.complete
    ]
    refused |= region.housekeeper.unpack_archives(stored_sets, present)
    ready = region.housekeeper.ready(stored_sets, region.blobs.present())
    region.images.complete(each.id for each in ready)
    return [] if quiet else list(refused.values())


def _add_uploads(region: Target, whole: Collection[Wanted], newest: Mapping[str, str]) -> dict[str, str]:
    """Custom images that the region has not got; name -> why one was refused."""
    refused: dict[str, str] = {}
    for each in whole:
        resource = each.resource_set.resource
        if resource.name in newest:  # it came earlier, or somebody has uploaded another since
            continue
        found = _DAY.match(each.resource_set.version)
        day = found[0] if found else now_text()[:10].replace("-", "")
        try:
            region.images.add_uploaded(resource, each.resource_set.files, day)
        except Conflict as error:
            refused[resource.name] = str(error)
    return refused


def _select(region: Target, wanted: Collection[Wanted]) -> None:
    """A sync drops what nobody selects: what came from MAAS was selected there."""
    for system, release, arch, subarches, labels in selections_of(wanted):
        with contextlib.suppress(Conflict):  # an earlier run has added it
            region.selections.add(system, release, (arch,), subarches, labels)


# -- the end


def _unlinked(maas: MaasDatabase, region: Target, inventory: Inventory, report: Report, meter: Meter) -> Report:
    """Remove the objects whose content is here, file and row, each in a transaction of its own.

    There is no way back, so each file is read and hashed once more before its object goes; a rotten one is taken from
    there again. The rows that say what the files are come to stable storage before.
    """
    region.database.make_durable()
    rows = region.blobs.present()
    count = nbytes = 0
    going = [
        content
        for content in inventory.contents.values()
        if content.oid is not None and content.object_bytes is not None and content.sha256 in rows
    ]
    progress = meter("verifying", sum(content.total_size for content in going))
    for content in going:
        if not (region.store.has(content.sha256, content.total_size) and _is_right(region, content)):
            try:
                _fetch(maas, region, content, lambda _n: None)
            except DigestMismatch as error:  # neither side has it right: nothing more is thrown away
                _LOG.warning("%s", error)
                continue
        progress(content.total_size)
        if maas.unlink(content):
            count += 1
            nbytes += content.object_bytes or 0
    return replace(report, removed_objects=count, removed_bytes=nbytes)


def _report(
    maas: MaasDatabase,
    inventory: Inventory,
    made: Migration,
    present: dict[str, int],
    free_bytes: int,
    *,
    succeeded: bool,
    refused: tuple[str, ...] = (),
) -> Report:
    contents = made.contents()
    return Report(
        database=maas.name,
        rows=tuple(_row(each, present) for each in made.wanted),
        remarks=(*(str(remark) for remark in made.remarks), *refused),
        damaged=(*(str(remark) for remark in made.remarks if remark.damaged), *refused),
        space_query=SPACE_QUERY,
        space_query_bytes=inventory.asked_bytes,
        bytes_total=sum(content.total_size for content in contents.values()),
        bytes_needed=sum(content.total_size for sha256, content in contents.items() if sha256 not in present),
        free_bytes=free_bytes,
        others=inventory.others,
        succeeded=succeeded,
    )


def _row(each: Wanted, present: dict[str, int]) -> Row:
    resource = each.resource_set.resource
    kind = "boot loader" if resource.is_bootloader else "uploaded" if resource.is_uploaded else "synced"
    is_here = all(file.sha256 in present for file in each.resource_set.files)
    return Row(
        name=resource.name,
        version=each.resource_set.version,
        kind=kind,
        files=len(each.resource_set.files),
        bytes=each.resource_set.size,
        state="here" if is_here else "comes",
    )


def _free(path: Path) -> int:
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize

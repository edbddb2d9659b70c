"""Store and database kept in step: at start, when boot loader archives arrive, and when a file is no longer right.

Invariants: the store may hold more than the database knows (a crash between rename and row), never less for long;
nothing of the store is deleted here: what is not ours, or not what it was, is put aside, one line each, and what is a
whole file by its name alone is left to be hashed (audit). No byte is read at start.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bootplane.control.bootloaders import unpack
from bootplane.control.domain.images import ARCHIVE
from bootplane.control.errors import Refused
from bootplane.control.storage.blobs import BlobRecord, BlobRepository, DerivedFile
from bootplane.control.storage.images import ImageRepository, StoredSet
from bootplane.core.digest import chunk_root, sha256_hex
from bootplane.core.status import CoreError
from bootplane.dataplane.catalogue import DIGEST_BYTES, chunk_count
from bootplane.dataplane.store import Store

LINES = 20  # about missing files: one each, unless a whole disk is not there
_LOG = logging.getLogger("bootplane.store")


@dataclass(frozen=True, slots=True)
class Reconciled:
    adopted: tuple[str, ...]  # complete files the database did not know
    missing: tuple[str, ...]  # blobs whose file is gone or of another length: to be fetched again
    doubted: tuple[str, ...] = ()  # files named like blobs that nobody has verified: to be hashed
    cut: tuple[str, ...] = ()  # of the missing ones, those that were of another length
    set_aside: int = 0  # files


class Lost(NamedTuple):
    """What lacks a file now. *sets*: "ubuntu/noble/amd64/ga-24.04 20250709"."""

    sets: tuple[str, ...]
    sourceless: tuple[str, ...]  # of these, those no boot source has


class Housekeeper:
    def __init__(self, store: Store, blobs: BlobRepository, images: ImageRepository, grace_s: float) -> None:
        self._store = store
        self._blobs = blobs
        self._images = images
        self._grace_s = grace_s

    def reconcile(self, *, is_strange: bool = False) -> Reconciled:
        """At start. Blobs without their file are lost, and wanted again. A file the database does not know
        is adopted when its chunk list says that it was verified; unless the store *is_strange*: then its name is no
        proof, it is left to be hashed, and what is put aside is kept until a person removes it."""
        keep_s = None if is_strange else self._grace_s
        rows = self._blobs.present()
        here = self._store.inventory()
        set_aside = sum(self._set_aside(name, keep_s) for name in here.strangers)
        if here.spared:
            _LOG.info("%s: left alone: %s", self._store.directory, ", ".join(here.spared[:LINES]))
        missing = [sha256 for sha256, row in rows.items() if here.blobs.get(sha256) != row.size]
        cut = [sha256 for sha256 in missing if sha256 in here.blobs]
        for sha256 in cut:
            kept_file = self._store.withdraw(sha256, keep_s)
            term = f"set aside, kept {kept_file.term}" if kept_file else "it cannot be set aside now"
            expected, got = rows[sha256].size, here.blobs[sha256]
            _LOG.error("blob %s: expected %d bytes, got %d; %s; fetching it again", sha256, expected, got, term)
        self._tell_missing([sha256 for sha256 in missing if sha256 not in here.blobs], rows)
        adopted: list[BlobRecord] = []
        doubted: list[str] = []
        for sha256 in sorted(here.blobs.keys() - rows.keys()):
            record = None if is_strange else self._adoptable(sha256, here.blobs[sha256])
            if record is not None:
                adopted.append(record)
            else:
                self._store.doubt(sha256)
                doubted.append(sha256)
        if missing:
            self.lost(missing)
        self._blobs.record(adopted, is_checked=False)
        self._store.prune_lists()
        return Reconciled(
            tuple(record.sha256 for record in adopted), tuple(missing), tuple(doubted), tuple(cut), set_aside + len(cut)
        )

    def lost(self, digests: Collection[str]) -> Lost:
        """The files of these are not here any more, and wanted again. Their names stay: a rack that holds them serves
        them meanwhile, however long it takes."""
        gone = set(digests)
        derived = self._blobs.derived()
        torn = {archive for archive, inner in derived.items() if gone & {file.sha256 for file in inner}}
        affected = [
            each
            for each in self._images.sets()
            if any(f.sha256 in gone or f.sha256 in torn for f in each.resource_set.files)
        ]
        self._blobs.lose(sorted(gone))
        return Lost(
            tuple(_name(each) for each in affected),
            tuple(_name(each) for each in affected if each.source_id is None),
        )

    def _set_aside(self, name: str, keep_s: float | None) -> bool:
        path = self._store.directory / name
        try:
            kept = self._store.aside.put(path, keep_s)
        except OSError as error:  # it does no harm where it is, and the region must start on a full disk, too
            _LOG.warning("%s: not a file of this store, and cannot be set aside: %s", path, error.strerror)
            return False
        _LOG.warning("set aside: %s, %d bytes: not a file of this store; kept %s", kept.path, kept.bytes, kept.term)
        return True

    def _tell_missing(self, digests: list[str], rows: dict[str, BlobRecord]) -> None:
        for sha256 in digests[:LINES]:
            expected = rows[sha256].size
            _LOG.error("blob %s: expected a file of %d bytes, got none; fetching it again", sha256, expected)
        if len(digests) > LINES:
            _LOG.error("and %d more files that are missing", len(digests) - LINES)

    def unpack_archives(self, sets: Iterable[StoredSet], present: Iterable[str]) -> dict[str, str]:
        """Unpack boot loader archives that are here and not unpacked, or of which a file is lost. Returns archive ->
        why it was refused."""
        held = set(present)
        derived = self._blobs.derived()
        refused: dict[str, str] = {}
        todo = {
            file.sha256: f"{each.resource_set.resource.name} {each.resource_set.version}: {file.name}"
            for each in sets
            for file in each.resource_set.files
            if file.ftype == ARCHIVE and file.sha256 in held and not _is_unpacked(file.sha256, derived, held)
        }
        for archive, name in todo.items():
            try:
                self._unpack(archive, name)
            except (Refused, OSError, CoreError) as error:  # one archive must not stop the others; the sync names it
                _LOG.warning("boot loader archive %s: %s", archive, error)
                refused[archive] = str(error)
        return refused

    def ready(self, sets: Iterable[StoredSet], present: Iterable[str]) -> list[StoredSet]:
        """Incomplete sets that have all their files, archives unpacked."""
        held = set(present)
        derived = self._blobs.derived()
        return [
            each
            for each in sets
            if not each.complete
            and each.resource_set.is_complete(held)
            and all(
                file.ftype != ARCHIVE or _is_unpacked(file.sha256, derived, held) for file in each.resource_set.files
            )
        ]

    def _adoptable(self, sha256: str, size: int) -> BlobRecord | None:
        """A file that has its chunk list was verified before it got its name, if this region has put it there."""
        try:
            chunks = self._store.chunk_list(sha256)
        except FileNotFoundError:
            chunks = b""
        if len(chunks) != DIGEST_BYTES * chunk_count(size):
            return None
        return BlobRecord(sha256, size, chunk_root(chunks))

    def _unpack(self, archive: str, name: str) -> None:
        """All files of one archive become blobs; their rows are written together."""
        files: list[DerivedFile] = []
        blobs: list[BlobRecord] = []
        for inner, data in unpack(self._store.path_of(archive), name).items():
            sha256 = sha256_hex(data)
            if self._store.has(sha256, len(data)):
                root = chunk_root(self._store.chunk_list(sha256))
            else:
                with self._store.begin(sha256, len(data), f"{name}: {inner}") as ingest:
                    ingest.restart()
                    ingest.write(data)
                    root = ingest.commit().root
            files.append(DerivedFile(inner, sha256, len(data)))
            blobs.append(BlobRecord(sha256, len(data), root))
        self._blobs.record_derived(archive, files, blobs)


def _is_unpacked(archive: str, derived: Mapping[str, Sequence[DerivedFile]], held: Collection[str]) -> bool:
    return archive in derived and all(inner.sha256 in held for inner in derived[archive])


def _name(stored: StoredSet) -> str:
    return f"{stored.resource_set.resource.name} {stored.resource_set.version}"

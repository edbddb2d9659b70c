"""Store and database kept in step: at start, when boot loader archives arrive, and when something may go.

Invariant: the store may hold more than the database knows (a crash between rename and row), never less for long; a
file is deleted only when nothing in the database names it and the grace time has passed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bootplane.control.bootloaders import unpack
from bootplane.control.domain.images import ARCHIVE
from bootplane.control.errors import Refused
from bootplane.control.storage.blobs import BlobRecord, BlobRepository, DerivedFile
from bootplane.control.storage.images import ImageRepository, StoredSet
from bootplane.core.digest import chunk_root, sha256_hex
from bootplane.core.status import CoreError
from bootplane.dataplane.catalogue import DIGEST_BYTES, chunk_count
from bootplane.dataplane.store import Store

_LOG = logging.getLogger("bootplane.store")


@dataclass(frozen=True, slots=True)
class Reconciled:
    adopted: tuple[str, ...]  # complete files the database did not know
    missing: tuple[str, ...]  # blobs whose file is gone or of another length: to be fetched again


class Housekeeper:
    def __init__(self, store: Store, blobs: BlobRepository, images: ImageRepository, grace_s: float) -> None:
        self._store = store
        self._blobs = blobs
        self._images = images
        self._grace_s = grace_s
        self.arriving: Callable[[], Iterable[str]] = lambda: ()  # digests of uploads: neither blob nor partial goes

    def reconcile(self) -> Reconciled:
        """At start. Rows without their file are dropped and their sets wanted again; complete files are adopted."""
        rows = self._blobs.present()
        files = dict(self._store.complete())
        missing = [sha256 for sha256, row in rows.items() if files.get(sha256) != row.size]
        for sha256 in missing:
            if sha256 in files:
                _LOG.error(
                    "blob %s: expected %d bytes, got %d; fetching it again", sha256, rows[sha256].size, files[sha256]
                )
                self._store.remove(sha256)
        adopted = []
        for sha256 in sorted(files.keys() - rows.keys()):
            record = self._adoptable(sha256, files[sha256])
            if record is not None:
                adopted.append(record)
        if missing:
            gone = set(missing)
            self._blobs.forget(missing)
            derived = self._blobs.derived()
            torn = [archive for archive, inner in derived.items() if gone & {file.sha256 for file in inner}]
            self._blobs.forget_derived(torn)
            self._images.incomplete(
                each.id
                for each in self._images.sets()
                if each.complete and any(f.sha256 in gone or f.sha256 in torn for f in each.resource_set.files)
            )
        self._blobs.record(adopted)
        return Reconciled(tuple(record.sha256 for record in adopted), tuple(missing))

    def unpack_archives(self, sets: Iterable[StoredSet], present: Iterable[str]) -> dict[str, str]:
        """Unpack boot loader archives that are here and not unpacked. Returns archive -> why it was refused."""
        held = set(present)
        derived = self._blobs.derived()
        refused: dict[str, str] = {}
        todo = {
            file.sha256: f"{each.resource_set.resource.name} {each.resource_set.version}: {file.name}"
            for each in sets
            for file in each.resource_set.files
            if file.ftype == ARCHIVE and file.sha256 in held and file.sha256 not in derived
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
            and all(file.ftype != ARCHIVE or file.sha256 in derived for file in each.resource_set.files)
        ]

    def expired(self, sets: Iterable[StoredSet]) -> list[StoredSet]:
        """Marked sets whose grace time has passed."""
        before = self._before()
        return [each for each in sets if each.marked is not None and each.marked < before]

    def sweep(self, sets: Iterable[StoredSet]) -> list[str]:
        """Delete files that no set names, after the grace time. Call it when nothing serves them by name any more."""
        derived = self._blobs.derived()
        used = {file.sha256 for each in sets for file in each.resource_set.files}
        stale_archives = [archive for archive in derived if archive not in used]
        used |= {file.sha256 for archive, inner in derived.items() if archive in used for file in inner}
        used.update(self.arriving())
        unused = self._blobs.unused_since(used, self._before())
        if unused:
            self._blobs.mark_removed(unused)
            self._blobs.forget_derived([archive for archive in stale_archives if archive in unused])
            freed = sum(self._store.remove(sha256) for sha256 in unused)
            _LOG.info("removed %d files that nothing names any more, %d bytes", len(unused), freed)
        for sha256 in self._store.partials():
            if sha256 not in used:
                self._store.discard_partial(sha256)
        return unused

    def _before(self) -> str:
        return (datetime.now(UTC) - timedelta(seconds=self._grace_s)).isoformat(timespec="microseconds")

    def _adoptable(self, sha256: str, size: int) -> BlobRecord | None:
        """A file that has its chunk list was verified before it got its name."""
        try:
            chunks = self._store.chunk_list(sha256)
        except FileNotFoundError:
            chunks = b""
        if len(chunks) != DIGEST_BYTES * chunk_count(size):
            _LOG.warning("%s: a file that is not ours is left alone", self._store.path_of(sha256))
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

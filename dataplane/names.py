"""The rack's registry: from a catalogue to a Table of Blobs, and from a blob's id back to the Blob.

Invariants: a blob that stays in the catalogue stays the same Blob, so that its cached segments and its waiters survive
a new version; one that left stays known by its id while somebody still reads it (a transfer under way may miss chunks
of it), and is let go afterwards.

Left to others: where chunk lists come from (chunklists), what is fetched (fill), giving tables to reactors (reactors).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.status import CoreError
from bootplane.core.table import Table
from bootplane.dataplane.catalogue import BlobEntry, Catalogue
from bootplane.dataplane.namespace import LOADER_PREFIX
from bootplane.dataplane.store import Store

OWN = 1  # reference: the Blob object in this registry

log = logging.getLogger("bootplane.names")


class Registry:
    """*chunks(sha256, entry)* gives a verified chunk list, or None when it cannot be had (now).

    One thread calls apply() and release(); by_id() and blobs() are for any.

    What a boot loader's name means is protected in the cache (core.lru), however large it is.

    With *store*, blobs that are complete there are opened in place, read-only, and never filled.
    """

    def __init__(self, cache: Cache, chunks: Callable[[str, BlobEntry], bytes | None], store: Store | None) -> None:
        self._cache = cache
        self._chunks = chunks
        self._store = store
        self._current: dict[str, Blob] = {}  # sha256 -> Blob
        self._by_id: dict[int, Blob] = {}
        self._retired: dict[int, Blob] = {}
        self._lacking: list[str] | None = None  # None: no catalogue yet

    def __len__(self) -> int:
        return len(self._current)

    def by_id(self, blob_id: int) -> Blob | None:
        return self._by_id.get(blob_id)

    def blobs(self) -> list[Blob]:
        """All there are, those included that have left the catalogue and are still read. Any thread."""
        return list(self._by_id.values())

    def apply(self, catalogue: Catalogue) -> tuple[Table, list[str]]:
        """The table of this catalogue, and the digests it lacks because their chunk lists could not be had."""
        current: dict[str, Blob] = {}
        lacking: list[str] = []
        misfits_before = self._cache.stats()["misfit_segments"]
        loaders = {sha256 for name, sha256 in catalogue.names.items() if name.startswith(LOADER_PREFIX)}
        for sha256, entry in catalogue.blobs.items():
            blob = self._usable(sha256, entry) or self._open(sha256, entry)
            if blob is None:
                lacking.append(sha256)
            else:
                current[sha256] = blob
                if sha256 in loaders and blob.chunks is not None:
                    self._cache.blob(sha256, blob.size, blob.chunks, protected=True)
        if misfits := self._cache.stats()["misfit_segments"] - misfits_before:
            log.warning("%d files of an earlier run do not fit the catalogue's blobs and are removed", misfits)
        self._lacking = lacking
        live = {blob.id: blob for blob in current.values()}
        known = {**self._retired, **{blob.id: blob for blob in self._current.values()}}
        self._retired = {blob_id: blob for blob_id, blob in known.items() if blob_id not in live}
        self._current = current
        self._by_id = {**self._retired, **live}
        names = {name: current[sha256] for name, sha256 in catalogue.names.items() if sha256 in current}
        return Table(names, catalogue.version), lacking

    def release(self, is_idle: Callable[[Blob], bool]) -> int:
        """Lets go of retired blobs nobody reads any more and for which *is_idle* (nothing of them is being filled);
        their bytes leave the cache. Returns how many. Call it now and then.

        Once a catalogue was applied, what an earlier run left in the cache goes, too, unless the catalogue names it (a
        blob may still wait for its chunk list)."""
        if self._lacking is not None:
            self._cache.settle(self._lacking)
        done = [blob for blob in self._retired.values() if blob.references <= OWN and is_idle(blob)]
        for blob in done:
            del self._retired[blob.id]
            if blob.chunks is not None:
                self._cache.drop(blob)
        if done:
            self._by_id = {**self._retired, **{blob.id: blob for blob in self._current.values()}}
        return len(done)

    def has(self, sha256: str, entry: BlobEntry) -> bool:
        """Whether apply() needs no chunk list for it."""
        return self._usable(sha256, entry) is not None or self._is_in_store(sha256, entry)

    def _is_in_store(self, sha256: str, entry: BlobEntry) -> bool:
        return self._store is not None and self._store.has(sha256, entry.size)

    def _usable(self, sha256: str, entry: BlobEntry) -> Blob | None:
        """The Blob there is, unless its file has meanwhile become complete in the shared store."""
        blob = self._current.get(sha256)
        if blob is None or blob.size != entry.size:
            return None
        if not blob.complete and self._is_in_store(sha256, entry):
            return None
        return blob

    def _open(self, sha256: str, entry: BlobEntry) -> Blob | None:
        if self._store is not None and self._is_in_store(sha256, entry):
            try:
                return self._store.open_blob(sha256, entry.size)
            except (OSError, CoreError) as error:
                log.warning("shared store: %s; the region is asked for it instead", error)
        chunks = self._chunks(sha256, entry)
        return None if chunks is None else self._cache.blob(sha256, entry.size, chunks)

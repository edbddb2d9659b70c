"""Follows the region's catalogue: the kept one at start, then every new version, turned into tables and published.

    kept on disk ─┐
                  ├─▶ signature, version ─▶ chunk lists ─▶ Registry ─▶ Table ─▶ publish
    long poll ────┘

Invariants: what was refused changes nothing that is served, and is said in one sentence, once; a catalogue is kept on
disk before it is served, so that the rack does not go back over a restart (on a full disk it is served all the same). A
new catalogue takes the place of another once the region was asked for each chunk list of it: one whose region falls
silent in between would take names away that can be served. A blob of which no region has the (right) list is left out
of the table, named in the log, and tried again. refresh() asks beside the long poll; what either brings is taken by one
at a time, and once.

Left to others: what a catalogue is (catalogue), blobs (names), the beat (rackservice).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bootplane.core.blob import Blob
from bootplane.core.table import Table
from bootplane.dataplane import kept
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.catalogue import BlobEntry, Catalogue, CatalogueError, PinnedKey, open_signed
from bootplane.dataplane.chunklists import ChunkLists
from bootplane.dataplane.names import Registry
from bootplane.dataplane.region_client import FileRemoved, RegionClient, RegionError, SignedBody

WAIT_S = 25.0  # long poll
LACKING_WAIT_S = 2.0  # while chunk lists are missing
FIRST_RETRY_S = 0.2
MAX_RETRY_S = 3.0
REFUSED_S = 5.0

log = logging.getLogger("bootplane.catalogue")


class Follower:
    """*registry* is a function of the chunk list source, because each needs the other. run() is for a thread of its
    own, refresh() for another one."""

    def __init__(
        self,
        directory: Path,
        client: RegionClient,
        key: PinnedKey,
        registry: Callable[[Callable[[str, BlobEntry], bytes | None]], Registry],
        publish: Callable[[Table], None],
        sources: Callable[[Sequence[HostPort]], None],
        is_idle: Callable[[Blob], bool],
    ) -> None:
        self._path = directory / "catalogue"
        self._client = client
        self._key = key
        self._lists = ChunkLists(directory / "chunks", client.chunks)
        self._publish = publish
        self._sources = sources
        self._is_idle = is_idle
        self._stopping = threading.Event()
        self._turn = threading.Lock()  # whoever holds it changes what is served
        self._said: set[str] = set()  # since all was well
        self._region_failed = False  # in this round: the other chunk lists are not asked for
        self._lacking: list[str] = []
        self.registry = registry(self._chunks)
        self.catalogue: Catalogue | None = None
        self.tried = threading.Event()  # set when a catalogue is being served, or the region has been asked once

    @property
    def version(self) -> int:
        return self.catalogue.version if self.catalogue else 0

    def load(self) -> None:
        """Serves the kept catalogue, if there is one."""
        try:
            found = kept.load(self._path, self._key)
        except CatalogueError as error:
            log.error("%s; it is set aside and the region is asked", error)
            try:
                self._path.rename(self._path.with_name("catalogue.refused"))
            except OSError as why:
                log.warning("%s: could not be set aside: %s", self._path, why.strerror)
            return
        if found is not None:
            self._region_failed = True  # nobody is asked before what is here is served
            self._apply(found)

    def run(self) -> None:
        """Until stop(). Everything that can go wrong with a region or a document is said and tried again."""
        retry_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            try:
                self._once()
                retry_s = FIRST_RETRY_S
            except RegionError as error:
                self._say(f"{error}; {'serving what is here' if self.catalogue else 'nothing can be served yet'}")
                self.tried.set()
                self._stopping.wait(retry_s)
                retry_s = min(retry_s * 2, MAX_RETRY_S)
            except CatalogueError as error:
                self._say(f"refused: {error}")
                self.tried.set()
                self._stopping.wait(REFUSED_S)
            except Exception:  # everything: a rack that follows nothing serves old files for ever; logged, tried again
                log.exception("following the catalogue failed in a way that was not foreseen")
                self.tried.set()
                self._stopping.wait(REFUSED_S)

    def stop(self) -> None:
        self._stopping.set()

    def refresh(self) -> None:
        """Asks the region for a newer catalogue now, and serves it. Raises RegionError and CatalogueError."""
        self._ask(0)

    def _once(self) -> None:
        with self._turn:
            self._region_failed = False
            self.registry.release(self._is_idle)
            if self._lacking and self.catalogue is not None:
                self._apply(self.catalogue)
            wait_s = LACKING_WAIT_S if self._lacking else WAIT_S
        self._ask(wait_s if self.catalogue else 0)
        if self._said and not self._lacking:
            self._said.clear()
            log.info("the region answers; catalogue version %d is served", self.version)

    def _ask(self, wait_s: float) -> None:
        answer = self._client.catalogue(self.version, wait_s)
        if answer is not None:
            signed, bulk = answer
            with self._turn:
                self._region_failed = False
                self._sources(bulk)
                self._take(signed)

    def _take(self, signed: SignedBody) -> None:
        catalogue = open_signed(signed.body, signed.signature, self._key, self.version)
        if self.catalogue is not None:
            if catalogue.version == self.version:  # the other one was answered first
                return
            self._fetch_lists(catalogue)
        try:
            kept.save(self._path, signed.body, signed.signature or "")
        except OSError as error:
            self._say(f"{self._path}: the catalogue could not be kept: {error.strerror}")
        self._apply(catalogue)
        self._lists.prune(catalogue.blobs.keys())

    def _fetch_lists(self, catalogue: Catalogue) -> None:
        """To the rack's disk, those it does not have. Raises RegionError when no region answers for one of them."""
        for sha256, entry in catalogue.blobs.items():
            if not self.registry.has(sha256, entry):
                self._chunks(sha256, entry)
            if self._region_failed:
                raise RegionError(f"catalogue {catalogue.version} waits for the chunk list of {sha256}")

    def _apply(self, catalogue: Catalogue) -> None:
        table, lacking = self.registry.apply(catalogue)
        if lacking and lacking != self._lacking:
            log.warning("%d blobs wait for their chunk lists, the first is %s", len(lacking), lacking[0])
        self._lacking = lacking
        self._publish(table)
        self.catalogue = catalogue  # after it: what is said to be served is
        self.tried.set()
        log.info("catalogue %d of region %s: %d names", catalogue.version, catalogue.region, len(table))

    def _chunks(self, sha256: str, entry: BlobEntry) -> bytes | None:
        """A chunk list; None when it cannot be had in this round."""
        if self._region_failed:
            return self._lists.kept(sha256, entry)
        try:
            found = self._lists.get(sha256, entry)
        except FileRemoved as error:  # the newer catalogue is asked for next
            self._say(str(error))
            return None
        except RegionError as error:
            self._region_failed = True
            self._say(str(error))
            return None
        except CatalogueError as error:
            self._say(f"refused: {error}")
            return None
        if found is None:
            self._say(f"chunk list of {sha256}: expected one, got none from any region")
        return found

    def _say(self, sentence: str) -> None:
        """Once, until all has been well again."""
        if sentence not in self._said:
            self._said.add(sentence)
            log.warning("%s", sentence)

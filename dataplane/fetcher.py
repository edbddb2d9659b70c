"""Carrying out what was chosen: a run of chunks is fetched from one source, each chunk verified and stored, and whoever
waits is woken for it; or a source that has failed is asked for a byte.

Invariants: whatever happens, each chunk of a run ends as landed, returned or failed in the planner, its claim on the
cache is ended, and the run leaves `in_hand`. A wrong chunk is refused in one sentence that names blob, chunk, source,
expected and got, and its source is quarantined.

Left to others: what to fetch next, who is told that nothing comes (fill), HTTP (upstream), a disk that is full or
refuses (storing), hashing (core.lru).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bootplane.core.blob import Blob
from bootplane.core.lru import CacheFull
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.budget import Budget
from bootplane.dataplane.catalogue import CHUNK_BYTES, chunk_length
from bootplane.dataplane.fillplan import Planner, Run
from bootplane.dataplane.fillstats import FillStats
from bootplane.dataplane.refresh import Refresher
from bootplane.dataplane.refusals import Refusal, Refusals
from bootplane.dataplane.sources import Source, Sources
from bootplane.dataplane.storing import DiskHealth, Storer
from bootplane.dataplane.upstream import BlobMissing, BlobRemoved, Body, Upstream, UpstreamError

OK = 0
ST_FULL = 3  # status.pxd

log = logging.getLogger("bootplane.fill")


class CacheLike(Protocol):
    def begin(self, blob: Blob, chunk: int) -> bool: ...
    def store(self, blob: Blob, chunk: int, data: memoryview) -> None: ...
    def abandon(self, blob: Blob, chunk: int) -> None: ...
    def evict(self, wanted: int) -> int: ...
    def reap(self) -> int: ...


@dataclass(frozen=True)
class Shared:
    """What choosing and carrying out have in common. All but *stopping*, which ends waits, is used under *work*, which
    is notified of whatever somebody may wait for."""

    plan: Planner
    sources: Sources
    budget: Budget
    work: threading.Condition
    disk: DiskHealth = field(default_factory=DiskHealth)
    stats: FillStats = field(default_factory=FillStats)
    stopping: threading.Event = field(default_factory=threading.Event)


class Fetcher:
    """Thread-safe. *wake(blob, chunk, status)* is called without the lock."""

    def __init__(
        self,
        shared: Shared,
        cache: CacheLike,
        wake: Callable[[Blob, int, int], None],
        refresher: Refresher | None = None,
    ) -> None:
        self._plan, self._sources, self._budget = shared.plan, shared.sources, shared.budget
        self._work, self._disk, self._stats, self._stopping = shared.work, shared.disk, shared.stats, shared.stopping
        self._cache = cache
        self._wake = wake
        self._refresher = refresher
        self._storer = Storer(cache, shared.stopping)
        # under the lock, like all of `shared`:
        self.in_hand: list[Run] = []
        self.removed: set[int] = set()  # ids of blobs that a source says it has removed
        self.refusals = Refusals()
        self.last_error = "no bulk address is known yet"
        self.disk_error = ""

    def fetch(self, upstream: Upstream, buffer: memoryview, run: Run, blob: Blob, source: Source) -> None:
        """Carries out one run. Whatever happens, each of its chunks ends as landed, returned or failed."""
        chunk, end = run.first, run.first + run.length
        unsent = span(blob, chunk, end)
        try:
            with self._work:
                silence_s = self._sources.silence_s(source, blob.sha256, CHUNK_BYTES, time.monotonic())
            with upstream.open(source, blob.sha256, blob.size, chunk * CHUNK_BYTES, unsent, silence_s) as body:
                try:
                    while chunk < end and not self._stopping.is_set():
                        self._fetch_chunk(body, buffer[: chunk_length(blob.size, chunk)], blob, chunk, source)
                        chunk += 1
                finally:
                    unsent = body.left
        except BlobMissing as error:
            self._source_failed(source, blob, error, missing=True)
        except UpstreamError as error:
            self._source_failed(source, blob, error)
        except DigestMismatch as error:
            self._refused(source, blob, chunk, error)
        except CacheFull as error:
            self._no_room(blob, chunk, error)
            chunk += 1
        except OSError as error:
            self._disk_failed(error)
        finally:
            with self._work:
                source.flights -= 1
                self.in_hand.remove(run)
                self._budget.give_back(unsent)
                for left in range(chunk, end):
                    self._plan.returned(blob.id, left)
                self._work.notify_all()

    def probe(self, upstream: Upstream, source: Source, blob: Blob) -> None:
        """Asks a source that has failed for one byte, which nobody waits for."""
        try:
            with upstream.open(source, blob.sha256, blob.size, 0, 1) as body:
                body.readinto(memoryview(bytearray(1)))
            with self._work:
                self._stats.upstream_bytes += 1
                self._sources.succeeded(source)
        except BlobMissing as error:
            with self._work:
                self._sources.succeeded(source)
                self._missing_locked(source, blob, error, time.monotonic())
        except UpstreamError as error:
            self._source_failed(source, blob, error)
        finally:
            with self._work:
                source.flights -= 1
                self._work.notify_all()

    def _fetch_chunk(self, body: Body, view: memoryview, blob: Blob, chunk: int, source: Source) -> None:
        mine = self._storer.claim(blob, chunk)
        before = body.left
        is_kept = False
        try:
            self._receive(body, view, blob, source)
            if mine:
                self._storer.put(blob, chunk, view)
                is_kept = True
        finally:
            if not is_kept:
                with self._work:
                    self._stats.wasted_bytes += before - body.left
                if mine:
                    self._cache.abandon(blob, chunk)
        with self._work:
            self._plan.landed(blob.id, chunk)
            self.removed.discard(blob.id)
            self._stats.chunks += mine
            disk_is_back = mine and self._disk.succeeded()
        if disk_is_back:
            log.info("the cache's disk takes chunks again")
        self._wake(blob, chunk, OK)

    def _receive(self, body: Body, view: memoryview, blob: Blob, source: Source) -> None:
        """Fills *view*; its bytes are counted before anybody can see them."""
        before, began = body.left, time.monotonic()
        with self._work:
            patience_s = self._sources.patience_s(source, blob.sha256, len(view), began)
        try:
            body.readinto(view, patience_s)
        finally:
            with self._work:
                self._stats.upstream_bytes += before - body.left
        now = time.monotonic()
        with self._work:
            self._sources.measured(source, len(view), now - began, now)
            self._sources.succeeded(source)

    def _source_failed(self, source: Source, blob: Blob, error: UpstreamError, *, missing: bool = False) -> None:
        now = time.monotonic()
        with self._work:
            self.last_error = str(error)
            self._stats.errors["missing" if missing else error.reason] += 1
            if missing:
                self._missing_locked(source, blob, error, now)
            else:
                self._sources.failed(source, now)

    def _missing_locked(self, source: Source, blob: Blob, error: UpstreamError, now: float) -> None:
        self._sources.missing(source, blob.sha256, now)
        if isinstance(error, BlobRemoved):
            self.removed.add(blob.id)
            if self._refresher is not None:
                self._refresher.told(blob.sha256, source.key)

    def _refused(self, source: Source, blob: Blob, chunk: int, error: DigestMismatch) -> None:
        expected, _, got = str(error).partition("expected ")[2].partition(", got ")
        refusal = Refusal(blob.sha256, chunk, source.key, expected, got, time.time())
        now = time.monotonic()
        with self._work:
            self._stats.refused += 1
            self.last_error = refusal.sentence()
            others = self._sources.others(source, blob.sha256, now)
            is_news, is_wrong = self.refusals.met(refusal, others=others)
            if is_wrong:
                self._sources.wrong(source, blob.sha256, now)
        if is_news:
            log.error("%s", refusal.sentence())

    def _no_room(self, blob: Blob, chunk: int, error: CacheFull) -> None:
        with self._work:
            self._stats.errors["disk"] += 1
            self._stats.given_up += 1
            self._plan.failed(blob.id, chunk)
        log.error("no room for chunk %d of blob %s: %s", chunk, blob.sha256, error)
        self._wake(blob, chunk, ST_FULL)

    def _disk_failed(self, error: OSError) -> None:
        """The chunk is tried again: nothing is fetched for a while, and who has waited for long is told."""
        with self._work:
            self._stats.errors["disk"] += 1
            is_news = not self._disk.failures
            self.disk_error = str(error)
            self._disk.failed(time.monotonic())
        if is_news:
            log.error("the cache's disk refuses chunks; it is tried again until it takes them: %s", error)


def span(blob: Blob, first: int, end: int) -> int:
    """Bytes of the chunks from *first* to before *end*."""
    return min(end * CHUNK_BYTES, blob.size) - first * CHUNK_BYTES if first < end else 0

"""One upstream file into the store: the work that the engine makes durable.

The idea: bytes go from the socket into the store's ingest, hashed on the way, one pass; whatever stops it keeps what
has arrived, and the next try asks for the rest. An outcome, not an exception, says how it ended, because one bad file
must stop nothing else.

Invariant: ``ok`` means the blob stands complete under its final name and its row is written. Left to others: which
files (plan), room on the disk (coordinator, which reserves before it opens the gate), several at a time (engine).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bootplane.control.simplestreams.errors import SizeRefused, SourceError, Unreachable
from bootplane.control.simplestreams.fetch import Fetcher
from bootplane.control.simplestreams.paths import shown_url
from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.storage.runs import RunRepository
from bootplane.control.sync.engine import Job, Outcome
from bootplane.control.sync.limits import Throttle
from bootplane.control.sync.progress import Progress
from bootplane.core.digest import chunk_root
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.store import Ingest, InProgress, InsufficientSpace, Reservation, Store, StoreError

BUFFER_BYTES = 256 << 10
PIECE_S = 0.25  # how stale progress and a stop may be, where the source sends at all
ELSEWHERE_S = 1.0  # between looks at a file that somebody else brings
WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # between tries that brought little; one that brought more begins again
LITTLE_BYTES = 64 << 10  # less than this in a try, or in STALL_S of waiting for the source, is no progress
STALL_S = 60.0
PATIENCE_S = 300.0  # a source that asks to be left alone for longer is left to the next sync
_LOG = logging.getLogger("bootplane.sync")


class Stopped(Exception):
    """The sync was told to stop, or the process ends. What has arrived is kept."""


class ContentRefused(SourceError):
    """What the source sent is not what its signed list says."""


class Downloader:
    """Callable by the engine. ``open_gate`` begins a run's work, ``stop`` ends it; before the one, works wait."""

    def __init__(
        self,
        store: Store,
        blobs: BlobRepository,
        runs: RunRepository,
        progress: Progress,
        *,
        attempts: int,
        waits_s: tuple[float, ...] | None = None,
        fetcher: Callable[[], Fetcher] = Fetcher,
        throttle: Throttle | None = None,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._runs = runs
        self._progress = progress
        self._attempts = attempts
        self._waits_s = WAITS_S if waits_s is None else waits_s
        self._fetcher = fetcher
        self._throttle = throttle or Throttle()
        self._gate = threading.Event()
        self._stopping = threading.Event()
        self._reservations: Mapping[str, Reservation] = {}
        self._lock = threading.Lock()
        self._busy = 0
        self._ended: set[str] = set()
        self._idle: list[Fetcher] = []  # nobody uses these just now; only while the gate is open

    @property
    def is_busy(self) -> bool:
        """Whether some work has not ended: after ``stop``, one that waits for a source that says nothing."""
        with self._lock:
            return self._busy > 0

    def ended(self) -> set[str]:
        """Works of this process that have ended since the last call; the engine may take a moment to know it."""
        with self._lock:
            ended, self._ended = self._ended, set()
        return ended

    def open_gate(self, reservations: Mapping[str, Reservation]) -> None:
        """Room has been reserved: works may begin."""
        self._reservations = reservations
        self._stopping.clear()
        self._gate.set()

    def stop(self) -> None:
        """Running works end as ``stopped`` within one read; waiting ones at once."""
        self._stopping.set()
        self._gate.set()

    def close_gate(self) -> None:
        """The run has ended: later works wait, and no connection to a source is left open."""
        with self._lock:
            self._gate.clear()
            idle, self._idle = self._idle, []
        self._reservations = {}
        for fetcher in idle:
            fetcher.close()

    def __call__(self, work_id: str, job: Job) -> Outcome:
        with self._lock:
            self._busy += 1
        try:
            return self._outcome(work_id, job)
        finally:
            with self._lock:
                self._busy -= 1
                self._ended.add(work_id)

    def _outcome(self, work_id: str, job: Job) -> Outcome:
        sha256 = str(job["sha256"])
        try:
            self._gate.wait()
            if self._stopping.is_set():
                raise Stopped
            count = self._runs.attempt(work_id)
            if count > self._attempts:
                said = self._runs.attempt_error(work_id) or "the process died each time"
                where = shown_url(str(job["urls"][0]))
                return self._failed(sha256, f"{where}: given up after {self._attempts} starts: {said}", "poison")
            self._fetch_from_any(job)
        except Stopped:
            self._progress.end(sha256, "stopped")
            return {"ok": False, "kind": "stopped", "error": "stopped"}
        except InsufficientSpace as error:
            return self._failed(sha256, str(error), "space", needed=error.needed, free=error.free)
        except (SourceError, StoreError) as error:
            self._runs.attempt_failed(work_id, str(error))
            return self._failed(sha256, str(error), type(error).__name__)
        self._progress.end(sha256, "done")
        return {"ok": True}

    def _failed(self, sha256: str, error: str, kind: str, **more: Any) -> Outcome:
        _LOG.warning("fetch failed: %s", error)
        self._progress.end(sha256, "failed", error)
        return {"ok": False, "kind": kind, "error": error, **more}

    def _fetch_from_any(self, job: Job) -> None:
        """From the first of its places that has it right. Raises the last place's SourceError."""
        if self._is_here(job):
            return
        *others, last = (str(url) for url in job["urls"])
        with self._borrowed() as fetcher:
            for url in others:
                try:
                    return self._fetch(fetcher, job, url)
                except SourceError as error:
                    _LOG.warning("%s; trying the next source that has this file", error)
            self._fetch(fetcher, job, last)

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Fetcher]:
        """A fetcher for this thread alone, with the connections that another file has left open."""
        with self._lock:
            fetcher = self._idle.pop() if self._idle else None
        fetcher = fetcher or self._fetcher()
        try:
            yield fetcher
        finally:
            with self._lock:
                is_kept = self._gate.is_set()
                if is_kept:
                    self._idle.append(fetcher)
            if not is_kept:
                fetcher.close()

    def _is_here(self, job: Job) -> bool:
        """Whether nothing need be fetched: it was found, somebody else has brought it, or its row was lost with a crash
        between rename and commit."""
        sha256, size = str(job["sha256"]), int(job["size"])
        if not self._store.verify_found(sha256, size) and not self._store.has(sha256, size):
            return False
        self._blobs.record([BlobRecord(sha256, size, chunk_root(self._store.chunk_list(sha256)))])
        return True

    def _fetch(self, fetcher: Fetcher, job: Job, url: str) -> None:
        """Try until it is here. Raises SourceError when a try is final or the patience is used up."""
        idle_tries = 0
        mismatches = 0
        waits = False
        etag = ""
        while True:
            brought = [0]
            try:
                etag = self._try(fetcher, job, url, etag, brought)
                return
            except InProgress as error:  # an operator uploads the same bytes: they come, or their rest is fetched then
                if not waits:
                    _LOG.info("fetch: %s; waiting for it", error)
                waits = True
                if self._stopping.wait(ELSEWHERE_S):
                    raise Stopped from None
                if self._is_here(job):
                    return
            except DigestMismatch as error:
                # Once more from the start: what was kept may have been of another file, or a cache on the way had
                # an old one. Twice is the source's word.
                mismatches += 1
                if mismatches > 1:
                    said = str(error).removeprefix(f"{job['path']}: ")  # the URL names it
                    raise ContentRefused(f"{shown_url(url)}: {said}") from None
            except SourceError as error:
                if not error.retryable:
                    raise
                idle_tries = 0 if brought[0] >= LITTLE_BYTES else idle_tries
                retry_after_s = getattr(error, "retry_after_s", 0.0)
                if idle_tries >= len(self._waits_s) or retry_after_s > PATIENCE_S:
                    raise
                wait_s = max(self._waits_s[idle_tries], retry_after_s)
                idle_tries += 1
                _LOG.info("fetch: %s; trying again in %.1f s", error, wait_s)
                if self._stopping.wait(wait_s):
                    raise Stopped from None

    def _try(self, fetcher: Fetcher, job: Job, url: str, etag: str, brought: list[int]) -> str:
        """One request. Adds what it brings to *brought*; what was written stays for the next try."""
        sha256, size = str(job["sha256"]), int(job["size"])
        reservation = self._reservations.get(sha256)
        with self._store.begin(sha256, size, name=str(job["path"]), reservation=reservation) as ingest:
            self._progress.at(sha256, ingest.offset)
            if ingest.offset < size:
                try:
                    etag = self._receive(fetcher, ingest, url, etag, brought)
                except SourceError:
                    if ingest.offset == 0:
                        ingest.discard()  # nothing came: nothing is left behind
                    raise
            verified = ingest.commit()
        self._blobs.record([BlobRecord(verified.sha256, verified.size, verified.root)])
        return etag

    def _receive(self, fetcher: Fetcher, ingest: Ingest, url: str, etag: str, brought: list[int]) -> str:
        view = memoryview(bytearray(BUFFER_BYTES))
        waited_s, came = 0.0, 0  # since the source was last found to be fast enough
        with fetcher.stream(url, start=ingest.offset, etag=etag) as body:
            if body.total is not None and body.total != ingest.size:
                raise SizeRefused(f"{shown_url(url)}: size: expected {ingest.size} bytes, got {body.total}")
            if body.start != ingest.offset:
                ingest.restart()
                self._progress.at(ingest.sha256, 0)
            while True:
                allowed = self._throttle.take(len(view), self._stopping)
                if self._stopping.is_set():
                    raise Stopped
                began = time.monotonic()
                count = body.fill(view[:allowed], PIECE_S)
                waited_s += time.monotonic() - began
                self._throttle.give_back(allowed - count)
                if not count:
                    return body.etag
                ingest.write(view[:count])
                brought[0] += count
                came += count
                self._progress.received(ingest.sha256, count)
                if waited_s >= STALL_S:
                    if came < LITTLE_BYTES:
                        raise Unreachable(
                            f"{shown_url(url)}: expected at least {LITTLE_BYTES} bytes in {STALL_S:.0f} s, got {came}"
                        )
                    waited_s, came = 0.0, 0

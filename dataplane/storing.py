"""Putting a chunk that was fetched into the cache, when the disk is full before the cache is, or refuses everything.

    ENOSPC, EDQUOT ──▶ a step is evicted and the same bytes are written again: nothing is fetched twice for it
    anything else, or nothing left to evict ──▶ OSError, and DiskHealth says when the next fill may try

Invariants: however many threads meet the full disk at once, one of them evicts; a disk that refuses is tried by one
fill at a time, after a growing while that never exceeds MAX_BACKOFF_S, so that it costs next to nothing and is found
well again without a hand.

Left to others: what is evicted (core.lru), who is told (fill).
"""

from __future__ import annotations

import errno
import threading
import time
from typing import Protocol

from bootplane.core.blob import Blob
from bootplane.core.lru import CacheFull

FULL_WAIT_S = 2.0  # for room in a cache of which every segment is being sent
RETRY_S = 0.05  # between looks at it
DISK_STEP_BYTES = 16 << 20  # evicted at a time when the disk is full
TRIES = 3  # of one write, when room was made before each
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
PATIENCE_S = 2.0  # a disk that refuses for so long is a status for who has waited for so long


class CacheLike(Protocol):
    def begin(self, blob: Blob, chunk: int) -> bool: ...
    def store(self, blob: Blob, chunk: int, data: memoryview) -> None: ...
    def evict(self, wanted: int) -> int: ...
    def reap(self) -> int: ...


class Storer:
    """Thread-safe. *stopping* ends waits."""

    def __init__(self, cache: CacheLike, stopping: threading.Event) -> None:
        self._cache = cache
        self._stopping = stopping
        self._evicting = threading.Lock()
        self._room_made = 0  # times

    def claim(self, blob: Blob, chunk: int) -> bool:
        """cache.begin, waiting a while for senders to let go of segments. Raises CacheFull, OSError."""
        deadline = time.monotonic() + FULL_WAIT_S
        tries = 1
        while True:
            before = self._room_made
            try:
                return self._cache.begin(blob, chunk)
            except CacheFull:
                if time.monotonic() >= deadline or self._stopping.wait(RETRY_S):
                    raise
                self._cache.reap()
            except OSError as error:
                if tries == TRIES or not self._make_room(error, before):
                    raise
                tries += 1

    def put(self, blob: Blob, chunk: int, data: memoryview) -> None:
        """cache.store of a claimed chunk, whose claim is ended. Raises as that does."""
        tries = 1
        while True:
            before = self._room_made
            try:
                return self._cache.store(blob, chunk, data)
            except OSError as error:
                if tries == TRIES or not self._make_room(error, before):
                    raise
                tries += 1
            if not self.claim(blob, chunk):
                return None  # another thread's by now

    def _make_room(self, error: OSError, before: int) -> bool:
        """Whether there is more room than there was when *before* was the count of `_room_made`."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return False
        with self._evicting:
            if self._room_made == before:
                try:
                    freed = self._cache.evict(DISK_STEP_BYTES)
                except OSError:  # of the eviction: what is told is the error that led to it
                    freed = 0
                if not freed:
                    return False
                self._room_made += 1
        return True


class DiskHealth:
    """Pure; time is given. Not thread-safe: the filler calls it under its lock."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self._since = 0.0
        self._ready_at = 0.0

    def failed(self, now: float) -> None:
        if not self.failures:
            self._since = now
        self._ready_at = now + min(FIRST_BACKOFF_S * 2**self.failures, MAX_BACKOFF_S)
        self.failures = min(self.failures + 1, 16)

    def succeeded(self) -> bool:
        """Something was written. Returns whether that is news."""
        was_failing = self.failures > 0
        self.failures, self._ready_at = 0, 0.0
        return was_failing

    def wait_s(self, now: float) -> float:
        """Until it may be tried; 0.0: now."""
        return max(0.0, self._ready_at - now)

    def is_given_up(self, now: float) -> bool:
        """Whether it has refused for PATIENCE_S: who has waited as long is told."""
        return self.failures > 0 and now - self._since >= PATIENCE_S

"""What is to be looked at where it lies: chunks of an earlier run's files, to be hashed; files to be opened again; and
what a reader could not read.

A queue in two parts: chunks somebody waits for, and the ones behind them, to which their readers come next. Who takes
from it is whoever is free: fill threads, and one thread of its own, since fill threads may all hang in a source that
has fallen silent and what lies on this disk needs no source.

Invariants: a chunk is in one pair of hands at a time, however many ask; awaited ones go first; the queue holds a chunk
once, so it is no longer than what is unchecked in the cache.

Left to others: hashing, and what follows from it (core.lru, fill), who waits (the reactors).
"""

from __future__ import annotations

from collections import deque

from bootplane.core.blob import Blob
from bootplane.dataplane.segments import CLOSED, SEGMENT_CHUNKS, UNCHECKED

AHEAD = 3  # chunks after the one that was asked for


class Rechecks:
    """Not thread-safe: the filler calls it under its lock."""

    def __init__(self) -> None:
        self._awaited: dict[tuple[int, int], bool] = {}  # (blob id, chunk) queued or in hand -> does somebody wait?
        self._reported: set[tuple[int, int]] = set()  # of them: PRESENT, and a reader could not read it
        self._in_hand: set[tuple[int, int]] = set()
        self._first: deque[tuple[Blob, int]] = deque()
        self._later: deque[tuple[Blob, int]] = deque()  # may name what is in `_first` or in hand by now, too

    def ask(self, blob: Blob, chunk: int) -> bool:
        """Whether *chunk* is being looked at, or is to be from now on. Who asks then waits for it."""
        key = blob.id, chunk
        states = blob.states(chunk, 1 + SEGMENT_CHUNKS)
        if key not in self._awaited and states[0] not in (UNCHECKED, CLOSED):
            return False
        if not self._awaited.get(key, False):
            self._awaited[key] = True
            self._first.append((blob, chunk))
        for ahead, state in enumerate(states[1:], chunk + 1):
            is_next_file = state == CLOSED and ahead % SEGMENT_CHUNKS == 0
            is_soon = state == UNCHECKED and ahead <= chunk + AHEAD
            if (is_next_file or is_soon) and (blob.id, ahead) not in self._awaited:
                self._awaited[blob.id, ahead] = False
                self._later.append((blob, ahead))
        return True

    def report(self, blob: Blob, chunk: int) -> None:
        """A reader waits for *chunk*, which is PRESENT: it or the next one cannot be read."""
        key = blob.id, chunk
        if key not in self._in_hand:
            self._reported.add(key)
        if not self._awaited.get(key, False):
            self._awaited[key] = True
            self._first.append((blob, chunk))

    def is_reported(self, blob: Blob, chunk: int) -> bool:
        return (blob.id, chunk) in self._reported

    def take(self) -> tuple[Blob, int] | None:
        """The next one, in the caller's hands until done()."""
        for queue in (self._first, self._later):
            while queue:
                blob, chunk = queue.popleft()
                key = blob.id, chunk
                if key in self._awaited and key not in self._in_hand:
                    self._in_hand.add(key)
                    return blob, chunk
        return None

    def done(self, blob: Blob, chunk: int) -> bool:
        """It has been looked at. Returns whether somebody waits."""
        self._in_hand.discard((blob.id, chunk))
        self._reported.discard((blob.id, chunk))
        return self._awaited.pop((blob.id, chunk), False)

    def has(self, blob: Blob) -> bool:
        """Whether chunks of it are queued or in hand."""
        return any(blob_id == blob.id for blob_id, _ in self._awaited)

    def __len__(self) -> int:
        return len(self._awaited)

"""Calls that are due at a time unless they are taken back: one thread for all of them.

A ``threading.Timer`` is a thread for each: of the CPU time of a sync of small files, every tenth second went into
starting threads that never did anything. Invariant: a call that was taken back before its time is not made; one that is
being made when it is taken back may still end after that. Calls are short.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_LOG = logging.getLogger("bootplane.sync")


class Watch:
    """Its thread begins with the first call and lives as long as the process. Thread-safe."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._calls: dict[int, Callable[[], None]] = {}
        self._due: list[tuple[float, int]] = []  # a heap; what was taken back stays in it until it is at its top
        self._numbers = itertools.count()
        self._looks_at: float | None = None  # when the thread looks again by itself; None: it waits to be woken
        self._thread: threading.Thread | None = None

    def call_in(self, seconds: float, call: Callable[[], None]) -> int:
        """Have *call* made after *seconds*; returns what ``take_back`` wants."""
        due = time.monotonic() + seconds
        with self._wake:
            number = next(self._numbers)
            self._calls[number] = call
            while self._due and self._due[0][1] not in self._calls:
                heapq.heappop(self._due)
            heapq.heappush(self._due, (due, number))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
                self._thread.start()
            elif self._looks_at is None or due < self._looks_at:
                self._wake.notify()
        return number

    def take_back(self, number: int) -> None:
        with self._wake:
            self._calls.pop(number, None)

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._due and self._due[0][1] not in self._calls:
                    heapq.heappop(self._due)
                now = time.monotonic()
                if not self._due or self._due[0][0] > now:
                    self._looks_at = self._due[0][0] if self._due else None
                    self._wake.wait(None if self._looks_at is None else self._looks_at - now)
                    continue
                call = self._calls.pop(heapq.heappop(self._due)[1])
            try:
                call()
            except Exception:  # the calls of others are still to be made
                _LOG.exception("a call that was due failed")

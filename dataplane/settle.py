"""Asks the disk, every few seconds, whether it has taken what was written into the cache.

What it has refused leaves the cache, one log line for each file, and is fetched again at its next use. Files are
synced a while after their last write, when the kernel should have written them anyway: a clean end has little left.

Left to others: how it is asked (core.lru_settle).
"""

from __future__ import annotations

import logging
import os
from typing import Protocol

from bootplane.core.idle_io import make_idle
from bootplane.dataplane.background import Job

LOOK_S = 2.0
SYNC_AFTER_S = 60.0  # Linux writes what is 30 s old; what is evicted before is never written at all

log = logging.getLogger("bootplane.settle")


class CacheLike(Protocol):
    @property
    def directory(self) -> str: ...
    def settle_writes(self, after_s: float) -> list[tuple[str, int, int]]: ...


class Settler(Job):
    def __init__(self, cache: CacheLike, *, look_s: float = LOOK_S, sync_after_s: float = SYNC_AFTER_S) -> None:
        # where idle priority is refused, it syncs with the ordinary one
        super().__init__("settle", self.look, first_s=look_s, failed_s=look_s, prepare=make_idle)
        self._cache, self._look_s, self._sync_after_s = cache, look_s, sync_after_s
        self.refused = 0  # segments, since start

    def look(self) -> float:
        """Seconds until the next one."""
        for sha256, index, error in self._cache.settle_writes(self._sync_after_s):
            self.refused += 1
            path = f"{self._cache.directory}/{sha256}.d/{index}"
            log.error("the disk has refused what was written, removed: %s: %s", path, os.strerror(error))
        return self._look_s

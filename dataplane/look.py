"""One look at a chunk where it lies: hashed if it was not since an earlier run, its file opened, a complaint tried.

    UNCHECKED, CLOSED ──▶ core's recheck ──▶ PRESENT, or gone        reported by a reader ──▶ damage ──▶ gone, or not

Invariant: a look ends in one of four ways, and what could not be looked at for want of descriptors is still there.

Left to others: which chunk, and who waits for it (rechecks, fill), what a reader's word is worth (damage).
"""

from __future__ import annotations

import enum
import errno
import logging
import threading
from collections.abc import Callable
from typing import Protocol

from bootplane.core.blob import Blob
from bootplane.core.status import CoreError, DigestMismatch
from bootplane.dataplane.damage import Examiner

SHORTAGE_S = 0.5  # before a file is opened again when no descriptor was left
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

log = logging.getLogger("bootplane.look")


class Looked(enum.Enum):
    DONE = enum.auto()  # the chunk's state says what came of it
    SHORT = enum.auto()  # no descriptor was left: it lies where it lay
    UNREADABLE = enum.auto()  # it is right here, and its readers cannot read it
    FAILED = enum.auto()  # it was removed, or could not be looked at


class CacheLike(Protocol):
    @property
    def directory(self) -> str: ...
    def recheck(self, blob: Blob, chunk: int) -> bool: ...
    def discard(self, blob: Blob, chunk: int) -> bool: ...


class Looker:
    """*on_damage* as Examiner's. Thread-safe. *stopping* ends waits."""

    def __init__(
        self, cache: CacheLike, on_damage: Callable[[str, int, str, str], None], stopping: threading.Event
    ) -> None:
        self._cache = cache
        self._examiner = Examiner(cache, on_damage)
        self._stopping = stopping

    def look(self, blob: Blob, chunk: int, *, is_reported: bool) -> Looked:
        """*is_reported*: a reader could not read it. Waits SHORTAGE_S when it is SHORT."""
        try:
            if blob.chunks is not None:  # else a file of the shared store
                self._cache.recheck(blob, chunk)
            if is_reported and not self._examiner.examine(blob, chunk):
                return Looked.UNREADABLE
            return Looked.DONE
        except DigestMismatch as error:
            log.error("rotten in the cache, removed: %s", error)
            return Looked.FAILED
        except (CoreError, OSError, ValueError) as error:  # ValueError: the cache has been closed
            log.error("chunk %d of blob %s cannot be checked: %s", chunk, blob.sha256, error)
            if not isinstance(error, OSError) or error.errno not in SHORTAGES:
                return Looked.FAILED
            self._stopping.wait(SHORTAGE_S)
            return Looked.SHORT

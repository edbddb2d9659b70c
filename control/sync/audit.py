"""The store is read again: what it holds against bytes that rot, and what was found in it before it is believed.

Each blob is hashed once in *interval_s*, the one seen longest ago first; sooner, if nobody has seen its bytes to be
right since this machine ended badly. Files that were found (dataplane.store) are hashed before anything else. When each
was seen stands in the database: the work goes on where it was after a restart, but for the one file in hand.

Invariants: nothing is done about bytes that were not wrong twice, or that cannot be read for want of anything but the
disk's; reads go around the page cache, in the idle I/O class, and at most at MAX_BYTES_S for what is served: serving is
not disturbed; hashing holds no GIL. A blob of which the row has gone meanwhile is nobody's concern.

Left to others: what follows from a finding (custody), chunks in racks' caches (dataplane.scrub).
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from bootplane.control.storage.blobs import BlobRepository
from bootplane.core.digest import Verified, Verifier
from bootplane.core.idle_io import make_idle
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.background import Job
from bootplane.dataplane.direct import open_direct
from bootplane.dataplane.store import Store

READ_BYTES = 1 << 20
TURN_BYTES = 8 << 20  # between two looks at whether the process ends
MAX_BYTES_S = 64 << 20
NOTHING_S = 15.0  # before an idle store is looked at again
FAILED_S = 60.0
LOOKS = 2

_LOG = logging.getLogger("bootplane.store")


class Finding(NamedTuple):
    """A file whose bytes are not what its name says. *expected*, *got*: digest and size, or why it cannot be read."""

    sha256: str
    path: Path
    expected: str
    got: str


class Following(Protocol):
    """What the audit's findings lead to. Called on its thread."""

    def is_rotten(self, finding: Finding) -> None: ...
    def is_missing(self, sha256: str) -> None: ...
    def is_adopted(self, verified: Verified) -> None: ...
    def is_refused(self, finding: Finding) -> None: ...


@dataclass(slots=True)
class AuditStats:
    """Counts since start; written by the audit's thread alone."""

    checked: int = 0  # whole files that were right
    bytes: int = 0  # read
    rotten: int = 0
    adopted: int = 0  # found files that are what their name says
    refused: int = 0  # found files that are not


class _Reading:
    """One file on its way through the hash."""

    def __init__(self, sha256: str, path: Path, size: int | None, *, is_found: bool) -> None:
        self.sha256, self.path, self.is_found = sha256, path, is_found
        self.fd = open_direct(path)
        self.size = os.fstat(self.fd).st_size
        self.expected_size = self.size if size is None else size
        self.verifier = Verifier(sha256, self.expected_size, str(path))
        self.done = 0

    def close(self) -> None:
        os.close(self.fd)


class Auditor(Job):
    """*interval_s* 0: only what is found or in doubt is hashed."""

    def __init__(self, store: Store, blobs: BlobRepository, following: Following, *, interval_s: float) -> None:
        super().__init__("store-audit", self.step, failed_s=FAILED_S, prepare=_be_idle)
        self._store, self._blobs, self._following = store, blobs, following
        self.interval_s = interval_s
        self._reading: _Reading | None = None
        self._looks = 0  # that went wrong, at the file in hand
        self._buffer = mmap.mmap(-1, READ_BYTES)  # page-aligned, as O_DIRECT wants it
        self.stats = AuditStats()

    def before(self) -> str:
        """What was seen to be right before this time is due."""
        if self.interval_s <= 0:
            return ""  # sorts before every time
        return (datetime.now(UTC) - timedelta(seconds=self.interval_s)).isoformat(timespec="microseconds")

    def step(self) -> float:
        """Reads a bit of a file, or ends one; returns how many seconds to wait before the next."""
        try:
            if self._reading is None:
                self._looks = 0
                self._reading = self._next()
            if self._reading is None:
                return NOTHING_S if self.interval_s <= 0 else min(NOTHING_S, self.interval_s)
            return self._go_on(self._reading)
        except OSError as error:  # no descriptor, no right: that says nothing of the bytes
            self._drop()
            _LOG.warning("store audit: %s: cannot be read: %s", error.filename or "a file", error.strerror)
            return FAILED_S

    def _go_on(self, reading: _Reading) -> float:
        began = time.monotonic()
        try:
            count = self._read(reading)
        except DigestMismatch as error:
            return self._wrong(reading, str(error))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return self._wrong(reading, f"{reading.path}: expected its bytes, got {error.strerror}")
        return 0.0 if reading.is_found else max(count / MAX_BYTES_S - (time.monotonic() - began), 0.0)

    def stop(self, timeout_s: float = 5.0) -> bool:
        is_stopped = super().stop(timeout_s)
        if is_stopped:
            self._drop()
        return is_stopped

    def _next(self) -> _Reading | None:
        for sha256 in sorted(self._store.found()):
            try:
                return _Reading(sha256, self._store.found_path(sha256), None, is_found=True)
            except FileNotFoundError:
                continue  # the sync has wanted it, and looked at it itself
        while (blob := self._blobs.due(self.before())) is not None:
            try:
                return _Reading(blob.sha256, self._store.path_of(blob.sha256), blob.size, is_found=False)
            except FileNotFoundError:
                if self._blobs.get(blob.sha256) is not None:
                    self._following.is_missing(blob.sha256)
        return None

    def _read(self, reading: _Reading) -> int:
        """The next bytes of it, and its end when they are the last. Raises DigestMismatch and OSError."""
        count = 0
        with memoryview(self._buffer) as view:
            while count < TURN_BYTES and reading.done < reading.size:
                done = os.preadv(reading.fd, [view], reading.done)
                if done == 0:
                    break
                reading.verifier.update(view[:done])
                reading.done += done
                count += done
                self.stats.bytes += done
        if count < TURN_BYTES:
            self._right(reading, reading.verifier.finish())
        return count

    def _right(self, reading: _Reading, verified: Verified) -> None:
        self._drop()
        if not reading.is_found:
            self.stats.checked += 1
            self._blobs.checked(reading.sha256)
        elif self._store.adopt(verified):
            self.stats.adopted += 1
            self._following.is_adopted(verified)

    def _wrong(self, reading: _Reading, text: str) -> float:
        self._drop()
        self._looks += 1
        if self._looks < LOOKS:
            self._reading = _again(reading)
            return 0.0
        expected, _, got = text.partition("expected ")[2].partition(", got ")
        finding = Finding(reading.sha256, reading.path, expected, got)
        if reading.is_found:
            self.stats.refused += 1
            self._following.is_refused(finding)
        elif self._blobs.get(reading.sha256) is not None:
            self.stats.rotten += 1
            self._following.is_rotten(finding)
        return 0.0

    def _drop(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None


def _again(reading: _Reading) -> _Reading | None:
    try:
        return _Reading(reading.sha256, reading.path, reading.expected_size, is_found=reading.is_found)
    except FileNotFoundError:
        return None


def _be_idle() -> None:
    if error := make_idle():
        _LOG.warning("store audit: reads with ordinary I/O priority: %s", os.strerror(error))

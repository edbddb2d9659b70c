"""Scrub: the cache is read again from the disk, a chunk now and then, to find damage before a machine meets it.

The first look at a chunk hashes it against the chunk list (SHA-256) and keeps the XXH3 of the same bytes; later looks
compare XXH3 alone, at a tiny part of the cost. A difference is confirmed by SHA-256 before anything is done; then the
segment leaves the cache, and the chunk is fetched when somebody wants it.

Invariants
 - It is the disk that is looked at: reads go around the page cache (O_DIRECT) wherever the file system lets them, and
   so push nobody's pages out. They are no use of a segment: a scrub does not change what is evicted.
 - Nothing is thrown away that was not wrong twice. A segment may leave and be made anew while it is read: bytes count
   only when the chunk was present while the file was open, and the file still has its name after the read.
 - Idle I/O class; the pace is that of one pass in *pass_s*, and never above MAX_BYTES_S.

Left to others: UNCHECKED chunks (fill hashes them at their first use), the states (core.lru), telling anybody
(on_damage).
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import xxhash

from bootplane.core.blob import Blob
from bootplane.core.idle_io import make_idle
from bootplane.core.status import CoreError
from bootplane.dataplane.background import Job
from bootplane.dataplane.catalogue import CHUNK_BYTES, chunk_length
from bootplane.dataplane.direct import open_direct
from bootplane.dataplane.segments import HERE, SEGMENT_CHUNKS

PASS_S = 24 * 3600.0
MAX_BYTES_S = 64 << 20
NOTHING_S = 60.0  # before an empty cache is looked at again

log = logging.getLogger("bootplane.scrub")


class CacheLike(Protocol):
    @property
    def directory(self) -> str: ...
    def segments(self) -> list[tuple[str, int, bytes, int]]: ...
    def discard(self, blob: Blob, chunk: int) -> bool: ...


class Damage(NamedTuple):
    """A chunk whose bytes on the disk are not those that were verified. *got*: a digest, or why it cannot be read."""

    blob: str
    chunk: int
    path: str
    expected: str
    got: str

    def sentence(self) -> str:
        return (
            f"damaged on the disk, removed: chunk {self.chunk} of blob {self.blob} in {self.path}: "
            f"expected {self.expected}, got {self.got}"
        )


@dataclass(slots=True)
class ScrubStats:
    """Counts since start; written by the scrub's thread alone."""

    passes: int = 0  # whole ones
    chunks: int = 0  # read
    bytes: int = 0
    hashed: int = 0  # by SHA-256: first looks, and confirmations
    damaged: int = 0
    last_pass_s: float = 0.0  # how long the last whole one took


class _Place(NamedTuple):
    sha256: str
    chunk: int


class Scrubber(Job):
    """*blobs* gives those that may be looked at: others in the cache have no chunk list yet. *on_damage* is called on
    the thread of the scrub."""

    def __init__(
        self,
        cache: CacheLike,
        blobs: Callable[[], Iterable[Blob]],
        on_damage: Callable[[Damage], None] = lambda damage: None,
        *,
        pass_s: float = PASS_S,
    ) -> None:
        super().__init__("scrub", self.step, first_s=min(NOTHING_S, pass_s), failed_s=NOTHING_S, prepare=_be_idle)
        self._cache, self._blobs, self._on_damage = cache, blobs, on_damage
        self._pass_s = pass_s
        self._sums: dict[_Place, int] = {}  # XXH3 of bytes whose SHA-256 was right
        self._known: dict[str, Blob] = {}
        self._places: list[_Place] = []  # of this pass, still to be looked at; the next one last
        self._began = 0.0
        self._pause_s = NOTHING_S
        self._buffer = mmap.mmap(-1, CHUNK_BYTES)  # page-aligned, as O_DIRECT wants it
        self.stats = ScrubStats()

    def step(self) -> float:
        """Looks at one chunk; returns how many seconds to wait before the next."""
        if not self._places:
            self._begin_pass()
        if self._places:
            place = self._places.pop()
            if blob := self._known.get(place.sha256):
                self._look(blob, place)
            if not self._places:
                self._end_pass()
        return self._pause_s

    def _begin_pass(self) -> None:
        self._known = {blob.sha256: blob for blob in self._blobs() if blob.chunks is not None}
        segments = sorted(self._cache.segments(), reverse=True)
        self._places = [
            _Place(sha256, index * SEGMENT_CHUNKS + within)
            for sha256, index, states, _ in segments
            if sha256 in self._known
            for within, state in reversed(list(enumerate(states)))
            if state in HERE
        ]
        self._began = time.monotonic()
        even_s = self._pass_s / max(1, len(self._places))
        self._pause_s = max(even_s, CHUNK_BYTES / MAX_BYTES_S) if self._places else min(NOTHING_S, self._pass_s)
        seen = set(self._places)
        self._sums = {place: value for place, value in self._sums.items() if place in seen}

    def _end_pass(self) -> None:
        self.stats.passes += 1
        self.stats.last_pass_s = time.monotonic() - self._began
        self._known = {}

    def _look(self, blob: Blob, place: _Place) -> None:
        expected = blob.chunks[32 * place.chunk : 32 * (place.chunk + 1)] if blob.chunks else b""
        path = Path(self._cache.directory, f"{blob.sha256}.d", str(place.chunk // SEGMENT_CHUNKS))
        got = ""
        for _attempt in range(2):
            try:
                data = self._read(blob, place.chunk, path)
            except OSError as error:
                got = error.strerror or os.strerror(errno.EIO)
                if error.errno != errno.EIO:  # no descriptor, no right: that says nothing of the bytes
                    log.warning("scrub: %s: cannot be read: %s", path, got)
                    return
                continue
            if data is None:
                return  # it has left meanwhile
            self.stats.chunks += 1
            self.stats.bytes += len(data)
            total = xxhash.xxh3_64_intdigest(data)
            if self._sums.get(place) == total:
                return
            self.stats.hashed += 1
            digest = hashlib.sha256(data).digest()
            if digest == expected:
                self._sums[place] = total
                return
            got = digest.hex()
        self._damaged(blob, Damage(blob.sha256, place.chunk, str(path), expected.hex(), got))

    def _read(self, blob: Blob, chunk: int, path: Path) -> memoryview | None:
        """The chunk's bytes as they are on the disk; None when it is not (or no more) in the cache. Raises OSError."""
        length, within = chunk_length(blob.size, chunk), chunk % SEGMENT_CHUNKS
        try:
            fd = open_direct(path)
        except FileNotFoundError:
            return None
        try:
            if blob.states(chunk, 1)[0] not in HERE:
                return None
            with memoryview(self._buffer) as whole:
                done = os.preadv(fd, [whole], within * CHUNK_BYTES)  # whole blocks, beyond the end of a short chunk
            opened = os.fstat(fd)
        finally:
            os.close(fd)
        try:
            named = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        if (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
            return None
        if done < length:  # or there was an error in the middle of it
            is_cut = opened.st_size < within * CHUNK_BYTES + length
            raise OSError(errno.EIO, "a file that ends before" if is_cut else os.strerror(errno.EIO))
        return memoryview(self._buffer)[:length]

    def _damaged(self, blob: Blob, damage: Damage) -> None:
        self.stats.damaged += 1
        self._sums.pop(_Place(damage.blob, damage.chunk), None)
        log.error("%s", damage.sentence())
        try:
            self._cache.discard(blob, damage.chunk)
        except (CoreError, OSError, ValueError) as error:  # ValueError: the cache has been closed
            log.error("scrub: chunk %d of blob %s is sent no more: %s", damage.chunk, damage.blob, error)
        self._on_damage(damage)


def _be_idle() -> None:
    if error := make_idle():
        log.warning("scrub: reads with ordinary I/O priority: %s", os.strerror(error))

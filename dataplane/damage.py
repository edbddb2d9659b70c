"""A reader could not read what is here: is it so, and what then?

    reactor: sendfile says EIO, a mapping EFAULT ──▶ fill thread reads, hashes ──▶ wrong: its segment leaves the cache
                                                                               └─▶ right: the reader tries again

Invariants: nothing is thrown away on a reader's word alone, which may be old or the error have passed; a reader that
cannot read what is right is not sent back for ever; each damaged chunk is one log line, however many have met it (and
of a whole disk of them logs lets a few pass).

Left to others: who waits and fetching again (fill), damage that no reader has met (scrub).
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from errno import EIO
from typing import Protocol

from bootplane.core.blob import Blob
from bootplane.core.status import CoreError, Truncated
from bootplane.dataplane.catalogue import CHUNK_BYTES, chunk_count, chunk_length
from bootplane.dataplane.segments import PRESENT, SEGMENT_CHUNKS

MEANT = 2  # chunks: a reader names the first that its datagrams touch, which are 64 KiB at most
UNFOUNDED = 3  # times a chunk that is right may be called damaged
REMEMBERED = 256

log = logging.getLogger("bootplane.damage")


class CacheLike(Protocol):
    @property
    def directory(self) -> str: ...
    def discard(self, blob: Blob, chunk: int) -> bool: ...


class Examiner:
    """*on_damage(sha256, chunk, expected, got)* is called where examine() is. Thread-safe."""

    def __init__(self, cache: CacheLike, on_damage: Callable[[str, int, str, str], None]) -> None:
        self._cache, self._on_damage = cache, on_damage
        self._lock = threading.Lock()
        self._unfounded: Counter[tuple[str, int]] = Counter()  # (sha256, chunk): called damaged, and was not
        self._said: set[tuple[str, int]] = set()  # (sha256, chunk) of files nobody can mend

    def examine(self, blob: Blob, chunk: int) -> bool:
        """A reader says that *chunk* or the next one cannot be read. Damaged ones leave the cache. Returns whether the
        reader may try again. Raises OSError when a damaged one cannot be removed."""
        damaged = False
        for at in range(chunk, min(chunk + MEANT, chunk_count(blob.size))):
            if blob.states(at, 1)[0] == PRESENT and (found := _look(blob, at)) is not None:
                damaged = True
                self._remove(blob, at, *found)
        key = blob.sha256, chunk
        with self._lock:
            if damaged:
                self._unfounded.pop(key, None)
                return True
            if len(self._unfounded) >= REMEMBERED:
                self._unfounded.clear()
            self._unfounded[key] += 1
            if self._unfounded[key] < UNFOUNDED:
                return True
        log.error("chunk %d of blob %s cannot be read by its readers, and can be read here", chunk, blob.sha256)
        return False

    def _remove(self, blob: Blob, chunk: int, expected: str, got: str) -> None:
        what = f"chunk {chunk} of blob {blob.sha256}"
        if blob.chunks is None:  # of a store that is not ours to mend
            with self._lock:
                is_news = (blob.sha256, chunk) not in self._said and len(self._said) < REMEMBERED
                if is_news:
                    self._said.add((blob.sha256, chunk))
            if is_news:
                log.error("damaged in the shared store, not ours to mend: %s: expected %s, got %s", what, expected, got)
                self._on_damage(blob.sha256, chunk, expected, got)
            return
        what += f" in {self._cache.directory}/{blob.sha256}.d/{chunk // SEGMENT_CHUNKS}"
        log.error("damaged on the disk, removed and fetched again: %s: expected %s, got %s", what, expected, got)
        self._on_damage(blob.sha256, chunk, expected, got)
        self._cache.discard(blob, chunk)


def _look(blob: Blob, chunk: int) -> tuple[str, str] | None:
    """What is wrong with a PRESENT chunk (expected, got: a digest, or why it cannot be read). None: nothing."""
    length = chunk_length(blob.size, chunk)
    expected = blob.chunks[32 * chunk : 32 * chunk + 32].hex() if blob.chunks is not None else f"{length} bytes"
    try:
        data = blob.read(chunk * CHUNK_BYTES, length)
    except Truncated:
        return expected, "a file that ends before"
    except OSError as error:
        return expected, os.strerror(error.errno or EIO)
    except CoreError:  # evicted meanwhile
        return None
    got = hashlib.sha256(data).hexdigest()
    return None if blob.chunks is None or got == expected else (expected, got)

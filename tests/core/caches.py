"""What the cache's tests share: a blob of any bytes, its chunks filled one by one, and where they lie on the disk."""

from __future__ import annotations

import hashlib
import pathlib

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache

MIB = 1 << 20
SEGMENT = 4 * MIB
ABSENT, FILLING, PRESENT, UNCHECKED, CLOSED = range(5)  # chunk_state_t


def chunk_list(data: bytes) -> bytes:
    return b"".join(hashlib.sha256(data[i : i + MIB]).digest() for i in range(0, len(data), MIB))


def known(cache: Cache, data: bytes) -> Blob:
    """The blob of *data* as the cache knows it, with nothing fetched for it."""
    return cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunk_list(data))


def fill(cache: Cache, blob: Blob, data: bytes, *chunks: int) -> None:
    """Begins and stores *chunks*, or every one."""
    for chunk in chunks or range((len(data) + MIB - 1) // MIB):
        assert cache.begin(blob, chunk)
        cache.store(blob, chunk, data[chunk * MIB : (chunk + 1) * MIB])


def filled(cache: Cache, data: bytes, *chunks: int) -> Blob:
    blob = known(cache, data)
    fill(cache, blob, data, *chunks)
    return blob


def state(blob: Blob, chunk: int = 0) -> int:
    return blob.states(chunk, 1)[0]


def path_of(cache: Cache, blob: Blob, index: int = 0) -> pathlib.Path:
    return pathlib.Path(cache.directory, f"{blob.sha256}.d", str(index))

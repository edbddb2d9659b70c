"""A rack's cache and filler without reactors, on real sockets to fake regions. Waiters: a list of what was told."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.status import CoreError
from bootplane.dataplane.fill import Filler
from tests.fakes.region import CHUNK, FakeRegion, chunks_of

MIB = 1 << 20
DATA = random.Random(1).randbytes(10 * MIB + 12345)  # eleven chunks, the last one short
SHA = hashlib.sha256(DATA).hexdigest()
COUNT = 11


def eventually(is_true: Callable[[], bool], timeout: float = 60) -> None:
    """Waits for what a fill thread does and nobody is told about."""
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.005)


class Rack:
    """Filler, cache and waiters, with *regions* as its sources."""

    def __init__(self, directory: Path, *regions: FakeRegion, limit: int = 64 * MIB, **options: Any) -> None:
        self.cache = Cache(str(directory), limit)
        self.told: list[tuple[str, int, int]] = []
        self.news = threading.Condition()
        self.filler = Filler(self.cache, self.wake, **options)
        self.filler.set_sources([("127.0.0.1", region.bulk_port) for region in regions])
        self.filler.start()

    def wake(self, blob: Blob, chunk: int, status: int) -> None:
        with self.news:
            self.told.append((blob.sha256, chunk, status))
            self.news.notify_all()

    def blob(self, data: bytes = DATA) -> Blob:
        return self.cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunks_of(data))

    def wait_for(self, blob: Blob, chunk: int, timeout: float = 60) -> int:
        """Asks for a chunk and waits until somebody is told about it; returns the status."""
        with self.news:
            before = len(self.told)
        self.filler.miss(blob, chunk)
        return self.status_of(blob, chunk, before, timeout)

    def status_of(self, blob: Blob, chunk: int, since: int = 0, timeout: float = 60) -> int:
        def found() -> list[int]:
            return [s for sha256, c, s in self.told[since:] if (sha256, c) == (blob.sha256, chunk)]

        with self.news:
            assert self.news.wait_for(lambda: bool(found()), timeout), f"nobody was told about chunk {chunk}"
            return found()[0]

    def read_whole(self, blob: Blob) -> bytes:
        """As one reader does: in order, each chunk waited for when it is not there."""
        return b"".join(self.read_chunk(blob, chunk) for chunk in range(-(-blob.size // CHUNK)))

    def read_chunk(self, blob: Blob, chunk: int) -> bytes:
        while True:
            try:
                return blob.read(chunk * CHUNK, min(CHUNK, blob.size - chunk * CHUNK))
            except CoreError:  # not here, or evicted since we were told of it: a reactor asks again, too
                assert self.wait_for(blob, chunk) == 0

    def close(self) -> None:
        self.filler.stop()
        self.cache.close()

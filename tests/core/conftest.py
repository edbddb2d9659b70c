"""What the cache's tests share."""

from __future__ import annotations

import gc
import pathlib
import threading
from collections.abc import Iterator

import pytest

from bootplane.core.blob import counts, reap


@pytest.fixture
def nothing_leaks() -> Iterator[None]:
    """Segments, blobs, descriptors and threads are as many after the test as before it."""

    def state() -> tuple[dict[str, int], int, int]:
        gc.collect()
        reap()
        return counts(), len(list(pathlib.Path("/proc/self/fd").iterdir())), threading.active_count()

    before = state()
    yield
    assert state() == before

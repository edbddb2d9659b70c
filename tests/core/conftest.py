"""What the cache's tests share."""

from __future__ import annotations

import gc
import pathlib
import threading
from collections.abc import Callable, Iterator

import pytest

from bootplane.core.blob import counts, reap
from bootplane.core.lru import Cache
from tests.core.caches import MIB
from tests.core.racks import Rack


@pytest.fixture
def nothing_leaks() -> Iterator[None]:
    """Segments and blobs are as many after the test as before it, descriptors and threads no more: what an earlier
    test's servers have left may end meanwhile."""

    def state() -> tuple[dict[str, int], int, int]:
        gc.collect()
        reap()
        return counts(), len(list(pathlib.Path("/proc/self/fd").iterdir())), threading.active_count()

    before, descriptors, threads = state()
    yield
    after, descriptors_after, threads_after = state()
    assert after == before
    assert (descriptors_after <= descriptors, threads_after <= threads) == (True, True)


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Cache]]:
    """Starts a cache on the directory, after the one before has ended. All are closed at the end of the test."""
    caches: list[Cache] = []

    def one(limit: int = 64 * MIB, *, open_limit: int = 0) -> Cache:
        caches.append(Cache(str(tmp_path), limit, open_limit=open_limit))
        return caches[-1]

    yield one
    for cache in caches:
        cache.close()


@pytest.fixture
def start_few(start: Callable[..., Cache]) -> Callable[..., Cache]:
    """As start, with few files open."""
    return lambda open_limit=2, limit=64 * MIB: start(limit, open_limit=open_limit)


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> Iterator[Cache]:
    """One of 64 MiB in a directory of its own, closed at the end of the test."""
    cache = Cache(str(tmp_path / "cache"), 64 * MIB)
    yield cache
    cache.close()


@pytest.fixture
def rack(tmp_path: pathlib.Path) -> Iterator[Callable[..., Rack]]:
    """Makes racks of so many blocks on one directory, one after another."""
    racks: list[Rack] = []

    def of(blocks: int, **options: float) -> Rack:
        racks.append(Rack(tmp_path, blocks, **options))
        return racks[-1]

    yield of
    for each in racks:
        each.cache.close()
        each.blobs.clear()

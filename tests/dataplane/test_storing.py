"""A cache whose disk is full, or refuses: the real cache behind one that raises what a disk would, and real disks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.dataplane import storing
from bootplane.dataplane.fill import ST_FULL
from bootplane.dataplane.storing import FIRST_BACKOFF_S, MAX_BACKOFF_S, PATIENCE_S, DiskHealth, Storer
from tests.fakes.filesystems import KINDS, leave_room, mounted, or_skip
from tests.fakes.filling import COUNT, DATA, MIB, SHA, Rack, eventually
from tests.fakes.region import FakeRegion, chunks_of


class Disk:
    """The real cache on a disk that *refuses* writes with an errno; 0: it takes them. Eviction gives room *evictable*
    times."""

    def __init__(self, cache: Cache, refuses: int, evictable: int = 0, at: str = "store") -> None:
        self.real, self.refuses, self.evictable, self.at = cache, refuses, evictable, at
        self.refused = self.evictions = 0
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    def _refuse(self, what: str) -> None:
        with self.lock:
            if self.at == what and self.refuses:
                self.refused += 1
                raise OSError(self.refuses, f"segment 0: {what}: {os.strerror(self.refuses)}")

    def begin(self, blob: Blob, chunk: int) -> bool:
        self._refuse("begin")
        return self.real.begin(blob, chunk)

    def store(self, blob: Blob, chunk: int, data: memoryview) -> None:
        try:
            self._refuse("store")
        except OSError:
            self.real.abandon(blob, chunk)  # a store ends the claim whatever happens
            raise
        self.real.store(blob, chunk, data)

    def evict(self, wanted: int) -> int:
        with self.lock:
            if not self.evictable:
                return 0
            self.evictable -= 1
            self.evictions += 1
            self.refuses = 0
            return wanted


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"squashfs": DATA}) as fake:
        yield fake


@pytest.fixture
def make(tmp_path: Path, region: FakeRegion) -> Iterator[Callable[..., tuple[Rack, Disk]]]:
    with contextlib.ExitStack() as undo:

        def build(refuses: int, **options: object) -> tuple[Rack, Disk]:
            rack = Rack(tmp_path / "cache", region)
            undo.callback(rack.close)
            disk = Disk(rack.cache, refuses, **options)  # type: ignore[arg-type]
            rack.filler._fetcher._storer._cache = disk
            return rack, disk

        yield build


@pytest.mark.parametrize("at", ["begin", "store"])
def test_a_full_disk_makes_room_and_nothing_is_fetched_twice(
    make: Callable[..., tuple[Rack, Disk]], region: FakeRegion, at: str
) -> None:
    rack, disk = make(errno.ENOSPC, evictable=1, at=at)
    assert rack.read_whole(rack.blob()) == DATA
    assert (disk.evictions, disk.refused >= 1) == (1, True)
    assert region.sent == {(SHA, chunk): 1 for chunk in range(COUNT)}
    assert rack.filler.stats.errors == {}


def test_threads_that_meet_a_full_disk_at_once_make_room_once(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"), 64 * MIB)
    disk = Disk(cache, errno.ENOSPC, evictable=8)
    storer = Storer(disk, threading.Event())
    all_met = threading.Barrier(3)

    def refuse_all_first(what: str, refuse: Callable[[str], None] = disk._refuse) -> None:
        try:
            refuse(what)
        except OSError:
            all_met.wait(20)
            raise

    disk._refuse = refuse_all_first  # type: ignore[method-assign]
    rack_blob = cache.blob(SHA, len(DATA), chunks_of(DATA))

    def fill(chunk: int) -> None:
        assert cache.begin(rack_blob, chunk)
        storer.put(rack_blob, chunk, memoryview(DATA)[chunk * MIB : (chunk + 1) * MIB])

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(fill, (0, 4, 8)))
    assert (disk.refused, disk.evictions) == (3, 1)
    assert rack_blob.present_bytes() == 3 * MIB
    cache.close()


@pytest.mark.parametrize("refuses", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("at", ["begin", "store"])
def test_a_disk_that_refuses_is_a_sentence_and_a_status_and_is_found_well_again_without_a_hand(
    make: Callable[..., tuple[Rack, Disk]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    refuses: int,
    at: str,
) -> None:
    monkeypatch.setattr(storing, "PATIENCE_S", 0.2)
    monkeypatch.setattr("bootplane.dataplane.fill.PATIENCE_S", 0.2)
    caplog.set_level(logging.INFO)
    rack, disk = make(refuses, at=at)
    blob = rack.blob()
    assert rack.wait_for(blob, 0) == ST_FULL
    assert blob.states(0, 1) == b"\0"
    why = f"[Errno {refuses}] segment 0: {at}: {os.strerror(refuses)}"
    lines = [record.getMessage() for record in caplog.records]
    assert f"the cache's disk refuses chunks; it is tried again until it takes them: {why}" in lines
    assert f"no room for chunk 0 of blob {SHA}: {why}" in lines
    disk.refuses = 0
    assert rack.wait_for(blob, 0) == 0
    assert "the cache's disk takes chunks again" in [record.getMessage() for record in caplog.records]
    assert rack.read_whole(blob) == DATA


def test_who_waits_while_the_disk_is_full_for_a_moment_is_told_nothing_of_it(
    make: Callable[..., tuple[Rack, Disk]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "PATIENCE_S", 60.0)
    monkeypatch.setattr("bootplane.dataplane.fill.PATIENCE_S", 60.0)
    rack, disk = make(errno.ENOSPC)
    blob = rack.blob()
    rack.filler.miss(blob, 0)
    eventually(lambda: disk.refused >= 4)
    disk.refuses = 0
    assert rack.status_of(blob, 0) == 0
    assert rack.filler.stats.given_up == 0


def test_a_disk_that_refuses_is_tried_seldom_however_many_ask(
    make: Callable[..., tuple[Rack, Disk]], region: FakeRegion
) -> None:
    rack, disk = make(errno.EIO)
    blob = rack.blob()
    began = time.monotonic()
    ended = threading.Event()

    def ask(chunk: int) -> int:
        told = 0
        while not ended.is_set():
            assert rack.wait_for(blob, chunk) == ST_FULL
            told += 1
        return told

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(ask, chunk) for chunk in range(8)]
        eventually(lambda: rack.filler.stats.given_up >= 8)
        ended.set()
        took = time.monotonic() - began
        assert all(reader.result() >= 1 for reader in readers)
    took_all = time.monotonic() - began
    assert took_all >= took >= PATIENCE_S
    tries = 3 + 6 + took_all / MAX_BACKOFF_S  # those in hand, those of the growing waits, those after that
    assert disk.refused <= tries
    assert rack.filler.stats.errors["disk"] == disk.refused
    assert region.bulk_bytes <= (tries + 16) * MIB, "a chunk for each try, beside the runs that were under way"


def test_the_waits_for_a_disk_grow_and_end_with_a_chunk() -> None:
    health = DiskHealth()
    waits = []
    for _ in range(7):
        health.failed(100.0)
        waits.append(round(health.wait_s(100.0), 3))
    assert waits == [FIRST_BACKOFF_S, 0.2, 0.4, 0.8, 1.6, MAX_BACKOFF_S, MAX_BACKOFF_S]
    assert not health.is_given_up(100.0)
    assert health.is_given_up(100.0 + PATIENCE_S)
    assert health.succeeded()
    assert not health.succeeded()
    assert (health.wait_s(100.0), health.is_given_up(200.0)) == (0.0, False)


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_on_which_there_is_no_room_at_all_is_used_once_there_is_some(
    tmp_path: Path, region: FakeRegion, kind: str
) -> None:
    with contextlib.ExitStack() as undo:
        place = undo.enter_context(or_skip(mounted(kind, tmp_path)))
        leave_room(place, MIB // 2)
        rack = Rack(place / "cache", region, limit=256 * MIB)
        undo.callback(rack.close)
        blob = rack.blob()
        assert rack.wait_for(blob, 0) == ST_FULL
        assert rack.wait_for(blob, 5) == ST_FULL
        assert rack.filler.stats.errors["disk"] <= 12
        (place / "ballast").unlink()
        eventually(lambda: rack.wait_for(blob, 0) == 0)
        assert rack.read_whole(blob) == DATA

"""A disk that takes writes back after pwrite() has returned: a thin one that is full behind the file system's back.

The pages are right as long as they stay in memory. Read again they are zeros: what was refused has to leave the cache
before that.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.dataplane.settle import Settler
from tests.fakes.filesystems import MIB, Disk, charge_of, files_in, leave_room, on_disk, or_skip
from tests.fakes.http_client import CHUNK, cold, fill, nothing_left

DATA = random.Random(21).randbytes(6 * MIB)
ABSENT, FILLING, PRESENT = 0, 1, 2
NOW, NEVER = 0.0, 3600.0


@pytest.fixture(params=["ext4", "xfs"])  # btrfs gives up the whole file system: nothing can be read or removed then
def thin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk of 320 MiB in a file that cannot grow any more once cut_off() was called."""
    with nothing_left(), or_skip(on_disk("ext4", tmp_path, 700 * MIB)) as outer:
        (outer.point / "disk").mkdir()
        with or_skip(on_disk(request.param, outer.point / "disk")) as disk:
            try:
                yield disk
            finally:
                (outer.point / "ballast").unlink(missing_ok=True)


def cut_off(disk: Disk) -> None:
    disk.sync()
    leave_room(disk.image.parent.parent, 512 * 1024)


def forget_pages(cache: Cache) -> None:
    for path, _ in files_in(Path(cache.directory)):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


@contextlib.contextmanager
def cache_on(disk: Disk) -> Iterator[tuple[Cache, Blob]]:
    cache = Cache(str(disk.point / "cache"), 64 * MIB)
    try:
        yield cache, cold(cache, DATA)
    finally:
        cache.close()


def test_what_the_disk_has_refused_leaves_and_no_zero_is_served(thin: Disk, caplog: pytest.LogCaptureFixture) -> None:
    with cache_on(thin) as (cache, blob):
        cut_off(thin)
        for chunk in range(6):
            fill(cache, blob, DATA, chunk)
        assert not thin.sync()
        assert blob.read(0, len(DATA)) == DATA, "the pages are there still"
        settler = Settler(cache, sync_after_s=NEVER)
        settler.look()
        assert settler.refused >= 1
        assert all("the disk has refused what was written, removed: " in record.message for record in caplog.records)
        assert len(caplog.records) == settler.refused and caplog.records[0].levelno == logging.ERROR
        forget_pages(cache)
        for chunk in range(6):
            if blob.states(chunk, 1)[0] == PRESENT:
                assert blob.read(chunk * CHUNK, CHUNK) == DATA[chunk * CHUNK : (chunk + 1) * CHUNK]
        assert blob.states(0, 4) == bytes([ABSENT] * 4)
        assert cache.stats()["rotten_chunks"] >= 4
        assert cache.stats()["charged_bytes"] == charge_of(Path(cache.directory))


def test_one_that_is_being_filled_goes_when_its_fill_has_ended(thin: Disk) -> None:
    with cache_on(thin) as (cache, blob):
        cut_off(thin)
        for chunk in range(3):
            fill(cache, blob, DATA, chunk)
        assert cache.begin(blob, 3)
        assert not thin.sync()
        ((_, index, error),) = cache.settle_writes(NEVER)
        assert (index, error in (errno.ENOSPC, errno.EIO, errno.EROFS)) == (0, True)
        assert blob.states(0, 4) == bytes([ABSENT] * 3 + [FILLING])
        with contextlib.suppress(OSError):  # the disk may be read-only by now
            cache.store(blob, 3, DATA[3 * CHUNK : 4 * CHUNK])
        assert blob.states(0, 4) == bytes([ABSENT] * 4) or blob.read(3 * CHUNK, CHUNK) == DATA[3 * CHUNK : 4 * CHUNK]


def test_what_the_disk_has_taken_stays(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"), 64 * MIB)
    blob = cold(cache, DATA)
    for chunk in range(5):
        fill(cache, blob, DATA, chunk)
        assert cache.settle_writes(NEVER) == cache.settle_writes(NOW) == []
    assert blob.present_bytes() == 5 * MIB
    assert cache.close() == ""

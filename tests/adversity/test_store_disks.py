"""The region's store on real disks: a sector that cannot be read, a full disk, reads that stay out of the cache."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from pathlib import Path

import pytest

from bootplane.control import datadir
from bootplane.control.errors import StartError
from bootplane.control.sync import audit, coordinator
from tests.control.sync.test_audit import Site
from tests.control.sync.test_store_start import banners, until
from tests.control.test_metrics import put
from tests.fakes.filesystems import KINDS, LOG_IN_FRONT, MIB, leave_room, mounted, on_disk, or_skip
from tests.fakes.regions import running

pytestmark = pytest.mark.integration
DATA = random.Random(5).randbytes(3 * MIB)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sector_that_cannot_be_read_is_found_and_its_file_leaves_its_place(kind: str, tmp_path: Path) -> None:
    with or_skip(on_disk(kind, tmp_path, mkfs=LOG_IN_FRONT[kind])) as disk:
        site = Site(tmp_path, 3600.0)
        site.store = type(site.store)(disk.point)
        site.auditor = audit.Auditor(site.store, site.blobs, site, interval_s=3600.0)
        right, broken = site.put(b"right" * 5000), site.put(DATA)
        assert disk.sync()
        disk.spoil(site.store.path_of(broken), 2 * MIB)
        site.run()
        site.database.close()
        assert site.followed == [("rotten", broken)]
        assert site.findings[0].got == os.strerror(5)
        assert site.blobs.get(right) is not None
        kept = site.store.withdraw(broken, 3600.0)
        assert kept is not None and not site.store.has(broken) and site.store.has(right)


def test_what_the_audit_reads_is_not_in_the_page_cache_afterwards(tmp_path: Path) -> None:
    with or_skip(mounted("ext4", tmp_path)) as point:
        site = Site(tmp_path, 3600.0)
        site.store = type(site.store)(point)
        site.auditor = audit.Auditor(site.store, site.blobs, site, interval_s=3600.0)
        path = site.store.path_of(site.put(DATA))
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = cached_bytes(path)
        site.run()
        site.database.close()
        assert site.auditor.stats.bytes == len(DATA) and cached_bytes(path) == before == 0


def cached_bytes(path: Path) -> int:
    """Of a file, by mincore(2)."""
    size = path.stat().st_size
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as view:
        pages = -(-size // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        start = ctypes.c_char.from_buffer(view)
        try:
            address = ctypes.c_void_p(ctypes.addressof(start))
            assert libc.mincore(address, ctypes.c_size_t(size), found) == 0, os.strerror(ctypes.get_errno())
        finally:
            del start
        return sum(page & 1 for page in found) * mmap.PAGESIZE


def test_a_region_starts_and_serves_on_a_full_disk_with_a_cut_file_and_a_stranger(tmp_path: Path) -> None:
    with or_skip(mounted("ext4", tmp_path)) as point:
        data = point / "data"
        with running(data) as (region, _client):
            put(region, DATA)
            put(region, b"cut" * 5000)
            cut = next(sha256 for sha256, size in region.store.complete() if size == 15_000)
            directory = region.store.directory
        (data / "sync.sqlite").touch()  # of the real engine: a directory in use
        os.truncate(directory / cut, 100)
        (directory / "stranger").write_bytes(b"s" * 5000)
        leave_room(point, 512 << 10)
        with running(data) as (region, client):
            assert region.failure == "" and client.get("/healthz").status_code == 200
            assert not region.store.has(cut, 15_000) and region.blobs.get(cut) is None
            [(sha256, size)] = region.store.complete()
            assert size == len(DATA) and region.blobs.get(sha256) is not None
            until(lambda: not region.store.found(), "what could not be set aside to be looked at")
            assert "store-owner" not in banners(client)


@pytest.mark.parametrize("free", [128 << 10, 72 << 10, 32 << 10])
def test_a_region_with_nothing_to_change_starts_on_a_disk_with_next_to_no_room(free: int, tmp_path: Path) -> None:
    with or_skip(mounted("ext4", tmp_path)) as point:
        data = point / "data"
        with running(data) as (region, _client):
            put(region, DATA)
        (data / "sync.sqlite").touch()
        leave_room(point, free)
        if free < datadir.PROBE_BYTES:  # where SQLite would be ended by SIGBUS
            with pytest.raises(StartError, match="No space left on device"), running(data):
                raise AssertionError("it has started")
            return
        with running(data) as (region, client):
            assert region.failure == "" and client.get("/healthz").status_code == 200
            assert [size for _, size in region.store.complete()] == [len(DATA)] and not region.custody.is_strange
        (point / "ballast").unlink()
        with running(data) as (region, client):
            # if the last one had the time to look at the room, its banner ends at this one's first look
            until(lambda: banners(client) == {}, "no banner on a disk with room")
            assert not region.custody.is_strange


def test_a_low_space_banner_comes_and_goes_with_the_room_while_a_region_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "SPACE_LOOK_S", 0.1)
    with or_skip(mounted("ext4", tmp_path)) as point, running(point / "data", disk_reserve=0, low_space=MIB) as started:
        region, client = started
        until(lambda: banners(client) == {}, "no banner on a disk with room")
        leave_room(point, MIB // 2)
        until(lambda: set(banners(client)) == {"low-space"}, "the banner of a disk with little room")
        (point / "ballast").unlink()
        until(lambda: banners(client) == {}, "no banner once there is room")
        assert region.coordinator.document()["state"] == "idle"

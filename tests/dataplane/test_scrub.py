"""The scrub: damage on the disk is found, nothing that is right is thrown away, and the order of eviction stays."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch
from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.dataplane import scrub
from bootplane.dataplane.scrub import Damage, Scrubber
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.region import FakeRegion

MIB = 1 << 20
SEGMENT = 4 * MIB
DATA = random.Random(4).randbytes(SEGMENT + MIB + 77)
LIST = b"".join(hashlib.sha256(DATA[i : i + MIB]).digest() for i in range(0, len(DATA), MIB))
SHA256 = hashlib.sha256(DATA).hexdigest()
PRESENT = 2


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(str(tmp_path / "cache"), 64 * MIB)
    yield cache
    cache.close()


def fill(cache: Cache, blob: Blob, *chunks: int) -> None:
    for chunk in chunks:
        assert cache.begin(blob, chunk)
        cache.store(blob, chunk, DATA[chunk * MIB : (chunk + 1) * MIB])


def segment_path(cache: Cache, index: int) -> Path:
    return Path(cache.directory, f"{SHA256}.d", str(index))


def spoil(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


class Scrubbed:
    """A cache with one blob, and a scrub that is stepped by hand."""

    def __init__(self, cache: Cache, *chunks: int) -> None:
        self.cache = cache
        self.blob = cache.blob(SHA256, len(DATA), LIST)
        self.found: list[Damage] = []
        self.scrubber = Scrubber(cache, lambda: [self.blob], self.found.append)
        fill(cache, self.blob, *chunks)

    def whole_pass(self) -> None:
        before = self.scrubber.stats.passes
        for _ in range(10):
            self.scrubber.step()
            if self.scrubber.stats.passes > before:
                return
        raise AssertionError("expected a pass over six chunks to end within ten steps")


def test_the_first_pass_hashes_and_the_next_compares_sums(cache: Cache) -> None:
    world = Scrubbed(cache, 0, 1, 3, 5)
    world.whole_pass()
    stats = world.scrubber.stats
    assert (stats.chunks, stats.hashed, stats.bytes, stats.damaged) == (4, 4, 3 * MIB + 77, 0)
    world.whole_pass()
    assert (stats.chunks, stats.hashed, stats.passes) == (8, 4, 2)


@pytest.mark.parametrize("passes_before", [0, 1])
@pytest.mark.parametrize(("chunk", "offset"), [(0, 0), (1, 2 * MIB - 1), (5, MIB + 76)])
def test_one_flipped_bit_is_found_and_its_segment_leaves(
    cache: Cache, passes_before: int, chunk: int, offset: int
) -> None:
    world = Scrubbed(cache, 0, 1, 4, 5)
    for _ in range(passes_before):
        world.whole_pass()
    path = segment_path(cache, chunk // 4)
    wanted = hashlib.sha256(DATA[chunk * MIB : (chunk + 1) * MIB]).hexdigest()
    spoil(path, offset)
    world.whole_pass()
    assert [(d.blob, d.chunk, d.path, d.expected) for d in world.found] == [(SHA256, chunk, str(path), wanted)]
    assert world.found[0].got != wanted and len(world.found[0].got) == 64
    states = world.blob.states(0, 6)
    gone = range(4) if chunk < 4 else range(4, 6)
    assert not path.exists() and not any(states[i] for i in gone)
    assert sum(state == PRESENT for state in states) == 2
    fill(cache, world.blob, chunk)
    world.whole_pass()
    assert world.scrubber.stats.damaged == 1


def test_a_file_that_was_cut_is_damage_that_says_why(cache: Cache) -> None:
    world = Scrubbed(cache, 4, 5)
    os.truncate(segment_path(cache, 1), MIB + 10)
    world.whole_pass()
    assert [(d.chunk, d.got) for d in world.found] == [(5, "a file that ends before")]
    assert world.blob.states(4, 2) == bytes(2)


def test_a_scrub_is_no_use_of_a_segment(cache: Cache) -> None:
    world = Scrubbed(cache, 0, 5)
    world.whole_pass()
    cache.limit_bytes = SEGMENT  # the older one goes, although it was scrubbed meanwhile
    assert world.blob.states(0, 6) == bytes([0, 0, 0, 0, 0, PRESENT])


def at_the_next_open(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], after: Callable[[], None]) -> None:
    """What happens to the cache just before and just after the scrub opens a file, once."""
    ordinary = scrub.open_direct

    def opened(path: Path) -> int:
        monkeypatch.setattr(scrub, "open_direct", ordinary)
        before()
        fd = ordinary(path)
        after()
        return fd

    monkeypatch.setattr(scrub, "open_direct", opened)


def test_a_segment_that_left_and_came_back_half_filled_is_not_damaged(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the list and the read the segment is evicted, and made anew with other chunks."""
    world = Scrubbed(cache, 0, 1)

    def make_anew() -> None:
        cache.drop(world.blob)
        fill(cache, world.blob, 3)  # chunks 0 and 1 are holes in it

    at_the_next_open(monkeypatch, make_anew, lambda: None)
    world.whole_pass()
    assert world.found == [] and world.blob.states(3, 1)[0] == PRESENT


def test_bytes_of_a_file_that_has_lost_its_name_meanwhile_count_for_nothing(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Scrubbed(cache, 0)

    def make_anew() -> None:
        cache.drop(world.blob)
        fill(cache, world.blob, 0)

    at_the_next_open(monkeypatch, lambda: spoil(segment_path(cache, 0), 0), make_anew)
    world.whole_pass()
    assert world.found == [] and world.blob.states(0, 1)[0] == PRESENT


def test_a_read_that_was_wrong_once_and_right_the_next_time_costs_nothing(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Scrubbed(cache, 0)
    ordinary, calls = os.preadv, []

    def flaky(fd: int, buffers: list[memoryview], offset: int) -> int:
        calls.append(offset)
        if len(calls) == 1:
            raise OSError(errno.EIO, "once")
        return ordinary(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", flaky)
    world.whole_pass()
    assert (len(calls), world.found, world.blob.states(0, 1)[0]) == (2, [], PRESENT)


def test_an_error_that_is_not_the_disks_is_no_damage(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Scrubbed(cache, 0)

    def refused(path: Path) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(scrub, "open_direct", refused)
    world.whole_pass()
    assert (world.found, world.blob.states(0, 1)[0]) == ([], PRESENT)


def test_the_pace_is_one_pass_in_the_time_given_and_never_above_the_most(cache: Cache) -> None:
    world = Scrubbed(cache, 0, 1, 2, 3)
    assert Scrubber(cache, lambda: [world.blob], pass_s=400.0).step() == 100.0
    assert Scrubber(cache, lambda: [world.blob], pass_s=0.001).step() == MIB / scrub.MAX_BYTES_S
    assert Scrubber(cache, lambda: [], pass_s=400.0).step() == scrub.NOTHING_S


def test_the_thread_finds_damage_and_ends_when_told(cache: Cache) -> None:
    blob = cache.blob(SHA256, len(DATA), LIST)
    fill(cache, blob, 0)
    spoil(segment_path(cache, 0), 5)
    found = threading.Event()
    scrubber = Scrubber(cache, lambda: [blob], lambda damage: found.set(), pass_s=0.01)
    scrubber.start()
    assert found.wait(60)
    scrubber.stop()
    assert blob.states(0, 1) == bytes(1)
    assert "scrub" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.integration
def test_a_rack_finds_what_has_rotted_tells_its_region_and_serves_it_right_again(tmp_path: Path) -> None:
    with FakeRegion({"images/x/squashfs": DATA}) as region:
        with RackProcess(tmp_path / "rack", region, "--scrub-pass", "0.2") as rack:
            url = (rack.http.host, rack.http.port, "/images/x/squashfs")
            assert http_fetch.fetch(*url).sha256 == SHA256
            spoil(tmp_path / "rack" / "data" / "cache" / f"{SHA256}.d" / "1", MIB + 3)
            deadline = time.monotonic() + 60
            told: list[dict[str, object]] = []
            while not told and time.monotonic() < deadline:
                time.sleep(0.05)
                told = [event for beat in list(region.beats) for event in beat["events"]]
            assert [(event["blob"], event["chunk"], event["source"]) for event in told] == [(SHA256, 5, "its own disk")]
            assert "damaged on the disk, removed: chunk 5 of blob" in rack.log()
            assert http_fetch.fetch(*url).sha256 == SHA256
        assert region.sent[SHA256, 5] == 2 and region.sent[SHA256, 0] == 1

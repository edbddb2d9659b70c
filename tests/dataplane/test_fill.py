"""The filler against one fake region, with the real cache."""

from __future__ import annotations

import concurrent.futures
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootplane.core.blob import Blob
from bootplane.dataplane import storing
from bootplane.dataplane.fill import ST_FULL, ST_UPSTREAM
from tests.fakes.filling import COUNT, DATA, MIB, SHA, Rack, eventually
from tests.fakes.region import FakeRegion, Link


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"squashfs": DATA, "kernel": DATA[:3_000_000]}) as fake:
        yield fake


@pytest.fixture
def make(tmp_path: Path, region: FakeRegion) -> Iterator[Callable[..., Rack]]:
    racks: list[Rack] = []

    def build(**options: float) -> Rack:
        racks.append(Rack(tmp_path / f"cache{len(racks)}", region, **options))
        return racks[-1]

    yield build
    for rack in racks:
        rack.close()


def test_a_reader_gets_the_file_and_every_chunk_is_fetched_once(make: Callable[..., Rack], region: FakeRegion) -> None:
    rack = make()
    assert rack.read_whole(rack.blob()) == DATA
    assert region.sent == {(SHA, chunk): 1 for chunk in range(COUNT)}
    assert region.bulk_bytes == len(DATA)
    rack.filler.stop()  # a chunk can be read before its thread has counted it
    assert rack.filler.stats.upstream_bytes == len(DATA)
    assert rack.filler.stats.chunks == COUNT


def test_what_lies_before_a_reader_is_fetched_though_it_misses_nothing(
    make: Callable[..., Rack], region: FakeRegion
) -> None:
    data = random.Random(3).randbytes(20 * MIB)
    region.publish({"longer": data})
    rack = make()
    blob = rack.blob(data)
    for chunk in (0, 4):  # a window of eight chunks after the second
        assert rack.wait_for(blob, chunk) == 0
    eventually(lambda: blob.states(8, 12) == b"\2" * 4 + b"\0" * 8)
    assert blob.read(8 * MIB, MIB) == data[8 * MIB : 9 * MIB]
    eventually(lambda: blob.states(8, 12) == b"\2" * 12)


def test_however_many_wait_each_chunk_is_fetched_once(make: Callable[..., Rack], region: FakeRegion) -> None:
    rack = make()
    blob = rack.blob()
    readers = [threading.Thread(target=rack.read_whole, args=(blob,)) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(timeout=30)
    assert region.sent == {(SHA, chunk): 1 for chunk in range(COUNT)}


def test_a_plan_that_fails_is_logged_and_costs_no_thread(
    make: Callable[..., Rack], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rack = make(threads=2)
    blob = rack.blob()
    ordinary, failures = rack.filler._plan.next, [1, 2, 3, 4]

    def broken(*arguments: Any) -> Any:
        if failures:
            failures.pop()
            raise KeyError("of the test")
        return ordinary(*arguments)

    monkeypatch.setattr(rack.filler._plan, "next", broken)
    assert rack.wait_for(blob, 0) == 0
    assert caplog.text.count("a fill failed in a way that was not foreseen") == 4
    assert "KeyError: 'of the test'" in caplog.text


def test_a_kernel_comes_within_a_few_chunks_while_an_image_is_read_at_many_places(
    make: Callable[..., Rack], region: FakeRegion
) -> None:
    places, apart = 8, 24
    image = DATA[: 8 * MIB] * (places * apart // 8)
    kernel = DATA[:3_000_000]
    region.publish({"image": image, "kernel": kernel})
    rack = make(limit=512 * MIB)
    blob = rack.blob(image)

    def read(place: int) -> None:
        for chunk in range(place * apart, (place + 1) * apart):
            rack.read_chunk(blob, chunk)

    region.link = link = Link(80 * MIB)
    with concurrent.futures.ThreadPoolExecutor(places) as pool:
        readers = [pool.submit(read, place) for place in range(places)]
        eventually(lambda: rack.filler.stats.chunks >= places * apart // 4)
        link.up.clear()  # so that how long this thread takes to ask does not matter
        before = len(region.begun)
        small = rack.blob(kernel)
        rack.filler.miss(small, 0)
        link.up.set()
        assert rack.status_of(small, 0) == 0
        ahead = region.begun.index((small.sha256, 0)) - before
        region.link = None
        for reader in readers:
            reader.result()
    assert ahead <= 9, "of 192: what each thread has in hand, and two more while they wait for each other"
    assert all(times == 1 for times in region.sent.values())


def test_no_more_is_fetched_than_the_upstream_limit_allows(make: Callable[..., Rack], region: FakeRegion) -> None:
    limit = 20 * MIB
    rack = make(upstream_bytes_s=limit)
    began = time.monotonic()
    assert rack.read_whole(rack.blob()) == DATA
    took = time.monotonic() - began
    run = limit / 4
    assert region.bulk_bytes <= limit * (took + 0.1) + run
    assert rack.filler.stats.throttled_s > 0


def test_the_upstream_limit_changes_while_machines_wait(make: Callable[..., Rack], region: FakeRegion) -> None:
    rack = make(upstream_bytes_s=1000)
    assert rack.wait_for(rack.blob(), 5) == 0
    rack.filler.miss(rack.blob(), 8)  # to be paid for in 17 minutes
    rack.filler.upstream_limit_bytes_s = 2000
    assert rack.filler.upstream_limit_bytes_s == 2000
    eventually(lambda: rack.filler.stats.throttled_s > 0)
    assert set(region.sent) == {(SHA, 5)}
    rack.filler.upstream_limit_bytes_s = 0
    assert rack.status_of(rack.blob(), 8) == 0


def test_blobs_share_the_upstream_limit_evenly_however_many_read_each(
    make: Callable[..., Rack], region: FakeRegion
) -> None:
    image = DATA[: 8 * MIB] * 24
    region.publish({"image": image, "squashfs": DATA})
    rack = make(limit=512 * MIB, upstream_bytes_s=24 * MIB)
    many, one = rack.blob(image), rack.blob()
    ended = threading.Event()

    def read(first: int) -> None:
        for chunk in range(first, first + 24):
            if not ended.is_set():
                rack.read_chunk(many, chunk)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read, place * 24) for place in range(8)]
        eventually(lambda: rack.filler.stats.chunks >= 8)
        before = rack.filler.stats.chunks
        assert rack.read_whole(one) == DATA
        others = rack.filler.stats.chunks - before - COUNT
        ended.set()
        rack.filler.upstream_limit_bytes_s = 0
        for reader in readers:
            reader.result()
    assert others <= 4 * COUNT, "and not eight times: there is some slack for readers that are slow to ask"


def test_what_a_source_did_not_send_is_not_paid_for(make: Callable[..., Rack], region: FakeRegion) -> None:
    region.stop()
    rack = make(upstream_bytes_s=10_000)
    rack.filler.miss(rack.blob(), 5)
    eventually(lambda: rack.filler.stats.errors["unreachable"] >= 4)  # a chunk is two minutes' worth
    region.start()
    assert rack.status_of(rack.blob(), 5) == 0


def test_a_range_fetches_what_it_needs(make: Callable[..., Rack], region: FakeRegion) -> None:
    rack = make()
    assert rack.wait_for(rack.blob(), 5) == 0
    assert region.sent == {(SHA, 5): 1}


def test_a_miss_of_a_chunk_that_has_come_is_told_at_once(make: Callable[..., Rack], region: FakeRegion) -> None:
    rack = make()
    blob = rack.blob()
    assert rack.wait_for(blob, 5) == 0
    assert rack.wait_for(blob, 5) == 0
    assert region.sent[SHA, 5] == 1


def test_a_chunk_that_is_wrong_once_is_fetched_again(make: Callable[..., Rack], region: FakeRegion) -> None:
    region.corrupt = {(SHA, 2)}
    region.corrupt_times = 1
    rack = make()
    assert rack.read_whole(rack.blob()) == DATA
    assert region.sent[SHA, 2] == 2
    assert [event.chunk for event in rack.filler.events] == [2]


def test_a_wrong_chunk_is_shown_to_nobody_and_told_in_one_sentence(
    make: Callable[..., Rack], region: FakeRegion, caplog: pytest.LogCaptureFixture
) -> None:
    region.corrupt = {(SHA, 2)}
    rack = make()
    blob = rack.blob()
    assert rack.wait_for(blob, 0) == 0
    assert rack.wait_for(blob, 1) == 0
    assert rack.wait_for(blob, 2) == ST_UPSTREAM
    assert blob.states(2, 1) == b"\0"
    good = DATA[2 * MIB : 3 * MIB]
    bad = bytes([good[0] ^ 1]) + good[1:]
    sentence = (
        f"refused chunk 2 of blob {SHA} from {region.bulk}: "
        f"expected {hashlib.sha256(good).hexdigest()}, got {hashlib.sha256(bad).hexdigest()}"
    )
    assert [
        record.message for record in caplog.records if "refused" in record.message and "gave" not in record.message
    ] == [sentence]
    assert [event.sentence() for event in rack.filler.events] == [sentence]
    # the source is in quarantine for this blob: whoever asks next is told at once
    assert rack.wait_for(blob, 2) == ST_UPSTREAM
    assert region.sent[SHA, 2] == 2
    # and still good for another one
    assert rack.read_whole(rack.blob(DATA[:3_000_000])) == DATA[:3_000_000]


def test_another_source_is_asked_when_one_sends_a_wrong_chunk(make: Callable[..., Rack], region: FakeRegion) -> None:
    region.corrupt = {(SHA, chunk) for chunk in range(COUNT)}
    with FakeRegion({"squashfs": DATA}) as other:
        rack = make()
        rack.filler.set_sources([("127.0.0.1", region.bulk_port), ("127.0.0.1", other.bulk_port)])
        assert rack.read_whole(rack.blob()) == DATA
        assert {event.source for event in rack.filler.events} <= {region.bulk}
        assert sum(other.sent.values()) == COUNT
        assert region.sent[SHA, 0] == 1  # no second chance when somebody else may have it right


def test_an_answer_that_is_cut_goes_on_where_it_was(make: Callable[..., Rack], region: FakeRegion) -> None:
    region.cut_after, region.cut_times = 1_500_000, 2
    rack = make()
    assert rack.read_whole(rack.blob()) == DATA
    assert rack.filler.stats.errors["cut"] == 2
    assert all(times <= 3 for times in region.sent.values())


@pytest.mark.parametrize("fault", ["lie", "range", "status"])
def test_an_answer_that_is_not_the_range_is_no_answer(
    make: Callable[..., Rack], region: FakeRegion, fault: str
) -> None:
    if fault == "lie":
        region.lie_about_length = 1
    elif fault == "range":
        region.ignore_range = True
    else:
        region.bulk_status = 500
    rack = make(park_limit_s=0.3)
    assert rack.wait_for(rack.blob(), 5) == ST_UPSTREAM
    assert rack.filler.stats.errors["answer"] > 0
    assert rack.filler.stats.chunks == 0


def test_a_blob_nobody_has_is_told_before_the_park_limit(make: Callable[..., Rack], region: FakeRegion) -> None:
    rack = make()
    assert rack.wait_for(rack.blob(b"nobody has me"), 0, timeout=15) == ST_UPSTREAM


def test_a_region_that_comes_back_in_time_is_found(make: Callable[..., Rack], region: FakeRegion) -> None:
    rack = make()
    blob = rack.blob()
    region.stop()
    rack.filler.miss(blob, 0)
    eventually(lambda: rack.filler.stats.errors["unreachable"] >= 2)
    region.start()
    assert rack.status_of(blob, 0) == 0


def test_a_region_that_stays_away_is_a_status_after_the_park_limit(
    make: Callable[..., Rack], region: FakeRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootplane.dataplane.sources.MAX_BACKOFF_S", 0.05)
    region.stop()
    rack = make(park_limit_s=0.3)
    blob = rack.blob()
    assert rack.wait_for(blob, 0) == ST_UPSTREAM
    assert rack.filler.stats.given_up == 1
    region.start()
    assert rack.wait_for(blob, 0) == 0


def test_a_source_that_stalls_is_left_for_another(
    make: Callable[..., Rack], region: FakeRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootplane.dataplane.upstream.STALL_S", 0.2)
    region.stall.set()
    with FakeRegion({"squashfs": DATA}) as other:
        rack = make()
        rack.filler.set_sources([("127.0.0.1", region.bulk_port), ("127.0.0.1", other.bulk_port)])
        assert rack.read_whole(rack.blob()) == DATA
        assert rack.filler.stats.errors["stalled"] >= 1
        region.stall.clear()


def test_a_file_larger_than_the_cache_streams_through_it(make: Callable[..., Rack]) -> None:
    rack = make(limit=8 * MIB)
    blob = rack.blob()
    assert rack.read_whole(blob) == DATA
    stats = rack.cache.stats()
    assert stats["charged_bytes"] + stats["condemned_bytes"] <= 8 * MIB
    assert stats["evicted_segments"] >= 1


def test_a_cache_without_room_says_so(
    make: Callable[..., Rack], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storing, "FULL_WAIT_S", 0.1)
    rack = make(limit=MIB)
    assert rack.wait_for(rack.blob(), 0) == ST_FULL
    assert any(f"no room for chunk 0 of blob {SHA}: " in record.message for record in caplog.records)


def test_a_blob_that_is_being_fetched_is_not_forgotten(make: Callable[..., Rack], region: FakeRegion) -> None:
    region.stall.set()
    rack = make()
    blob = rack.blob()
    rack.filler.miss(blob, 0)
    eventually(lambda: rack.filler.stats.runs > 0)
    assert not rack.filler.forget(blob)
    region.stall.clear()
    assert rack.status_of(blob, 3) == 0
    eventually(lambda: rack.filler.forget(blob))


def on_a_used_disk(tmp_path: Path, region: FakeRegion, *, rotten: int | None = None, **options: float) -> Rack:
    """A rack on the directory of one that was killed; a bit of chunk *rotten* is wrong."""
    rack = Rack(tmp_path / "used", region)
    assert rack.read_whole(rack.blob()) == DATA
    rack.close()
    (tmp_path / "used" / "state").unlink()
    if rotten is not None:
        with (tmp_path / "used" / f"{SHA}.d" / str(rotten // 4)).open("r+b") as file:
            file.seek(rotten % 4 * MIB)
            file.write(bytes([DATA[rotten * MIB] ^ 1]))
    region.sent.clear()
    return Rack(tmp_path / "used", region, **options)


def test_an_unchecked_chunk_is_checked_once_however_many_wait(tmp_path: Path, region: FakeRegion) -> None:
    rack = on_a_used_disk(tmp_path, region)
    blob = rack.blob()
    readers = [threading.Thread(target=rack.read_whole, args=(blob,)) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(timeout=30)
    assert blob.read(0, len(DATA)) == DATA
    assert (region.sent, rack.cache.stats()["rechecked_chunks"]) == ({}, COUNT)
    assert rack.filler.stats.upstream_bytes == 0
    eventually(lambda: rack.filler.forget(blob))
    rack.close()


def test_an_unchecked_chunk_does_not_wait_for_fetches_that_hang(
    tmp_path: Path, region: FakeRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootplane.dataplane.upstream.STALL_S", 60.0)
    rack = on_a_used_disk(tmp_path, region)
    region.publish({"squashfs": DATA, "other": DATA[::-1]})
    other = rack.blob(DATA[::-1])
    region.stall.set()
    for chunk in (1, 4, 7):
        rack.filler.miss(other, chunk)
    eventually(lambda: rack.filler.stats.runs == 3)  # every fill thread is in it
    assert rack.read_whole(rack.blob()) == DATA
    assert rack.filler.stats.runs == 3
    assert rack.filler.stats.errors == {}
    region.stall.clear()
    assert rack.status_of(other, 4) == 0
    rack.close()


def test_an_unchecked_chunk_needs_no_source(tmp_path: Path, region: FakeRegion) -> None:
    rack = on_a_used_disk(tmp_path, region, park_limit_s=0.2)
    rack.filler.set_sources([])
    assert rack.read_whole(rack.blob()) == DATA
    assert rack.filler.stats.given_up == 0
    rack.close()


def test_a_rotten_chunk_is_fetched_for_who_waits_and_one_of_read_ahead_is_not(
    tmp_path: Path, region: FakeRegion, caplog: pytest.LogCaptureFixture
) -> None:
    rack = on_a_used_disk(tmp_path, region, rotten=2)
    blob = rack.blob()
    assert rack.wait_for(blob, 1) == 0
    eventually(lambda: rack.cache.stats()["rotten_chunks"] == 1)
    eventually(lambda: not rack.filler._rechecks)
    assert (SHA, 2) not in region.sent
    assert rack.read_whole(blob) == DATA
    assert region.sent[(SHA, 2)] == 1
    expected, wrong = (
        hashlib.sha256(x).hexdigest() for x in (DATA[2 * MIB : 3 * MIB], rotten(DATA[2 * MIB : 3 * MIB]))
    )
    line = f"rotten in the cache, removed: blob {SHA} chunk 2: expected {expected}, got {wrong}"
    assert [r.getMessage() for r in caplog.records if "rotten" in r.getMessage()] == [line]
    rack.close()


def test_who_waits_for_a_rotten_chunk_gets_the_right_one(tmp_path: Path, region: FakeRegion) -> None:
    rack = on_a_used_disk(tmp_path, region, rotten=8)
    blob = rack.blob()
    assert rack.wait_for(blob, 8) == 0
    assert blob.read(8 * MIB, MIB) == DATA[8 * MIB : 9 * MIB]
    assert region.sent[(SHA, 8)] == 1
    rack.close()


def test_a_blob_that_is_being_checked_is_not_forgotten(
    tmp_path: Path, region: FakeRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    rack = on_a_used_disk(tmp_path, region)
    blob, go_on = rack.blob(), threading.Event()

    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(rack.cache, name)

        def recheck(self, blob: Blob, chunk: int) -> bool:
            return go_on.wait(20) and rack.cache.recheck(blob, chunk)

    monkeypatch.setattr(rack.filler, "_cache", Slow())
    rack.filler.miss(blob, 0)
    assert not rack.filler.forget(blob)
    go_on.set()
    assert rack.status_of(blob, 0) == 0
    eventually(lambda: rack.filler.forget(blob))
    rack.close()


def rotten(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]

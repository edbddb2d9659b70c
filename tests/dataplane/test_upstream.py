from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from bootplane.dataplane import upstream
from bootplane.dataplane.sources import Source
from bootplane.dataplane.upstream import BlobMissing, Upstream, UpstreamError
from tests.fakes.region import FakeRegion

DATA = bytes(range(256)) * 8192  # 2 MiB
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"x": DATA}) as fake:
        yield fake


def fetch(up: Upstream, region: FakeRegion, offset: int, length: int, sha256: str = SHA) -> bytes:
    buffer = bytearray(length)
    with up.open(Source("127.0.0.1", region.bulk_port), sha256, len(DATA), offset, length) as body:
        body.readinto(memoryview(buffer))
    return bytes(buffer)


def test_a_range_is_read_exactly(region: FakeRegion) -> None:
    up = Upstream()
    assert fetch(up, region, 1000, 500_000) == DATA[1000:501_000]
    assert fetch(up, region, 0, len(DATA)) == DATA
    assert fetch(up, region, len(DATA) - 1, 1) == DATA[-1:]
    up.close()


def test_one_connection_serves_many_ranges(region: FakeRegion) -> None:
    up = Upstream()
    fetch(up, region, 0, 10)
    first = dict(up._connections)
    fetch(up, region, 10, 10)
    assert up._connections == first
    up.close()


def test_a_body_that_was_not_read_to_its_end_costs_its_connection(region: FakeRegion) -> None:
    up = Upstream()
    source = Source("127.0.0.1", region.bulk_port)
    with up.open(source, SHA, len(DATA), 0, len(DATA)) as body:
        body.readinto(memoryview(bytearray(10)))
    assert up._connections == {}
    assert fetch(up, region, 5, 5) == DATA[5:10]
    up.close()


def test_a_connection_the_source_closed_is_replaced(region: FakeRegion) -> None:
    up = Upstream()
    fetch(up, region, 0, 10)
    region.stop()
    region.start()
    assert fetch(up, region, 10, 10) == DATA[10:20]
    up.close()


def test_a_source_that_is_not_there_is_unreachable(region: FakeRegion) -> None:
    region.stop()
    with pytest.raises(UpstreamError, match=r"127.0.0.1:\d+: .*refused") as caught:
        fetch(Upstream(), region, 0, 10)
    assert caught.value.reason == "unreachable"


def test_an_answer_that_ends_early_is_cut(region: FakeRegion) -> None:
    region.cut_after, region.cut_times = 100_000, 1
    with pytest.raises(UpstreamError, match=r"expected 2[0-9]{6} more bytes, got the end of the answer") as caught:
        fetch(Upstream(), region, 0, len(DATA))
    assert caught.value.reason == "cut"


def test_a_source_that_says_nothing_is_stalled(region: FakeRegion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "STALL_S", 0.1)
    region.stall.set()
    with pytest.raises(UpstreamError, match="sent nothing for") as caught:
        fetch(Upstream(), region, 0, 10)
    assert caught.value.reason == "stalled"
    region.stall.clear()


def test_another_size_than_the_catalogues_is_refused(region: FakeRegion) -> None:
    region.lie_about_length = 1
    with pytest.raises(
        UpstreamError, match=f"expected 206 with range bytes 0-9/{len(DATA)}, got 206 with range"
    ) as caught:
        fetch(Upstream(), region, 0, 10)
    assert caught.value.reason == "answer"


def test_the_whole_file_for_a_part_of_it_is_refused(region: FakeRegion) -> None:
    region.ignore_range = True
    with pytest.raises(UpstreamError, match="got 200 with range none"):
        fetch(Upstream(), region, 0, 10)


def test_a_blob_the_source_does_not_have_is_missing(region: FakeRegion) -> None:
    with pytest.raises(BlobMissing, match="expected 206, got 404"):
        fetch(Upstream(), region, 0, 10, "0" * 64)

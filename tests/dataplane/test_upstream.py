from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bootplane.core.range_client import RangeClient
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


class Late:
    """A client whose connection was found good just before it was closed."""

    def __init__(self, client: RangeClient) -> None:
        self.ask, self.close, self._client = client.ask, client.close, client

    def is_fresh(self) -> bool:
        return True

    @property
    def begun(self) -> bool:
        return self._client.begun


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


def test_a_connection_that_dies_with_the_request_is_replaced(region: FakeRegion) -> None:
    """Between the look at a kept connection and its answer a source may close it."""
    up = Upstream()
    fetch(up, region, 0, 10)
    (client,) = up._connections.values()
    region.stop()
    region.start()
    up._connections = {key: Late(client) for key in up._connections}  # type: ignore[misc]
    assert fetch(up, region, 10, 10) == DATA[10:20]
    up.close()


def test_a_source_that_does_not_speak_http_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def speak() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")
                connection.recv(4096)

        pool.submit(speak)
        port = listener.getsockname()[1]
        with pytest.raises(UpstreamError, match=f"127.0.0.1:{port}: expected the head of an HTTP/1 reply") as caught:
            Upstream().open(Source("127.0.0.1", port), SHA, len(DATA), 0, 10)
    assert caught.value.reason == "answer"


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


def test_each_request_may_have_a_shorter_patience_of_its_own(
    region: FakeRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "STALL_S", 600.0)
    up, source = Upstream(), Source("127.0.0.1", region.bulk_port)
    assert fetch(up, region, 0, 10) == DATA[:10]
    region.stall.set()
    with (
        pytest.raises(UpstreamError, match=r"sent nothing for 0\.2 s") as caught,
        up.open(source, SHA, len(DATA), 0, 10, 0.2) as body,
    ):
        body.readinto(memoryview(bytearray(10)))
    assert caught.value.reason == "stalled" and up._connections == {}
    region.stall.clear()
    with up.open(source, SHA, len(DATA), 0, 10, 0.2) as body:
        body.readinto(memoryview(bytearray(10)))
    assert fetch(up, region, 10, 10) == DATA[10:20]
    assert len(up._connections) == 1, "one for each source, whatever its patience"
    up.close()


def test_connections_to_sources_that_have_gone_are_not_kept(region: FakeRegion) -> None:
    up = Upstream()
    with FakeRegion({"x": DATA}) as gone:
        fetch(up, gone, 0, 10)
    assert len(up._connections) == 1
    fetch(up, region, 0, 10)
    assert [key for key, _ in up._connections] == [f"127.0.0.1:{region.bulk_port}"]
    up.close()


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

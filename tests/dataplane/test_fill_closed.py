"""The filler and files that are not open: they are opened and not fetched, whatever the region does."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.status import CoreError
from bootplane.dataplane import look
from bootplane.dataplane.fill import Filler
from tests.fakes.region import FakeRegion, chunks_of

MIB = 1 << 20
DATA = random.Random(3).randbytes(17 * MIB + 5)  # 18 chunks in five files
SHA = hashlib.sha256(DATA).hexdigest()
ABSENT, FILLING, PRESENT, UNCHECKED, CLOSED = range(5)


class Rack:
    def __init__(self, directory: Path, region: FakeRegion, open_limit: int) -> None:
        self.cache = Cache(str(directory), 64 * MIB, open_limit=open_limit)
        self.told: list[tuple[int, int]] = []
        self.news = threading.Condition()
        self.filler = Filler(self.cache, self.wake)
        self.filler.set_sources([("127.0.0.1", region.bulk_port)])
        self.filler.start()
        self.blob = self.cache.blob(SHA, len(DATA), chunks_of(DATA))

    def wake(self, blob: Blob, chunk: int, status: int) -> None:
        with self.news:
            self.told.append((chunk, status))
            self.news.notify_all()

    def wait_for(self, chunk: int) -> int:
        with self.news:
            before = len(self.told)
        self.filler.miss(self.blob, chunk)
        with self.news:
            assert self.news.wait_for(lambda: chunk in [c for c, _ in self.told[before:]], 60), (
                f"nobody told of {chunk}"
            )
            return next(status for c, status in self.told[before:] if c == chunk)

    def read_whole(self) -> bytes:
        """As one reader does: in order, waiting where a byte is missing, as often as it takes."""
        got = b""
        while len(got) < len(DATA):
            try:
                got += self.blob.read(len(got), min(MIB, len(DATA) - len(got)))
            except CoreError:  # it may be closed again by the time it is looked at
                assert self.wait_for(len(got) // MIB) == 0
        return got

    def close(self) -> None:
        self.filler.stop()
        self.cache.close()


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"squashfs": DATA}) as fake:
        yield fake


def test_each_chunk_is_fetched_once_however_often_its_file_is_closed(tmp_path: Path, region: FakeRegion) -> None:
    rack = Rack(tmp_path / "cache", region, open_limit=3)
    try:
        for _ in range(4):
            assert rack.read_whole() == DATA
            assert rack.cache.stats()["open_segments"] <= 3
        assert region.sent == {(SHA, chunk): 1 for chunk in range(18)}
        assert rack.cache.stats()["reopened_segments"] >= 6
        assert rack.cache.stats()["rechecked_chunks"] == 0
    finally:
        rack.close()


def test_with_the_region_gone_a_closed_file_is_served(tmp_path: Path, region: FakeRegion) -> None:
    rack = Rack(tmp_path / "cache", region, open_limit=2)
    try:
        assert rack.read_whole() == DATA
        region.stop()
        region.sent.clear()
        assert CLOSED in rack.blob.states(0, 18)
        assert rack.read_whole() == DATA
    finally:
        rack.close()
    rack = Rack(tmp_path / "cache", region, open_limit=2)
    try:
        assert rack.read_whole() == DATA
        assert region.sent == {}
    finally:
        rack.close()


def test_several_readers_of_more_files_than_may_be_open_all_finish(tmp_path: Path, region: FakeRegion) -> None:
    rack = Rack(tmp_path / "cache", region, open_limit=2)
    found: list[bytes] = []
    try:
        readers = [threading.Thread(target=lambda: found.append(rack.read_whole()), daemon=True) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout=60)
        assert [hashlib.sha256(each).hexdigest() for each in found] == [SHA] * 4
        assert region.sent == {(SHA, chunk): 1 for chunk in range(18)}
    finally:
        rack.close()


def test_a_file_that_is_gone_is_fetched_again(tmp_path: Path, region: FakeRegion) -> None:
    rack = Rack(tmp_path / "cache", region, open_limit=1)
    try:
        assert rack.read_whole() == DATA
        region.sent.clear()
        (tmp_path / "cache" / f"{SHA}.d" / "1").unlink()
        assert rack.read_whole() == DATA
        assert set(region.sent) == {(SHA, chunk) for chunk in range(4, 8)}
    finally:
        rack.close()


def test_without_a_descriptor_the_reader_waits_and_nothing_is_fetched(
    tmp_path: Path, region: FakeRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel says is real in test_lru_open; here it is what the filler makes of it."""
    monkeypatch.setattr(look, "SHORTAGE_S", 0.01)
    rack = Rack(tmp_path / "cache", region, open_limit=2)
    try:
        assert rack.read_whole() == DATA
        assert rack.blob.states(0, 1) == bytes([CLOSED])
        region.sent.clear()
        tries = []

        class Short:
            def __getattr__(self, name: str) -> object:
                return getattr(rack.cache, name)

            def recheck(self, blob: Blob, chunk: int) -> bool:
                tries.append(chunk)
                if len(tries) <= 3:
                    raise OSError(24, "Too many open files")
                return rack.cache.recheck(blob, chunk)

        rack.filler._looker._cache = Short()  # type: ignore[assignment]
        while not rack.blob.span(0):
            assert rack.wait_for(0) == 0
        assert len(tries) >= 4 and region.sent == {}
    finally:
        rack.close()

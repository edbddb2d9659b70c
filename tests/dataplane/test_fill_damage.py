"""What becomes of a reader's word that a chunk cannot be read. There is no source: what is missing stays missing."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.dataplane import damage
from bootplane.dataplane.damage import UNFOUNDED, Examiner
from bootplane.dataplane.fill import ST_FULL, ST_UPSTREAM, Filler

MIB = 1 << 20
DATA = random.Random(3).randbytes(6 * MIB)
SHA = hashlib.sha256(DATA).hexdigest()
CHUNKS = b"".join(hashlib.sha256(DATA[at : at + MIB]).digest() for at in range(0, len(DATA), MIB))
PRESENT, ABSENT = 2, 0


class Rack:
    def __init__(self, directory: Path) -> None:
        self.cache = Cache(str(directory), 64 * MIB)
        self.blob = self.cache.blob(SHA, len(DATA), CHUNKS)
        for chunk in range(6):
            self.cache.begin(self.blob, chunk)
            self.cache.store(self.blob, chunk, DATA[chunk * MIB : (chunk + 1) * MIB])
        self.file = directory / f"{SHA}.d" / "0"
        self.told: list[tuple[int, int]] = []
        self.news = threading.Condition()
        self.filler = Filler(self.cache, self._wake, park_limit_s=0.2)
        self.filler.start()

    def _wake(self, blob: Blob, chunk: int, status: int) -> None:
        with self.news:
            self.told.append((chunk, status))
            self.news.notify_all()

    def damaged(self, chunk: int, blob: Blob | None = None) -> int:
        """Says so, and returns what the waiter is told."""
        with self.news:
            before = len(self.told)
        self.filler.damaged(blob or self.blob, chunk)
        with self.news:
            assert self.news.wait_for(lambda: len(self.told) > before, 60)
            found, status = self.told[before]
        assert found == chunk
        return status


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    rack = Rack(tmp_path / "cache")
    yield rack
    rack.filler.stop()
    rack.cache.close()


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_chunk_that_is_wrong_leaves_and_is_demanded_of_the_sources(
    rack: Rack, caplog: pytest.LogCaptureFixture
) -> None:
    flip(rack.file, MIB + 5)
    wrong = bytearray(DATA[MIB : 2 * MIB])
    wrong[5] ^= 1
    assert rack.damaged(1) == ST_UPSTREAM
    assert rack.blob.states(0, 6) == bytes([ABSENT] * 4 + [PRESENT] * 2)
    assert not rack.file.exists()
    expected, got = (hashlib.sha256(x).hexdigest() for x in (DATA[MIB : 2 * MIB], wrong))
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [
        f"damaged on the disk, removed and fetched again: chunk 1 of blob {SHA} in {rack.file}: "
        f"expected {expected}, got {got}"
    ]
    assert rack.filler.stats.damaged == 1
    assert [(event.chunk, event.source, event.got) for event in rack.filler.events] == [(1, "its own disk", got)]


def test_the_next_chunk_may_be_the_one_that_is_meant(rack: Rack) -> None:
    os.truncate(rack.file, 2 * MIB)
    assert rack.damaged(1) == ST_UPSTREAM, "they leave together"
    assert rack.filler.events[0].chunk == 2
    assert rack.filler.events[0].got == "a file that ends before"


def test_a_chunk_that_is_right_stays_and_its_readers_try_again_but_not_for_ever(rack: Rack) -> None:
    assert [rack.damaged(1) for _ in range(UNFOUNDED)] == [0] * (UNFOUNDED - 1) + [ST_FULL]
    assert rack.damaged(4) == 0
    assert rack.blob.complete
    assert rack.filler.stats.damaged == 0


def test_a_chunk_that_has_left_meanwhile_is_an_ordinary_miss(rack: Rack) -> None:
    rack.cache.drop(rack.blob)
    assert rack.damaged(1) == ST_UPSTREAM
    assert rack.filler.stats.damaged == 0


def test_a_file_of_the_shared_store_is_named_once_and_left_alone(
    rack: Rack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store"
    path.write_bytes(DATA)
    blob = Blob.open_file(str(path), SHA, len(DATA))
    os.truncate(path, MIB)
    for _ in range(5):
        rack.damaged(3, blob)
    assert [r.message for r in caplog.records] == [
        f"damaged in the shared store, not ours to mend: chunk {chunk} of blob {SHA}: "
        f"expected {MIB} bytes, got a file that ends before"
        for chunk in (3, 4)
    ]
    assert rack.filler.stats.damaged == 2
    assert path.stat().st_size == MIB


def test_what_is_remembered_of_a_broken_store_is_bounded(
    rack: Rack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(damage, "REMEMBERED", 3)
    path = tmp_path / "store"
    path.write_bytes(DATA)
    blob = Blob.open_file(str(path), SHA, len(DATA))
    os.truncate(path, 0)
    told: list[int] = []
    examiner = Examiner(rack.cache, lambda sha256, chunk, expected, got: told.append(chunk))
    for chunk in range(6):
        assert examiner.examine(blob, chunk)
    assert told == [0, 1, 2] and len(caplog.records) == 3
    assert len(examiner._said) == 3

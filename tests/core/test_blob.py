"""Blob, segment, chunk: spans, references, and the graveyard. Cached segments are in test_lru.py."""

from __future__ import annotations

import gc
import hashlib
import os
import pathlib
import random
import threading
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob, counts, reap
from bootplane.core.status import CoreError, Truncated
from bootplane.core.table import Table

MIB = 1 << 20
PRESENT = 2
DATA = random.Random(1).randbytes(5 * MIB + 4321)
SHA256 = hashlib.sha256(DATA).hexdigest()


def open_fds() -> int:
    return len(list(pathlib.Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    gc.collect()
    reap()
    before, fds = counts(), open_fds()
    yield
    gc.collect()
    reap()
    assert counts() == before
    assert open_fds() <= fds
    assert before["graveyard"] == 0


@pytest.fixture
def path(tmp_path: pathlib.Path) -> str:
    file = tmp_path / "kernel"
    file.write_bytes(DATA)
    return str(file)


def test_a_store_file_is_one_complete_segment(path: str) -> None:
    blob = Blob.open_file(path, SHA256, len(DATA))
    assert (blob.sha256, blob.size, blob.chunks, blob.complete, blob.dynamic) == (SHA256, len(DATA), None, True, False)
    assert blob.present_bytes() == len(DATA)
    assert blob.states(0, 100) == bytes([PRESENT] * 6)
    assert blob.states(4, 1) == bytes([PRESENT])
    assert blob.states(6, 10) == b""
    assert blob.span(0) == len(DATA)
    assert blob.span(len(DATA) - 1) == 1
    assert blob.read(0, len(DATA)) == DATA
    assert blob.read(MIB - 7, 20) == DATA[MIB - 7 : MIB + 13]
    assert blob.read(len(DATA), 0) == b""


def test_a_memory_blob_is_complete_and_computes_its_digest() -> None:
    blob = Blob.memory(b"set timeout=0\n")
    assert blob.sha256 == hashlib.sha256(b"set timeout=0\n").hexdigest()
    assert (blob.size, blob.complete, blob.dynamic) == (14, True, True)
    assert blob.read(4, 7) == b"timeout"
    assert not Blob.memory(b"x", dynamic=False).dynamic


@pytest.mark.parametrize("maker", ["file", "memory"])
def test_a_blob_of_no_bytes_has_no_segment_and_is_complete(maker: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").touch()
    before = counts()["segments"]
    sha256 = hashlib.sha256(b"").hexdigest()
    blob = Blob.memory(b"") if maker == "memory" else Blob.open_file(str(tmp_path / "empty"), sha256, 0)
    assert counts()["segments"] == before
    assert (blob.sha256, blob.size, blob.complete, blob.present_bytes()) == (sha256, 0, True, 0)
    assert blob.states(0, 4) == b"" and blob.read(0, 0) == b""


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1, 0])
def test_a_file_of_another_size_is_refused_with_both_sizes(path: str, size: int) -> None:
    with pytest.raises(Truncated, match=f"{path}: expected {size} bytes, got {len(DATA)}"):
        Blob.open_file(path, SHA256, size)


def test_a_directory_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Truncated, match="expected a regular file of 3 bytes, got something else"):
        Blob.open_file(str(tmp_path), SHA256, 3)


def test_a_missing_file_raises_os_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        Blob.open_file(str(tmp_path / "none"), SHA256, 3)


@pytest.mark.parametrize("sha256", ["", SHA256[:-1], SHA256.upper(), "g" * 64])
def test_a_malformed_digest_is_refused(path: str, sha256: str) -> None:
    with pytest.raises(ValueError, match="expected 64 lower-case hex digits"):
        Blob.open_file(path, sha256, len(DATA))


def test_a_file_cut_after_opening_is_reported_and_kills_nobody(path: str) -> None:
    blob = Blob.open_file(path, SHA256, len(DATA))
    os.truncate(path, MIB)
    with pytest.raises(Truncated, match=f"blob {SHA256}: {len(DATA)} bytes from 0"):
        blob.read(0, len(DATA))
    assert blob.read(0, MIB) == DATA[:MIB]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, 15), (14, 1), (15, 0)])
def test_a_range_outside_the_blob_is_refused(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="expected a range within 14 bytes"):
        Blob.memory(b"set timeout=0\n").read(offset, length)


@pytest.mark.parametrize("offset", [-1, 14, 1 << 62])
def test_a_span_outside_the_blob_is_an_error_and_not_a_wild_read(offset: int) -> None:
    with pytest.raises(CoreError, match=f"offset {offset} of 14 bytes"):
        Blob.memory(b"set timeout=0\n").span(offset)


def test_ids_are_unique_and_never_zero() -> None:
    ids = [Blob.memory(b"same").id for _ in range(100)]
    assert len(set(ids)) == 100 and 0 not in ids


def test_blobs_are_equal_by_identity_of_the_thing_and_not_by_content() -> None:
    a, b = Blob.memory(b"same"), Blob.memory(b"same")
    assert a == a and a != b and len({a, b}) == 2


def test_a_blob_cannot_be_made_without_bytes() -> None:
    with pytest.raises(TypeError):
        Blob()


def test_a_dropped_blob_is_closed_by_reap_and_by_nothing_else(path: str) -> None:
    before, fds = counts(), open_fds()
    blob = Blob.open_file(path, SHA256, len(DATA))
    assert open_fds() == fds + 1
    del blob
    assert open_fds() == fds + 1
    assert counts() == {"segments": before["segments"] + 1, "blobs": before["blobs"] + 1, "graveyard": 1}
    assert reap() == 1
    assert counts() == before
    assert open_fds() <= fds
    assert reap() == 0


def test_a_deleted_file_is_read_for_as_long_as_its_blob_lives(path: str) -> None:
    blob = Blob.open_file(path, SHA256, len(DATA))
    pathlib.Path(path).unlink()
    assert hashlib.sha256(blob.read(0, len(DATA))).hexdigest() == SHA256


def test_compare_finds_a_difference() -> None:
    blob = Blob.memory(DATA[:4096])
    assert blob.compare(DATA[:4096], 50, 3) == (50, 0)
    found, wrong = blob.compare(DATA[1:4097], 50, 3)
    assert found == wrong == 50
    with pytest.raises(ValueError, match="expected 4096 bytes to compare with, got 3"):
        blob.compare(b"abc", 1, 1)


def test_threads_that_make_read_and_drop_blobs_see_right_bytes_and_leave_nothing(path: str) -> None:
    shared = Blob.open_file(path, SHA256, len(DATA))
    wrong: list[int] = []

    def churn(seed: int) -> None:
        rng = random.Random(seed)
        for i in range(60):
            if i % 3 == 0:
                own = Blob.open_file(path, SHA256, len(DATA))
                wrong.append(own.compare(DATA, 5, rng.getrandbits(60))[1])
            text = rng.randbytes(rng.randrange(1, 9000))
            memory = Blob.memory(text)
            table = Table({"a": memory, "b": shared}, i)
            del memory
            assert table.find("a") == hashlib.sha256(text).hexdigest()
            found, bad = shared.compare(DATA, 20, rng.getrandbits(60))
            wrong.append(bad + (found != 20))
            if i % 7 == 0:
                reap()

    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 4 * 80 and not any(wrong)
    assert shared.references == 1

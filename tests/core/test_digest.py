"""Verifier: whole digest, size and chunk list of a stream, and every way in which it can differ from the promise."""

from __future__ import annotations

import array
import hashlib
import itertools
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootplane.core.digest import Verified, Verifier, chunk_root, sha256_hex
from bootplane.core.status import CoreError, DigestMismatch

CHUNK = 1048576
CORE = Path(__file__).parents[2] / "core"


def chunks_of(data: bytes) -> bytes:
    return b"".join(hashlib.sha256(data[i : i + CHUNK]).digest() for i in range(0, len(data), CHUNK))


def expected_of(data: bytes) -> Verified:
    chunks = chunks_of(data)
    return Verified(hashlib.sha256(data).hexdigest(), len(data), chunks, hashlib.sha256(chunks).hexdigest())


def pattern(size: int) -> bytes:
    return hashlib.shake_128(size.to_bytes(8, "big")).digest(size)


def test_the_chunk_is_the_one_of_the_blob_contract() -> None:
    found = re.search(r"CHUNK_BYTES = (\d+)", (CORE / "segments.pxd").read_text())
    assert found is not None
    assert int(found[1]) == CHUNK


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 12345])
def test_one_pass_gives_digest_size_chunk_list_and_root(size: int) -> None:
    data = pattern(size)
    verifier = Verifier(hashlib.sha256(data).hexdigest(), size, "vmlinuz")
    verifier.update(data)
    assert verifier.finish() == expected_of(data)


def test_an_empty_stream_has_an_empty_chunk_list() -> None:
    got = Verifier().finish()
    assert got.chunks == b""
    assert got.root == hashlib.sha256(b"").hexdigest()


SAMPLE = pattern(2 * CHUNK + 4321)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(SAMPLE)), max_size=8))
def test_how_a_stream_is_cut_changes_nothing(cuts: list[int]) -> None:
    verifier = Verifier()
    edges = [0, *sorted(cuts), len(SAMPLE)]
    for first, last in itertools.pairwise(edges):
        verifier.update(memoryview(SAMPLE)[first:last])
    assert verifier.finish() == expected_of(SAMPLE)


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"memoryview"),
        memoryview(b"..slice..")[2:7],
        array.array("I", [1, 2, 3]),
        memoryview(b"signed").cast("b"),
        memoryview(bytes(12)).cast("B", (3, 4)),
    ],
    ids=["bytes", "bytearray", "memoryview", "slice", "array", "signed", "two-dimensional"],
)
def test_every_contiguous_buffer_is_taken(data: bytes) -> None:
    verifier = Verifier()
    verifier.update(data)
    assert verifier.finish().sha256 == hashlib.sha256(data).hexdigest()
    assert sha256_hex(data) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("data", ["text", None, 5, memoryview(b"abcdef")[::2]], ids=["str", "None", "int", "strided"])
def test_what_is_not_a_contiguous_buffer_is_refused_and_counts_for_nothing(data: object) -> None:
    verifier = Verifier()
    verifier.update(b"abc")
    with pytest.raises((TypeError, BufferError)):
        verifier.update(data)  # type: ignore[arg-type]
    verifier.update(b"def")
    assert verifier.finish().sha256 == hashlib.sha256(b"abcdef").hexdigest()


def test_a_wrong_digest_is_one_sentence_with_name_expected_and_got() -> None:
    promised = hashlib.sha256(b"promised").hexdigest()
    got = hashlib.sha256(b"sent").hexdigest()
    verifier = Verifier(promised, name="boot-initrd")
    verifier.update(b"sent")
    with pytest.raises(DigestMismatch) as caught:
        verifier.finish()
    assert str(caught.value) == f"boot-initrd: sha256 differs: expected {promised}, got {got}"
    assert isinstance(caught.value, CoreError)
    assert caught.value.status == 7  # ST_MISMATCH


def test_one_wrong_bit_anywhere_is_a_mismatch() -> None:
    data = bytearray(SAMPLE)
    promised = sha256_hex(SAMPLE)
    for at in (0, CHUNK - 1, CHUNK, len(data) - 1):
        data[at] ^= 0x10
        verifier = Verifier(promised, len(SAMPLE))
        verifier.update(data)
        with pytest.raises(DigestMismatch, match="sha256 differs"):
            verifier.finish()
        data[at] ^= 0x10


def test_a_short_stream_is_told_by_its_size() -> None:
    verifier = Verifier(hashlib.sha256(b"12345").hexdigest(), 5, "squashfs")
    verifier.update(b"123")
    with pytest.raises(DigestMismatch) as caught:
        verifier.finish()
    assert str(caught.value) == "squashfs: size: expected 5 bytes, got 3"


def test_a_long_stream_is_refused_by_the_update_that_exceeds_the_promise() -> None:
    verifier = Verifier(expected_size=5, name="squashfs")
    verifier.update(b"12345")
    with pytest.raises(DigestMismatch) as caught:
        verifier.update(b"6")
    assert str(caught.value) == "squashfs: size: expected 5 bytes, got at least 6"


def test_a_promised_digest_may_be_written_in_capitals() -> None:
    verifier = Verifier(hashlib.sha256(b"x").hexdigest().upper())
    verifier.update(b"x")
    assert verifier.finish().size == 1


@pytest.mark.parametrize("bad", ["", "ab", "g" * 64, "a" * 63, "a" * 65])
def test_a_promise_that_is_no_digest_is_the_callers_error(bad: str) -> None:
    with pytest.raises(ValueError, match="expected 64 hex digits, got"):
        Verifier(bad)


def test_a_negative_size_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="expected 0 or more bytes, got -1"):
        Verifier(expected_size=-1)


@pytest.mark.parametrize("call", ["update", "finish"])
@pytest.mark.parametrize("end", ["finished", "mismatch", "too long"])
def test_after_its_end_a_verifier_never_answers_again(call: str, end: str) -> None:
    verifier = Verifier("0" * 64 if end == "mismatch" else None, 3, "x")
    verifier.update(b"abc")
    if end == "finished":
        verifier.finish()
    elif end == "mismatch":
        with pytest.raises(DigestMismatch):
            verifier.finish()
    else:
        with pytest.raises(DigestMismatch):
            verifier.update(b"d")
    with pytest.raises(ValueError, match="already finished"):
        verifier.update(b"") if call == "update" else verifier.finish()


def test_update_runs_without_the_gil_and_serves_one_thread_at_a_time() -> None:
    data = bytes(4 * CHUNK)
    verifier = Verifier()
    refused = threading.Event()

    def update(buffer: bytes) -> int:
        try:
            verifier.update(buffer)
        except ValueError as error:  # only possible while the other thread is inside update() without the GIL
            assert "one thread at a time" in str(error)
            refused.set()
            return 0
        return len(buffer)

    def hash_until_refused() -> None:
        for _ in range(500):
            hashed.append(update(data))
            if refused.is_set():
                break

    hashed: list[int] = []
    worker = threading.Thread(target=hash_until_refused)
    worker.start()
    while worker.is_alive():
        update(b"")
    worker.join()
    assert refused.is_set()
    assert verifier.finish().size == sum(hashed)


def test_a_chunk_list_of_odd_length_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="expected a multiple of 32 bytes, got 33"):
        chunk_root(bytes(33))

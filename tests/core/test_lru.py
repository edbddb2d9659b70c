"""The cache: claims, eviction, accounting. Its files are in test_lru_files.py, its order against a model in
test_lru_model.py, several threads in test_lru_threads.py."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import socket

import pytest

from bootplane.core.blob import Blob, counts, reap
from bootplane.core.lru import Cache, CacheFull
from bootplane.core.status import CoreError, DigestMismatch
from tests.core.caches import (
    ABSENT,
    DATA,
    FILLING,
    MIB,
    PRESENT,
    SEGMENT,
    SHA256,
    chunk_list,
    files,
    fill,
    filled,
    known,
)

pytestmark = pytest.mark.usefixtures("nothing_leaks")

CHUNKS = chunk_list(DATA)


class TestClaims:
    def test_a_filled_blob_reads_back_and_lies_in_one_file_per_segment(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        assert (blob.complete, blob.present_bytes(), blob.references) == (False, 0, 1)
        fill(cache, blob, DATA)
        assert (blob.complete, blob.present_bytes()) == (True, len(DATA))
        assert blob.read(0, len(DATA)) == DATA
        assert files(cache) == [f"{SHA256}.d", f"{SHA256}.d/0", f"{SHA256}.d/1"]
        root = pathlib.Path(cache.directory, f"{SHA256}.d")
        assert (root / "0").read_bytes() + (root / "1").read_bytes() == DATA

    def test_a_chunk_has_one_filler_at_a_time(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        assert cache.begin(blob, 1)
        assert not cache.begin(blob, 1)
        assert blob.states(0, 9) == bytes([ABSENT, FILLING, ABSENT, ABSENT, ABSENT, ABSENT])
        cache.store(blob, 1, memoryview(DATA)[MIB : 2 * MIB])
        assert not cache.begin(blob, 1)
        assert blob.states(1, 1) == bytes([PRESENT])

    def test_a_span_ends_at_the_first_chunk_that_is_not_present_and_at_the_segments_end(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        fill(cache, blob, DATA, 1, 2, 4, 5)
        assert [blob.span(offset) for offset in (0, MIB - 1, MIB, MIB + 5, 3 * MIB - 1, 3 * MIB)] == [
            0,
            0,
            2 * MIB,
            2 * MIB - 5,
            1,
            0,
        ]
        assert blob.span(SEGMENT) == MIB + 77
        fill(cache, blob, DATA, 3)
        assert blob.span(MIB) == 3 * MIB
        with pytest.raises(CoreError, match=f"blob {SHA256}: 2 bytes from {MIB - 1}: not in the cache"):
            blob.read(MIB - 1, 2)

    def test_a_chunk_that_is_being_filled_is_not_sent(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        cache.begin(blob, 0)
        assert blob.span(0) == 0 and blob.present_bytes() == 0
        cache.abandon(blob, 0)

    def test_an_abandoned_chunk_can_be_begun_again_and_leaves_no_file(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        cache.begin(blob, 4)
        assert cache.stats()["charged_bytes"] == MIB + 4096
        cache.abandon(blob, 4)
        assert files(cache) == []
        assert cache.stats()["charged_bytes"] == cache.stats()["condemned_bytes"] == 0
        fill(cache, blob, DATA, 4)
        assert blob.read(SEGMENT, MIB) == DATA[SEGMENT : SEGMENT + MIB]

    def test_abandoning_without_a_claim_does_nothing(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        fill(cache, blob, DATA, 0)
        cache.abandon(blob, 0)
        cache.abandon(blob, 4)
        assert blob.states(0, 1) == bytes([PRESENT])

    def test_storing_without_a_claim_is_an_error_of_the_caller(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        with pytest.raises(ValueError, match=rf"blob {SHA256} chunk 0: expected begin\(\) before store\(\)"):
            cache.store(blob, 0, DATA[:MIB])
        fill(cache, blob, DATA, 0)
        with pytest.raises(ValueError, match="expected begin"):
            cache.store(blob, 0, DATA[:MIB])

    def test_a_chunk_with_another_digest_is_refused_with_both_and_shown_to_nobody(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        wrong = DATA[: MIB - 1] + bytes([DATA[MIB - 1] ^ 1])
        cache.begin(blob, 0)
        expected, got = CHUNKS[:32].hex(), hashlib.sha256(wrong).hexdigest()
        with pytest.raises(DigestMismatch, match=f"^blob {SHA256} chunk 0: expected {expected}, got {got}$"):
            cache.store(blob, 0, wrong)
        assert blob.states(0, 1) == bytes([ABSENT]) and files(cache) == []
        assert (
            cache.stats() | {"refused_chunks": 1, "segments": 0, "charged_bytes": 0, "filled_bytes": 0} == cache.stats()
        )
        fill(cache, blob, DATA, 0)

    @pytest.mark.parametrize("length", [0, 76, 78, MIB])
    def test_a_chunk_of_another_length_is_refused_with_both(self, cache: Cache, length: int) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        cache.begin(blob, 5)
        with pytest.raises(DigestMismatch, match=f"^blob {SHA256} chunk 5: expected 77 bytes, got {length} bytes$"):
            cache.store(blob, 5, bytes(length))
        assert cache.stats()["refused_chunks"] == 1 and files(cache) == []

    def test_a_refused_chunk_leaves_its_neighbours_alone(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        fill(cache, blob, DATA, 0)
        cache.begin(blob, 1)
        cache.begin(blob, 2)
        with pytest.raises(DigestMismatch):
            cache.store(blob, 1, bytes(MIB))
        assert blob.states(0, 4) == bytes([PRESENT, ABSENT, FILLING, ABSENT])
        cache.abandon(blob, 2)
        assert blob.read(0, MIB) == DATA[:MIB]

    def test_a_blob_of_no_bytes_is_complete_and_has_no_chunk(self, cache: Cache) -> None:
        blob = known(cache, b"")
        assert blob.complete
        with pytest.raises(ValueError, match="expected a chunk below 0, got 0"):
            cache.begin(blob, 0)

    @pytest.mark.parametrize("chunk", [-2, 6, 1 << 40])
    def test_a_chunk_outside_the_blob_is_refused(self, cache: Cache, chunk: int) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        for call in (cache.begin, cache.abandon, lambda b, c: cache.store(b, c, b"")):
            with pytest.raises(ValueError, match=f"expected a chunk below 6, got {chunk}"):
                call(blob, chunk)


class TestBlobs:
    def test_one_digest_is_one_blob_however_often_it_is_asked_for(self, cache: Cache) -> None:
        a, b = cache.blob(SHA256, len(DATA), CHUNKS), cache.blob(SHA256, len(DATA), CHUNKS)
        assert a == b and a.id == b.id and a.chunks == CHUNKS
        assert a.references == 2
        del b
        assert a.references == 1

    def test_a_cached_blob_that_nobody_had_for_a_while_is_still_warm(self, cache: Cache) -> None:
        fill(cache, cache.blob(SHA256, len(DATA), CHUNKS), DATA, 0)
        cache.reap()
        assert cache.blob(SHA256, len(DATA), CHUNKS).read(0, MIB) == DATA[:MIB]

    def test_a_blob_nobody_has_and_nothing_is_cached_of_is_forgotten(self, cache: Cache) -> None:
        before = counts()["blobs"]
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        first = blob.id
        fill(cache, blob, DATA, 0)
        cache.drop(blob)
        cache.reap()
        assert counts()["blobs"] == before + 1
        del blob
        cache.reap()
        reap()
        assert counts()["blobs"] == before
        assert cache.blob(SHA256, len(DATA), CHUNKS).id != first

    @pytest.mark.parametrize("chunks", [b"", CHUNKS[:-1], CHUNKS + bytes(32)])
    def test_a_chunk_list_of_another_length_is_refused(self, cache: Cache, chunks: bytes) -> None:
        with pytest.raises(ValueError, match=f"blob {SHA256}: expected 6 digests of 32 bytes for {len(DATA)} bytes"):
            cache.blob(SHA256, len(DATA), chunks)

    def test_a_blob_in_use_keeps_its_size_and_chunk_list(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        with pytest.raises(
            ValueError, match=f"known as {len(DATA)} bytes, got {len(DATA)} bytes or another chunk list"
        ):
            cache.blob(SHA256, len(DATA), bytes(len(CHUNKS)))
        with pytest.raises(ValueError, match=f"known as {len(DATA)} bytes, got 7 bytes"):
            cache.blob(SHA256, 7, bytes(32))
        del blob
        assert cache.blob(SHA256, 7, bytes(32)).size == 7

    def test_a_blob_of_another_kind_or_cache_is_refused(self, cache: Cache, tmp_path: pathlib.Path) -> None:
        other = Cache(str(tmp_path / "other"), MIB)
        for blob in (Blob.memory(b"x"), other.blob(SHA256, len(DATA), CHUNKS)):
            with pytest.raises(ValueError, match=f"expected a blob of the cache {cache.directory}, got another's"):
                cache.begin(blob, 0)
        other.close()


class TestLimit:
    def test_a_segment_is_charged_whole_in_blocks_of_4096_before_it_is_filled(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        cache.begin(blob, 0)
        assert cache.stats()["charged_bytes"] == SEGMENT
        cache.begin(blob, 5)
        assert cache.stats()["charged_bytes"] == SEGMENT + MIB + 4096
        assert cache.stats()["segments"] == 2
        cache.abandon(blob, 0)
        cache.abandon(blob, 5)

    def test_the_least_recently_used_segment_goes_first(self, cache: Cache) -> None:
        cache.limit_bytes = 3 * 4096
        a, b, c = (filled(cache, text) for text in (b"a", b"b", b"c"))
        a.read(0, 1)
        d = filled(cache, b"d")
        assert [blob.complete for blob in (a, b, c, d)] == [True, False, True, True]
        assert cache.stats() == {
            "limit_bytes": 3 * 4096,
            "charged_bytes": 3 * 4096,
            "condemned_bytes": 0,
            "segments": 3,
            "protected_bytes": 3 * 4096,
            "reused_bytes": 0,
            "made_segments": 4,
            "ghost_double_segments": 0,
            "ghost_quadruple_segments": 0,
            "evicted_segments": 1,
            "evicted_room_segments": 1,
            "evicted_limit_segments": 0,
            "evicted_disk_segments": 0,
            "evicted_bytes": 4096,
            "filled_bytes": 4,
            "misfit_segments": 0,
            "refused_chunks": 0,
            "kept_segments": 0,
            "rechecked_chunks": 0,
            "rotten_chunks": 0,
            "open_segments": 3,
            "reopened_segments": 0,
        }
        assert files(cache) == sorted(name for x in (a, c, d) for name in (f"{x.sha256}.d", f"{x.sha256}.d/0"))

    def test_beginning_a_chunk_of_a_cached_segment_is_a_use_of_it(self, cache: Cache) -> None:
        cache.limit_bytes = SEGMENT + MIB + 4096
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        fill(cache, blob, DATA, 0, 4, 1)
        filled(cache, b"one more")
        assert blob.states(0, 6) == bytes([PRESENT, PRESENT, ABSENT, ABSENT, ABSENT, ABSENT])

    def test_half_a_file_stays_when_the_other_half_goes(self, cache: Cache) -> None:
        cache.limit_bytes = SEGMENT + MIB + 4096
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        fill(cache, blob, DATA)
        blob.span(SEGMENT)
        filled(cache, b"one more")
        assert blob.states(0, 6) == bytes([ABSENT] * 4 + [PRESENT] * 2)
        assert blob.read(SEGMENT, MIB + 77) == DATA[SEGMENT:]

    def test_a_segment_with_a_chunk_being_filled_is_not_evicted(self, cache: Cache) -> None:
        cache.limit_bytes = 2 * 4096
        a = known(cache, b"a")
        cache.begin(a, 0)
        b = filled(cache, b"b")
        c = filled(cache, b"c")
        assert [b.complete, c.complete] == [False, True]
        cache.store(a, 0, b"a")
        assert a.complete

    def test_a_segment_somebody_sends_is_not_evicted(self, cache: Cache) -> None:
        cache.limit_bytes = 2 * 4096
        a, b = filled(cache, b"a"), filled(cache, b"b")
        with a.pin(0):
            b.read(0, 1)  # the older use is still a's
            c = filled(cache, b"c")
            assert [x.complete for x in (a, b, c)] == [True, False, True]

    def test_when_all_is_held_the_cache_is_full_and_says_of_what(self, cache: Cache) -> None:
        cache.limit_bytes = 2 * 4096
        a, b, c = filled(cache, b"a"), known(cache, b"b"), known(cache, b"c")
        cache.begin(b, 0)
        with a.pin(0):
            with pytest.raises(CacheFull) as error:
                cache.begin(c, 0)
            assert str(error.value) == (
                f"cache {cache.directory}: no room for chunk 0 of blob {c.sha256}: expected something to evict, got 2 "
                "segments all being filled or sent (8192 bytes charged, 0 condemned, limit 8192)"
            )
        assert a.complete
        assert cache.begin(c, 0) and not a.complete
        cache.abandon(b, 0)
        cache.abandon(c, 0)

    def test_a_segment_larger_than_the_limit_evicts_nobody_in_vain(self, cache: Cache) -> None:
        cache.limit_bytes = 2 * 4096
        a = filled(cache, b"a")
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        with pytest.raises(CacheFull):
            cache.begin(blob, 0)
        assert a.complete

    def test_unlinked_bytes_count_until_the_last_sender_has_let_go(self, cache: Cache) -> None:
        cache.limit_bytes = 2 * 4096
        a, b = filled(cache, b"a"), filled(cache, b"b")
        with a.pin(0) as pin, b.pin(0):
            assert cache.drop(a) == 4096
            assert not a.complete and os.pread(pin.fd, 9, pin.offset) == b"a"
            assert (cache.stats()["charged_bytes"], cache.stats()["condemned_bytes"]) == (4096, 4096)
            with pytest.raises(CacheFull):
                cache.begin(known(cache, b"c"), 0)
            pin.release()
            filled(cache, b"c")
            assert (cache.stats()["charged_bytes"], cache.stats()["condemned_bytes"]) == (2 * 4096, 0)

    def test_a_new_segment_of_the_same_chunk_is_a_new_file(self, cache: Cache) -> None:
        blob = filled(cache, b"a")
        path = pathlib.Path(cache.directory, f"{blob.sha256}.d", "0")
        with blob.pin(0) as old:
            cache.drop(blob)
            fill(cache, blob, b"a")
            with blob.pin(0) as new:
                assert os.fstat(old.fd).st_ino != os.fstat(new.fd).st_ino == path.stat().st_ino

    def test_a_smaller_limit_evicts_at_once_and_what_is_held_later(self, cache: Cache) -> None:
        blobs = [filled(cache, text) for text in (b"a", b"b", b"c", b"d")]
        with blobs[0].pin(0):
            cache.limit_bytes = 4096 + 4095
            assert [blob.complete for blob in blobs] == [True, False, False, False]
            cache.limit_bytes = 0
            assert cache.stats()["charged_bytes"] == 4096
        cache.limit_bytes = 0
        assert cache.stats()["charged_bytes"] == 0 and files(cache) == []
        cache.limit_bytes = 4096
        filled(cache, b"e")

    def test_evict_frees_at_least_what_a_full_disk_wants(self, cache: Cache) -> None:
        blobs = [filled(cache, text) for text in (b"a", b"b", b"c", b"d")]
        assert cache.evict(5000) == 2 * 4096
        assert [blob.complete for blob in blobs] == [False, False, True, True]
        assert cache.evict(1 << 40) == 2 * 4096
        assert cache.stats()["limit_bytes"] == 64 * MIB

    def test_a_negative_limit_is_refused(self, cache: Cache) -> None:
        with pytest.raises(ValueError, match="expected 0 bytes or more, got -1"):
            cache.limit_bytes = -1


class TestDrop:
    def test_dropping_removes_every_segment_and_says_how_much(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        fill(cache, blob, DATA, 0, 4)
        assert cache.drop(blob) == SEGMENT + MIB + 4096
        assert files(cache) == [] and cache.stats()["evicted_segments"] == 0
        assert cache.drop(blob) == 0
        fill(cache, blob, DATA, 0)

    @pytest.mark.parametrize("outcome", ["store", "abandon", "mismatch"])
    def test_a_dropped_segment_with_a_fill_goes_when_the_fill_ends(self, cache: Cache, outcome: str) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        fill(cache, blob, DATA, 0)
        cache.begin(blob, 1)
        assert cache.drop(blob) == 0
        assert blob.states(0, 2) == bytes([PRESENT, FILLING])
        if outcome == "store":
            cache.store(blob, 1, DATA[MIB : 2 * MIB])
        elif outcome == "abandon":
            cache.abandon(blob, 1)
        else:
            with pytest.raises(DigestMismatch):
                cache.store(blob, 1, bytes(MIB))
        assert blob.present_bytes() == 0 and files(cache) == []

    def test_a_dropped_segment_that_somebody_wants_again_stays(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        cache.begin(blob, 0)
        cache.drop(blob)
        cache.begin(blob, 1)
        cache.store(blob, 0, DATA[:MIB])
        cache.store(blob, 1, DATA[MIB : 2 * MIB])
        assert blob.present_bytes() == 2 * MIB


class TestDiscard:
    """What somebody has found damaged, long after it was checked."""

    def test_a_damaged_chunk_takes_its_segment_along_and_only_that(self, cache: Cache) -> None:
        blob = known(cache, DATA)
        fill(cache, blob, DATA)
        assert cache.discard(blob, 1)
        assert blob.states(0, 6) == bytes([ABSENT] * 4 + [PRESENT] * 2)
        assert files(cache) == [f"{SHA256}.d", f"{SHA256}.d/1"]
        assert (cache.stats()["segments"], cache.stats()["rotten_chunks"]) == (1, 1)
        fill(cache, blob, DATA, 0, 1, 2, 3)  # into a new file
        assert blob.read(0, len(DATA)) == DATA

    def test_a_chunk_that_is_not_present_cannot_be_damaged(self, cache: Cache) -> None:
        blob = known(cache, DATA)
        fill(cache, blob, DATA, 0)
        assert cache.begin(blob, 1)
        assert [cache.discard(blob, chunk) for chunk in (1, 2, 5)] == [False] * 3
        assert blob.states(0, 6) == bytes([PRESENT, FILLING, 0, 0, 0, 0])
        cache.abandon(blob, 1)

    def test_a_segment_that_is_being_filled_leaves_with_its_last_fill(self, cache: Cache) -> None:
        blob = known(cache, DATA)
        fill(cache, blob, DATA, 0)
        assert cache.begin(blob, 1)
        assert cache.discard(blob, 0)
        assert files(cache) != []
        cache.store(blob, 1, DATA[MIB : 2 * MIB])
        assert files(cache) == []
        assert (cache.stats()["segments"], cache.stats()["charged_bytes"]) == (0, 0)

    def test_who_holds_the_segment_keeps_it(self, cache: Cache) -> None:
        blob = known(cache, DATA)
        fill(cache, blob, DATA, 0)
        with blob.pin(0) as pin:
            assert cache.discard(blob, 0)
            assert cache.stats()["condemned_bytes"] == SEGMENT
            assert os.pread(pin.fd, MIB, 0) == DATA[:MIB]
        cache.reap()
        assert cache.stats()["condemned_bytes"] == 0

    def test_segments_are_told_as_they_are_now(self, cache: Cache) -> None:
        assert cache.segments() == []
        blob = known(cache, DATA)
        fill(cache, blob, DATA, 0, 2)
        fill(cache, blob, DATA, 5)
        rest = len(DATA) - SEGMENT
        assert cache.segments() == [(SHA256, 0, bytes([2, 0, 2, 0]), SEGMENT), (SHA256, 1, bytes([0, 2]), rest)]


def test_bytes_on_their_way_to_a_slow_reader_survive_eviction_and_refill(cache: Cache) -> None:
    """sendfile hands the socket the file's own pages. Fails on a cache that punches or re-uses its files."""
    cache.limit_bytes = 2 * SEGMENT
    blob = cache.blob(SHA256, len(DATA), CHUNKS)
    fill(cache, blob, DATA)
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    server.setblocking(False)
    sent = 0
    with blob.pin(0) as pin:
        try:
            while sent < pin.length:
                sent += os.sendfile(server.fileno(), pin.fd, pin.offset + sent, pin.length - sent)
        except BlockingIOError:
            assert sent > 0
    for seed in range(3):  # evict everything, twice over, with other bytes in every new file
        other = random.Random(seed).randbytes(SEGMENT)
        fill(cache, known(cache, other), other)
    assert blob.present_bytes() == 0 and cache.stats()["evicted_segments"] >= 2
    server.shutdown(socket.SHUT_WR)
    received = bytearray()
    while piece := client.recv(MIB):
        received += piece
    assert received == DATA[:sent]
    for end in (listener, client, server):
        end.close()

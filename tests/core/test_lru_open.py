"""A cache that may have few files open: which are closed, and what a closed one is worth."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable

import pytest

from bootplane.core.lru import Cache, CacheFull
from bootplane.core.status import DigestMismatch
from tests.core.caches import (
    ABSENT,
    CLOSED,
    DATA,
    FILLING,
    MIB,
    PRESENT,
    SEGMENT,
    TEXTS,
    close_files_of,
    files_open,
    fill,
    filled,
    known,
    path_of,
    state,
)
from tests.core.racks import Rack, S, many

pytestmark = pytest.mark.usefixtures("nothing_leaks")


class TestBound:
    @pytest.mark.parametrize("open_limit", [1, 2, 8, 64, 99])
    def test_no_more_files_are_open_than_allowed_and_every_byte_is_still_there(
        self, start_few: Callable[..., Cache], open_limit: int
    ) -> None:
        cache = start_few(open_limit)
        blobs = []
        for text in TEXTS:
            blobs.append(filled(cache, text))
            assert files_open(cache) == cache.stats()["open_segments"] <= open_limit
        assert cache.stats()["segments"] == len(TEXTS)
        for blob, text in zip(blobs, TEXTS, strict=True):
            assert blob.complete and blob.present_bytes() == len(text)
            assert cache.recheck(blob, 0) == (state(blob) == CLOSED) or state(blob) == PRESENT
            assert files_open(cache) <= open_limit
            assert blob.read(0, len(text)) == text
        assert cache.stats()["rechecked_chunks"] == 0, "nothing is hashed again"
        assert cache.stats()["reopened_segments"] >= len(TEXTS) - open_limit
        assert cache.stats()["filled_bytes"] == sum(map(len, TEXTS))

    def test_without_a_limit_nothing_is_closed(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(0)
        blobs = [filled(cache, text) for text in TEXTS]
        cache.reap()
        assert {state(blob) for blob in blobs} == {PRESENT}
        assert files_open(cache) == cache.stats()["open_segments"] == len(TEXTS)
        assert cache.stats()["reopened_segments"] == 0

    def test_a_limit_below_zero_is_refused(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="cache open_limit: expected 0 files or more, got -1"):
            Cache(str(tmp_path), MIB, open_limit=-1)

    def test_the_one_used_longest_ago_is_closed_first(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(3)
        a, b, c = (filled(cache, text) for text in TEXTS[:3])
        assert a.span(0) and c.span(0)
        d = filled(cache, TEXTS[3])
        assert [state(blob) for blob in (a, b, c, d)] == [PRESENT, CLOSED, PRESENT, PRESENT]

    def test_when_all_were_used_since_one_is_closed_all_the_same(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(3)
        blobs = [filled(cache, text) for text in TEXTS[:3]]
        assert all(blob.span(0) for blob in blobs)
        filled(cache, TEXTS[3])
        assert sorted(map(state, blobs)) == [PRESENT, PRESENT, CLOSED]

    def test_what_cannot_be_closed_is_open_beyond_the_limit(self, start_few: Callable[..., Cache]) -> None:
        """Fills must go on, and senders too: both are few, and both end."""
        cache = start_few(1)
        sent, begun, third = filled(cache, b"sent"), known(cache, b"begun"), known(cache, b"third")
        with sent.pin(0) as pin:
            assert cache.begin(begun, 0)
            assert cache.begin(third, 0)
            assert (state(sent), files_open(cache)) == (PRESENT, 3)
            assert os.pread(pin.fd, 4, 0) == b"sent"
            cache.store(begun, 0, b"begun")
            cache.store(third, 0, b"third")
        close_files_of(cache, b"another")
        assert [state(blob) for blob in (sent, begun, third)] == [CLOSED] * 3
        assert files_open(cache) == 1

    def test_what_was_open_beyond_the_limit_is_closed_though_nothing_else_is_opened(
        self, start_few: Callable[..., Cache]
    ) -> None:
        cache = start_few(1)
        sent = filled(cache, b"sent")
        with sent.pin(0):
            begun = known(cache, b"begun")
            assert cache.begin(begun, 0)
            cache.reap()
            assert (state(sent), files_open(cache)) == (PRESENT, 2), "both are in use"
            cache.store(begun, 0, b"begun")
        cache.reap()
        assert sorted([state(sent), state(begun)]) == [PRESENT, CLOSED]
        assert files_open(cache) == cache.stats()["open_segments"] == 1

    def test_a_sender_keeps_its_file_while_another_is_closed_for_it(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(2)
        held, other = filled(cache, b"held"), filled(cache, b"other")
        with held.pin(0) as pin:
            assert other.span(0)  # the older use is held's
            filled(cache, b"new")
            assert (state(held), state(other)) == (PRESENT, CLOSED)
            assert os.pread(pin.fd, 9, pin.offset) == b"held"


class TestClosed:
    def test_senders_take_it_for_absent_and_fillers_for_present(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache, DATA)
        assert blob.states(0, 6) == bytes([CLOSED] * 4 + [PRESENT] * 2)
        assert [blob.span(offset) for offset in (0, 5, SEGMENT - 1, SEGMENT)] == [0, 0, 0, MIB + 77]
        assert not cache.begin(blob, 0), "it must not be fetched"
        assert (blob.complete, blob.present_bytes()) == (True, len(DATA))
        assert [(index, states) for _, index, states, _ in cache.segments()] == [
            (0, bytes([CLOSED] * 4)),
            (1, bytes([PRESENT] * 2)),
        ]

    def test_one_opening_brings_back_every_chunk_of_the_file(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache, DATA)
        assert cache.recheck(blob, 2)
        assert blob.states(0, 4) == bytes([PRESENT] * 4)
        assert not cache.recheck(blob, 2), "it is PRESENT already"
        assert blob.read(0, SEGMENT) == DATA[:SEGMENT]
        assert cache.stats()["reopened_segments"] == 1 and cache.stats()["rechecked_chunks"] == 0

    def test_an_absent_chunk_of_a_closed_file_can_be_filled(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache, DATA, 0, 2)
        close_files_of(cache, b"another")
        assert blob.states(0, 4) == bytes([CLOSED, ABSENT, CLOSED, ABSENT])
        assert not cache.recheck(blob, 1)
        fill(cache, blob, DATA, 1)
        assert blob.states(0, 4) == bytes([PRESENT, PRESENT, PRESENT, ABSENT])
        assert blob.read(0, 3 * MIB) == DATA[: 3 * MIB]
        close_files_of(cache, b"yet another")
        assert cache.recheck(blob, 1)
        assert blob.read(0, 3 * MIB) == DATA[: 3 * MIB]
        assert cache.stats()["rechecked_chunks"] == 0

    def test_closing_and_opening_charges_nothing(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blobs = [filled(cache, text) for text in TEXTS[:9]]
        for blob in blobs:
            cache.recheck(blob, 0)
        cache.reap()
        stats = cache.stats()
        assert (stats["charged_bytes"], stats["condemned_bytes"], stats["segments"]) == (9 * 4096, 0, 9)
        assert stats["evicted_segments"] == 0

    def test_it_is_evicted_in_its_turn(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1, limit=3 * 4096)
        a, b, c = (filled(cache, text) for text in TEXTS[:3])
        assert cache.recheck(a, 0)
        assert a.span(0)
        d = filled(cache, TEXTS[3])
        assert [blob.complete for blob in (a, b, c, d)] == [True, False, True, True]
        assert not path_of(cache, b).exists() and path_of(cache, c).exists()
        cache.reap()
        assert cache.stats()["charged_bytes"] + cache.stats()["condemned_bytes"] == 3 * 4096

    def test_eviction_goes_by_use_and_not_by_what_is_open(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(2, limit=4 * 4096)
        blobs = [filled(cache, text) for text in TEXTS[:4]]
        for which in (1, 0, 3, 2):
            cache.recheck(blobs[which], 0)
            assert blobs[which].span(0)
        gone = []
        for i in range(4, 8):
            filled(cache, TEXTS[i])
            gone += [n for n in range(4) if not blobs[n].complete and n not in gone]
        assert gone == [1, 0, 3, 2]

    def test_to_be_opened_is_a_use(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1, limit=4 * 4096)
        a, b = (filled(cache, text) for text in TEXTS[:2])
        filled(cache, TEXTS[2]), filled(cache, TEXTS[3])
        assert cache.recheck(a, 0), "somebody waits for it"
        filled(cache, TEXTS[4])
        assert [a.complete, b.complete] == [True, False]

    def test_a_later_use_is_not_forgotten_when_it_is_opened(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(2, limit=4 * 4096)
        a, b = (filled(cache, text) for text in TEXTS[:2])
        later = time.monotonic_ns() + 3600 * 10**9
        assert a.span(0, later + 2) and b.span(0, later + 1)
        close_files_of(cache, *TEXTS[2:4])
        assert [state(a), state(b)] == [CLOSED, CLOSED]
        assert cache.recheck(a, 0)
        cache.limit_bytes = 4096
        assert [a.complete, b.complete] == [True, False]

    def test_used_soon_after_its_fill_it_is_not_taken_for_one_in_lasting_use(self, rack: Callable[..., Rack]) -> None:
        it = rack(8, open_limit=1)
        it.use("a", "b")
        blob = it.blobs["a"]
        assert it.cache.recheck(blob, 4)
        assert blob.span(SEGMENT, it.now + S)
        it.use(*many("n", 8))
        assert (it.cache.stats()["reused_bytes"], it.cache.stats()["evicted_segments"]) == (0, 2)

    def test_it_is_dropped_with_its_blob(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache)
        assert cache.drop(blob) == SEGMENT + MIB + 4096
        assert blob.present_bytes() == 0 and not path_of(cache, blob).parent.exists()
        assert cache.stats()["charged_bytes"] == 0

    def test_it_is_discarded_without_being_opened(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache)
        assert cache.discard(blob, 1)
        assert not cache.discard(blob, 1)
        assert blob.states(0, 6) == bytes([ABSENT] * 4 + [PRESENT] * 2)
        assert not path_of(cache, blob).exists()
        assert (cache.stats()["rotten_chunks"], cache.stats()["reopened_segments"]) == (1, 0)
        fill(cache, blob, DATA, 1)

    def test_a_claim_that_is_given_back_leaves_the_other_chunks(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache, DATA, 0)
        close_files_of(cache, b"another")
        assert cache.begin(blob, 1)
        with pytest.raises(DigestMismatch):
            cache.store(blob, 1, bytes(MIB))
        assert blob.states(0, 4) == bytes([PRESENT, ABSENT, ABSENT, ABSENT])

    def test_a_file_being_filled_is_not_closed(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache, DATA, 0)
        assert cache.begin(blob, 1)
        close_files_of(cache, b"another")
        assert blob.states(0, 2) == bytes([PRESENT, FILLING])
        cache.store(blob, 1, DATA[MIB : 2 * MIB])
        close_files_of(cache, b"yet another")
        assert blob.states(0, 2) == bytes([CLOSED, CLOSED])

    def test_a_full_cache_says_so_with_closed_files_too(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1, limit=2 * 4096)
        a, b, c = filled(cache, b"a"), filled(cache, b"b"), known(cache, b"c")
        cache.recheck(a, 0)
        with a.pin(0):
            assert cache.begin(c, 0)
            assert not b.complete
            with pytest.raises(CacheFull):
                cache.begin(b, 0)
            cache.abandon(c, 0)

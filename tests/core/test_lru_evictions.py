"""What left the cache last, and why."""

from __future__ import annotations

import hashlib
import pathlib
import time
from collections.abc import Callable

import pytest

from bootplane.core.status import DigestMismatch
from tests.core.caches import MIB, SEGMENT
from tests.core.racks import BLOCK, NAMES, Rack, S, digest_of, many

pytestmark = pytest.mark.usefixtures("nothing_leaks")


class TestWhy:
    def test_each_reason_is_told_with_who_wanted_the_room(self, rack: Callable[[int], Rack]) -> None:
        it = rack(8)
        it.now = time.monotonic_ns() - 3600 * S
        it.use(*many("a", 8))
        it.now = time.monotonic_ns() - 10 * S
        began = time.time()
        it.use("b", "a1")
        it.cache.evict(BLOCK)
        it.cache.limit_bytes = 5 * BLOCK
        it.cache.drop(it.blobs["a5"])
        assert it.cache.discard(it.blobs["a6"], 4)
        told = it.cache.evictions()
        assert [e[:4] + e[6:] for e in told] == [
            (digest_of("a0"), 1, BLOCK, "room", digest_of("b")),
            (digest_of("a2"), 1, BLOCK, "disk", ""),
            (digest_of("a3"), 1, BLOCK, "limit", ""),
            (digest_of("a4"), 1, BLOCK, "limit", ""),
            (digest_of("a5"), 1, BLOCK, "dropped", ""),
            (digest_of("a6"), 1, BLOCK, "rotten", ""),
        ]
        assert all(began <= each.at <= time.time() for each in told)
        assert all(3599 < each.idle_s < 3700 for each in told)
        stats = it.cache.stats()
        assert [stats[f"evicted_{why}segments"] for why in ("", "room_", "limit_", "disk_")] == [4, 1, 2, 1]

    @pytest.mark.parametrize("by", ["a fill", "a look"])
    def test_what_is_above_a_lowered_limit_leaves_for_the_limit_whenever_and_by_whomever(
        self, rack: Callable[[int], Rack], by: str
    ) -> None:
        it = rack(8)
        it.use("a0", "a1")
        held = [it.blob(f"b{i}") for i in range(6)]
        for blob in held:
            assert it.cache.begin(blob, 4, it.now)
        it.cache.limit_bytes = 2 * BLOCK  # six of eight are being filled
        assert it.cache.stats()["evicted_limit_segments"] == 2
        for i, blob in enumerate(held):
            it.cache.store(blob, 4, f"b{i}".encode())
        if by == "a fill":
            it.use("c")
        else:
            it.cache.evict(0)
        reasons = [(NAMES[each.sha256], each.reason, NAMES.get(each.wanted_by)) for each in it.cache.evictions()]
        above = [(name, "limit", None) for name in ("a0", "a1", "b0", "b1", "b2", "b3")]
        assert reasons == above + ([("b4", "room", "c")] if by == "a fill" else [])
        stats = it.cache.stats()
        assert stats["charged_bytes"] + stats["condemned_bytes"] == 2 * BLOCK
        assert stats["evicted_limit_segments"] == 6 and stats["evicted_disk_segments"] == 0

    def test_segments_of_one_blob_that_leave_together_are_one_entry(self, rack: Callable[[int], Rack]) -> None:
        it = rack(2 * SEGMENT // BLOCK + 1)
        chunks = hashlib.sha256(bytes(MIB)).digest() * 8
        blob = it.cache.blob(digest_of("large"), 2 * SEGMENT, chunks)
        it.now = time.monotonic_ns()
        for chunk, ago in ((0, 500), (4, 300)):
            assert it.cache.begin(blob, chunk, it.now - ago * S)
            it.cache.store(blob, chunk, bytes(MIB))
        it.use("a", "b")
        it.use("c")
        it.cache.limit_bytes = 3 * BLOCK
        assert [e[:4] + e[6:] for e in it.cache.evictions()] == [
            (digest_of("large"), 1, SEGMENT, "room", digest_of("b")),
            (digest_of("large"), 1, SEGMENT, "limit", ""),
        ]
        assert [round(e.idle_s) for e in it.cache.evictions()] == [500, 300]
        for chunk, ago in ((0, 500), (4, 300)):
            it.cache.limit_bytes = 3 * SEGMENT
            assert it.cache.begin(blob, chunk, it.now - ago * S)
            it.cache.store(blob, chunk, bytes(MIB))
        it.cache.drop(blob)
        last = it.cache.evictions()[-1]
        assert last[:4] == (digest_of("large"), 2, 2 * SEGMENT, "dropped") and round(last.idle_s) == 300

    def test_the_last_64_are_kept(self, rack: Callable[[int], Rack]) -> None:
        it = rack(4)
        it.use(*many("a", 104))
        assert [NAMES[each.sha256] for each in it.cache.evictions()] == many("a", 100)[36:]

    def test_a_segment_in_which_nothing_was_is_no_eviction(self, rack: Callable[[int], Rack]) -> None:
        it = rack(4)
        blob = it.blob("a")
        assert it.cache.begin(blob, 4)
        it.cache.abandon(blob, 4)
        assert it.cache.begin(blob, 4)
        with pytest.raises(DigestMismatch):
            it.cache.store(blob, 4, b"b")
        assert it.cache.evictions() == []

    def test_a_file_of_an_earlier_run_is_idle_since_this_one_began(self, rack: Callable[[int], Rack]) -> None:
        before = rack(4)
        before.use(*many("a", 4))
        before.cache.close()
        it = rack(4)
        it.cache.limit_bytes = 0
        assert [(NAMES[each.sha256], each.reason) for each in it.cache.evictions()] == [
            (name, "limit") for name in many("a", 4)
        ]
        assert all(0 <= each.idle_s < 60 for each in it.cache.evictions())

    def test_what_could_not_be_unlinked_has_not_left(self, rack: Callable[[int], Rack]) -> None:
        it = rack(1)
        it.use("a")
        path = pathlib.Path(it.cache.directory, f"{digest_of('a')}.d", "1")
        path.unlink()
        path.mkdir()
        with pytest.raises(OSError, match="cannot be unlinked"):
            it.use("b")
        assert it.cache.evictions() == [] and it.cache.stats()["evicted_segments"] == 0
        path.rmdir()
        it.use("b")
        assert [each.reason for each in it.cache.evictions()] == ["room"]

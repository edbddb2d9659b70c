"""What left the cache lately: what a larger one would have had, and what has proven that it is wanted again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from tests.core.caches import MIB, SEGMENT
from tests.core.racks import BLOCK, DAY, NAMES, REUSE, PlainLru, Rack, S, many

pytestmark = pytest.mark.usefixtures("nothing_leaks")


class TestGhosts:
    def test_what_a_larger_cache_would_have_had_is_counted(self, rack: Callable[[int], Rack]) -> None:
        it = rack(4)

        def counted() -> tuple[int, int, int]:
            now = it.cache.stats()
            return now["made_segments"], now["ghost_double_segments"], now["ghost_quadruple_segments"]

        it.use(*many("a", 4), *many("b", 4))  # a left, in its order; the next to leave is b
        assert counted() == (8, 0, 0)
        it.use("a0")  # b0 leaves: as the fourth since a0 had left, and a0 is the eighth most recently used
        assert counted() == (9, 1, 1)
        it.use(*many("c", 8))
        assert counted() == (17, 1, 1)
        it.use("a1")  # the 16th
        assert counted() == (18, 1, 2)
        it.use("d", "a2")  # the 17th
        assert counted() == (20, 1, 2)

    @pytest.mark.parametrize("around", [4, 5, 8, 9, 16, 17])
    def test_the_counts_are_those_of_an_lru_of_twice_and_four_times_the_size(
        self, rack: Callable[[int], Rack], around: int
    ) -> None:
        """Exactly when nothing leaves twice meanwhile: files read one after another, over and over."""
        it = rack(4)
        larger = [PlainLru(8), PlainLru(16)]
        for _ in range(6):
            it.use(*many("a", around))
            for plain in larger:
                plain.use(*many("a", around))
        stats = it.cache.stats()
        assert stats["made_segments"] == len(it.fetched)
        saved = [len(it.fetched) - plain.fetched for plain in larger]
        assert [stats["ghost_double_segments"], stats["ghost_quadruple_segments"]] == saved

    @pytest.mark.parametrize(("after", "reused"), [(REUSE - 1, 0), (REUSE, BLOCK)])
    def test_what_is_wanted_again_a_minute_after_it_was_filled_has_proven_itself(
        self, rack: Callable[[int], Rack], after: int, reused: int
    ) -> None:
        it = rack(4)
        it.use(*many("a", 5))  # a0 has left
        it.use("a0", at=after - 5 * S // 1000)
        assert it.cache.stats()["reused_bytes"] == reused

    def test_what_would_be_here_had_the_reused_given_way_has_proven_itself_at_once(
        self, rack: Callable[[int], Rack]
    ) -> None:
        it = rack(8)
        it.use(*many("old", 3))
        it.use(*many("old", 3), at=REUSE)
        it.use(*many("a", 5), *many("b", 7))  # all of a, b0 and b1 leave, for five that are not reused
        assert it.held == [*many("b", 7)[2:], *many("old", 3)]
        it.use("b0")  # b2 left for it: two since b0
        assert it.cache.stats()["reused_bytes"] == 4 * BLOCK
        it.use("a4")  # b0 to b3 since a4
        assert it.cache.stats()["reused_bytes"] == 5 * BLOCK
        it.use("a1")  # a2, a3, a4 and b0 to b4
        assert it.cache.stats()["reused_bytes"] == 5 * BLOCK

    def test_what_is_wanted_again_long_after_it_had_left_has_not(self, rack: Callable[[int], Rack]) -> None:
        it = rack(4)
        it.use(*many("a", 10))
        it.use("a0", at=DAY)  # six have left since, and a seventh for it
        assert it.cache.stats()["reused_bytes"] == 0
        assert it.cache.stats()["ghost_quadruple_segments"] == 1

    def test_of_what_falls_together_in_its_table_the_last_four_are_known(self, rack: Callable[[int], Rack]) -> None:
        """Their digests begin alike: a set of the table has four places."""
        it = rack(8)
        for i in range(14):  # 0 to 5 leave
            sha256 = f"000000{i:02x}".ljust(64, "0")
            NAMES[sha256] = f"a{i}"
            data = hashlib.sha256(f"a{i}".encode()).digest()
            it.blobs[f"a{i}"] = it.cache.blob(sha256, SEGMENT + len(f"a{i}"), bytes(128) + data)
            it.use(f"a{i}")
        it.use("a5")  # 3 to 6 are known when it is made
        it.use("a4", "a3")
        assert it.cache.stats()["ghost_double_segments"] == 3
        it.use("a2")  # seven have left since
        assert it.cache.stats()["ghost_quadruple_segments"] == 3

    def test_another_segment_of_the_same_file_is_another_ghost(self, rack: Callable[[int], Rack]) -> None:
        """Also when both fall into one set of the table."""
        it = rack(SEGMENT // BLOCK)
        alike = next(i for i in range(1, 1 << 14) if (i * 0x9E3779B97F4A7C15 % (1 << 64)) >> 52 == 0)
        chunks = hashlib.sha256(bytes(MIB)).digest() * 4 * (alike + 1)
        blob = it.cache.blob("0" * 64, (alike + 1) * SEGMENT, chunks)
        for index, ghosts in ((0, 0), (1, 0), (alike, 0), (0, 1)):
            assert it.cache.begin(blob, 4 * index, it.now)
            it.cache.store(blob, 4 * index, bytes(MIB))
            assert it.cache.stats()["ghost_quadruple_segments"] == ghosts

    def test_what_left_for_another_reason_is_no_ghost(self, rack: Callable[[int], Rack]) -> None:
        it = rack(4)
        it.use(*many("a", 4))
        it.cache.drop(it.blobs["a0"])
        it.cache.evict(BLOCK)
        it.cache.limit_bytes = BLOCK
        it.cache.limit_bytes = 4 * BLOCK
        it.use(*many("a", 4), at=DAY)
        assert it.cache.stats()["ghost_quadruple_segments"] == 0

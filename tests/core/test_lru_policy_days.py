"""What leaves the cache first, over days of given times: scans, storms, and new images."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.core.racks import BLOCK, DAY, REUSE, PlainLru, Rack, S, many

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def day(it: Rack, names: list[str], machines: int = 3) -> int:
    """Machines boot one after another, within some minutes. Returns how many were fetched."""
    before = len(it.fetched)
    it.now += DAY
    for _ in range(machines):
        it.use(*names, at=100 * S)
    return len(it.fetched) - before


class TestOverDays:
    def test_what_is_booted_every_day_survives_a_scan_of_three_times_the_cache(
        self, rack: Callable[[int], Rack]
    ) -> None:
        it, plain = rack(100), PlainLru(100)
        daily = [*many("s", 10), *many("d", 60)]
        assert [day(it, daily) for _ in range(3)] == [70, 0, 0]
        scan = many("x", 300)
        for name in scan:
            it.use(name, name, name)  # in pieces
        assert day(it, daily) == 0
        for names in (daily, scan, daily):
            plain.use(*names)
        assert plain.fetched == 70 + 300 + 70

    def test_nor_does_a_scan_that_comes_back_before_long_push_it_out(self, rack: Callable[[int], Rack]) -> None:
        """By many at once, 10 s apart: they are one use."""
        it = rack(100)
        daily = many("d", 60)
        day(it, daily), day(it, daily)
        for i in range(300):
            it.use(*(f"x{j}" for j in range(i, max(-1, i - 20), -5)), at=S // 2)
        assert day(it, daily) == 0
        assert len(it.fetched) == 60 + 300

    def test_small_files_survive_a_scan_of_thousands_of_segments_without_a_use(
        self, rack: Callable[[int], Rack]
    ) -> None:
        it = rack(100)
        it.use(*many("s", 25))
        it.use(*many("n", 4000))
        it.use(*many("s", 25))
        assert it.fetched == [*many("s", 25), *many("n", 4000)]

    def test_thousands_of_small_files_take_no_more_than_a_quarter_from_the_others(
        self, rack: Callable[[int], Rack]
    ) -> None:
        it = rack(100)
        daily = many("d", 70)
        day(it, daily), day(it, daily)
        for name in many("s", 1000):
            it.use(name)
            assert it.cache.stats()["protected_bytes"] <= 30 * BLOCK
        it.use(*many("n", 5))
        assert it.cache.stats()["protected_bytes"] == 25 * BLOCK
        assert day(it, daily) == 0

    @pytest.mark.parametrize("reused", [40, 75, 100])
    def test_a_file_larger_than_the_cache_passes_through_what_is_used_again_and_is_fetched_once(
        self, rack: Callable[[int], Rack], reused: int
    ) -> None:
        """Read-ahead of 8, the last of eight readers 8 behind it: 16 of the 25 blocks that are not for the reused."""
        it = rack(100)
        warm = many("w", reused)
        day(it, warm), day(it, warm)
        it.fetched.clear()
        for at in range(500 + 16):
            for place in (at, *range(at - 8, at - 17, -1)):
                if 0 <= place < 500:
                    it.use(f"p{place}")
        assert it.fetched == many("p", 500)
        before = len(it.fetched)
        it.use(*warm[-75:])
        assert len(it.fetched) == before, "and what is used again is still here"

    def test_a_new_working_set_takes_the_place_of_one_that_nobody_uses_any_more(
        self, rack: Callable[[int], Rack]
    ) -> None:
        """It is larger than the quarter for what is new, so none of it stays until the next day."""
        it = rack(100)
        last_month, this_month = many("l", 80), many("t", 70)
        for _ in range(5):
            day(it, last_month)
        fetches = [day(it, this_month) for _ in range(6)]
        assert fetches[-3:] == [0, 0, 0], fetches

    def test_machines_that_come_one_after_another_cost_two_copies_and_not_one_each(
        self, rack: Callable[[int], Rack]
    ) -> None:
        """A new image, twice as large as what the reused leave, while nobody uses them."""
        it = rack(100)
        last_month = many("l", 80)
        day(it, last_month), day(it, last_month)
        before = len(it.fetched)
        for _ in range(20):
            it.use(*many("t", 50), at=20 * S)
        assert len(it.fetched) - before == 2 * 50

    @pytest.mark.parametrize("seed", range(4))
    def test_when_everything_is_used_again_it_is_as_good_as_an_lru(
        self, rack: Callable[[int], Rack], seed: int
    ) -> None:
        rng = random.Random(seed)
        it, plain = rack(100), PlainLru(100)
        names = many("n", [110, 150, 200, 400][seed])
        weights = [1 / (i + 1) ** (0.8 if seed else 0) for i in range(len(names))]
        uses = rng.choices(names, weights, k=4000)
        for name in uses:
            it.use(name, at=REUSE)
            plain.use(name)
        assert len(it.fetched) <= plain.fetched * 1.05

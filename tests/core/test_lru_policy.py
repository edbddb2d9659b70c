"""What leaves the cache first, rule by rule. Over days: test_lru_policy_days.py; under any use: test_lru_model.py."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
from collections.abc import Callable

import pytest

from bootplane.core.lru import CacheFull
from tests.core.caches import MIB, SEGMENT
from tests.core.racks import BLOCK, REUSE, Rack, S, digest_of, many

pytestmark = pytest.mark.usefixtures("nothing_leaks")


class TestUsedAgain:
    def test_what_is_used_soon_after_its_fill_is_an_lru(self, rack: Callable[[int], Rack]) -> None:
        it = rack(4)
        it.use("a", "b", "c", "d")
        it.use("b", "a", at=REUSE - S)
        assert it.leave(["e", "f", "g", "h"]) == ["c", "d", "b", "a"]

    @pytest.mark.parametrize(("after", "left"), [(REUSE - 1, ["b", "c", "a"]), (REUSE, ["b", "c", "d"])])
    def test_what_is_used_a_minute_after_its_fill_outlives_what_is_newer(
        self, rack: Callable[[int], Rack], after: int, left: list[str]
    ) -> None:
        it = rack(3)
        it.use("a", "b", "c")
        it.use("a", at=after - 3 * S // 1000)
        assert it.leave(["d", "e", "f"]) == left

    def test_it_is_the_last_fill_that_counts(self, rack: Callable[[int], Rack]) -> None:
        """Somebody reads on in a file: its first chunks are not used again, they are used still."""
        it = rack(2 * MIB // BLOCK + 4)
        data = bytes(2 * MIB)
        chunks = bytes(128) + hashlib.sha256(data[:MIB]).digest() * 2
        read_on = it.cache.blob(digest_of("read on"), SEGMENT + 2 * MIB, chunks)
        for chunk in (4, 5):
            assert it.cache.begin(read_on, chunk, it.now)
            it.cache.store(read_on, chunk, data[:MIB])
            it.now += REUSE
        it.now -= 1
        assert read_on.span(SEGMENT, it.now)
        it.use("a", "b", "c", "d")
        assert it.leave(["e"]) == ["read on"]

    def test_three_quarters_are_for_what_is_used_again_and_the_rest_is_for_what_is_new(
        self, rack: Callable[[int], Rack]
    ) -> None:
        it = rack(8)
        old = many("old", 8)
        it.use(*old)
        it.use(*old, at=REUSE)
        assert it.leave(many("new", 6)) == ["old0", "old1", "new0", "new1", "new2", "new3"]
        assert it.held == ["new4", "new5", *old[2:]]
        assert it.cache.stats()["reused_bytes"] == 6 * BLOCK

    def test_three_quarters_are_of_what_the_protected_leave(self, rack: Callable[[int], Rack]) -> None:
        it = rack(16)
        it.use(*many("s", 4))
        old = many("old", 12)
        it.use(*old)
        it.use(*old, at=REUSE)
        it.use("new")
        assert it.cache.stats()["reused_bytes"] == 9 * BLOCK
        assert it.held == ["old1", "old2", "new", *old[3:], *many("s", 4)]

    def test_what_had_to_make_place_is_new_again_and_comes_back_when_it_is_used(
        self, rack: Callable[[int], Rack]
    ) -> None:
        it = rack(8)
        old = many("old", 6)
        it.use(*old, "x", "y")
        it.use(*old, at=REUSE)
        it.use("z")  # x leaves: all of old are reused now, which is as much as may be
        assert it.held == ["y", "z", *old]
        it.use("y", at=REUSE)
        it.use("w")  # y is reused: old0 makes place, and lies where one lies that has just been used
        assert it.held == ["old0", "w", *old[1:], "y"]
        it.use("old0")
        it.use("v")  # old0 is back: old1 makes place
        assert it.held == ["old1", "v", *old[2:], "y", "old0"]

    def test_with_everything_used_again_it_is_one_lru(self, rack: Callable[[int], Rack]) -> None:
        it = rack(8)
        names = many("n", 8)
        it.use(*names)
        shuffled = random.Random(1).sample(names, 8)
        it.use(*shuffled, at=REUSE)
        it.use(*shuffled, at=REUSE)
        assert it.leave(many("x", 2)) == shuffled[:2]


class TestProtected:
    def test_a_quarter_is_small_files_and_goes_last(self, rack: Callable[[int], Rack]) -> None:
        it = rack(8)
        it.use("s0", "s1", *many("old", 2))
        it.use(*many("old", 2), at=REUSE)
        it.use(*many("n", 40))
        assert it.held == ["n36", "n37", "n38", "n39", "old0", "old1", "s0", "s1"]

    def test_small_files_push_out_small_files_beyond_a_quarter(self, rack: Callable[[int], Rack]) -> None:
        it = rack(8)
        it.use(*many("n", 6), "s0", "s1")
        it.use("s0")
        assert it.leave(["s2", "s3"]) == ["s1", "s0"]
        assert it.cache.stats()["protected_bytes"] == 2 * BLOCK

    def test_small_files_may_fill_a_cache_that_nobody_else_needs(self, rack: Callable[[int], Rack]) -> None:
        it = rack(8)
        it.use(*many("s", 8))
        assert it.leave(many("n", 7)) == [*many("s", 6), "n0"]

    def test_small_files_leave_when_nothing_else_may(self, rack: Callable[[int], Rack]) -> None:
        it = rack(8)
        it.use("s0", "s1", *many("n", 6))
        pins = [it.pin(name) for name in many("n", 6)]
        assert it.leave(["m0"]) == ["s0"]
        with it.pin("m0"), it.pin("s1"), pytest.raises(CacheFull):
            it.use("m1")
        for pin in pins:
            pin.release()

    def test_when_the_small_files_are_held_others_leave_for_a_small_one(self, rack: Callable[[int], Rack]) -> None:
        it = rack(8)
        it.use("s0", "s1", *many("n", 6))
        with it.pin("s0"), it.pin("s1"):
            assert it.leave(["s2"]) == ["n0"]
        assert it.leave(["m"]) == ["s0"], "that is more than a quarter: it is put right as soon as may be"

    def test_a_file_smaller_than_a_segment_is_small_and_one_of_a_segment_is_not(
        self, rack: Callable[[int], Rack]
    ) -> None:
        it = rack(4 * SEGMENT // BLOCK)
        for size, protected in ((SEGMENT - 1, 1), (SEGMENT, 0)):
            blob = it.cache.blob(digest_of(f"{size}"), size, hashlib.sha256(bytes(MIB)).digest() * 4)
            assert it.cache.begin(blob, 0)
            it.cache.store(blob, 0, bytes(MIB))
            assert it.cache.stats()["protected_bytes"] == protected * SEGMENT
            it.cache.drop(blob)

    def test_a_large_file_can_be_protected_from_the_start_and_later(self, rack: Callable[[int], Rack]) -> None:
        it = rack(8)
        it.blob("a", protected=True)
        it.use("a", "b", *many("n", 6))
        assert it.cache.stats()["protected_bytes"] == BLOCK
        it.blob("b", protected=True)
        assert it.cache.stats()["protected_bytes"] == 2 * BLOCK
        it.blob("b")  # once protected is protected
        it.use(*many("m", 40))
        assert it.held == [*many("m", 40)[-6:], "a", "b"]


class TestAll:
    """Whatever the class: who holds it keeps it, and room is never refused while something may go."""

    @pytest.mark.parametrize("name", ["x", "old0", "s0"])
    def test_only_one_may_go_and_it_does(self, rack: Callable[[int], Rack], name: str) -> None:
        it = rack(4)
        it.use("s0", "old0", "n", "x")
        it.use("old0", at=REUSE)
        it.use("y")  # n leaves, and old0 turns out to be used again
        held = ["x", "y", "old0", "s0"]
        assert it.held == held
        pins = [it.pin(other) for other in held if other != name]
        assert it.leave(["z"]) == [name]
        for pin in pins:
            pin.release()

    def test_what_is_being_filled_stays_in_every_class(self, rack: Callable[[int], Rack]) -> None:
        it = rack(2)
        for name in ("s0", "n0"):
            assert it.cache.begin(it.blob(name), 0 if name == "s0" else 4, it.now)
        with pytest.raises(CacheFull):
            it.use("x")
        for name in ("s0", "n0"):
            it.cache.abandon(it.blobs[name], 0 if name == "s0" else 4)

    def test_a_smaller_limit_takes_the_new_then_the_reused_then_the_protected(
        self, rack: Callable[[int], Rack]
    ) -> None:
        it = rack(16)
        it.use("s0", "s1", *many("old", 6), *many("n", 6))
        it.use(*many("old", 6), at=REUSE)
        held = []
        for blocks in (9, 8, 6, 4, 2, 1, 0):
            it.cache.limit_bytes = blocks * BLOCK
            held.append(it.held)
        assert held == [
            ["n5", "old0", "old1", "old2", "old3", "old4", "old5", "s0", "s1"],
            ["old0", "old1", "old2", "old3", "old4", "old5", "s0", "s1"],
            ["old1", "old2", "old3", "old4", "old5", "s1"],
            ["old3", "old4", "old5", "s1"],
            ["old4", "old5"],
            ["old5"],
            [],
        ]

    def test_a_full_disk_takes_what_would_leave_next(self, rack: Callable[[int], Rack]) -> None:
        it = rack(16)
        it.use("s0", *many("n", 4))
        assert it.cache.evict(2 * BLOCK) == 2 * BLOCK
        assert it.held == ["n2", "n3", "s0"]
        assert it.cache.evict(99 * BLOCK) == 3 * BLOCK


class TestRestart:
    def test_small_files_are_protected_before_anybody_has_claimed_them(
        self, rack: Callable[[int], Rack], tmp_path: pathlib.Path
    ) -> None:
        before = rack(8)
        before.use("s0", "s1", *many("n", 6))
        before.cache.close()
        it = rack(8)
        assert it.cache.stats()["protected_bytes"] == 2 * BLOCK
        it.use(*many("m", 9))
        it.use("s0", "s1")
        assert it.fetched == many("m", 9)

    def test_a_loader_that_is_large_is_protected_once_it_is_claimed(self, rack: Callable[[int], Rack]) -> None:
        before = rack(8)
        before.blob("loader", protected=True)
        before.use("loader", *many("n", 7))
        before.cache.close()
        it = rack(8)
        it.blob("loader", protected=True)
        assert it.cache.stats()["protected_bytes"] == BLOCK
        it.use(*many("m", 9), "loader")
        assert it.fetched == many("m", 9)

    def test_so_it_is_however_short_the_machine_has_been_up(self, rack: Callable[..., Rack]) -> None:
        """The clock of uses may have begun a second ago: an earlier run's fill was long ago all the same."""
        before = rack(4)
        before.use(*many("n", 4))
        before.cache.close()
        it = rack(4, reuse_s=1e9)
        it.use("n0")
        assert it.leave(["m"]) == ["n1"]
        assert it.cache.stats()["reused_bytes"] == BLOCK
        it.cache.drop(it.blobs["n0"])
        it.use("o", "p", "n1")  # which had left
        assert it.cache.stats()["reused_bytes"] == BLOCK

    def test_what_was_used_again_still_is_after_a_clean_end(self, rack: Callable[[int], Rack]) -> None:
        before = rack(8)
        before.use(*many("old", 3), *many("n", 5))
        before.use("old2", "old1", "old0", at=REUSE)
        before.use("x")  # n0 has left, and the three before it have been looked at
        before.use("n2")  # and this has not
        assert before.cache.stats()["reused_bytes"] == 3 * BLOCK
        before.cache.close()
        it = rack(8)
        assert it.cache.stats()["reused_bytes"] == 4 * BLOCK
        assert it.leave(many("m", 4)) == ["n1", "n3", "n4", "x"]
        it.cache.limit_bytes = 3 * BLOCK
        assert it.held == ["old1", "old0", "n2"]

    def test_after_any_other_end_the_order_is_that_of_the_files_and_uses_count_at_once(
        self, rack: Callable[[int], Rack], tmp_path: pathlib.Path
    ) -> None:
        before = rack(4)
        before.use(*many("n", 4))
        before.cache.close()
        (tmp_path / "state").unlink()
        for i, name in enumerate(many("n", 4)):
            os.utime(tmp_path / f"{digest_of(name)}.d" / "1", ns=(0, i * S))
        it = rack(4)
        assert it.cache.stats()["reused_bytes"] == 0
        assert it.cache.recheck(it.blob("n2"), 4)
        assert it.leave(["x"]) == ["n0"]
        assert it.leave(["y", "z", "w"]) == ["n1", "n3", "x"]
        assert it.cache.stats()["reused_bytes"] == BLOCK

    def test_a_smaller_limit_at_start_takes_the_new_then_the_reused_then_the_small(
        self, rack: Callable[[int], Rack], tmp_path: pathlib.Path
    ) -> None:
        before = rack(16)
        before.use("s0", "s1", "s2", *many("old", 6))
        before.use(*many("old", 6), at=REUSE)
        before.use(*many("n", 6))
        before.cache.close()
        left = []
        for blocks in (12, 9, 8, 4, 0):
            it = rack(blocks)
            left.append(it.held)
            it.cache.close()
        old = many("old", 6)
        assert left == [
            ["n3", "n4", "n5", *old, "s0", "s1", "s2"],
            ["n5", *old, "s1", "s2"],
            [*old, "s1", "s2"],
            [*old[3:], "s2"],
            [],
        ]

    def test_what_an_earlier_run_filled_and_this_one_uses_is_used_again(self, rack: Callable[[int], Rack]) -> None:
        before = rack(8)
        before.use(*many("n", 8))
        before.cache.close()
        it = rack(8)
        it.use("n3", "n1")  # at once
        assert it.leave(many("m", 3)) == ["n0", "n2", "n4"]
        assert it.cache.stats()["reused_bytes"] == 2 * BLOCK

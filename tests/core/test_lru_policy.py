"""What leaves the cache first: rule by rule, and over days of given times. Its order under any use: test_lru_model.py.

Every segment here is one block of the disk: a small file, or the second segment of a file of 4 MiB and a little."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import pytest

from bootplane.core.blob import Blob, Pin
from bootplane.core.lru import Cache, CacheFull
from bootplane.core.status import DigestMismatch

pytestmark = pytest.mark.usefixtures("nothing_leaks")

BLOCK = 4096
MIB = 1 << 20
SEGMENT = 4 * MIB
S = 10**9  # in ns
DAY = 86400 * S
REUSE = 60 * S


NAMES: dict[str, str] = {}  # sha256 -> name


def digest_of(name: str) -> str:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    NAMES[sha256] = name
    return sha256


class Rack:
    """A cache of *blocks*. Names that begin with "s" are small files; the others are parts of large ones."""

    def __init__(self, directory: pathlib.Path, blocks: int, **options: float) -> None:
        self.cache = Cache(str(directory), blocks * BLOCK, **options)  # type: ignore[arg-type]
        self.now = 10**15
        self.fetched: list[str] = []
        self.blobs: dict[str, Blob] = {}

    def blob(self, name: str, *, protected: bool = False) -> Blob:
        sha256, own = digest_of(name), hashlib.sha256(name.encode()).digest()
        before = 0 if name.startswith("s") else SEGMENT
        chunks = bytes(32 * (before // MIB)) + own
        self.blobs[name] = self.cache.blob(sha256, before + len(name), chunks, protected=protected)
        return self.blobs[name]

    def use(self, *names: str, at: int = 0) -> None:
        """One machine reads them, 1 ms for each; fetched when they are not here. *at*: time that goes by before."""
        self.now += at
        for name in names:
            self.now += S // 1000
            blob = self.blobs.get(name) or self.blob(name)
            chunk = 0 if name.startswith("s") else 4
            if not blob.span(chunk * MIB, self.now):
                assert self.cache.begin(blob, chunk, self.now)
                self.cache.store(blob, chunk, name.encode())
                self.fetched.append(name)

    def pin(self, name: str) -> Pin:
        return self.blobs[name].pin(0 if name.startswith("s") else SEGMENT, self.now)

    @property
    def held(self) -> list[str]:
        """In three groups, as last placed, each with the oldest first: new, reused, protected."""
        return [NAMES[sha256] for sha256, *_ in self.cache.segments()]

    def leave(self, new: Iterable[str]) -> list[str]:
        """Who left while each of *new* was fetched, in that order."""
        gone = []
        for name in new:
            before = set(self.held)
            self.use(name)
            gone += sorted(before - set(self.held))
        return gone


class PlainLru:
    def __init__(self, blocks: int) -> None:
        self.blocks, self.held, self.fetched = blocks, OrderedDict[str, None](), 0

    def use(self, *names: str) -> None:
        for name in names:
            if name not in self.held:
                self.fetched += 1
                if len(self.held) == self.blocks:
                    self.held.popitem(last=False)
                self.held[name] = None
            self.held.move_to_end(name)


@pytest.fixture
def rack(tmp_path: pathlib.Path) -> Iterator[Callable[..., Rack]]:
    racks: list[Rack] = []

    def of(blocks: int, **options: float) -> Rack:
        racks.append(Rack(tmp_path, blocks, **options))
        return racks[-1]

    yield of
    for each in racks:
        each.cache.close()
        each.blobs.clear()


def many(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


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

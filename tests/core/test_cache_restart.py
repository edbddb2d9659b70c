"""What a cache finds on its disk: after a clean end, after none, and after somebody was at work in its directory."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import shutil
import threading
from collections.abc import Callable

import pytest

from bootplane.core.lru import Cache
from bootplane.core.status import DigestMismatch
from tests.core.caches import (
    ABSENT,
    DATA,
    FILLING,
    MIB,
    PRESENT,
    SEGMENT,
    SHA256,
    UNCHECKED,
    chunk_list,
    fill,
    filled,
    flip,
    known,
    on_disk,
)

pytestmark = pytest.mark.usefixtures("nothing_leaks")

DIR = f"{SHA256}.d"


def killed(cache: Cache, directory: pathlib.Path) -> None:
    """Ends it as a kill does: nothing of the clean end is there."""
    assert cache.close() == ""
    (directory / "state").unlink()


class TestClean:
    def test_what_was_verified_is_there_again(self, start: Callable[..., Cache], tmp_path: pathlib.Path) -> None:
        cache = start()
        filled(cache, DATA, 0, 2, 4, 5)
        assert cache.close() == ""
        assert (tmp_path / "state").exists()
        cache = start()
        assert cache.found == (2, SEGMENT + MIB + 77, True, 0, (), 0)
        blob = known(cache)
        assert blob.states(0, 6) == bytes([PRESENT, ABSENT, PRESENT, ABSENT, PRESENT, PRESENT])
        assert blob.read(2 * MIB, MIB) == DATA[2 * MIB : 3 * MIB]
        fill(cache, blob, DATA, 1, 3)
        assert blob.read(0, len(DATA)) == DATA
        assert cache.stats()["kept_segments"] == 2

    def test_the_state_is_gone_as_soon_as_a_run_has_begun(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache, b"a")
        cache.close()
        start()
        assert not (tmp_path / "state").exists()

    def test_the_least_recently_used_is_evicted_first_over_a_restart(self, start: Callable[..., Cache]) -> None:
        texts = [b"a", b"b", b"c", b"d"]
        cache = start(4 * 4096)
        blobs = [filled(cache, text) for text in texts]
        blobs[0].read(0, 1)
        blobs[2].read(0, 1)
        cache.close()
        cache = start(4 * 4096)
        blobs = [known(cache, text) for text in reversed(texts)]  # the order of claims is not an order of use
        gone = []
        for new in (b"e", b"f", b"g", b"h"):
            filled(cache, new)
            gone += [t for t, b in zip(reversed(texts), blobs, strict=True) if not b.complete and t not in gone]
        assert gone == [b"b", b"d", b"a", b"c"]

    def test_what_was_never_claimed_is_kept_over_another_restart(self, start: Callable[..., Cache]) -> None:
        cache = start()
        filled(cache)
        cache.close()
        start().close()
        assert known(start()).read(0, len(DATA)) == DATA

    def test_a_claim_nobody_ended_leaves_nothing(self, start: Callable[..., Cache], tmp_path: pathlib.Path) -> None:
        cache = start()
        blob = filled(cache, DATA, 4)
        cache.begin(blob, 0)
        cache.close()
        assert sorted(p.name for p in (tmp_path / DIR).iterdir()) == ["1"]
        assert known(start()).states(0, 6) == bytes([ABSENT, ABSENT, ABSENT, ABSENT, PRESENT, ABSENT])

    def test_a_file_that_was_touched_meanwhile_is_checked_again(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache)
        cache.close()
        flip(tmp_path / DIR / "0", 5)
        blob = known(start())
        assert blob.states(0, 6) == bytes([UNCHECKED] * 4 + [PRESENT] * 2)

    def test_another_chunk_list_of_the_same_digest_is_not_what_was_checked(self, start: Callable[..., Cache]) -> None:
        cache = start()
        filled(cache)
        cache.close()
        other = bytes(32) + chunk_list(DATA)[32:]
        assert start().blob(SHA256, len(DATA), other).states(0, 6) == bytes([UNCHECKED] * 6)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[:-1],
            lambda text: text.replace(b"bootplane-cache 1", b"bootplane-cache 0"),
            lambda text: resigned(text.replace(b"bootplane-cache 1", b"bootplane-cache 0")),
            lambda text: resigned(text.replace(b" 2222 ", b" 2229 ")),
            lambda text: text.replace(b" 2222 ", b" 2200 "),
            lambda text: b"",
            lambda text: b"\xff" * 100,
        ],
    )
    def test_a_state_that_is_damaged_or_of_another_format_is_none(
        self, damage: Callable[[bytes], bytes], start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache)
        cache.close()
        state = tmp_path / "state"
        state.write_bytes(damage(state.read_bytes()))
        cache = start()
        assert (cache.found.clean, cache.found.segments, state.exists()) == (False, 2, False)
        assert known(cache).states(0, 6) == bytes([UNCHECKED] * 6)

    def test_a_folder_that_somebody_has_removed_costs_nothing_else(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache)
        filled(cache, b"another")
        shutil.rmtree(tmp_path / DIR)
        assert cache.close() == ""
        cache = start()
        assert known(cache).states(0, 6) == bytes(6)
        assert known(cache, b"another").states(0, 1) == bytes([PRESENT])

    def test_a_state_that_cannot_be_written_is_a_sentence_and_not_a_state(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache)
        (tmp_path / "state.new").mkdir()
        assert cache.close() == f"cache directory {tmp_path}: its state cannot be kept: Is a directory"
        (tmp_path / "state.new").rmdir()
        assert not (tmp_path / "state").exists()
        assert not start().found.clean


def resigned(text: bytes) -> bytes:
    head = text[: text.rindex(b"sha256 ")]
    return head + f"sha256 {hashlib.sha256(head).hexdigest()}\n".encode()


class TestUnclean:
    def test_every_chunk_is_checked_before_it_is_sent(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache)
        killed(cache, tmp_path)
        cache = start()
        assert not cache.found.clean
        blob = known(cache)
        assert blob.states(0, 6) == bytes([UNCHECKED] * 6)
        assert [blob.span(chunk * MIB) for chunk in range(6)] == [0] * 6, "senders must not see it"
        assert not cache.begin(blob, 0), "nor may it be written over"
        for chunk in range(6):
            assert cache.recheck(blob, chunk)
            assert not cache.recheck(blob, chunk), "it is PRESENT already"
        assert blob.read(0, len(DATA)) == DATA
        assert (cache.stats()["rechecked_chunks"], cache.stats()["rotten_chunks"]) == (6, 0)
        assert cache.stats()["filled_bytes"] == 0

    def test_a_chunk_that_was_never_written_is_absent_and_not_wrong(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache, DATA, 1, 4)
        killed(cache, tmp_path)
        cache = start()
        blob = known(cache)
        assert blob.states(0, 6) == bytes([ABSENT, UNCHECKED, ABSENT, ABSENT, UNCHECKED, ABSENT])
        fill(cache, blob, DATA, 0, 2)  # absent chunks of the same file may be written
        assert cache.recheck(blob, 1)
        assert blob.read(0, 3 * MIB) == DATA[: 3 * MIB]

    def test_a_wrong_chunk_takes_its_segment_with_it_and_readers_keep_theirs(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache)
        killed(cache, tmp_path)
        flip(tmp_path / DIR / "0", 2 * MIB + 9)
        cache = start()
        blob = known(cache)
        assert cache.recheck(blob, 0)
        inode = (tmp_path / DIR / "0").stat().st_ino
        wrong = DATA[2 * MIB : 2 * MIB + 9] + bytes([DATA[2 * MIB + 9] ^ 1]) + DATA[2 * MIB + 10 : 3 * MIB]
        expected, got = (hashlib.sha256(x).hexdigest() for x in (DATA[2 * MIB : 3 * MIB], wrong))
        with blob.pin(0) as pin:
            with pytest.raises(DigestMismatch, match=f"^blob {SHA256} chunk 2: expected {expected}, got {got}$"):
                cache.recheck(blob, 2)
            assert not (tmp_path / DIR / "0").exists()
            assert os.pread(pin.fd, MIB, 0) == DATA[:MIB]
            assert cache.stats()["condemned_bytes"] == SEGMENT
        assert blob.states(0, 6) == bytes([ABSENT] * 4 + [UNCHECKED] * 2)
        assert cache.stats()["rotten_chunks"] == 1
        fill(cache, blob, DATA, 0, 1, 2, 3)
        assert blob.read(0, SEGMENT) == DATA[:SEGMENT]
        assert (tmp_path / DIR / "0").stat().st_ino != inode or cache.stats()["condemned_bytes"] == 0

    def test_a_rotten_segment_waits_for_its_fills_and_takes_no_new_ones(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache, DATA, 0, 2)
        killed(cache, tmp_path)
        flip(tmp_path / DIR / "0", 0)
        cache = start()
        blob = known(cache)
        assert cache.begin(blob, 1)
        with pytest.raises(DigestMismatch):
            cache.recheck(blob, 0)
        assert not cache.recheck(blob, 2), "the segment is going: nothing in it is worth a check"
        begun: list[bool] = []
        first = threading.Thread(target=lambda: begun.append(cache.begin(blob, 0)))
        first.start()
        first.join(timeout=0.2)
        assert begun == [], "it waits until the file is gone"
        cache.drop(blob)  # must not make it one that begin() may revive
        second = threading.Thread(target=lambda: begun.append(cache.begin(blob, 3)))
        second.start()
        second.join(timeout=0.2)
        assert begun == []
        cache.store(blob, 1, DATA[MIB : 2 * MIB])
        first.join(timeout=20)
        second.join(timeout=20)
        assert begun == [True, True]
        assert blob.states(0, 4) == bytes([FILLING, ABSENT, ABSENT, FILLING])
        cache.abandon(blob, 3)
        cache.store(blob, 0, DATA[:MIB])
        assert blob.read(0, MIB) == DATA[:MIB]

    def test_one_thread_checks_a_chunk(self, start: Callable[..., Cache], tmp_path: pathlib.Path) -> None:
        cache = start()
        filled(cache)
        killed(cache, tmp_path)
        cache = start()
        blob = known(cache)
        results: list[bool] = []
        threads = [
            threading.Thread(target=lambda: results.extend(cache.recheck(blob, chunk) for chunk in range(6)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        assert (sum(results), cache.stats()["rechecked_chunks"]) == (6, 6)

    def test_a_file_that_was_cut_after_it_was_found_is_an_error_and_not_a_dead_process(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache)
        killed(cache, tmp_path)
        cache = start()
        blob = known(cache)
        os.truncate(tmp_path / DIR / "0", 100)
        with pytest.raises(OSError, match=f"{DIR}/0: file cannot be read: Input/output error"):
            cache.recheck(blob, 0)
        assert not (tmp_path / DIR / "0").exists()

    def test_the_oldest_file_is_evicted_first(self, start: Callable[..., Cache], tmp_path: pathlib.Path) -> None:
        cache = start(3 * 4096)
        for text in (b"a", b"b", b"c"):
            filled(cache, text)
        killed(cache, tmp_path)
        for age, text in enumerate((b"b", b"c", b"a")):
            os.utime(tmp_path / f"{hashlib.sha256(text).hexdigest()}.d" / "0", ns=(0, 10**9 * (5 + age)))
        cache = start(3 * 4096)
        filled(cache, b"new")  # nobody has claimed any: they go all the same
        assert [known(cache, text).states(0, 1)[0] for text in (b"a", b"b", b"c")] == [UNCHECKED, ABSENT, UNCHECKED]
        assert cache.stats()["charged_bytes"] == 3 * 4096


class TestStrange:
    def test_what_is_no_segment_is_removed_and_named(self, start: Callable[..., Cache], tmp_path: pathlib.Path) -> None:
        cache = start()
        filled(cache)
        killed(cache, tmp_path)
        outside = tmp_path.parent / "outside"
        outside.write_bytes(DATA[:SEGMENT])
        (tmp_path / DIR / "2").symlink_to(outside)
        (tmp_path / DIR / "3").write_bytes(b"")
        (tmp_path / DIR / "4").write_bytes(bytes(SEGMENT + 1))
        (tmp_path / DIR / "4294967295").write_bytes(b"a")
        os.mkfifo(tmp_path / DIR / "5")
        (tmp_path / DIR / "6").mkdir()
        cache = start()
        assert (cache.found.segments, cache.found.removed) == (2, 5)
        assert sorted(cache.found.removed_names) == [
            f"{DIR}/2: expected a regular file",
            f"{DIR}/3: expected up to {SEGMENT} bytes, got 0",
            f"{DIR}/4294967295: expected a segment below 262144",
            f"{DIR}/4: expected up to {SEGMENT} bytes, got {SEGMENT + 1}",
            f"{DIR}/5: expected a regular file",
        ]
        assert cache.foreign == (f"{DIR}/6",)
        assert outside.read_bytes() == DATA[:SEGMENT]
        assert sorted(p.name for p in (tmp_path / DIR).iterdir()) == ["0", "1", "6"]

    @pytest.mark.parametrize("size", [2**54, 10**18 - 1])
    def test_a_record_of_a_blob_of_any_size_makes_no_place_that_is_not_there(
        self, size: int, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache, DATA, 0, 1)
        cache.close()
        state = tmp_path / "state"
        state.write_bytes(resigned(state.read_bytes().replace(f" {len(DATA)} ".encode(), f" {size} ".encode())))
        cache = start()
        assert (cache.found.clean, cache.found.segments) == (True, 1)
        assert known(cache).states(0, 4) == bytes([UNCHECKED, UNCHECKED, ABSENT, ABSENT])

    @pytest.mark.parametrize("clean", [True, False])
    @pytest.mark.parametrize("length", [MIB, SEGMENT])
    def test_a_file_of_another_length_is_no_segment(
        self, clean: bool, length: int, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache)
        cache.close()
        if not clean:
            (tmp_path / "state").unlink()
        os.truncate(tmp_path / DIR / "1", length)
        cache = start()
        blob = known(cache)
        assert blob.states(0, 6) == bytes([PRESENT if clean else UNCHECKED] * 4 + [ABSENT] * 2)
        assert not (tmp_path / DIR / "1").exists()
        cache.reap()
        assert cache.stats()["charged_bytes"] == SEGMENT and cache.stats()["condemned_bytes"] == 0
        fill(cache, blob, DATA, 4, 5)
        assert blob.read(SEGMENT, MIB + 77) == DATA[SEGMENT:]

    def test_an_index_beyond_the_blobs_end_is_no_segment(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        filled(cache)
        killed(cache, tmp_path)
        for index in (2, 9000):
            (tmp_path / DIR / str(index)).write_bytes(b"a" * 100)
        blob = known(start())
        assert blob.states(0, 99) == bytes([UNCHECKED] * 6)
        assert sorted(p.name for p in (tmp_path / DIR).iterdir()) == ["0", "1"]


class TestLimit:
    @pytest.mark.parametrize("clean", [True, False])
    def test_a_smaller_limit_evicts_the_oldest_at_start(
        self, clean: bool, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        for text in (b"a", b"b", b"c"):
            filled(cache, text)
            os.utime(tmp_path / f"{hashlib.sha256(text).hexdigest()}.d" / "0", ns=(0, ord(text)))
        cache.close()
        if not clean:
            (tmp_path / "state").unlink()
        cache = start(2 * 4096)
        assert (cache.found.segments, cache.found.evicted, cache.stats()["charged_bytes"]) == (2, 1, 2 * 4096)
        assert on_disk(tmp_path) <= 2 * 4096
        assert [bool(known(cache, text).states(0, 1)[0]) for text in (b"a", b"b", b"c")] == [False, True, True]

    def test_no_limit_is_too_small_to_start(self, start: Callable[..., Cache], tmp_path: pathlib.Path) -> None:
        cache = start()
        filled(cache)
        cache.close()
        assert start(0).found.segments == 0
        assert on_disk(tmp_path) == 0

    def test_the_limit_holds_on_the_disk_while_unclaimed_files_make_room(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        limit = 4 * SEGMENT
        cache = start(limit)
        old = [random.Random(i).randbytes(SEGMENT + 5000) for i in range(3)]
        for data in old:
            filled(cache, data)
        killed(cache, tmp_path)
        cache = start(limit)
        known(cache, old[1])
        for i in range(10, 14):
            data = random.Random(i).randbytes(SEGMENT + 5000)
            blob = known(cache, data)
            for chunk in range(5):
                assert cache.begin(blob, chunk)
                assert on_disk(tmp_path) <= limit
                assert cache.stats()["charged_bytes"] + cache.stats()["condemned_bytes"] <= limit
                cache.store(blob, chunk, data[chunk * MIB : (chunk + 1) * MIB])
                assert on_disk(tmp_path) <= limit
            assert blob.read(0, len(data)) == data

    def test_what_no_catalogue_names_goes_when_the_names_are_settled(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start()
        for text in (b"claimed", b"awaited", b"nobody's"):
            filled(cache, text)
        cache.close()
        cache = start()
        claimed = known(cache, b"claimed")
        assert cache.settle({hashlib.sha256(b"awaited").hexdigest()}) == 4096
        cache.reap()
        assert claimed.complete and known(cache, b"awaited").complete
        assert not (tmp_path / f"{hashlib.sha256(b'nobody' + bytes([39]) + b's').hexdigest()}.d").exists()
        assert cache.stats()["charged_bytes"] == 2 * 4096
        assert known(cache, b"nobody's").states(0, 1) == bytes([ABSENT])

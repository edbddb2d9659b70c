"""A cache that may have few files open, over a restart: what was closed is kept, and what was changed is checked."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.status import DigestMismatch
from tests.core.caches import (
    ABSENT,
    CLOSED,
    DATA,
    MIB,
    PRESENT,
    SEGMENT,
    TEXTS,
    UNCHECKED,
    close_files_of,
    files_open,
    fill,
    filled,
    known,
    path_of,
    state,
)

pytestmark = pytest.mark.usefixtures("nothing_leaks")


class TestRestart:
    def test_what_was_closed_is_kept_and_needs_no_check(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(2)
        for text in TEXTS:
            filled(cache, text)
        assert cache.close() == ""
        cache = start_few(2)
        assert cache.found == (len(TEXTS), sum(map(len, TEXTS)), True, 0, (), 0)
        blobs = [known(cache, text) for text in TEXTS]
        assert [state(blob) for blob in blobs] == [CLOSED] * 98 + [PRESENT] * 2, "the newest are open"
        for blob, text in zip(blobs, TEXTS, strict=True):
            cache.recheck(blob, 0)
            assert files_open(cache) <= 2
            assert blob.read(0, len(text)) == text
        assert (cache.stats()["rechecked_chunks"], cache.stats()["filled_bytes"]) == (0, 0)

    def test_recency_is_kept_over_a_start_with_closed_files(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1, limit=4 * 4096)
        blobs = [filled(cache, text) for text in TEXTS[:4]]
        for which in (1, 0, 3, 2):
            cache.recheck(blobs[which], 0)
            assert blobs[which].span(0)
        cache.close()
        start_few(1, limit=4 * 4096).close()  # nobody used it
        cache = start_few(1, limit=4 * 4096)
        blobs = [known(cache, text) for text in TEXTS[:4]]
        gone: list[int] = []
        for i in range(4, 8):
            filled(cache, TEXTS[i])
            gone += [n for n in range(4) if not blobs[n].complete and n not in gone]
        assert gone == [1, 0, 3, 2]

    def test_after_a_kill_every_closed_file_is_checked(
        self, start_few: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start_few(1)
        filled(cache, DATA, 0, 4, 5)
        cache.close()
        (tmp_path / "state").unlink()
        cache = start_few(1)
        blob = known(cache)
        assert blob.states(0, 6) == bytes([UNCHECKED] * 4 + [UNCHECKED] * 2)
        assert files_open(cache) == 1
        for chunk in (4, 5, 0):
            assert cache.recheck(blob, chunk)
        assert not cache.recheck(blob, 1), "a hole: it was never written"
        assert blob.states(0, 4) == bytes([PRESENT, ABSENT, ABSENT, ABSENT])
        assert cache.stats()["rechecked_chunks"] == 3
        fill(cache, blob, DATA, 1)
        assert blob.read(0, 2 * MIB) == DATA[: 2 * MIB]

    def test_a_file_with_nothing_in_it_is_found_when_it_is_opened(
        self, start_few: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start_few(1)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        (tmp_path / "state").unlink()
        os.truncate(path, 0)
        os.truncate(path, SEGMENT)
        os.utime(path, (0, 0))  # the oldest: it is the other one that is open
        cache = start_few(1)
        blob = known(cache)
        assert not cache.recheck(blob, 0)
        assert blob.states(0, 4) == bytes(4)
        assert cache.stats()["rotten_chunks"] == 0
        fill(cache, blob, DATA, 0)

    def test_a_rotten_chunk_of_a_closed_file_is_found(
        self, start_few: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start_few(1)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        with path.open("r+b") as file:
            file.write(b"another byte")
        cache = start_few(1)
        blob = known(cache)
        assert blob.states(0, 6) == bytes([UNCHECKED] * 4 + [PRESENT] * 2)
        with pytest.raises(DigestMismatch):
            cache.recheck(blob, 0)
        assert blob.states(0, 4) == bytes(4)

    def test_a_file_that_was_changed_between_the_look_and_the_opening_is_checked(
        self, start_few: Callable[..., Cache]
    ) -> None:
        cache = start_few(1)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        cache = start_few(1)
        with path.open("r+b") as file:
            file.write(b"another byte")
        blob = known(cache)
        assert state(blob) == CLOSED
        with pytest.raises(DigestMismatch):
            cache.recheck(blob, 0)

    def test_a_file_changed_while_it_was_closed_is_not_vouched_for_at_the_end(
        self, start_few: Callable[..., Cache]
    ) -> None:
        cache = start_few(1)
        path = path_of(cache, filled(cache), 0)
        with path.open("r+b") as file:
            file.write(b"another byte")
        assert cache.close() == ""
        assert known(start_few(1)).states(0, 4) == bytes([UNCHECKED] * 4)

    def test_a_kept_file_changed_while_it_was_open_is_not_vouched_for_at_the_end(
        self, start_few: Callable[..., Cache]
    ) -> None:
        cache = start_few(0)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        cache = start_few(0)
        assert known(cache).complete
        with path.open("r+b") as file:
            file.write(b"another byte")
        cache.close()
        assert known(start_few(0)).states(0, 4) == bytes([UNCHECKED] * 4)

    def test_a_kept_file_changed_while_it_was_open_is_checked_once_it_has_been_closed(
        self, start_few: Callable[..., Cache]
    ) -> None:
        cache = start_few(2)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        cache = start_few(2)
        blob = known(cache)
        assert blob.states(0, 4) == bytes([PRESENT] * 4)
        with path.open("r+b") as file:
            file.write(b"another byte")
        close_files_of(cache)
        assert blob.states(0, 4) == bytes([CLOSED] * 4)
        with pytest.raises(DigestMismatch):
            cache.recheck(blob, 0)

    def test_what_was_checked_again_is_vouched_for_again(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        cache = start_few(1)
        path.touch()
        for chunk in range(4):
            assert cache.recheck(known(cache), chunk)
        assert cache.stats()["rechecked_chunks"] == 4
        cache.close()
        cache = start_few(2)
        assert known(cache).states(0, 4) == bytes([PRESENT] * 4)

    @pytest.mark.parametrize("open_limit", [0, 1])
    def test_a_chunk_that_was_added_to_a_kept_file_is_kept_too(
        self, start_few: Callable[..., Cache], open_limit: int
    ) -> None:
        cache = start_few(open_limit)
        filled(cache, DATA, 0)
        cache.close()
        cache = start_few(open_limit)
        fill(cache, known(cache), DATA, 1)
        cache.close()
        cache = start_few(0)
        assert known(cache).states(0, 4) == bytes([PRESENT, PRESENT, ABSENT, ABSENT])

    def test_a_closed_file_that_is_gone_at_the_end_costs_nothing_else(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        path_of(cache, filled(cache), 0).unlink()
        assert cache.close() == ""
        assert known(start_few(1)).states(0, 6) == bytes([ABSENT] * 4 + [PRESENT] * 2)

    def test_a_closed_file_is_synced_before_it_is_vouched_for(
        self, start_few: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        real = os.fsync

        def fsync(fd: int) -> None:
            synced.append(str(pathlib.Path(f"/proc/self/fd/{fd}").readlink()))
            real(fd)

        cache = start_few(1)
        paths = [path_of(cache, filled(cache, text)) for text in TEXTS[:5]]
        monkeypatch.setattr(os, "fsync", fsync)
        cache.close()
        assert {str(path) for path in paths} <= set(synced)
        cache = start_few(1)
        synced.clear()
        cache.recheck(known(cache, TEXTS[0]), 0)
        filled(cache, b"new")
        cache.close()
        assert [name for name in synced if name.endswith(".d/0")] == [str(path_of(cache, Blob.memory(b"new")))]

    def test_another_chunk_list_of_the_same_digest_is_not_what_was_checked(
        self, start_few: Callable[..., Cache]
    ) -> None:
        cache = start_few(1)
        blob = filled(cache)
        other = bytes(32) + (blob.chunks or b"")[32:]
        cache.close()
        again = start_few(1).blob(blob.sha256, len(DATA), other)
        assert again.states(0, 6) == bytes([UNCHECKED] * 6)

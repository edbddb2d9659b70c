"""Files of a cache that somebody else has changed while they were closed."""

from __future__ import annotations

import errno
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
    path_of,
    state,
)

pytestmark = pytest.mark.usefixtures("nothing_leaks")


class TestTouched:
    """What somebody else did to a file while nobody had it open."""

    def closed(self, cache: Cache) -> tuple[Blob, pathlib.Path]:
        blob = filled(cache)
        assert state(blob) == CLOSED
        return blob, path_of(cache, blob)

    def test_a_changed_byte_is_found_before_it_is_sent(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob, path = self.closed(cache)
        before = path.stat()
        with path.open("r+b") as file:
            file.seek(MIB + 5)
            byte = file.read(1)[0]
            file.seek(MIB + 5)
            file.write(bytes([byte ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cache.recheck(blob, 0), "hashed, and right"
        assert blob.states(0, 4) == bytes([PRESENT, UNCHECKED, UNCHECKED, UNCHECKED])
        assert blob.span(0) == MIB
        with pytest.raises(DigestMismatch, match=f"blob {blob.sha256} chunk 1"):
            cache.recheck(blob, 1)
        assert blob.states(0, 4) == bytes(4) and not path.exists()
        assert (cache.stats()["rechecked_chunks"], cache.stats()["rotten_chunks"]) == (1, 1)
        fill(cache, blob, DATA, 0, 1)

    def test_filling_another_chunk_of_it_does_not_make_it_right(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache, DATA, 0)
        close_files_of(cache, b"another")
        path_of(cache, blob).touch()
        fill(cache, blob, DATA, 1)
        assert blob.states(0, 2) == bytes([UNCHECKED, PRESENT])
        close_files_of(cache, b"yet another")
        assert blob.states(0, 2) == bytes([UNCHECKED, CLOSED])
        assert cache.recheck(blob, 0)
        assert blob.states(0, 2) == bytes([PRESENT, PRESENT])

    @pytest.mark.parametrize(
        ("how", "why"),
        [
            (lambda path: path.unlink(), errno.ENOENT),
            (lambda path: os.truncate(path, SEGMENT - 1), errno.ESTALE),
            (lambda path: os.truncate(path, SEGMENT + 1), errno.ESTALE),
            (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), errno.ELOOP),
            (lambda path: (path.unlink(), os.mkfifo(path)), errno.ESTALE),
            (lambda path: (path.rename(path.with_name("1000")), path.parent.joinpath("1").rename(path)), errno.ESTALE),
            (lambda path: (path.parent.rename(path.parent.with_name("x")), path.parent.symlink_to("x")), errno.ENOTDIR),
        ],
        ids=["gone", "shorter", "longer", "a link", "a pipe", "another's", "its folder is a link"],
    )
    def test_another_file_in_its_place_is_not_opened_but_filled_again(
        self, start_few: Callable[..., Cache], how: Callable[[pathlib.Path], object], why: int
    ) -> None:
        cache = start_few(1)
        blob, path = self.closed(cache)
        how(path)
        is_other = "is not the one that was left here" if why == errno.ESTALE else "cannot be opened"
        with pytest.raises(OSError, match=f"/0: file {is_other}: {os.strerror(why)}$") as raised:
            cache.recheck(blob, 0)
        assert raised.value.errno == why
        assert blob.states(0, 4) == bytes(4)
        assert cache.stats()["rotten_chunks"] == 4
        if path.parent.is_symlink():
            path.parent.unlink()
        fill(cache, blob, DATA, 0, 1, 2, 3)
        assert blob.read(0, SEGMENT) == DATA[:SEGMENT]

    def test_files_that_are_gone_are_not_counted_as_open(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(2)
        blobs = [filled(cache, text) for text in TEXTS[:6]]
        for blob in blobs[:4]:
            path_of(cache, blob).unlink()
            with pytest.raises(FileNotFoundError):
                cache.recheck(blob, 0)
        filled(cache, TEXTS[6]), filled(cache, TEXTS[7])
        assert files_open(cache) == cache.stats()["open_segments"] == 2

    def test_only_what_was_there_is_counted_as_rotten(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache, DATA, 0, 2)
        close_files_of(cache, b"another")
        path_of(cache, blob).unlink()
        with pytest.raises(FileNotFoundError):
            cache.recheck(blob, 0)
        assert cache.stats()["rotten_chunks"] == 2

    def test_a_fill_finds_it_gone_too(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache, DATA, 0)
        close_files_of(cache, b"another")
        path_of(cache, blob).unlink()
        fill(cache, blob, DATA, 1)
        assert blob.states(0, 2) == bytes([ABSENT, PRESENT])
        assert cache.stats()["charged_bytes"] == SEGMENT + 4096

    def test_what_cannot_be_removed_is_given_to_nobody(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob, path = self.closed(cache)
        path.unlink()
        path.mkdir()
        with pytest.raises(OSError, match="/0: file cannot be opened: Is a directory"):
            cache.recheck(blob, 0)
        assert blob.states(0, 4) == bytes(4)
        with pytest.raises(OSError, match="file cannot be unlinked"):
            cache.begin(blob, 0)
        path.rmdir()
        fill(cache, blob, DATA, 0)

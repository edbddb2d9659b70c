"""What others may have put into a cache's directory, and two caches that want the same one."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import re
import shutil
import socket
from collections.abc import Callable, Iterator

import pytest

from bootplane.core.lru import Cache, CacheInUse
from tests.core.caches import MIB, PRESENT, UNCHECKED, filled, known

DATA = random.Random(7).randbytes(MIB + 77)
SHA256 = hashlib.sha256(DATA).hexdigest()
DIR = f"{SHA256}.d"


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Cache]]:
    caches: list[Cache] = []

    def one(directory: pathlib.Path = tmp_path / "cache") -> Cache:
        caches.append(Cache(str(directory), 64 * MIB))
        return caches[-1]

    yield one
    for cache in caches:
        cache.close()


def used(start: Callable[..., Cache]) -> None:
    """One that has both chunks and has ended cleanly."""
    cache = start()
    filled(cache, DATA)
    assert cache.close() == ""


class TestNames:
    def test_names_near_ours_are_left_alone_and_named(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        used(start)
        place = tmp_path / "cache"
        near = ["x", SHA256, SHA256[:-1] + ".d", SHA256.upper() + ".d", SHA256 + ".d ", SHA256 + ".D", "lost+found"]
        for name in near:
            (place / name).mkdir()
            (place / name / "0").write_bytes(b"theirs")
        inside = ["00", "01", "-1", "+1", "1.new", " 1", "0x1", "٣", "99999999999"]
        for name in inside:
            (place / DIR / name).write_bytes(b"theirs")
        cache = start()
        assert known(cache, DATA).states(0, 2) == bytes([PRESENT] * 2)
        assert set(cache.foreign) == {*near, *(f"{DIR}/{name}" for name in inside)}
        assert cache.found.removed == 0
        cache.drop(known(cache, DATA))
        cache.reap()
        assert {path.name for path in (place / DIR).iterdir()} == set(inside)
        assert all((place / name / "0").read_bytes() == b"theirs" for name in near)

    @pytest.mark.parametrize("what", ["file", "symlink", "fifo"])
    def test_a_directory_of_ours_that_is_none_is_left_alone_and_its_blob_cannot_be_filled(
        self, what: str, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        place, outside = tmp_path / "cache", tmp_path / "outside"
        place.mkdir()
        outside.mkdir()
        (outside / "0").write_bytes(DATA)
        path = place / DIR
        {"file": path.touch, "symlink": lambda: path.symlink_to(outside), "fifo": lambda: os.mkfifo(path)}[what]()
        cache = start()
        assert cache.foreign == (DIR,)
        with pytest.raises(OSError, match=f"{DIR}/0: directory cannot be made"):
            cache.begin(known(cache, DATA), 0)
        assert cache.stats()["charged_bytes"] == 0
        assert (outside / "0").read_bytes() == DATA
        path.unlink()
        assert cache.begin(known(cache, DATA), 0), "and it can as soon as that is gone"
        cache.abandon(known(cache, DATA), 0)

    def test_a_socket_in_the_place_of_a_segment_is_removed(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used(start)
        (tmp_path / "cache" / DIR / "0").unlink()
        with socket.socket(socket.AF_UNIX) as sock:
            monkeypatch.chdir(tmp_path / "cache" / DIR)  # the name of a socket is short
            sock.bind("0")
        cache = start()
        assert cache.found.removed_names == (f"{DIR}/0: expected a regular file",)
        assert known(cache, DATA).states(0, 2) == bytes(2)

    @pytest.mark.parametrize("mode", [0o000, 0o400, 0o777])
    def test_a_segment_with_other_rights_is_checked_again(
        self, mode: int, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        used(start)
        (tmp_path / "cache" / DIR / "0").chmod(mode)
        cache = start()
        blob = known(cache, DATA)
        if os.geteuid() == 0:  # nothing is forbidden to root
            assert blob.states(0, 2) == bytes([UNCHECKED] * 2)
            assert cache.recheck(blob, 0)
            assert blob.read(0, MIB) == DATA[:MIB]
        else:
            assert blob.states(0, 1)[0] in (0, UNCHECKED)

    def test_one_file_under_two_names_is_right_under_one_alone(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        used(start)
        other = hashlib.sha256(b"other")
        (tmp_path / "cache" / f"{other.hexdigest()}.d").mkdir()
        os.link(tmp_path / "cache" / DIR / "0", tmp_path / "cache" / f"{other.hexdigest()}.d" / "0")
        cache = start()
        wrong = cache.blob(other.hexdigest(), 5, other.digest())
        assert wrong.states(0, 1) == bytes([0])
        assert cache.recheck(known(cache, DATA), 0)
        assert known(cache, DATA).read(0, MIB) == DATA[:MIB]


class TestState:
    FIELDS = (
        "sha256", "index", "size", "root", "states", "length", "ctime",
    )  # fmt: skip

    @pytest.mark.parametrize("magic", ["bootplane-cache 0", "bootplane-cache 99", "bootplane-cache", "", "\0"])
    def test_an_older_or_newer_format_is_no_state_and_its_files_are_checked(
        self, magic: str, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        used(start)
        rewrite(tmp_path / "cache" / "state", lambda lines: [magic, *lines[1:]])
        cache = start()
        assert (cache.found.clean, cache.found.segments) == (False, 1)
        assert known(cache, DATA).states(0, 2) == bytes([UNCHECKED] * 2)

    @pytest.mark.parametrize("field", range(len(FIELDS)), ids=FIELDS)
    @pytest.mark.parametrize("value", ["", "-2", "9", "x", "0" * 64, "9" * 30, "2 2", "-", "NaN"])
    def test_a_field_that_is_another_makes_no_chunk_right_that_is_not(
        self, field: int, value: str, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        used(start)
        file = tmp_path / "cache" / DIR / "0"
        seen = file.stat()
        with file.open("r+b") as out:  # damage that only a check could find: mtime is put back, ctime cannot be
            out.write(b"wrong")
        os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        rewrite(tmp_path / "cache" / "state", lambda lines: [*lines[:2], changed(lines[2], field, value)])
        cache = start()
        blob = known(cache, DATA)
        assert PRESENT not in blob.states(0, 2)

    def test_lines_that_are_there_twice_or_name_what_is_not_there_do_no_harm(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        used(start)
        rewrite(
            tmp_path / "cache" / "state",
            lambda lines: [*lines, lines[2], changed(lines[2], 1, "7"), changed(lines[2], 0, "a" * 64)],
        )
        cache = start()
        assert cache.found.segments == 1
        assert known(cache, DATA).read(0, MIB) == DATA[:MIB]


def changed(line: str, field: int, value: str) -> str:
    words = line.split(" ")
    words[field] = value
    return " ".join(words)


def rewrite(path: pathlib.Path, change: Callable[[list[str]], list[str]]) -> None:
    """With a right sum, as a program of another version would have left it."""
    text = path.read_bytes()
    lines = change(text[: text.rindex(b"sha256 ")].decode().splitlines())
    head = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(head + f"sha256 {hashlib.sha256(head).hexdigest()}\n".encode())


class TestTwo:
    def test_the_second_on_a_directory_is_refused_whatever_becomes_of_the_lock_file(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        start()
        place = tmp_path / "cache"
        holder = re.escape(f"got process {os.getpid()} holding {place}/lock")
        with pytest.raises(CacheInUse, match=holder):
            start()
        (place / "lock").unlink()
        with pytest.raises(CacheInUse):
            start()
        (place / "lock").write_text("12345\n")
        with pytest.raises(CacheInUse):
            start()
        with pytest.raises(CacheInUse):
            start(place / ".." / "cache")
        (tmp_path / "alias").symlink_to(place)
        with pytest.raises(CacheInUse):
            start(tmp_path / "alias")

    def test_a_copy_of_a_directory_is_another_directory(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        used(start)
        shutil.copytree(tmp_path / "cache", tmp_path / "copy")
        start()
        copy = start(tmp_path / "copy")
        assert known(copy, DATA).states(0, 2) == bytes([UNCHECKED] * 2), "copied files are other files"

    @pytest.mark.parametrize("what", ["directory", "symlink", "fifo"])
    def test_a_lock_that_is_no_file_is_one_sentence(
        self, what: str, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        place = tmp_path / "cache"
        place.mkdir()
        path = place / "lock"
        {"directory": path.mkdir, "symlink": lambda: path.symlink_to("/dev/null"), "fifo": lambda: os.mkfifo(path)}[
            what
        ]()
        with pytest.raises(OSError, match=f"cache directory {place}: cannot be used: "):
            start()

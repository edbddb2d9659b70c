"""The cache and its disk: the directory, what lies in it, and what the kernel refuses."""

from __future__ import annotations

import hashlib
import os
import pathlib
import resource
import subprocess
from collections.abc import Iterator

import pytest

from bootplane.core.blob import reap
from bootplane.core.lru import Cache, CacheInUse, alive
from tests.core.caches import ABSENT, DATA, MIB, PRESENT, SEGMENT, SHA256, chunk_list, files, fill, filled, known

pytestmark = pytest.mark.usefixtures("nothing_leaks")

CHUNKS = chunk_list(DATA)


class TestDirectory:
    def test_a_second_cache_is_refused_and_told_who_has_the_directory(self, cache: Cache) -> None:
        with pytest.raises(CacheInUse) as error:
            Cache(cache.directory, MIB)
        assert str(error.value) == (
            f"cache directory {cache.directory}: expected to be its only user, got process {os.getpid()} "
            f"holding {cache.directory}/lock"
        )

    def test_segment_files_of_an_earlier_run_are_kept_and_foreign_files_stay(self, tmp_path: pathlib.Path) -> None:
        cache = Cache(str(tmp_path), MIB)
        filled(cache, b"a")
        cache.close()
        mine = hashlib.sha256(b"a").hexdigest() + ".d"
        assert (tmp_path / mine / "0").exists(), "close() must leave files to the next run"
        other = "f" * 64 + ".d"
        (tmp_path / other).mkdir()
        for name in ("12", "012", "note"):
            (tmp_path / other / name).write_text(name)
        (tmp_path / "README").write_text("mine")
        (tmp_path / ("e" * 64 + ".d")).symlink_to(tmp_path / other)
        (tmp_path / ("d" * 63 + ".d")).mkdir()
        cache = Cache(str(tmp_path), MIB)
        within = [f"{other}/012", f"{other}/12", f"{other}/note", f"{mine}/0"]
        assert files(cache) == sorted(["README", "d" * 63 + ".d", "e" * 64 + ".d", other, mine, *within])
        assert cache.foreign == ("README", "d" * 63 + ".d", "e" * 64 + ".d", f"{other}/012", f"{other}/note")
        assert cache.stats()["charged_bytes"] == 2 * 4096
        cache.close()

    def test_a_path_that_is_no_directory_is_refused_in_one_sentence(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=f"cache directory {tmp_path}/file: cannot be used: File exists"):
            Cache(str(tmp_path / "file"), MIB)

    def test_a_closed_cache_lets_go_of_everything_and_says_so(self, tmp_path: pathlib.Path) -> None:
        cache = Cache(str(tmp_path), MIB)
        blob, other = filled(cache, b"a"), known(cache, b"b")
        cache.begin(other, 0)
        with blob.pin(0) as pin:
            cache.close()
            cache.close()
            assert os.pread(pin.fd, 1, pin.offset) == b"a"
        assert not blob.complete and cache.stats()["segments"] == 0
        for call in (cache.begin, cache.abandon, lambda b, c: cache.store(b, c, b"b"), lambda b, c: cache.drop(b)):
            with pytest.raises(ValueError, match=f"cache {tmp_path}: is closed"):
                call(other, 0)

    def test_a_cache_that_was_never_closed_cleans_up_after_itself(self, tmp_path: pathlib.Path) -> None:
        cache = Cache(str(tmp_path), MIB)
        blob = filled(cache, b"a")
        del cache
        assert not blob.complete
        Cache(str(tmp_path), MIB).close()

    def test_the_memory_of_a_cache_goes_with_its_last_condemned_segment(self, tmp_path: pathlib.Path) -> None:
        before = alive()
        cache = Cache(str(tmp_path), MIB)
        blob = filled(cache, b"a")
        pin = blob.pin(0)
        del cache
        reap()
        assert alive() == before + 1
        pin.release()
        reap()
        assert alive() == before

    def test_a_link_in_place_of_a_blobs_directory_is_not_followed(self, cache: Cache, tmp_path: pathlib.Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        pathlib.Path(cache.directory, f"{SHA256}.d").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match=rf"{SHA256}\.d/0: directory cannot be made \({SEGMENT} bytes needed\)"):
            cache.begin(blob, 0)
        assert list((tmp_path / "elsewhere").iterdir()) == []
        assert cache.stats()["charged_bytes"] == 0

    def test_a_left_over_file_is_replaced_and_not_written_into(self, cache: Cache) -> None:
        blob = known(cache, b"a")
        path = pathlib.Path(cache.directory, f"{blob.sha256}.d", "0")
        path.parent.mkdir()
        path.write_bytes(b"stale and longer")
        with path.open("rb") as stale:
            fill(cache, blob, b"a")
            assert stale.read() == b"stale and longer"
        assert path.read_bytes() == blob.read(0, 1) == b"a"


class TestDiskFaults:
    @pytest.fixture
    def file_size_limit(self) -> Iterator[int]:
        """Writes past 1.5 MiB of a file come back short, then fail, as on a full disk (there ENOSPC, here EFBIG)."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        yield 3 * MIB // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def test_a_short_write_is_a_failed_fill_and_shown_to_nobody(self, cache: Cache, file_size_limit: int) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        fill(cache, blob, DATA, 0)
        cache.begin(blob, 1)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, limits[1]))
        with pytest.raises(
            OSError, match=rf"{SHA256}\.d/0: file cannot be written \({MIB} bytes needed\): File too large"
        ):
            cache.store(blob, 1, DATA[MIB : 2 * MIB])
        assert blob.states(0, 2) == bytes([PRESENT, ABSENT])
        assert blob.read(0, MIB) == DATA[:MIB]
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        fill(cache, blob, DATA, 1)
        assert blob.read(0, 2 * MIB) == DATA[: 2 * MIB]

    def test_a_segment_in_which_nothing_could_be_written_is_dropped(self, cache: Cache, file_size_limit: int) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        cache.begin(blob, 2)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            cache.store(blob, 2, DATA[2 * MIB : 3 * MIB])
        assert files(cache) == [] and cache.stats()["charged_bytes"] == cache.stats()["condemned_bytes"] == 0

    def test_a_file_that_cannot_be_made_is_not_charged(self, cache: Cache, file_size_limit: int) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, limits[1]))
        with pytest.raises(OSError, match=rf"{SHA256}\.d/0: file cannot be made \({SEGMENT} bytes needed\)"):
            cache.begin(blob, 0)
        assert files(cache) == [] and cache.stats()["charged_bytes"] == 0

    def test_out_of_descriptors_is_one_sentence_and_costs_nothing(self, cache: Cache) -> None:
        blob = cache.blob(SHA256, len(DATA), CHUNKS)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        held: list[int] = []
        try:
            open_now = len(list(pathlib.Path("/proc/self/fd").iterdir()))
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 64, limits[1]))
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    held.append(os.dup(0))
            os.close(held.pop())  # enough for the directory, not for the file
            with pytest.raises(OSError, match=rf"{SHA256}\.d/0: file cannot be made .*: Too many open files"):
                cache.begin(blob, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in held:
                os.close(fd)
        assert files(cache) == [] and cache.stats()["charged_bytes"] == 0

    def test_an_eviction_that_fails_is_not_accounted_as_freed(self, cache: Cache) -> None:
        cache.limit_bytes = 2 * 4096
        a, b = filled(cache, b"a"), filled(cache, b"b")
        path = pathlib.Path(cache.directory, f"{a.sha256}.d", "0")
        path.unlink()
        path.mkdir()  # unlink() refuses a directory
        c = known(cache, b"c")
        with pytest.raises(OSError, match=f"{path}: file cannot be unlinked"):
            cache.begin(c, 0)
        assert a.complete and cache.stats()["charged_bytes"] == 2 * 4096 and cache.stats()["evicted_segments"] == 0
        fill(cache, c, b"c")  # the next one is tried instead
        assert [a.complete, b.complete] == [True, False]
        path.rmdir()

    def test_a_file_somebody_else_removed_is_evicted_like_any_other(self, cache: Cache) -> None:
        cache.limit_bytes = 4096
        a = filled(cache, b"a")
        pathlib.Path(cache.directory, f"{a.sha256}.d", "0").unlink()
        assert a.read(0, 1) == b"a"
        filled(cache, b"b")
        assert not a.complete and cache.stats()["charged_bytes"] == 4096

    def test_a_full_disk_is_named_and_heals_by_evicting(self, tmp_path: pathlib.Path) -> None:
        mount = tmp_path / "small"
        mount.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(mount)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system of 5 MiB needs root")
        try:
            cache = Cache(str(mount), 64 * MIB)
            blob = cache.blob(SHA256, len(DATA), CHUNKS)
            fill(cache, blob, DATA, 0, 1, 2, 3)
            cache.begin(blob, 4)
            with pytest.raises(OSError, match=rf"d/1: file cannot be written \({MIB} bytes needed\): No space left"):
                cache.store(blob, 4, DATA[SEGMENT : SEGMENT + MIB])
            assert blob.states(4, 1) == bytes([ABSENT])
            assert cache.evict(MIB) == SEGMENT
            fill(cache, blob, DATA, 4)
            assert blob.read(SEGMENT, MIB) == DATA[SEGMENT : SEGMENT + MIB]
            cache.close()
            del cache, blob
        finally:
            subprocess.run(["umount", str(mount)], check=True)

"""A cache in a process that may open, or map, no more files."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from bootplane.core.lru import Cache
from tests.core.caches import CLOSED, DATA, MIB, SEGMENT, TEXTS, files_open, filled, known, state

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@contextlib.contextmanager
def descriptors(spare: int) -> Iterator[None]:
    """This process can open *spare* more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(fd.name) for fd in pathlib.Path("/proc/self/fd").iterdir())
    holes = []
    while not holes or holes[-1] <= used:  # so that the limit on numbers is one on how many
        holes.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (holes[-1] + 1 + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in holes:
            os.close(fd)


class TestShortage:
    def test_a_process_without_descriptors_closes_some_and_fills_on(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(0)
        with descriptors(spare=12):
            blobs = [filled(cache, text) for text in TEXTS[:40]]
            assert files_open(cache) <= 12
        assert all(blob.complete for blob in blobs)
        assert CLOSED in map(state, blobs)

    def test_it_closes_some_to_open_one_again(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(0)
        with descriptors(spare=12):
            blobs = [filled(cache, text) for text in TEXTS[:40]]
            for _ in range(2):
                for blob, text in zip(blobs, TEXTS[:40], strict=True):
                    cache.recheck(blob, 0)
                    assert blob.read(0, len(text)) == text

    def test_with_nothing_to_close_it_says_so_and_forgets_nothing(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(1)
        blob = filled(cache)
        with blob.pin(SEGMENT), descriptors(spare=0):
            with pytest.raises(OSError, match=r"/0: file cannot be opened: Too many open files"):
                cache.recheck(blob, 0)
            with pytest.raises(OSError, match=r"directory cannot be made \(7 bytes needed\): Too many open files"):
                cache.begin(known(cache, b"another"), 0)
            assert blob.states(0, 4) == bytes([CLOSED] * 4)
            assert cache.stats()["open_segments"] == 1
        assert cache.recheck(blob, 0)
        assert blob.read(0, SEGMENT) == DATA[:SEGMENT]
        assert cache.stats()["charged_bytes"] == SEGMENT + MIB + 4096

    def test_a_start_without_descriptors_keeps_every_file(self, start_few: Callable[..., Cache]) -> None:
        cache = start_few(0)
        for text in TEXTS[:40]:
            filled(cache, text)
        cache.close()
        with descriptors(spare=12):
            cache = start_few(0)
            assert cache.found.segments == 40
            blobs = [known(cache, text) for text in TEXTS[:40]]
            for blob, text in zip(blobs, TEXTS[:40], strict=True):
                cache.recheck(blob, 0)
                assert blob.read(0, len(text)) == text
        assert cache.stats()["rechecked_chunks"] == 0

    @pytest.mark.skipif(
        "BOOTPLANE_SANITIZED_PYTHON" in os.environ, reason="a sanitizer hangs where its own memory is refused"
    )
    def test_a_process_that_may_map_no_more_closes_some_too(self, tmp_path: pathlib.Path) -> None:
        program = f"""
import glob, hashlib, os, resource
from bootplane.core.lru import Cache
data = bytes({MIB})
chunks = hashlib.sha256(data).digest() * 4
cache = Cache({str(tmp_path)!r}, 1 << 30)
blobs = [cache.blob(f"{{i:064x}}", {SEGMENT}, chunks) for i in range(24)]
cache.begin(blobs[0], 0)
cache.store(blobs[0], 0, data)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 5 * {SEGMENT}, resource.RLIM_INFINITY))
for _ in range(2):
    for blob in blobs:
        if cache.begin(blob, 0):
            cache.store(blob, 0, data)
        cache.recheck(blob, 0)
        assert blob.read(0, {MIB}) == data
stats = cache.stats()
inodes = {{(s.st_dev, s.st_ino) for s in (os.stat(path) for path in glob.glob({str(tmp_path)!r} + "/*.d/*"))}}
there = 0
for fd in range(64):
    try:
        there += (os.fstat(fd).st_dev, os.fstat(fd).st_ino) in inodes
    except OSError:
        pass
assert there == stats["open_segments"], there
print(stats["segments"], stats["open_segments"] < 8, stats["reopened_segments"] > 8, stats["rechecked_chunks"])
cache.close()
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("24 True True 0\n", "")

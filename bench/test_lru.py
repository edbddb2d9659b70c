"""The cache against an LRU made of an OrderedDict and os calls: same bytes, same digests, same files, one run.

Run: python -m pytest bench/test_lru.py -s. Rounds of the two are interleaved; the ratio printed is ours / baseline of
the thread's CPU time (median of the pairs, then least and largest): wall time says more about who else was running.
The baseline has no lock, no claims, no chunk states and no count of references: it is what one thread could do at best,
not a replacement. Files lie on tmpfs where there is one, so that the disk is not what is measured.
"""

# The baseline makes the calls that a cache would make, without objects for paths:
# ruff: noqa: PTH102, PTH106, PTH108

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import shutil
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache

MIB = 1 << 20
PAIRS = 9


@pytest.fixture
def directory() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="bench-lru-", dir="/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None)
    yield path
    shutil.rmtree(path)


class OrderedDictCache:
    """One file per entry, made at its length, written whole once its digest matched, evicted by unlink."""

    def __init__(self, directory: str, limit_bytes: int) -> None:
        self.directory, self.limit, self.charged = directory, limit_bytes, 0
        self.entries: OrderedDict[str, tuple[int, int]] = OrderedDict()  # sha256 -> (descriptor, charge)
        pathlib.Path(directory).mkdir()

    def store(self, sha256: str, data: bytes) -> None:
        charge = (len(data) + 4095) // 4096 * 4096
        while self.charged + charge > self.limit:
            old, (fd, freed) = self.entries.popitem(last=False)
            os.unlink(f"{self.directory}/{old}.d/0")
            os.rmdir(f"{self.directory}/{old}.d")
            os.close(fd)
            self.charged -= freed
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(sha256)
        os.mkdir(f"{self.directory}/{sha256}.d")
        fd = os.open(f"{self.directory}/{sha256}.d/0", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, len(data))
        if os.pwrite(fd, data, 0) != len(data):
            raise OSError(sha256)
        self.entries[sha256] = fd, charge
        self.charged += charge

    def close(self) -> None:
        for fd, _ in self.entries.values():
            os.close(fd)


def compare(benchmark: BenchmarkFixture, what: str, ours: Callable[[], int], baseline: Callable[[], int]) -> None:
    """Each callable returns how many operations it did. Prints ns per operation of both, and their ratio."""

    def ns(call: Callable[[], int]) -> float:
        start = time.thread_time_ns()
        count = call()
        return (time.thread_time_ns() - start) / count

    ns(ours), ns(baseline)  # warm-up
    pairs = [(ns(ours), ns(baseline)) for _ in range(PAIRS)]
    ratios = sorted(a / b for a, b in pairs)
    mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(ratios)
    benchmark.extra_info.update(ratio=ratio, least=ratios[0], largest=ratios[-1])
    benchmark.pedantic(ours, rounds=3)
    print(f"\n{what}: {mine:.0f} ns against {theirs:.0f} ns, ratio {ratio:.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


class Pair:
    """Both caches in *directory*, and the blobs of *texts* in ours."""

    def __init__(self, directory: str, texts: list[bytes], limit: int) -> None:
        self.texts = texts
        self.names = [hashlib.sha256(text).hexdigest() for text in texts]
        self.cache = Cache(f"{directory}/ours", limit)
        self.blobs: list[Blob] = [
            self.cache.blob(name, len(text), hashlib.sha256(text).digest())
            for name, text in zip(self.names, texts, strict=True)
        ]
        self.plain = OrderedDictCache(f"{directory}/plain", limit)

    def fill_ours(self) -> int:
        begin, store = self.cache.begin, self.cache.store
        for blob, text in zip(self.blobs, self.texts, strict=True):
            assert begin(blob, 0)
            store(blob, 0, text)
        return len(self.texts)

    def fill_plain(self) -> int:
        for name, text in zip(self.names, self.texts, strict=True):
            self.plain.store(name, text)
        return len(self.texts)

    def close(self) -> None:
        self.cache.close()
        self.plain.close()


@pytest.mark.parametrize("how", ["from Python", "as a sender does it, without the GIL"])
def test_lookup_and_touch(benchmark: BenchmarkFixture, directory: str, how: str) -> None:
    pair = Pair(directory, [b"%04d" % i for i in range(1000)], 1000 * 4096)
    pair.fill_ours(), pair.fill_plain()
    order = random.Random(1).choices(range(1000), k=20000)
    blobs, names, entries = [pair.blobs[i] for i in order], [pair.names[i] for i in order], pair.plain.entries

    def from_python() -> int:
        for blob in blobs:
            blob.span(0)
        return len(blobs)

    def by_a_sender() -> int:
        return pair.blobs[0].compare(b"0000", len(names), 7)[0]

    def ordered_dict() -> int:
        for name in names:
            entries.move_to_end(name)
            entries[name]
        return len(names)

    compare(benchmark, f"lookup and touch, {how}", from_python if how == "from Python" else by_a_sender, ordered_dict)
    pair.close()


@pytest.mark.parametrize("size", [4096, MIB], ids=["4 KiB", "1 MiB"])
def test_insert_and_evict(benchmark: BenchmarkFixture, directory: str, size: int) -> None:
    """Each insertion evicts: there is room for a fifth of what comes round. Hashing included, on both sides."""
    rng = random.Random(2)
    pair = Pair(directory, [rng.randbytes(size) for _ in range(200 if size == 4096 else 30)], 40 * 4096 + 6 * size)
    pair.fill_ours(), pair.fill_plain()
    compare(benchmark, f"insert and evict {size} bytes", pair.fill_ours, pair.fill_plain)
    assert pair.cache.stats()["evicted_segments"] > len(pair.texts)
    pair.close()

"""Power cuts: what is on the device at one instant is all there is afterwards, and no wrong byte comes of it.

A cache fills and evicts on a file system in an image; the image is cloned, in one instant, while it works. What the
kernel had not written by then is not in the clone: files of full length that are zeros, or not there at all. Each clone
is mounted, which replays its journal, a cache starts on it, and every byte that it would serve is compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache, CacheFull
from bootplane.core.status import CoreError, DigestMismatch
from tests.fakes.filesystems import KINDS, MIB, attached, charge_of, mounted, on_disk, or_skip
from tests.fakes.http_client import CHUNK, chunk_list, cold, nothing_left
from tests.fakes.power import Cuts

LIMIT = 24 * MIB
ABSENT, PRESENT = 0, 2
OUTER_BYTES = 2048 * MIB  # sparse; holds the image and its clones, which share their blocks
SEEDS = (1,)
SOAK_SEEDS = range(100, 108)
THREADS = 3


def contents_of(seed: int) -> dict[str, bytes]:
    chance = random.Random(seed)
    sizes = [77, 50_000, MIB, MIB + 77, 5 * MIB, 9 * MIB + 1, 12 * MIB]
    found = [chance.randbytes(size) for size in sizes]
    return {hashlib.sha256(data).hexdigest(): data for data in found}


def fill(cache: Cache, blob: Blob, data: bytes, chunk: int) -> None:
    if cache.begin(blob, chunk):
        cache.store(blob, chunk, data[chunk * CHUNK : (chunk + 1) * CHUNK])


class Work:
    """Threads that fill, read, drop and check at random, until left."""

    def __init__(self, cache: Cache, contents: dict[str, bytes], seed: int) -> None:
        self.cache, self.contents = cache, contents
        self.blobs = {sha256: cold(cache, data) for sha256, data in contents.items()}
        self.done = 0  # steps; written with _moved held
        self.wrong: list[str] = []
        self._moved = threading.Condition()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed * 97 + i),)) for i in range(THREADS)
        ]

    def __enter__(self) -> Work:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.blobs.clear()
        assert self.wrong == []

    def wait_for(self, steps: int) -> None:
        with self._moved:
            assert self._moved.wait_for(lambda: self.done >= steps or self.wrong, 60)

    def _run(self, chance: random.Random) -> None:
        while not self._stop.is_set():
            try:
                self._step(chance)
            except CacheFull:
                self.cache.reap()
            except Exception as error:
                self.wrong.append(repr(error))
                raise
            with self._moved:
                self.done += 1
                self._moved.notify_all()

    def _step(self, chance: random.Random) -> None:
        sha256 = chance.choice(list(self.contents))
        data, blob = self.contents[sha256], self.blobs[sha256]
        chunk = chance.randrange(-(-len(data) // CHUNK))
        what = chance.random()
        if what < 0.02:
            self.cache.drop(blob)
        elif what < 0.2:
            with contextlib.suppress(CoreError):  # absent
                if blob.read(chunk * CHUNK, min(CHUNK, len(data) - chunk * CHUNK)) != data[chunk * CHUNK :][:CHUNK]:
                    self.wrong.append(f"chunk {chunk} of {sha256}")
        elif blob.states(chunk, 1)[0] not in (ABSENT, PRESENT):
            with contextlib.suppress(DigestMismatch):
                self.cache.recheck(blob, chunk)
        else:
            fill(self.cache, blob, data, chunk)
        self.cache.reap()


def live_through(cuts: Cuts, contents: dict[str, bytes], seed: int, instants: int) -> None:
    """Two runs of a cache on the disk, each ended cleanly, and the power cut at all kinds of moments."""
    chance = random.Random(seed)
    disk = cuts.disk
    directory = str(disk.point / "cache")
    for run in range(2):
        cache = Cache(directory, LIMIT)
        assert cache.found.clean == bool(run)
        cuts.cut("just started")
        with Work(cache, contents, seed + run) as work:
            for _ in range(instants):
                if chance.random() < 0.5:
                    assert disk.sync()
                work.wait_for(work.done + chance.randrange(5, 150))
                cuts.cut("at work")
        with cuts.while_it("ending", instants, chance):
            assert cache.close() == ""
        cuts.cut("ended")


def check(directory: Path, contents: dict[str, bytes], moment: str) -> Counter[str]:
    """Starts on what a cut has left, looks at every chunk as a filler does, and compares what a machine would get."""
    found: Counter[str] = Counter()
    cache = Cache(str(directory), LIMIT)
    try:
        look(cache, contents, moment, found)
    finally:
        why = cache.close()
    assert why == ""
    return found


def look(cache: Cache, contents: dict[str, bytes], moment: str, found: Counter[str]) -> None:
    directory = Path(cache.directory)
    if moment == "just started" or moment == "at work":
        assert not cache.found.clean, f"a state that was used up is there again ({moment})"
    elif moment == "ended":
        assert cache.found.clean
    found["clean"] = cache.found.clean
    now = cache.stats()
    assert now["charged_bytes"] == charge_of(directory)
    found["empty"] = cache.found.removed  # a name without a byte: made, and never synced
    for data in contents.values():
        blob = cold(cache, data)
        for chunk in range(len(chunk_list(data)) // 32):
            right = data[chunk * CHUNK : (chunk + 1) * CHUNK]
            state = blob.states(chunk, 1)[0]
            if state not in (ABSENT, PRESENT):
                try:
                    found["right"] += cache.recheck(blob, chunk)
                except DigestMismatch:
                    found["rotten"] += 1
            elif state == PRESENT:
                found["trusted"] += 1
            if blob.states(chunk, 1)[0] == PRESENT:
                assert blob.read(chunk * CHUNK, len(right)) == right, f"chunk {chunk} of {blob!r} ({moment})"
            else:
                fill(cache, blob, data, chunk)
                assert blob.read(chunk * CHUNK, len(right)) == right
        cache.reap()
        assert cache.stats()["charged_bytes"] == charge_of(directory) <= LIMIT
    assert found["trusted"] == 0 or cache.found.clean


def power_cuts(kind: str, tmp_path: Path, seed: int, instants: int) -> list[tuple[str, Counter[str]]]:
    contents = contents_of(seed)
    results = []
    with on_disk("xfs", tmp_path, OUTER_BYTES) as outer:
        inner = outer.point / "disk"
        inner.mkdir()
        options = "commit=1" if kind == "ext4" else "defaults"
        with on_disk(kind, inner, options=options) as disk:
            cuts = Cuts(disk)
            live_through(cuts, contents, seed, instants)
        for image, moment in cuts.taken:  # the original is gone by now: two with one UUID could not be mounted
            with attached(kind, image, inner / "point", direct=False) as copy:
                directory = copy.point / "cache"
                directory.mkdir(exist_ok=True)
                results.append((moment, check(directory, contents, moment)))
            image.unlink()
    return results


@pytest.mark.integration
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_power_cut_no_wrong_byte_is_served(kind: str, seed: int, tmp_path: Path) -> None:
    for each in ("xfs", kind):
        with or_skip(mounted(each, tmp_path)):  # what fails from here on is a failure
            pass
    with nothing_left():
        results = power_cuts(kind, tmp_path, seed, instants=2)
    tell(kind, seed, results)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SOAK_SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_power_cuts(kind: str, seed: int, tmp_path: Path) -> None:
    with nothing_left():
        results = power_cuts(kind, tmp_path, seed, instants=6)
    tell(kind, seed, results)


def tell(kind: str, seed: int, results: list[tuple[str, Counter[str]]]) -> None:
    total: Counter[str] = Counter()
    for _, found in results:
        total.update(found)
    print(
        f"\n{kind}, seed {seed}: {len(results)} cuts, {dict(Counter(moment for moment, _ in results))}: {dict(total)}"
    )
    assert total["trusted"] and total["right"], "the cuts have left nothing to look at"

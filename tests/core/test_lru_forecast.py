"""What would leave, as it was foretold: against what does leave."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from tests.fakes.region import chunks_of

MIB = 1 << 20
SEGMENT = 4 * MIB
MINUTE_NS = 60 * 10**9
START_NS = 10**15  # far from the clock's own 0


def data_of(name: int, segments: int) -> bytes:
    """Sparse in what must be hashed: the last segment of each blob has one byte."""
    return bytes([name]) * ((segments - 1) * SEGMENT + 1)


def known(cache: Cache, name: int, segments: int) -> Blob:
    data = data_of(name, segments)
    return cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunks_of(data))


def fill(cache: Cache, name: int, segments: int, now_ns: int) -> Blob:
    blob, data = known(cache, name, segments), data_of(name, segments)
    for chunk in range(-(-len(data) // MIB)):
        if chunk % 4 == 0:
            assert cache.begin(blob, chunk, now_ns)
            cache.store(blob, chunk, data[chunk * MIB : (chunk + 1) * MIB])
    return blob


def use(blob: Blob, segment: int, now_ns: int) -> None:
    blob.span(segment * SEGMENT, now_ns)


def test_an_empty_cache_has_nothing_that_could_leave(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 64 * MIB)
    assert cache.leavers() == []
    cache.close()


def test_what_was_used_last_leaves_last_and_what_is_in_lasting_use_stays(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 40 * MIB)
    old, lasting, new = (fill(cache, name, 2, START_NS + name * 1000) for name in (1, 2, 3))
    fill(cache, 4, 1, START_NS)  # smaller than a segment: protected
    use(lasting, 0, START_NS + 2 * MINUTE_NS)
    use(old, 1, START_NS + 10_000)
    page = 4096
    assert cache.leavers() == [
        (old.sha256, SEGMENT, 1),
        (lasting.sha256, page, 1),
        (new.sha256, SEGMENT + page, 2),
        (old.sha256, page, 1),
    ]
    cache.close()


def test_of_what_is_in_lasting_use_only_what_is_beyond_its_share_may_leave(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 16 * MIB, reuse_s=0)
    blobs = [fill(cache, name, 2, START_NS + name * 1000) for name in range(1, 4)]  # three segments of 4 MiB and pages
    for blob in reversed(blobs):
        for segment in range(2):
            use(blob, segment, START_NS + 10**6 - blobs.index(blob) * 1000)
    assert [sha256 for sha256, _, _ in cache.leavers()] == [blobs[2].sha256]
    cache.close()


@pytest.mark.parametrize("seed", range(6))
def test_what_leaves_is_what_was_foretold(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    cache = Cache(str(tmp_path), 48 * MIB)
    now_ns = START_NS
    blobs: list[Blob] = []
    for name in range(1, 7):
        now_ns += 1000
        blobs.append(fill(cache, name, 2, now_ns))
        for _ in range(8):
            now_ns += dice.choice([10] * 30 + [2 * MINUTE_NS])
            use(dice.choice(blobs), dice.randrange(2), now_ns)
    foretold = cache.leavers()
    assert foretold
    last = cache.evictions()
    name, left = 100, []
    while len(left) < len(foretold):
        before = cache.stats()["evicted_bytes"]
        now_ns += 1000
        fill(cache, name, 2, now_ns)
        name += 1
        left = [(e.sha256, e.bytes, e.segments) for e in cache.evictions()[len(last) :]]
        assert cache.stats()["evicted_bytes"] > before or not left
        if name > 140:
            break
    assert left[: len(foretold) - 1] == foretold[:-1]
    assert left[len(foretold) - 1][0] == foretold[-1][0]
    cache.close()

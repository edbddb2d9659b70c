"""Blob.reached: how far readers have come, without their asking."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from tests.core.caches import MIB, SEGMENT, fill, known

pytestmark = pytest.mark.usefixtures("nothing_leaks")

DATA = random.Random(4).randbytes(3 * SEGMENT + MIB)  # four segments, 13 chunks


def test_the_last_segment_that_was_used_since_it_was_filled_is_where_readers_are(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 32 * MIB)
    blob = known(cache, DATA)
    assert blob.reached(0, 13) == -1, "nothing is here"
    fill(cache, blob, DATA)
    assert blob.reached(0, 13) == -1, "nobody came"
    for chunk, reached in ((1, 0), (6, 4), (3, 4), (12, 12)):
        assert blob.read(chunk * MIB, 1) == DATA[chunk * MIB : chunk * MIB + 1]
        assert blob.reached(0, 13) == reached
    assert (blob.reached(4, 12), blob.reached(8, 12), blob.reached(8, 8)) == (4, -1, -1)
    cache.close()


def test_a_fill_that_begins_after_a_use_hides_it(tmp_path: Path) -> None:
    """It is said too late then, at the next use: nobody is thought to be where nobody was."""
    cache = Cache(str(tmp_path), 32 * MIB)
    blob = known(cache, DATA)
    fill(cache, blob, DATA, 4, 5)
    assert blob.span(4 * MIB) > 0
    assert blob.reached(4, 8) == 4
    fill(cache, blob, DATA, 6)
    assert blob.reached(4, 8) == -1
    assert blob.span(5 * MIB) > 0
    assert blob.reached(4, 8) == 4
    cache.close()


def test_what_an_earlier_run_filled_is_not_looked_at(tmp_path: Path) -> None:
    with_all = Cache(str(tmp_path), 32 * MIB)
    fill(with_all, known(with_all, DATA), DATA)
    with_all.close()
    cache = Cache(str(tmp_path), 32 * MIB)
    blob = known(cache, DATA)
    assert blob.read(0, MIB) == DATA[:MIB]
    assert blob.reached(0, 13) == -1
    cache.close()


@pytest.mark.parametrize(("first", "end"), [(-1, 4), (0, 17)])
def test_chunks_that_are_not_the_blobs_are_refused(first: int, end: int) -> None:
    with pytest.raises(ValueError, match=f"expected some of its chunks, got {first} to {end}"):
        Blob.memory(b"x").reached(first, end)

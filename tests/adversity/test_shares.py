"""Fifteen machines at fifteen places of one large image, and a machine of another team: a real rack, a narrow upstream.

Counted is what the region began to send, in its order, not time.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from bootplane.core.client import Fetch
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.filling import eventually
from tests.fakes.region import CHUNK, FakeRegion, Link

pytestmark = pytest.mark.integration

PLACES, APART = 15, 16  # chunks
NOISE = random.Random(15).randbytes(8 * CHUNK)
IMAGE = NOISE * (PLACES * APART // 8)
KERNEL = NOISE[::-1][: 6 * CHUNK - 777]
KERNEL_SHA = hashlib.sha256(KERNEL).hexdigest()
CHUNKS = 6


def by_http(rack: RackProcess) -> Fetch:
    return http_fetch.fetch(rack.http.host, rack.http.port, "/kernel")


def by_tftp(rack: RackProcess) -> Fetch:
    return tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "kernel", windowsize=16, blksize=1428)


def read_place(rack: RackProcess, place: int) -> bool:
    first = place * APART * CHUNK
    last = first + APART * CHUNK - 1
    got = http_fetch.fetch(rack.http.host, rack.http.port, "/image", start=first, end=last, timeout_s=100)
    return got.sha256 == hashlib.sha256(IMAGE[first : last + 1]).hexdigest()


@pytest.mark.parametrize("fetch", [by_http, by_tftp])
@pytest.mark.parametrize("narrow", ["region", "rack"])
def test_a_kernel_does_not_wait_for_an_image_that_is_read_at_fifteen_places(
    tmp_path: Path, fetch: Callable[[RackProcess], Fetch], narrow: str
) -> None:
    with FakeRegion({"image": IMAGE, "kernel": KERNEL}) as region:
        limit = "none"
        if narrow == "rack":
            limit = "30MiB/s"
        else:
            region.link = Link(30 * CHUNK)
        options = ("--cache-size", "512MiB", "--upstream-limit", limit)
        with (
            RackProcess(tmp_path / "rack", region, *options) as rack,
            concurrent.futures.ThreadPoolExecutor(15) as pool,
        ):
            readers = [pool.submit(read_place, rack, place) for place in range(PLACES)]
            eventually(lambda: len(region.begun) >= 2 * PLACES)
            before = len(region.begun)
            assert fetch(rack).sha256 == KERNEL_SHA
            last = max(at for at, (sha256, _) in enumerate(region.begun) if sha256 == KERNEL_SHA)
            others = last + 1 - before - CHUNKS
            region.link = None
            assert all(reader.result() for reader in readers)
    print(f"\n{fetch.__name__}, {narrow}: {others} chunks of the image between the request for {CHUNKS} and the last")
    # even parts are one for one; beside that what was in hand, and what goes on while this machine asks for the next
    assert others <= 5 * CHUNKS, f"of the {PLACES * APART} that were wanted before"
    assert sorted(set(region.begun)) == sorted(region.begun), "each chunk was sent once"

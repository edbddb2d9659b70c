"""A rack with one reactor and with two: both serve both protocols over both families, and what they count adds up."""

from __future__ import annotations

import concurrent.futures
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.activation import Opened
from tests.fakes.region import FakeRegion

pytestmark = pytest.mark.integration

MIB = 1 << 20
BIG = random.Random(4).randbytes(8 * MIB)
LOADER = random.Random(5).randbytes(40_000)
HOSTS = ("127.0.0.1", "::1")
HTTP_EACH, TFTP_EACH = 12, 12  # of each family: that all meet one of two reactors by chance is 1 in 8 million


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"images/x/squashfs": BIG, "bootx64.efi": LOADER}) as fake:
        yield fake


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("reactors", "is_inherited"), [(1, False), (2, False), (2, True)])
def test_every_reactor_serves_and_the_sums_are_right(
    tmp_path: Path, region: FakeRegion, reactors: int, is_inherited: bool
) -> None:
    options = ("--reactors", str(reactors), "--http", ":0", "--tftp", ":0")
    rack = RackProcess(tmp_path / "rack", region, *options)
    opened = Opened(("::",), copies=2) if is_inherited else None
    rack.opened = opened
    with rack, concurrent.futures.ThreadPoolExecutor(24) as pool:
        over_http = [
            pool.submit(http_fetch.fetch, host, rack.http.port, "/images/x/squashfs")
            for host in HOSTS
            for _ in range(HTTP_EACH)
        ]
        over_tftp = [
            pool.submit(tftp_fetch.fetch, host, rack.tftp.port, "bootx64.efi")
            for host in HOSTS
            for _ in range(TFTP_EACH)
        ]
        assert {fetch.result().sha256 for fetch in over_http} == {digest(BIG)}
        assert {fetch.result().sha256 for fetch in over_tftp} == {digest(LOADER)}
        numbers = rack.settled(2 * (HTTP_EACH + TFTP_EACH))
        assert rack.stop() == 0
    if opened is not None:
        opened.close()
    assert set(region.sent.values()) == {1} and len(region.sent) == 9, "one fetch for each chunk, whoever wants it"
    by_reactor = [
        [numbers[f'bootplane_reactor_{what}_requests_total{{reactor="{index}"}}'] for index in range(reactors)]
        for what in ("http", "tftp")
    ]
    assert all(count > 0 for counts in by_reactor for count in counts), by_reactor
    assert [sum(counts) for counts in by_reactor] == [2 * HTTP_EACH + rack.scrapes, 2 * TFTP_EACH]
    told = {name: numbers[f"bootplane_{name}_total"] for name in ("hits", "misses", "coalesced", "records", "lookups")}
    assert told["hits"] + told["misses"] + told["coalesced"] == told["records"] == 2 * (HTTP_EACH + TFTP_EACH), told
    assert told["lookups"] == told["records"] and numbers["bootplane_records_lost_total"] == 0
    transfers = [transfer for batch in region.batches for transfer in batch.transfers]
    assert len({transfer.seq for transfer in transfers}) == 2 * (HTTP_EACH + TFTP_EACH), "each is in the timeline"
    assert {transfer.outcome for transfer in transfers} == {"complete"}
    assert {transfer.address for transfer in transfers} == set(HOSTS)

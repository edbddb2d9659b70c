"""RFC 2348, the blocksize option: 8 to 65464, never larger than asked, never larger than the cap."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fakes.tftp_client import Rack, TftpClient, serving

KERNEL = os.urandom(200_000)


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    with serving({"kernel": KERNEL, "exact": KERNEL[: 1428 * 3]}, max_blksize=65464, timeout_s=60) as rack:
        yield rack


@pytest.fixture
def client(rack: Rack) -> Iterator[TftpClient]:
    with rack.client() as client:
        yield client


@pytest.mark.parametrize("blksize", [8, 511, 512, 513, 1408, 1428, 1432, 1468, 8192, 65464])
def test_blocks_have_the_size_that_was_agreed(client: TftpClient, blksize: int) -> None:
    client.rrq("kernel", blksize=blksize)
    assert client.receive().options == {"blksize": str(blksize)}
    client.ack(0)
    for block in range(1, 4):
        packet = client.receive()
        assert (packet.number, packet.data) == (block, KERNEL[(block - 1) * blksize : block * blksize])
        client.ack(block)
    client.error(0)


@pytest.mark.parametrize("blksize", [1428, 65464, 65463, 1000])
def test_a_file_is_whole_at_any_size(client: TftpClient, blksize: int) -> None:
    assert client.fetch("kernel", blksize=blksize, windowsize=4).data == KERNEL


def test_an_exact_multiple_of_the_agreed_size_ends_with_an_empty_block(client: TftpClient) -> None:
    fetched = client.fetch("exact", blksize=1428)
    assert fetched.data == KERNEL[: 1428 * 3]
    assert fetched.received == 4


@pytest.mark.parametrize("blksize", ["0", "7", "65465", "65536", "4294967808", "-512", "", "x", "1e3", "512.0"])
def test_a_size_out_of_range_is_ignored(client: TftpClient, blksize: str) -> None:
    client.rrq("kernel", blksize=blksize)
    packet = client.receive()
    assert (packet.kind, len(packet.data)) == ("DATA", 512)
    client.error(0)


@pytest.mark.parametrize(("asked", "granted"), [(512, 512), (1468, 1468), (1469, 1468), (8192, 1468), (65464, 1468)])
def test_the_cap_is_granted_when_more_was_asked_and_never_more_than_asked(asked: int, granted: int) -> None:
    with serving({"kernel": KERNEL}, max_blksize=1468, timeout_s=60) as rack, rack.client() as client:
        client.rrq("kernel", blksize=asked)
        assert client.receive().options == {"blksize": str(granted)}
        client.ack(0)
        assert len(client.receive().data) == granted

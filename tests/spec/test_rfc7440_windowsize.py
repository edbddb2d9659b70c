"""RFC 7440, the windowsize option: several blocks for one ACK, and what happens when some are lost."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.fakes.tftp_client import Packet, Rack, TftpClient, serving

KERNEL = os.urandom(300_000)
MANY = os.urandom(8 * 65_600 + 3)  # blocks of 8 that roll over


@pytest.fixture(scope="module", params=[1, 0], ids=["gso", "plain"])
def rack(request: pytest.FixtureRequest) -> Iterator[Rack]:
    """Its deadlines are too far away to come into it, however slow this machine is."""
    with serving({"kernel": KERNEL, "short": KERNEL[:2048]}, timeout_s=60, gso=request.param) as rack:
        yield rack


@pytest.fixture(scope="module", params=[1, 0], ids=["gso", "plain"])
def quick(request: pytest.FixtureRequest) -> Iterator[Rack]:
    with serving({"kernel": KERNEL, "many": MANY}, timeout_s=0.2, gso=request.param) as rack:
        yield rack


@pytest.fixture
def client(rack: Rack) -> Iterator[TftpClient]:
    with rack.client() as client:
        yield client


def begin(client: TftpClient, name: str = "kernel", **options: object) -> None:
    client.rrq(name, **options)
    assert client.receive().kind == "OACK"
    client.ack(0)


def numbers(client: TftpClient, count: int) -> list[int]:
    packets = [client.receive() for _ in range(count)]
    assert {packet.kind for packet in packets} == {"DATA"}
    return [packet.number for packet in packets]


def test_a_window_is_sent_whole_and_its_last_ack_brings_the_next(rack: Rack, client: TftpClient) -> None:
    begin(client, windowsize=4)
    assert numbers(client, 4) == [1, 2, 3, 4]
    rack.settle()
    assert client.waiting() == []
    client.ack(4)
    assert numbers(client, 4) == [5, 6, 7, 8]
    client.error(0)


def test_the_last_window_ends_with_the_last_block(rack: Rack, client: TftpClient) -> None:
    begin(client, "short", windowsize=3)
    assert numbers(client, 3) == [1, 2, 3]
    client.ack(3)
    packets = [client.receive(), client.receive()]
    assert [(packet.number, len(packet.data)) for packet in packets] == [(4, 512), (5, 0)]
    client.ack(5)
    rack.settle()
    assert client.waiting() == []


def test_an_ack_inside_the_window_moves_and_restarts_from_there(rack: Rack, client: TftpClient) -> None:
    begin(client, windowsize=4)
    numbers(client, 4)
    client.ack(2)
    assert numbers(client, 4) == [3, 4, 5, 6]
    client.ack(2)
    client.ack(1)
    rack.settle()
    assert client.waiting() == [], "duplicates bring nothing"
    client.ack(3)
    assert numbers(client, 4) == [4, 5, 6, 7]
    client.error(0)


@pytest.mark.parametrize("block", [5, 9, 100, 32768, 65535])
def test_an_ack_beyond_the_window_brings_nothing(rack: Rack, client: TftpClient, block: int) -> None:
    begin(client, windowsize=4)
    assert numbers(client, 4) == [1, 2, 3, 4]
    client.ack(block)
    rack.settle()
    assert client.waiting() == []
    client.ack(4)
    assert numbers(client, 4) == [5, 6, 7, 8]
    client.error(0)


@pytest.mark.parametrize("missing", [65_534, 65_535, 0, 1], ids=lambda block: f"block {block} lost")
def test_a_window_across_the_rollover_is_restarted_after_the_ack_inside_it(quick: Rack, missing: int) -> None:
    """65536 is no multiple of 48: the window has blocks 65521 to 65535 and 0 to 32."""
    lost: list[int] = []

    def lose(packet: Packet) -> bool:
        wanted = [missing] if seen[0] > 65_000 else []
        seen[0] += packet.kind == "DATA"
        if packet.kind == "DATA" and packet.number in wanted and not lost:
            lost.append(packet.number)
            return True
        return False

    seen = [0]
    with quick.client() as client:
        fetched = client.fetch("many", lose=lose, blksize=8, windowsize=48)
    assert lost == [missing]
    assert fetched.data == MANY


def test_a_lost_window_comes_again_by_the_deadline(client: TftpClient) -> None:
    begin(client, windowsize=4, timeout=1)
    assert numbers(client, 8) == [1, 2, 3, 4, 1, 2, 3, 4]
    client.ack(4)
    assert numbers(client, 4) == [5, 6, 7, 8]
    client.error(0)


@pytest.mark.parametrize("windowsize", ["0", "65536", "-1", "x", ""])
def test_a_windowsize_out_of_range_is_ignored(client: TftpClient, windowsize: str) -> None:
    client.rrq("kernel", windowsize=windowsize)
    assert client.receive().kind == "DATA"
    client.error(0)


@pytest.mark.parametrize(("asked", "granted"), [(1, 1), (16, 16), (64, 64), (65, 64), (65535, 64)])
def test_the_cap_is_granted_when_more_was_asked_and_never_more_than_asked(
    client: TftpClient, asked: int, granted: int
) -> None:
    client.rrq("kernel", windowsize=asked)
    assert client.receive().options == {"windowsize": str(granted)}
    client.error(0)


@pytest.mark.parametrize("windowsize", [1, 2, 4, 16, 63, 64])
@pytest.mark.parametrize("blksize", [512, 1428, 1468, 8192])
def test_a_file_is_whole_at_any_windowsize(client: TftpClient, windowsize: int, blksize: int) -> None:
    fetched = client.fetch("kernel", windowsize=windowsize, blksize=blksize, tsize=0)
    assert fetched.data == KERNEL
    assert fetched.received == len(KERNEL) // blksize + 1
    assert fetched.acks == -(-fetched.received // windowsize)


def test_a_window_has_at_most_half_of_the_block_numbers() -> None:
    """A late ACK of block 65534 would else be one of block 131070: 65535 blocks that never arrived."""
    with serving({"kernel": KERNEL}, max_windowsize=65535, timeout_s=60) as rack, rack.client() as client:
        client.rrq("kernel", windowsize=65535)
        assert client.receive().options == {"windowsize": "32767"}
        client.error(0)


def test_a_window_larger_than_one_gso_message_is_whole() -> None:
    with (
        serving({"kernel": KERNEL}, max_windowsize=65535, max_blksize=65464, timeout_s=60) as rack,
        rack.client() as client,
    ):
        for options in ({"windowsize": 200, "blksize": 1468}, {"windowsize": 3, "blksize": 65464}, {"windowsize": 999}):
            assert client.fetch("kernel", **options).data == KERNEL


@pytest.mark.parametrize("windowsize", [1, 4, 16, 64])
def test_under_loss_the_file_is_whole_and_the_number_of_packets_bounded(quick: Rack, windowsize: int) -> None:
    rng = random.Random(windowsize)
    lost: list[Packet] = []

    def lose(packet: Packet) -> bool:
        if rng.random() < 0.01:
            lost.append(packet)
            return True
        return False

    with quick.client() as client:
        fetched = client.fetch("kernel", lose=lose, windowsize=windowsize, blksize=1428)
    blocks = len(KERNEL) // 1428 + 1
    assert fetched.data == KERNEL
    assert fetched.received <= blocks + (len(lost) + 1) * windowsize


def test_a_client_that_answers_every_stale_block_starts_no_storm(quick: Rack) -> None:
    """UEFI firmware, windowsize 4, one block lost: resending for each of its ACKs once made 2 million packets."""
    lost = iter([3, 40, 80, 99])
    next_lost = next(lost)

    def lose(packet: Packet) -> bool:
        nonlocal next_lost
        if packet.kind == "DATA" and packet.number == next_lost:
            next_lost = next(lost, -1)
            return True
        return False

    with quick.client() as client:
        fetched = client.fetch("kernel", lose=lose, windowsize=4, blksize=1468)
    assert fetched.data == KERNEL
    assert fetched.received <= 1.2 * (len(KERNEL) // 1468 + 1)


def test_after_a_deadline_an_ack_of_part_of_the_window_does_not_start_it_again(rack: Rack, client: TftpClient) -> None:
    """The client had 3 of 4 and says so when the first comes twice; 4 is on its way, only 5, 6 and 7 are owed."""
    begin(client, windowsize=4, timeout=1)
    assert numbers(client, 8) == [1, 2, 3, 4, 1, 2, 3, 4]
    client.ack(3)
    assert numbers(client, 3) == [5, 6, 7]
    rack.settle()
    assert client.waiting() == []
    client.error(0)

"""RFC 1350, the TFTP protocol: blocks, ACKs, TIDs, errors and silence, over loopback."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
from collections.abc import Iterator

import pytest

from bootplane.core import tftp_load
from tests.fakes.tftp_client import Packet, Rack, TftpClient, serving

KERNEL = os.urandom(10_000)
FILES = {
    "kernel": KERNEL,
    "one": b"1",
    "exact": os.urandom(1024),
    "empty": b"",
    "dir/sub/file": b"below",
}


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    """Its deadlines are too far away to come into it, however slow this machine is."""
    with serving(FILES, timeout_s=60) as rack:
        yield rack


@pytest.fixture(scope="module")
def quick() -> Iterator[Rack]:
    """Its deadlines come soon: whoever talks to it takes repeated packets as they come."""
    with serving(FILES, timeout_s=0.2, retries=4) as rack:
        yield rack


@pytest.fixture
def client(rack: Rack) -> Iterator[TftpClient]:
    with rack.client() as client:
        yield client


def next_block(client: TftpClient, block: int) -> Packet:
    """The DATA with that number, past repetitions of the one before."""
    while (packet := client.receive()).number == block - 1:
        pass
    assert (packet.kind, packet.number) == ("DATA", block)
    return packet


# -- reading a file --------------------------------------------------------------------------------------------------


def test_a_file_arrives_in_blocks_of_512_and_a_shorter_last_one(client: TftpClient) -> None:
    client.rrq("kernel")
    data = b""
    for block in range(1, 21):
        packet = client.receive()
        assert (packet.kind, packet.number) == ("DATA", block)
        assert len(packet.data) == (512 if block < 20 else 10_000 - 19 * 512)
        data += packet.data
        client.ack(block)
    assert data == KERNEL


def test_an_exact_multiple_ends_with_an_empty_block(client: TftpClient) -> None:
    client.rrq("exact")
    sizes = []
    for block in (1, 2, 3):
        sizes.append(len(client.receive().data))
        client.ack(block)
    assert sizes == [512, 512, 0]


def test_an_empty_file_is_one_empty_block(client: TftpClient) -> None:
    client.rrq("empty")
    assert client.receive() == Packet("DATA", 1, b"", {})


def test_mode_octet_is_taken_in_any_case(client: TftpClient) -> None:
    client.rrq("one", mode="OcTeT")
    assert client.receive().data == b"1"


@pytest.mark.parametrize("name", ["/dir/sub/file", "dir//sub/./file", "dir\\sub\\file", "\\dir/sub//file"])
def test_a_name_is_found_however_its_slashes_are_written(client: TftpClient, name: str) -> None:
    client.rrq(name)
    assert client.receive().data == b"below"


def test_a_file_of_more_than_32_MiB_arrives_whole_in_blocks_of_512() -> None:
    """The block number has 16 bits; after 65535 comes 0. No option is asked for."""
    big = os.urandom(512 * 65_540 + 3)
    with serving({"big": big}, timeout_s=60) as rack:
        got = tftp_load.load(
            "127.0.0.1", rack.port, "big", clients=1, transfers=1, blksize=0, tsize=False,
            verify_every=1, sha256=hashlib.sha256(big).hexdigest(), timeout_s=300,
        )  # fmt: skip
        assert (got.verified, got.errors) == (1, 0), got.first_error
        counters = rack.counters()
    assert counters["tftp_data"] - counters["tftp_retransmitted"] == 65_541


# -- acknowledgements and deadlines ----------------------------------------------------------------------------------


def test_a_duplicate_ack_brings_nothing(rack: Rack, client: TftpClient) -> None:
    """The Sorcerer's Apprentice (RFC 1123, 4.2.3.1): resending for it doubles every packet from there on."""
    client.rrq("kernel")
    client.receive()
    client.ack(1)
    assert client.receive().number == 2
    for _ in range(100):
        client.ack(1)
    rack.settle()
    assert client.waiting() == []
    client.ack(2)
    assert client.receive().number == 3


def test_an_ack_of_a_block_that_was_not_sent_brings_nothing(rack: Rack, client: TftpClient) -> None:
    client.rrq("kernel")
    client.receive()
    for block in (0, 2, 3, 65535):
        client.ack(block)
    rack.settle()
    assert client.waiting() == []
    client.ack(1)
    assert client.receive().number == 2


def test_a_lost_block_comes_again_by_the_servers_own_deadline(quick: Rack) -> None:
    with quick.client() as client:
        client.rrq("kernel")
        first = client.receive()
        assert client.receive() == first
        client.ack(1)
        next_block(client, 2)


def test_a_client_that_repeats_its_ack_does_not_put_the_deadline_off(quick: Rack) -> None:
    """PXELINUX repeats its ACK every 0.1 s and more after a loss; a timer that each packet resets would never fire."""
    with quick.client() as client:
        client.rrq("kernel")
        client.receive()
        client.ack(1)
        next_block(client, 2)
        for _ in range(1000):  # faster than the deadline, all the time
            client.ack(1)
            try:
                assert client.receive(patience_s=0.02).number == 2
                return
            except TimeoutError:
                continue
        raise AssertionError("20 s of repeated ACKs, and no deadline")


def test_a_silent_client_is_given_up_after_the_retries(quick: Rack) -> None:
    before = quick.counters()
    with quick.client() as client:
        client.rrq("one")
        quick.until("tftp_timed_out", before["tftp_timed_out"] + 1)
        assert [packet.number for packet in client.waiting()] == [1, 1, 1, 1], "4 deadlines, the last one ends it"
        client.ack(1)
        quick.settle()
        assert client.waiting() == [], "over, and late packets are met with silence"


# -- TIDs ------------------------------------------------------------------------------------------------------------


def test_answers_come_from_a_port_that_is_not_the_request_port_and_stays(rack: Rack, client: TftpClient) -> None:
    client.rrq("kernel")
    client.receive()  # receive() compares every later packet with the first one's port
    assert client.tid is not None
    assert client.tid[1] != rack.port
    client.ack(1)
    assert client.receive().number == 2


def test_a_packet_from_a_wrong_tid_gets_error_5_and_disturbs_nothing(rack: Rack, client: TftpClient) -> None:
    client.rrq("kernel")
    client.receive()
    with rack.client() as stranger:
        stranger.ack(1, to=client.tid)
        packet, source = stranger.receive_from()
        assert (packet.kind, packet.number) == ("ERROR", 5)
        assert source == client.tid
        stranger.tid = client.tid
        stranger.error(0, "die")
        rack.settle()
        assert stranger.waiting() == [], "an ERROR is never answered"
    client.ack(1)
    assert client.receive().number == 2


def test_a_client_port_does_not_meet_the_tid_of_its_last_transfer(rack: Rack, client: TftpClient) -> None:
    tids = []
    for _ in range(6):
        client.rrq("one")
        client.receive()
        client.ack(1)
        tids.append(client.tid)
    assert all(a != b for a, b in itertools.pairwise(tids)), tids


def test_an_ack_to_the_tid_of_its_last_transfer_does_not_move_the_new_one(rack: Rack, client: TftpClient) -> None:
    client.rrq("one")
    client.receive()
    client.ack(1)
    old = client.tid
    client.rrq("kernel")
    assert client.receive().number == 1
    client.ack(1, to=old)
    rack.settle()
    assert client.waiting() == []
    client.ack(1)
    assert client.receive().number == 2


def test_a_late_ack_of_a_finished_transfer_is_met_with_silence(rack: Rack, client: TftpClient) -> None:
    client.rrq("one")
    client.receive()
    client.ack(1)
    client.ack(1)
    rack.settle()
    assert client.waiting() == []


def test_a_request_for_another_name_from_the_same_port_replaces_the_transfer(rack: Rack, client: TftpClient) -> None:
    client.rrq("kernel")
    client.receive()
    old = client.tid
    client.rrq("one")
    assert client.receive().data == b"1"
    assert client.tid != old
    client.ack(1, to=old)  # of the old one, too late
    client.ack(1)
    rack.settle()
    assert client.waiting() == []


# -- errors and silence ----------------------------------------------------------------------------------------------


def test_an_unknown_name_gets_error_1_that_says_the_name(rack: Rack, client: TftpClient) -> None:
    client.rrq("//no/such/kernel")
    assert client.receive() == Packet("ERROR", 1, b"no/such/kernel: no such file", {})


@pytest.mark.parametrize("name", ["../etc/passwd", "a/../../b", "\x1b[2J", "x" * 600, ""])
def test_a_name_that_nobody_can_have_gets_error_1(client: TftpClient, name: str) -> None:
    client.rrq(name)
    packet = client.receive()
    assert (packet.kind, packet.number) == ("ERROR", 1)
    assert packet.data.isascii()
    assert b"\x1b" not in packet.data


def test_a_write_request_gets_error_2(rack: Rack, client: TftpClient) -> None:
    client.send(b"\0\2kernel\0octet\0")
    packet = client.receive()
    assert (packet.kind, packet.number) == ("ERROR", 2)
    assert b"read-only" in packet.data


@pytest.mark.parametrize("mode", ["netascii", "mail", "binary"])
def test_any_mode_but_octet_gets_error_0_that_says_so(client: TftpClient, mode: str) -> None:
    client.rrq("kernel", mode=mode)
    assert client.receive() == Packet("ERROR", 0, b"only mode octet is served", {})


MALFORMED = [
    b"", b"\0", b"\0\1", b"\0\1kernel", b"\0\1kernel\0octet", b"\0\1kernel\0octet\0blksize\0", b"\0\7x\0octet\0",
    b"\0\4\0\1", b"\0\5\0\0\0", b"\0\3\0\1data", b"\xff" * 600, b"\0\1" + b"a" * 1500 + b"\0octet\0",
]  # fmt: skip


def test_a_malformed_request_is_counted_and_met_with_silence(rack: Rack, client: TftpClient) -> None:
    before = rack.counters()
    for packet in MALFORMED:
        client.send(packet)
    after = rack.counters()
    assert client.waiting() == []
    assert after["tftp_malformed"] - before["tftp_malformed"] == len(MALFORMED)
    assert after["tftp_errors"] == before["tftp_errors"]


def test_a_malformed_packet_to_a_tid_is_counted_and_disturbs_nothing(rack: Rack, client: TftpClient) -> None:
    client.rrq("kernel")
    client.receive()
    before = rack.counters()
    bad = [b"", b"\0", b"\0\4", b"\0\4\0", b"\0\1kernel\0octet\0", b"\0\6", b"\0\3\0\1data", b"\xff" * 100]
    for packet in bad:
        client.send(packet, to=client.tid)
    rack.settle()
    assert client.waiting() == []
    assert rack.counters()["tftp_malformed"] - before["tftp_malformed"] == len(bad)
    client.ack(1)
    assert client.receive().number == 2


def test_the_clients_error_ends_the_transfer(rack: Rack, client: TftpClient) -> None:
    before = rack.counters()
    client.rrq("kernel")
    client.receive()
    client.error(3, "disk full")
    client.ack(1)
    after = rack.counters()
    assert client.waiting() == []
    assert after["tftp_aborted"] - before["tftp_aborted"] == 1


def test_a_client_whose_port_is_closed_ends_by_icmp(quick: Rack) -> None:
    before = quick.counters()
    with quick.client() as client:
        client.rrq("kernel", blksize=8, windowsize=4, timeout=1)
        client.receive()
        client.ack(0)  # the answer, or at the latest its repetition, meets a closed port
    after = quick.until("tftp_aborted", before["tftp_aborted"] + 1)
    assert after["tftp_timed_out"] == before["tftp_timed_out"]


# -- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bind", "v6only", "asked"),
    [("0.0.0.0", True, "127.0.0.1"), ("0.0.0.0", True, "127.7.7.7"), ("::", False, "127.7.7.8"), ("::", True, "::1")],
)
def test_answers_leave_from_the_address_that_was_asked(bind: str, v6only: bool, asked: str) -> None:
    with serving({"kernel": KERNEL}, bind=bind, v6only=v6only) as rack:
        server = (asked, rack.port)
        with TftpClient(server) as client:
            fetched = client.fetch("kernel", blksize=100, windowsize=8)
            assert fetched.data == KERNEL
            assert client.tid is not None
            assert client.tid[0] == asked
            client.rrq("nobody has this")
            packet, source = client.receive_from()
            assert (packet.number, source[0]) == (1, asked)


@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
def test_a_request_to_a_broadcast_address_is_ignored(bind: str) -> None:
    """RFC 1123, 4.2.3.5: else every server on the link would answer."""
    with serving({"kernel": KERNEL}, bind=bind, v6only=False) as rack, TftpClient(("127.0.0.1", rack.port)) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.send(b"\0\1kernel\0octet\0", to=("127.255.255.255", rack.port))
        rack.settle()
        assert client.waiting() == []
        assert rack.counters()["tftp_malformed"] == 1

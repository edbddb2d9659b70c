"""RFC 2347, option negotiation: OACK for what was asked, silence about the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fakes.tftp_client import Packet, Rack, TftpClient, serving

KERNEL = os.urandom(10_000)


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    with serving({"kernel": KERNEL, "empty": b""}, timeout_s=60) as rack:
        yield rack


@pytest.fixture
def client(rack: Rack) -> Iterator[TftpClient]:
    with rack.client() as client:
        yield client


def test_without_options_there_is_no_oack(client: TftpClient) -> None:
    client.rrq("kernel")
    assert client.receive().kind == "DATA"


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ({"blksize": 1024}, {"blksize": "1024"}),
        ({"tsize": 0}, {"tsize": "10000"}),
        ({"timeout": 3}, {"timeout": "3"}),
        ({"windowsize": 4}, {"windowsize": "4"}),
        ({"tsize": 0, "blksize": 1468, "windowsize": 4}, {"tsize": "10000", "blksize": "1468", "windowsize": "4"}),
        ({"WINDOWSIZE": 2, "BlkSize": 512}, {"windowsize": "2", "blksize": "512"}),
        ({"multicast": "", "blksize": 600, "rollover": 1}, {"blksize": "600"}),
    ],
)
def test_an_oack_grants_what_was_asked_and_nothing_else(
    client: TftpClient, asked: dict[str, object], granted: dict[str, str]
) -> None:
    client.rrq("kernel", **asked)
    assert client.receive() == Packet("OACK", 0, b"", granted)


def test_of_an_option_that_stands_twice_the_first_counts(client: TftpClient) -> None:
    """RFC 2347, "Packet Formats": an option may only be specified once. Names are the same in any case."""
    client.send(b"\0\1kernel\0octet\0blksize\x00600\0tsize\x000\0BLKSIZE\x00700\0")
    assert client.receive() == Packet("OACK", 0, b"", {"blksize": "600", "tsize": "10000"})


@pytest.mark.parametrize("options", [{"multicast": ""}, {"blksize": "lots"}, {"timeout": 0, "windowsize": 0}])
def test_when_no_option_is_usable_data_follows_as_if_none_had_been_asked(
    client: TftpClient, options: dict[str, object]
) -> None:
    client.rrq("kernel", **options)
    packet = client.receive()
    assert (packet.kind, packet.number, len(packet.data)) == ("DATA", 1, 512)


def test_data_begins_after_ack_0_and_after_nothing_else(rack: Rack, client: TftpClient) -> None:
    client.rrq("kernel", tsize=0)
    client.receive()
    for block in (1, 2, 65535):
        client.ack(block)
    rack.settle()
    assert client.waiting() == []
    client.ack(0)
    assert client.receive().number == 1


def test_a_second_ack_0_brings_nothing(rack: Rack, client: TftpClient) -> None:
    client.rrq("kernel", tsize=0)
    client.receive()
    client.ack(0)
    client.ack(0)
    client.ack(0)
    rack.settle()
    assert [packet.number for packet in client.waiting()] == [1]


def test_error_8_after_the_oack_ends_it_in_silence(rack: Rack, client: TftpClient) -> None:
    """The size probe of UEFI firmware: it has its tsize and wants no more."""
    before = rack.counters()
    client.rrq("kernel", tsize=0)
    client.receive()
    client.error(8, "User aborted the transfer")
    client.ack(0)
    after = rack.counters()
    assert client.waiting() == []
    assert after["tftp_aborted"] - before["tftp_aborted"] == 1
    assert after["tftp_errors"] == before["tftp_errors"]


def test_a_lost_oack_comes_again_by_the_deadline(client: TftpClient) -> None:
    client.rrq("kernel", blksize=1000, timeout=1)
    first = client.receive()
    assert client.receive() == first
    client.ack(0)
    while (packet := client.receive()) == first:
        pass
    assert packet.number == 1


def test_a_repeated_request_is_the_same_transfer_and_brings_one_oack_more(rack: Rack, client: TftpClient) -> None:
    before = rack.counters()
    options = {"tsize": 0}
    client.rrq("kernel", **options)
    oack = client.receive()
    for _ in range(10):
        client.repeat("kernel", **options)
    after = rack.counters()
    assert client.waiting() == [oack], "at most once per deadline, and from the same TID"
    assert after["tftp_requests"] - before["tftp_requests"] == 1
    assert after["tftp_repeated"] - before["tftp_repeated"] == 10


def test_a_repeated_request_after_ack_0_brings_nothing(rack: Rack, client: TftpClient) -> None:
    options = {"tsize": 0}
    client.rrq("kernel", **options)
    client.receive()
    client.ack(0)
    assert client.receive().number == 1
    client.repeat("kernel", **options)
    rack.settle()
    assert client.waiting() == []


def test_the_same_name_with_other_options_is_a_new_transfer(rack: Rack, client: TftpClient) -> None:
    client.rrq("kernel", tsize=0)
    assert client.receive().options == {"tsize": "10000"}
    old = client.tid
    client.rrq("kernel", blksize=1000)
    assert client.receive().options == {"blksize": "1000"}
    assert client.tid != old


def test_a_client_that_begins_anew_after_falling_silent_is_served_from_the_start(
    rack: Rack, client: TftpClient
) -> None:
    """A machine that was reset asks again from the same port: GRUB's ports are the same on every boot."""
    client.rrq("kernel", timeout=1)
    client.receive()
    client.ack(0)
    client.receive()
    client.ack(1)
    assert client.receive().number == 2
    assert client.receive().number == 2, "a deadline has passed"
    client.rrq("kernel", timeout=1)
    while (packet := client.receive_from()[0]).kind == "DATA":
        pass
    assert packet.kind == "OACK"
    rack.settle()
    client.ack(0)


def test_options_are_negotiated_for_an_empty_file_too(client: TftpClient) -> None:
    client.rrq("empty", tsize=0, blksize=1024)
    assert client.receive().options == {"tsize": "0", "blksize": "1024"}
    client.ack(0)
    assert client.receive() == Packet("DATA", 1, b"", {})

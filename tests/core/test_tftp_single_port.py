"""The TFTP service with every packet on the request port: for firewalls that let that one through and no other."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator

import pytest

from bootplane.core import tftp_load
from tests.fakes.tftp_client import Rack, serving

KERNEL = os.urandom(100_000)
FILES = {"kernel": KERNEL, "one": b"1", "empty": b""}


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::1", "::"])
def rack(request: pytest.FixtureRequest) -> Iterator[Rack]:
    with serving(FILES, bind=request.param, single_port=1, timeout_s=60) as rack:
        yield rack


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("options", [{}, {"blksize": 1428, "windowsize": 16}], ids=["plain", "windows"])
def test_every_packet_of_a_transfer_comes_from_the_request_port(rack: Rack, name: str, options: dict[str, int]) -> None:
    with rack.client() as client:
        assert client.fetch(name, **options).data == FILES[name]
        assert client.tid == rack.address


def test_one_client_port_fetches_file_after_file(rack: Rack) -> None:
    with rack.client() as client:
        for name in ("one", "kernel", "one", "empty", "kernel"):
            assert client.fetch(name).data == FILES[name]
    assert rack.counters()["tftp_completed"] == 5


def test_what_belongs_to_no_transfer_gets_error_5_and_disturbs_nothing(rack: Rack) -> None:
    with rack.client() as client, rack.client() as stranger:
        client.rrq("kernel")
        assert client.receive().number == 1
        stranger.ack(1, to=rack.address)
        packet, source = stranger.receive_from()
        assert (packet.kind, packet.number, source) == ("ERROR", 5, rack.address)
        client.ack(1)
        assert client.receive().number == 2


def test_a_client_whose_port_is_closed_ends_by_icmp() -> None:
    with serving(FILES, single_port=1, timeout_s=0.2, retries=50) as rack:
        with rack.client() as client:
            client.rrq("kernel")
            client.receive()
        rack.until("tftp_aborted", 1)


def test_many_clients_at_once_each_get_the_whole_file() -> None:
    with serving(FILES, single_port=1) as rack:
        got = tftp_load.load(
            "127.0.0.1", rack.port, "kernel", clients=100, transfers=300, windowsize=4,
            verify_every=1, sha256=hashlib.sha256(KERNEL).hexdigest(),
        )  # fmt: skip
        assert (got.requests, got.verified, got.errors) == (300, 300, 0), got.first_error


def test_the_request_socket_stays_the_callers() -> None:
    with serving(FILES, single_port=1) as rack:
        rack.reactor.stop()
        assert rack.socket.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM

"""How the TFTP service as a whole begins, is full, drains and stops, and where each transfer is counted."""

from __future__ import annotations

import os
import pathlib
import random
import select
import socket
import time

import pytest

from bootplane.core.blob import Blob
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table
from tests.fakes.tftp_client import PATIENCE_S, TftpClient, serving

KERNEL = os.urandom(10_000)
FILES = {"kernel": KERNEL, "exact": KERNEL[:1024]}


def turn(reactor: Reactor) -> None:
    """Returns when the reactor has read the mails sent before this call."""
    end = time.monotonic() + PATIENCE_S
    mark = reactor.ping()
    while not reactor.has_read(mark):
        assert time.monotonic() < end, f"mails unread after {PATIENCE_S} s"
        select.select([], [], [], 0.001)


def heard(client: TftpClient) -> None:
    """A transfer whose client has acknowledged a block."""
    client.rrq("kernel")
    assert client.receive().number == 1
    goes_on(client, 2)


def goes_on(client: TftpClient, block: int) -> None:
    """Acknowledges the one before *block*, and gets it, behind what was sent again meanwhile."""
    client.ack(block - 1)
    while (packet := client.receive()).number != block:
        assert (packet.kind, packet.number) == ("DATA", block - 1)


def comes_in(client: TftpClient) -> None:
    """Asks until a place is free for it."""
    end = time.monotonic() + PATIENCE_S
    client.rrq("kernel")
    while client.receive().kind == "ERROR":
        assert time.monotonic() < end, f"no place in {PATIENCE_S} s"
        select.select([], [], [], 0.01)
        client.rrq("kernel")


def test_before_the_first_snapshot_requests_are_met_with_silence_so_that_firmware_asks_again() -> None:
    with serving({}, publish=False) as rack, rack.client() as client:
        client.rrq("kernel")
        rack.settle()
        assert client.waiting() == []
        rack.publish({"kernel": KERNEL})
        rack.settle()
        client.repeat("kernel")
        assert client.receive().number == 1


def test_above_the_limit_of_transfers_error_0_says_to_try_again() -> None:
    with serving(FILES, max_transfers=2) as rack:
        clients = [rack.client() for _ in range(3)]
        for client in clients[:2]:
            heard(client)
        clients[2].rrq("kernel")
        packet = clients[2].receive()
        assert (packet.kind, packet.number) == ("ERROR", 0)
        assert b"try again" in packet.data
        clients[0].error(0)
        rack.settle()
        clients[2].rrq("kernel")
        assert clients[2].receive().kind == "DATA"
        for client in clients:
            client.socket.close()


def test_a_request_without_an_ack_leaves_its_place_to_another_and_transfers_that_run_stay() -> None:
    with serving(FILES, max_transfers=2) as rack, rack.client() as running, rack.client() as liar:
        heard(running)
        liar.rrq("kernel")
        assert liar.receive().kind == "DATA"
        with rack.client() as late, rack.client() as last:
            comes_in(late)
            assert liar.receive()[:2] == ("ERROR", 0)
            goes_on(late, 2)
            last.rrq("kernel")
            assert last.receive()[:2] == ("ERROR", 0), "of two that were heard neither leaves"
            goes_on(running, 3)
            outcomes = [(record.peer, record.outcome, record.status) for record in rack.reactor.records()]
            assert (liar.address, "refused", 0) in outcomes and outcomes[-1] == (last.address, "refused", 0)


def test_a_question_to_python_without_a_client_leaves_its_place_too() -> None:
    with serving(FILES, max_transfers=1) as rack, rack.client() as liar, rack.client() as late:
        liar.rrq("grub/grub.cfg")
        asked = rack.mail()
        comes_in(late)
        rack.reactor.answer(asked[0][1], Blob.memory(b"nobody is there for it"))
        goes_on(late, 2)
        assert [packet[:2] for packet in liar.waiting()] == [("ERROR", 0)]


def test_a_flood_of_requests_keeps_nobody_out() -> None:
    """Each liar asks from an address of its own, and again when it was turned out."""
    with serving(FILES, max_transfers=50) as rack, rack.client() as machine:
        liars = [rack.client() for _ in range(100)]
        dice = random.Random(7)
        end = time.monotonic() + PATIENCE_S
        packet = None
        while packet is None or packet.kind == "ERROR":
            assert time.monotonic() < end, f"no place in {PATIENCE_S} s"
            for client in dice.sample([*liars, machine], 101):
                client.rrq("kernel")
            packet = machine.receive()
        assert packet.number == 1
        for block in range(2, 20):
            for liar in liars:
                liar.rrq("exact")
            goes_on(machine, block)
        for liar in liars:
            liar.socket.close()


def test_draining_finishes_transfers_and_leaves_new_requests_to_whoever_has_the_socket_next() -> None:
    with serving(FILES) as rack, rack.client() as running, rack.client() as late:
        running.rrq("exact")
        running.receive()
        rack.reactor.drain()
        turn(rack.reactor)
        late.rrq("exact")
        running.ack(1)
        assert running.receive().number == 2
        assert rack.reactor.take() == []
        running.ack(2)
        assert running.receive().number == 3
        running.ack(3)
        assert rack.mail() == [("drained",)]
        assert late.waiting() == []
        assert rack.socket.recv(600) == b"\0\1exact\0octet\0"


def test_draining_goes_on_with_a_single_port() -> None:
    with serving(FILES, single_port=1) as rack, rack.client() as running, rack.client() as late:
        running.rrq("exact")
        running.receive()
        rack.reactor.drain()
        turn(rack.reactor)
        late.rrq("exact")
        for block in (1, 2):
            running.ack(block)
            assert running.receive().number == block + 1
        running.ack(3)
        assert rack.mail() == [("drained",)]
        assert late.waiting() == []


@pytest.mark.parametrize("single_port", [0, 1])
def test_a_request_that_is_held_waits_in_its_socket_for_the_first_snapshot(single_port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        reactor = Reactor(tftp=[sock.fileno()], tftp_options={"hold": 1, "single_port": single_port})
        reactor.start()
        try:
            with TftpClient(sock.getsockname()) as client:
                client.rrq("exact")
                turn(reactor)
                assert client.waiting() == []
                reactor.publish(Table({"exact": Blob.memory(FILES["exact"])}, 1))
                assert client.receive().number == 1
        finally:
            reactor.stop()


def test_stopping_in_the_middle_leaves_no_descriptor_behind() -> None:
    def descriptors() -> int:
        return len(list(pathlib.Path("/proc/self/fd").iterdir()))

    with serving(FILES) as rack, rack.client() as client:
        client.rrq("kernel")
        client.receive()
    del rack
    before = descriptors()
    for _ in range(3):
        with serving(FILES) as rack, rack.client() as client:
            client.rrq("kernel")
            client.receive()
        del rack
    assert descriptors() <= before


def test_every_transfer_ends_in_one_counter() -> None:
    with serving(FILES, timeout_s=60, retries=2) as rack, rack.client() as client:
        assert client.fetch("kernel").data == KERNEL
        client.rrq("kernel")
        client.receive()
        client.error(0)
        client.rrq("kernel", timeout=1)
        client.receive()
        client.ack(0)
        counters = rack.until("tftp_timed_out", 1)
        ends = ("tftp_completed", "tftp_aborted", "tftp_timed_out")
        assert [counters[end] for end in ends] == [1, 1, 1]
        assert counters["tftp_requests"] == counters["hits"] + counters["misses"] + counters["coalesced"] == 3
        assert counters["lookups"] == counters["names_found"] == 3
        assert (counters["tftp_data"], counters["tftp_retransmitted"]) == (20 + 1 + 2, 1)
        assert counters["tftp_data_bytes"] == 10_000 + 3 * 512

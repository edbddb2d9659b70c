"""Who leaves when places or descriptors run out: nobody is refused while a place is held and not used."""

from __future__ import annotations

import os
import resource
import select
import socket
import time
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from tests.fakes.http_client import Client, nothing_left, rack

SMALL = b"0123456789"
HOST = b" HTTP/1.1\r\nHost: rack\r\n\r\n"
LARGE = os.urandom(16 << 20)


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


def small() -> Blob:
    return Blob.memory(SMALL, dynamic=False)


def large() -> Blob:
    return Blob.memory(LARGE, dynamic=False)


def test_the_one_idle_longest_leaves_for_who_comes() -> None:
    with rack({"small": small()}, max_connections=4) as it:
        clients = []
        for n in range(12):
            clients.append(it.client())
            assert clients[-1].get("/small").body == SMALL
            if n >= 4:
                assert clients[n - 4].end() == "closed"
        assert (it.count("http_shed"), it.count("http_refused")) == (8, 0)
        for client in clients[-4:]:
            assert client.get("/small").body == SMALL
        for client in clients:
            client.socket.close()


def test_who_has_used_its_connection_since_is_not_the_one_idle_longest() -> None:
    with rack({"small": small()}, max_connections=4) as it:
        clients = [it.client() for _ in range(4)]
        for client in [*clients, clients[0]]:
            assert client.get("/small").body == SMALL
        with it.client() as one_more:
            assert one_more.get("/small").body == SMALL
            assert clients[1].end() == "closed"
            assert clients[0].get("/small").body == SMALL
        for client in clients:
            client.socket.close()


def test_idle_connections_of_one_network_keep_no_machine_from_booting() -> None:
    with rack({"small": small()}, max_connections=300, max_per_address=8) as it:
        idle = []
        for n in range(600):
            sock = socket.socket()
            sock.bind((f"127.0.7.{n % 200 + 1}", 0))
            sock.connect(("127.0.0.1", it.port))
            idle.append(sock)
        for _ in range(20):
            assert it.get("/small").body == SMALL
        assert it.count("http_refused") == 0
        for sock in idle:
            sock.close()


def test_unfinished_heads_leave_after_a_second_and_before_anybody_is_refused_for_long() -> None:
    with rack({"small": small()}, max_connections=8, head_timeout_s=3600) as it:
        slow = [it.client().send(b"GET /sma") for _ in range(8)]
        deadline = time.monotonic() + 20
        while (answer := it.get("/small")).status == 503:
            assert answer.headers["Retry-After"] == "1"
            assert time.monotonic() < deadline
        assert answer.body == SMALL
        assert slow[0].end() in ("closed", "reset")
        for client in slow:
            client.socket.close()


def test_for_want_of_a_descriptor_one_that_was_idle_for_a_second_leaves() -> None:
    with rack({"small": small()}) as it, it.client() as idle:
        assert idle.get("/small").body == SMALL
        waiting = socket.socket()
        waiting.settimeout(20)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
        try:
            waiting.connect(("127.0.0.1", it.port))
            waiting.sendall(b"GET /small HTTP/1.0\r\n\r\n")
            assert waiting.recv(100).startswith(b"HTTP/1.1 200 ")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        waiting.close()
        assert idle.end() == "closed"
        assert it.count("http_shed") == 1


# -- readers ----------------------------------------------------------------------------------------------------------


def read_slowly(client: Client, bytes_s: int, seconds: float) -> int:
    """Takes *bytes_s* for that long; returns how many it got. Waits pace the load."""
    began, got = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        if got > passed * bytes_s:
            select.select([], [], [], 0.02)
            continue
        block = client.socket.recv(2048)
        assert block, f"cut after {got} bytes"
        got += len(block)
    return got


def test_a_reader_of_10_kb_a_second_is_never_cut_however_large_the_buffers_are() -> None:
    # the timeout is short, and not shorter than what TCP itself takes to tell of a window of 4 KiB
    with rack({"large": large()}, send_timeout_s=3) as it, it.client(receive_buffer=4096) as client:
        client.send(b"GET /large" + HOST).head()
        assert read_slowly(client, 10_000, 7) > 60_000
        assert it.count("http_cut") == 0
        client.abort()
        it.wait_for("http_closed", 1)


def test_a_reader_that_takes_nothing_is_reset() -> None:
    with rack({"large": large()}, send_timeout_s=0.8) as it, it.client(receive_buffer=4096) as client:
        client.send(b"GET /large" + HOST).head()
        it.wait_for("http_closed", 1)
        assert client.rest()[1] == "reset"
        assert it.count("http_cut") == 1


@pytest.mark.parametrize("places", [8, 4096])
def test_readers_that_take_next_to_nothing_are_reset_only_while_places_are_short(places: int) -> None:
    with rack({"large": large(), "small": small()}, max_connections=places, min_over_s=1) as it:
        readers = [it.client(receive_buffer=4096).send(b"GET /large" + HOST) for _ in range(8)]
        for reader in readers:
            reader.head()
        fast = readers.pop()
        read_slowly(fast, 40_000, 3.5)
        if places == 8:
            it.wait_for("http_shed", 2)  # or more, of those that one look finds too slow; with two gone there is place
            assert it.get("/small").body == SMALL
            assert it.count("http_shed") <= 7
        else:
            assert (it.count("http_shed"), it.count("http_cut")) == (0, 0)
        read_slowly(fast, 40_000, 0.3)
        for client in [*readers, fast]:
            client.abort()
        it.wait_for("http_closed", it.count("http_connections"))

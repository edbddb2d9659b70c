"""Shares over HTTP: a real reactor, greedy clients from several networks of loopback. Counted are bytes, not time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import pathlib
import socket
import stat
import time
from collections.abc import Iterator

import pytest

from bootplane.core import http_fetch
from bootplane.core.blob import Blob
from bootplane.core.shares import Group, Shares
from bootplane.core.status import CoreError
from bootplane.core.table import Table
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.reactors import Reactors, address_of, open_http
from tests.fakes.http_client import Client, nothing_left, rack
from tests.fakes.tls import tls_rack

MB = 1_000_000
HOST = b" HTTP/1.1\r\nHost: rack\r\n\r\n"
LARGE = os.urandom(16 << 20) * 8
A, B = Group("a", ("127.0.1.0/24",)), Group("b", ("127.0.2.0/24",))
GREEDY = 15


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


def table(*groups: Group, total: int = 0) -> Shares:
    shares = Shares()
    shares.set(groups, total)
    return shares


def until(shares: Shares, name: str, sent: int) -> None:
    deadline = time.monotonic() + 20
    while shares.counts()[name][0] < sent:
        assert time.monotonic() < deadline, shares.counts()
        time.sleep(0.001)


@contextlib.contextmanager
def greedy(port: int, shares: Shares) -> Iterator[None]:
    """Fifteen clients of the first group that want all there is, cut at the end by the rack's."""

    def one(n: int) -> None:
        with contextlib.suppress(CoreError, OSError):
            http_fetch.fetch("127.0.0.1", port, "/large", source=f"127.0.1.{n + 1}", verify=False)

    before = shares.counts()["a"][0] if "a" in shares.counts() else 0
    with concurrent.futures.ThreadPoolExecutor(GREEDY) as pool:
        for n in range(GREEDY):
            pool.submit(one, n)
        if "a" in shares.counts():
            until(shares, "a", before + 4 * MB)
        yield


def ratio(port: int, shares: Shares, size: int) -> float:
    """What the one client of b got, over what the group a got meanwhile."""
    before = shares.counts()
    fetched = http_fetch.fetch("127.0.0.1", port, "/large", end=size - 1, source="127.0.2.1")
    after = shares.counts()
    assert fetched.size == size
    return (after["b"][0] - before["b"][0]) / (after["a"][0] - before["a"][0])


def test_one_client_gets_the_share_of_its_group_whatever_fifteen_others_want() -> None:
    shares = table(A, B, total=60 * MB)
    large = Blob.memory(LARGE, dynamic=False)
    with rack({"large": large}, shares=shares) as it, greedy(it.port, shares):
        assert ratio(it.port, shares, 24 * MB) == pytest.approx(1, rel=0.1)
        shares.set([A, B._replace(weight=3)], 60 * MB)  # while all of them run
        assert ratio(it.port, shares, 30 * MB) == pytest.approx(3, rel=0.1)
        it.reactor.stop()
    assert {name: waiting for name, (_, waiting) in shares.counts().items()} == {"a": 0, "b": 0, "others": 0}


def test_without_groups_it_is_turn_by_turn() -> None:
    shares = table(total=60 * MB)
    large = Blob.memory(LARGE, dynamic=False)
    with rack({"large": large}, shares=shares) as it, greedy(it.port, shares):
        until(shares, "others", 10 * MB)
        before = shares.counts()["others"][0]
        http_fetch.fetch("127.0.0.1", it.port, "/large", end=4 * MB - 1, source="127.0.2.1")
        assert (shares.counts()["others"][0] - before) / (4 * MB) == pytest.approx(GREEDY + 1, rel=0.25)
        it.reactor.stop()


def test_a_cap_and_its_end_while_clients_wait() -> None:
    shares = table(A._replace(cap_bytes_s=64_000))
    large = Blob.memory(LARGE, dynamic=False)
    with rack({"large": large, "small": Blob.memory(b"small", dynamic=False)}, shares=shares) as it:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            slow = [
                pool.submit(http_fetch.fetch, "127.0.0.1", it.port, "/large", end=8 * MB, source=f"127.0.1.{n + 1}")
                for n in range(4)
            ]
            until(shares, "a", 1)
            assert it.get("/small").body == b"small", "who is in another group waits for nobody"
            assert http_fetch.fetch("127.0.0.1", it.port, "/large", end=8 * MB).size == 8 * MB + 1
            assert shares.counts()["a"][0] < 2 * MB
            shares.set([])
            assert {fetch.result().size for fetch in slow} == {8 * MB + 1}
        assert it.count("http_cut") == 0


def pace_of(client: Client) -> int:
    """SO_MAX_PACING_RATE of the server's end of the client's TCP connection, which is in this process."""
    for path in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(path.stat().st_mode):
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as end:
                if end.getpeername() == client.socket.getsockname():
                    return int.from_bytes(end.getsockopt(socket.SOL_SOCKET, 47, 8), "little")
    raise AssertionError("no such connection")


def test_a_pace_is_set_on_the_connections_of_its_group_and_taken_back() -> None:
    shares = table(Group("slow", ("127.0.0.0/24",), pace_bytes_s=5 * MB))
    large = Blob.memory(LARGE, dynamic=False)
    with rack({"large": large}, shares=shares) as it, it.client() as client:
        part = b"GET /large HTTP/1.1\r\nHost: r\r\nRange: bytes=0-999999\r\n\r\n"
        assert len(client.send(part).response().body) == MB
        assert pace_of(client) == 5 * MB
        shares.set([A])
        assert len(client.send(part).response().body) == MB
        assert pace_of(client) == 2**64 - 1
        shares.set([Group("slow", ("127.0.0.0/24",), pace_bytes_s=5 * MB)])
        assert len(client.send(part).response().body) == MB
        shares.set([])
        assert len(client.send(part).response().body) == MB
        assert pace_of(client) == 2**64 - 1


def test_a_pace_is_that_of_small_answers_too_which_may_follow_a_large_one_still_on_its_way() -> None:
    shares = table(Group("slow", ("127.0.0.0/24",), pace_bytes_s=5 * MB))
    names = {"large": Blob.memory(LARGE, dynamic=False), "small": Blob.memory(b"small", dynamic=False)}
    with rack(names, shares=shares) as it, it.client() as client:
        assert len(client.get("/large", "Range: bytes=0-999999").body) == MB
        assert client.get("/small").body == b"small"
        assert pace_of(client) == 5 * MB


def test_a_pace_on_https_is_taken_back_from_the_clients_own_socket() -> None:
    shares = table(Group("slow", ("127.0.0.0/24",), pace_bytes_s=5 * MB))
    large = Blob.memory(LARGE, dynamic=False)
    with tls_rack({"large": large}, shares=shares) as it, it.client() as client:
        assert len(client.get("/large", "Range: bytes=0-999999").body) == MB
        assert pace_of(client) == 5 * MB
        shares.set([])
        assert len(client.get("/large", "Range: bytes=0-999999").body) == MB
        assert pace_of(client) == 2**64 - 1


async def test_a_share_is_one_of_all_reactors_together() -> None:
    shares = table(A, B, total=60 * MB)
    sockets = open_http(HostPort("127.0.0.1", 0), 2)
    port = address_of(sockets[0]).port
    group = Reactors(sockets, http_options={"shares": shares})
    group.start()
    group.publish(Table({"large": Blob.memory(LARGE, dynamic=False)}, 1))

    def measured() -> float:
        with greedy(port, shares):
            found = ratio(port, shares, 24 * MB)
            group.stop()
            return found

    assert await asyncio.to_thread(measured) == pytest.approx(1, rel=0.1)

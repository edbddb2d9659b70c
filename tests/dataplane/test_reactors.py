from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from bootplane.core import http_fetch
from bootplane.core.blob import Blob
from bootplane.core.table import Table
from bootplane.dataplane import reactors
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.reactors import ListenError, Reactors, address_of, open_http, open_tftp

LOOPBACK = HostPort("127.0.0.1", 0)


@pytest.mark.parametrize("opener", [open_http, open_tftp])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", ""])
def test_sockets_share_one_port(opener: Any, count: int, host: str) -> None:
    sockets = opener(HostPort(host, 0), count)
    assert len(sockets) == count
    assert len({address_of(sock) for sock in sockets}) == 1
    assert address_of(sockets[0]).port > 0
    for sock in sockets:
        assert not sock.getblocking()
        sock.close()


@pytest.mark.parametrize("opener", [open_http, open_tftp])
@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_a_port_somebody_has_is_an_error_and_never_shared(opener: Any, first: int, second: int) -> None:
    sockets = opener(LOOPBACK, first)
    taken = address_of(sockets[0])
    with pytest.raises(ListenError, match=f"address {taken}: expected a free one, got one already in use"):
        opener(taken, second)
    for sock in sockets:
        sock.close()


def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(ListenError, match=r"HTTP address 192\.0\.2\.1:80: expected a free one, got Cannot assign"):
        open_http(HostPort("192.0.2.1", 80), 1)
    with pytest.raises(ListenError, match=r"TFTP address nowhere\.invalid:80: expected a local address, got "):
        open_tftp(HostPort("nowhere.invalid", 80), 1)


def test_port_69_without_the_right_to_it_becomes_6969_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = reactors._bind

    def strict(family: int, kind: socket.SocketKind, place: Any, *, shared: bool) -> socket.socket:
        if place[1] == 69:
            raise PermissionError(13, "Permission denied")
        return real(family, kind, (place[0], 0), shared=shared)

    monkeypatch.setattr(reactors, "_bind", strict)
    for sock in open_tftp(HostPort("127.0.0.1", 69), 1):
        sock.close()
    assert [record.message for record in caplog.records] == [
        "TFTP: no right to listen on port 69; listening on 6969 instead"
    ]
    with pytest.raises(ListenError, match="Permission denied"):
        open_http(HostPort("127.0.0.1", 69), 1)


def test_the_wildcard_hears_ipv4_too() -> None:
    (sock,) = open_http(HostPort("", 0), 1)
    with socket.create_connection(("127.0.0.1", address_of(sock).port), timeout=10):
        sock.close()


async def test_reactors_serve_say_what_they_miss_and_drain() -> None:
    sockets = open_http(LOOPBACK, 2)
    place = address_of(sockets[0])
    group = Reactors(sockets, park_limit_s=20)
    group.start()
    loop = asyncio.get_running_loop()
    asked: list[tuple[Any, ...]] = []

    def ask(reactor: int, mail: tuple[Any, ...]) -> None:
        asked.append(mail[2:4])
        group.answer(reactor, mail[1], Blob.memory(b"for you\n"))

    def broken(reactor: int, mail: tuple[Any, ...]) -> None:
        raise ZeroDivisionError("a fault of ours")

    group.attach(loop, {"ask": ask, "handover": broken, "miss": broken})
    group.publish(Table({"hello": Blob.memory(b"hello\n", dynamic=False)}, 1))

    def get(path: str) -> bytes:
        return http_fetch.fetch(place.host, place.port, path, keep=True).body

    deadline = time.monotonic() + 20
    while await loop.run_in_executor(None, get, "/hello") != b"hello\n":  # until each reactor has the snapshot
        assert time.monotonic() < deadline
    assert await loop.run_in_executor(None, get, "/ipxe.cfg") == b"for you\n"
    assert asked == [("http", "ipxe.cfg")]
    assert group.counters()["http_ok"] >= 2
    assert len(group) == 2
    assert await group.drain(20)
    group.detach(loop)
    group.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, timeout=5)


def test_a_thread_that_reads_its_mails_turns_however_many_come_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watchdog that counts what is unread would end a rack for being busy: each chunk that is filled is a mail."""
    group = Reactors(open_http(LOOPBACK, 1))

    class Busy:
        alive, posted, read = True, 0, 0

        def ping(self) -> int:
            self.posted += 1
            return self.posted

        def has_read(self, mark: int) -> bool:
            return self.read >= mark

    busy = Busy()
    with monkeypatch.context() as replaced:
        replaced.setattr(group, "_reactors", [busy])
        for _ in range(3):
            assert group.are_turning()
            busy.read, busy.posted = busy.posted, busy.posted + 100
        assert group.are_turning()
        assert not group.are_turning()  # nothing was read since
        busy.read = busy.posted
        assert group.are_turning()
        busy.alive = False
        assert not group.are_turning()
    group.stop()


def test_a_thread_turns_from_its_start_to_its_end() -> None:
    group = Reactors(open_http(LOOPBACK, 2))
    assert not group.are_turning()
    group.start()
    deadline = time.monotonic() + 60
    for _ in range(5):
        while not group.are_turning():
            assert time.monotonic() < deadline
    group.stop()
    assert not group.are_turning()


def test_a_reactor_that_serves_all_alone_has_the_whole_share_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = open_http(LOOPBACK, 3)
    group = Reactors(sockets)

    class Ring:
        def __init__(self, count: int) -> None:
            self.left = count

        def records(self, limit: int) -> list[str]:
            taken = min(limit, self.left)
            self.left -= taken
            return ["record"] * taken

    monkeypatch.setattr(group, "_reactors", [Ring(0), Ring(100), Ring(3)])
    assert [len(group.records(limit)) for limit in (10, 60, 60, 60)] == [10, 60, 33, 0]
    monkeypatch.undo()
    group.stop()


async def test_a_drain_that_takes_too_long_is_given_up() -> None:
    threads = threading.active_count()
    sockets = open_http(LOOPBACK, 1)
    place = address_of(sockets[0])
    group = Reactors(sockets)
    group.start()
    group.attach(asyncio.get_running_loop(), {"ask": lambda *_: None})
    with socket.create_connection(place, timeout=10) as waiting:
        waiting.sendall(b"GET /ipxe.cfg HTTP/1.1\r\nHost: r\r\n\r\n")  # asks, and is never answered
        while group.counters()["names_dynamic"] == 0:
            await asyncio.sleep(0)
        assert not await group.drain(0.05)
    group.detach(asyncio.get_running_loop())
    group.stop()
    assert threading.active_count() <= threads


async def test_limits_are_those_of_all_reactors_together() -> None:
    sockets = open_http(LOOPBACK, 2)
    place = address_of(sockets[0])
    group = Reactors(sockets, http_options={"max_connections": 44, "max_per_address": 40})
    group.start()
    asked: list[int] = []
    group.attach(asyncio.get_running_loop(), {"ask": lambda reactor, mail: asked.append(reactor)})
    group.publish(Table({}, 1))
    busy = []

    async def status(source: str) -> int:
        """Of one more that stays busy when it may: it asks for what nobody answers. 0: it waits."""
        sock = socket.socket()
        sock.bind((source, 0))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, tuple(place))
        before = len(asked)
        await loop.sock_sendall(sock, b"GET /ipxe.cfg HTTP/1.1\r\nHost: r\r\n\r\n")
        answer = asyncio.ensure_future(loop.sock_recv(sock, 100))
        while len(asked) == before and not answer.done():
            await asyncio.sleep(0)
        if len(asked) > before:
            answer.cancel()
            busy.append(sock)
            return 0
        text = (await answer).decode()
        sock.close()
        return int(text.split()[1])

    async with asyncio.timeout(60):
        assert [await status("127.0.0.1") for _ in range(40)] == [0] * 40
        assert [await status("127.0.0.1") for _ in range(6)] == [503] * 6, "one address"
        assert [await status("127.0.0.2") for _ in range(4)] == [0] * 4
        assert [await status("127.0.0.3") for _ in range(6)] == [503] * 6, "all addresses"
    assert set(asked) == {0, 1}  # the kernel deals by the client's port: all 44 to one, once in 2**43
    assert group.counters()["http_refused"] == 12
    group.detach(asyncio.get_running_loop())
    group.stop()
    for sock in busy:
        sock.close()

"""The ring of records on its own, and what all records share. What each ending looks like: test_*_record.py."""

from __future__ import annotations

import socket
import time

import pytest

from bootplane.core.blob import Blob
from bootplane.core.reactor import Reactor, Record
from bootplane.core.records import RecordRing
from bootplane.core.table import Table
from tests.fakes import http_client, tftp_client

KERNEL = bytes(range(250)) * 40
HOST = b" HTTP/1.1\r\nHost: rack\r\n\r\n"


# -- the ring ---------------------------------------------------------------------------------------------------------


def test_records_come_out_in_the_order_they_went_in_however_often_the_ring_wraps() -> None:
    ring = RecordRing(8)
    written = read = 0
    for n in (1, 8, 3, 5, 8, 8, 2, 7) * 5:
        for _ in range(n):
            assert ring.write(b"name", size=written)
            written += 1
        records = ring.read()
        assert [record.size for record in records] == list(range(read, written))
        read = written


def test_a_full_ring_drops_the_newest_and_counts_them() -> None:
    ring = RecordRing(4)
    assert [ring.write(b"", size=n) for n in range(6)] == [True] * 4 + [False] * 2
    assert [record.size for record in ring.read(3)] == [0, 1, 2]
    assert [ring.write(b"", size=n) for n in range(6, 10)] == [True] * 3 + [False]
    assert [record.size for record in ring.read()] == [3, 6, 7, 8]
    counters = ring.counters()
    assert (counters["records"], counters["records_lost"]) == (7, 3)


def test_refusals_fill_a_quarter_of_the_ring_and_never_more() -> None:
    ring = RecordRing(16)
    assert [ring.write(size=n, refused=True) for n in range(6)] == [True] * 4 + [False] * 2
    assert [ring.write(size=n) for n in range(13)] == [True] * 12 + [False], "the rest is for transfers"
    assert [record.size for record in ring.read(2)] == [0, 1]
    assert [ring.write(size=n, refused=True) for n in (6, 7, 8)] == [True, True, False]
    assert len(ring.read()) == 16
    counters = ring.counters()
    assert (counters["records"], counters["records_lost"]) == (18, 4)
    assert counters["records_lost_refused"] == 2, "for want of their share; the last one found the whole ring full"


def test_a_reader_takes_no_more_than_it_asked_for_and_an_empty_ring_gives_nothing() -> None:
    ring = RecordRing(4)
    assert ring.read() == []
    for n in range(4):
        ring.write(b"", size=n)
    assert ring.read(0) == []
    assert ring.read(-1) == []
    assert [len(ring.read(3)) for _ in range(3)] == [3, 1, 0]


@pytest.mark.parametrize(("given", "kept"), [(0, 0), (1, 1), (254, 254), (255, 255), (256, 255), (512, 255)])
def test_a_name_is_cut_at_255_bytes(given: int, kept: int) -> None:
    ring = RecordRing(1)
    ring.write(b"n" * given)
    assert ring.read()[0].name == "n" * kept


@pytest.mark.parametrize(("given", "kept"), [(0, 0), (46, 46), (47, 47), (48, 47), (400, 47)])
def test_an_agent_is_cut_at_47_bytes(given: int, kept: int) -> None:
    ring = RecordRing(1)
    ring.write(b"name", b"a" * given)
    record = ring.read()[0]
    assert (record.name, record.agent) == ("name", "a" * kept)


def test_a_slot_used_again_shows_nothing_of_its_last_record() -> None:
    ring = RecordRing(1)
    ring.write(b"first, and long", b"its agent", 7)
    ring.read()
    ring.write(b"2nd")
    assert (ring.read()[0].name, ring.write(b""), ring.read()[0][4:]) == (
        "2nd", True, ("", "", 0, 0, 0, 0, "", 0, 0, 0, 0, 0, False, "", 0),
    )  # fmt: skip


def test_no_record_can_move_the_cursor_of_the_terminal_it_is_shown_in() -> None:
    ring = RecordRing(1)
    ring.write(b"a\x1b[2Jb\r\n\x9b1m\x7f\0 \xe4\xa0", b"\x07curl\t")
    record = ring.read()[0]
    assert (record.name, record.agent) == ("a?[2Jb???1m?? ä\xa0", "?curl?")


# -- a reactor's ------------------------------------------------------------------------------------------------------


class Both:
    """One reactor that serves "kernel" by HTTP and TFTP."""

    def __init__(self, bind: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        self.listener = socket.create_server((bind, 0), family=family, dualstack_ipv6=bind == "::")
        self.datagrams = socket.socket(family, socket.SOCK_DGRAM)
        if bind == "::":
            self.datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.datagrams.bind((bind, 0))
        for each in (self.listener, self.datagrams):
            each.setblocking(False)
        self.reactor = Reactor(http=[self.listener.fileno()], tftp=[self.datagrams.fileno()])
        self.reactor.publish(Table({"boot/kernel": Blob.memory(KERNEL, dynamic=False)}, 1))
        self.reactor.start()

    def get(self, host: str = "127.0.0.1") -> tuple[str, int]:
        """Fetches by HTTP; returns the client's address."""
        with socket.create_connection((host, self.listener.getsockname()[1]), 20) as client:
            client.sendall(b"GET //boot/./kernel HTTP/1.0\r\nUser-Agent: test\r\n\r\n")
            while client.recv(65536):
                pass
            address: tuple[str, int] = client.getsockname()[:2]
            return address

    def fetch(self, host: str = "127.0.0.1") -> tuple[str, int]:
        """The same by TFTP."""
        with tftp_client.TftpClient((host, self.datagrams.getsockname()[1])) as client:
            assert client.fetch("\\boot\\kernel", blksize=1000, windowsize=3).data == KERNEL
            return client.address

    def ended(self, n: int) -> list[Record]:
        """The next *n* records."""
        records: list[Record] = []
        deadline = time.monotonic() + 20
        while len(records) < n:
            assert time.monotonic() < deadline, records
            records += self.reactor.records()
        assert len(records) == n, records
        return records

    def close(self) -> None:
        self.reactor.stop()
        self.listener.close()
        self.datagrams.close()


def test_a_transfer_is_one_record_whose_every_field_says_what_happened() -> None:
    both = Both()
    before = time.monotonic_ns()
    peer = both.get()
    (http,) = both.ended(1)
    assert before - 10**9 < http.began_ns <= http.ended_ns < time.monotonic_ns()
    assert http[2:] == (
        "http", peer, "boot/kernel", "complete", 200, 10_000, 0, 10_000, "hit", 0, 0, 0, 0, 0, False, "test", 1,
    )  # fmt: skip
    peer = both.fetch()
    (tftp,) = both.ended(1)
    assert http.ended_ns <= tftp.began_ns < tftp.ended_ns < time.monotonic_ns()
    assert tftp[2:] == (
        "tftp", peer, "boot/kernel", "complete", 0, 10_000, 0, 10_000, "hit", 1000, 3, 11, 0, 0, False, "", 0,
    )  # fmt: skip
    assert both.reactor.counters()["records"] == 2
    both.close()


def test_a_record_names_the_address_that_people_know() -> None:
    both = Both("::")
    peers = []
    for host in ("127.0.0.1", "::1"):
        peers += [both.get(host), both.fetch(host)]
    assert [record.peer for record in both.ended(4)] == peers
    both.close()


def test_each_reactor_has_its_own_ring_and_counts_for_itself() -> None:
    one, other = Both(), Both()
    for _ in range(3):
        one.get()
    other.fetch()
    assert [record.proto for record in one.ended(3)] == ["http"] * 3
    assert [record.proto for record in other.ended(1)] == ["tftp"]
    assert [it.reactor.counters()["records"] for it in (one, other)] == [3, 1]
    one.close()
    other.close()


def test_records_can_be_read_after_the_end_and_of_a_reactor_that_never_ran() -> None:
    assert Reactor().records() == []
    both = Both()
    both.get()
    both.close()
    assert len(both.reactor.records()) == 1


def test_a_flood_of_unknown_names_leaves_the_records_of_transfers_their_room() -> None:
    with http_client.rack({"kernel": Blob.memory(KERNEL, dynamic=False)}) as it, it.client() as client:
        for _ in range(20):
            client.send((b"GET /nobody" + HOST) * 100)
            for _ in range(100):
                assert client.response().status == 404
        for _ in range(50):
            assert client.get("/kernel").body == KERNEL
        it.wait_for("records", 1024 + 50)
        outcomes = [record.outcome for record in it.reactor.records(10_000)]
        assert outcomes == ["refused"] * 1024 + ["complete"] * 50
        assert (it.count("records_lost"), it.count("records_lost_refused")) == (976, 976)


def test_a_flood_over_tftp_does_so_too() -> None:
    with tftp_client.serving({"kernel": KERNEL}) as it, it.client() as client:
        for _ in range(1500):
            client.rrq("nobody")
            assert client.receive().kind == "ERROR"
        assert client.fetch("kernel").data == KERNEL
        it.settle()
        outcomes = [record.outcome for record in it.reactor.records(10_000)]
        assert outcomes == ["refused"] * 1024 + ["complete"]
        assert it.reactor.counters()["records_lost_refused"] >= 476, "settle() asks for such names, too"


def test_a_reader_that_stops_reading_holds_up_nobody_and_what_it_missed_is_counted() -> None:
    with http_client.rack({"kernel": Blob.memory(b"x", dynamic=False)}) as it, it.client() as client:
        for _ in range(45):
            client.send((b"GET /kernel" + HOST) * 100)
            for _ in range(100):
                client.response()
        it.wait_for("records_lost", 4500 - 4096)
        records = it.reactor.records(10_000)
        assert [record.reused for record in records] == list(range(1, 4097)), "the newest are dropped"
        client.get("/nobody")
        it.wait_for("records", 4097)
        assert [record.reused for record in it.reactor.records()] == [4501]
        assert (it.count("records"), it.count("records_lost")) == (4097, 404)

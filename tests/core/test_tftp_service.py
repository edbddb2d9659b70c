"""The TFTP service with a cache behind it: cold files, evicted bytes, cut files, and what a transfer holds."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import select
import socket
from collections.abc import Iterator

import pytest

from bootplane.core import blob as core_blob
from bootplane.core.blob import Blob
from bootplane.core.digest import Verifier
from bootplane.core.lru import Cache
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table
from tests.fakes.tftp_client import Packet, Rack, TftpClient, serving

MIB = 1 << 20
UPSTREAM = 13  # ST_UPSTREAM
IMAGE = os.urandom(5 * MIB + 12_345)  # two segments of 4 MiB, six chunks


class Cold:
    """A rack whose one file "image" is in a cache, of which a test stores the chunks it likes."""

    def __init__(self, directory: pathlib.Path, **options: object) -> None:
        self.cache = Cache(str(directory / "cache"), 64 * MIB)
        verifier = Verifier()
        verifier.update(IMAGE)
        verified = verifier.finish()
        self.blob = self.cache.blob(verified.sha256, verified.size, verified.chunks)
        self.rack = Rack({"image": self.blob}, **options)

    def store(self, *chunks: int, tell: bool = True) -> None:
        for chunk in chunks:
            assert self.cache.begin(self.blob, chunk)
            self.cache.store(self.blob, chunk, IMAGE[chunk * MIB : (chunk + 1) * MIB])
            if tell:
                self.rack.reactor.chunk(self.blob, chunk)

    def missed(self) -> list[int]:
        """The chunks the reactor asks for next."""
        mails = self.rack.mail()
        assert all(mail[:2] == ("miss", self.blob.id) for mail in mails), mails
        return [mail[2] for mail in mails]

    def nothing_missed(self) -> bool:
        self.rack.settle()
        return self.rack.reactor.take() == []

    def close(self) -> None:
        self.rack.close()
        self.cache.close()


@pytest.fixture
def cold(tmp_path: pathlib.Path) -> Iterator[Cold]:
    cold = Cold(tmp_path, timeout_s=60)
    yield cold
    cold.close()


def begin(client: TftpClient, **options: object) -> None:
    """Asks for "image" with a timeout of its own, which the rack keeps to: without one it sends again to a client that
    is 0.2 s later than it was before, and on a busy machine a test is."""
    client.rrq("image", **{"timeout": 60} | options)
    assert client.receive().kind == "OACK"
    client.ack(0)


def test_the_oack_of_a_cold_file_comes_at_once_and_fetches_nothing(cold: Cold) -> None:
    with cold.rack.client() as client:
        client.rrq("image", tsize=0, blksize=1468)
        assert client.receive().options == {"tsize": str(len(IMAGE)), "blksize": "1468"}
        assert cold.nothing_missed(), "a size probe moves no bytes"


def test_many_clients_of_one_cold_chunk_are_one_miss_and_all_wake(cold: Cold) -> None:
    clients = [cold.rack.client() for _ in range(16)]
    for client in clients:
        begin(client, blksize=1468, windowsize=4)
    assert cold.missed() == [0]
    assert cold.nothing_missed()
    cold.store(0)
    for client in clients:
        assert [client.receive().data for _ in range(4)] == [IMAGE[n * 1468 : (n + 1) * 1468] for n in range(4)]
    counters = cold.rack.counters()
    assert (counters["parked"], counters["tftp_data"]) == (16, 64)
    for client in clients:
        client.error(0)
        client.socket.close()
    counters = cold.rack.counters()
    assert (counters["hits"], counters["misses"], counters["coalesced"]) == (0, 1, 15)


@pytest.mark.parametrize(("blksize", "windowsize"), [(1468, 1), (1428, 16), (8192, 8), (1024, 64)])
def test_a_file_that_is_filled_while_it_is_sent_arrives_whole(cold: Cold, blksize: int, windowsize: int) -> None:
    """Blocks lie across chunks and across the two segments; every chunk comes only when it has been asked for."""
    with cold.rack.client() as client:
        begin(client, blksize=blksize, windowsize=windowsize)
        data, in_window, chunks = bytearray(), 0, 0  # += of bytes would copy 5 MiB for each block
        expected = 0
        while True:
            if chunks < 6 and len(data) + blksize > chunks * MIB:
                assert cold.missed() == [chunks], "the next block is not here whole"
                cold.store(chunks)
                chunks += 1
            packet = client.receive()
            expected += 1
            assert packet.number == expected % 65536
            data += packet.data
            in_window += 1
            last = len(packet.data) < blksize
            if in_window == windowsize or last:
                in_window = 0
                client.ack(expected)
            if last:
                break
        assert hashlib.sha256(data).digest() == hashlib.sha256(IMAGE).digest()
    counters = cold.rack.counters()
    assert counters["tftp_retransmitted"] == 0
    assert counters["misses"] == 1


def test_what_is_here_of_a_window_goes_out_before_the_rest_is_waited_for(cold: Cold) -> None:
    cold.store(0, tell=False)
    with cold.rack.client() as client:
        begin(client, blksize=8000, windowsize=64)
        first = [client.receive().number for _ in range(64)]
        client.ack(64)
        second = [client.receive().number for _ in range(64)]
        assert first + second == list(range(1, 129))
        client.ack(128)
        assert [client.receive().number for _ in range(3)] == [129, 130, 131], "1 MiB has 131 whole blocks of 8000"
        assert cold.missed() == [1]
        client.ack(129)
        assert [client.receive().number for _ in range(2)] == [130, 131], "a gap is healed from what is here"
        assert cold.nothing_missed()
        cold.store(1)
        packet = client.receive()
        assert (packet.number, packet.data) == (132, IMAGE[131 * 8000 : 132 * 8000]), "it lies across both chunks"


def test_a_parked_transfer_that_needs_an_earlier_chunk_again_waits_for_that_one(cold: Cold) -> None:
    cold.store(0, tell=False)
    with cold.rack.client() as client:
        begin(client, blksize=8192, windowsize=64)  # 128 blocks are the first chunk
        for block in (64, 128):
            while client.receive().number < block:
                pass
            client.ack(64 if block == 64 else 96)
        assert [client.receive().number for _ in range(32)] == list(range(97, 129))
        assert cold.missed() == [1]
        cold.cache.drop(cold.blob)
        client.ack(100)
        assert cold.missed() == [0]
        cold.store(1)
        cold.rack.settle()
        assert client.waiting() == []
        cold.store(0)
        assert [client.receive().number for _ in range(64)] == list(range(101, 165))


def test_a_transfer_that_finds_its_bytes_before_the_wake_up_is_parked_no_more(cold: Cold) -> None:
    cold.store(0, tell=False)
    with cold.rack.client() as client:
        begin(client, blksize=8192, windowsize=64, timeout=1)
        for block in (64, 128):
            while client.receive().number < block:
                pass
            client.ack(64 if block == 64 else 96)
        assert [client.receive().number for _ in range(32)] == list(range(97, 129))
        assert cold.missed() == [1]
        cold.store(1, tell=False)
        client.ack(128)
        window = list(range(129, 193))
        assert [client.receive().number for _ in range(128)] == window * 2, "it has a deadline again"


def test_bytes_evicted_before_a_retransmission_are_fetched_again(cold: Cold) -> None:
    cold.store(0, tell=False)
    with cold.rack.client() as client:
        begin(client, blksize=1468, timeout=1)
        first = client.receive()
        assert cold.cache.drop(cold.blob) > 0
        assert cold.missed() == [0], "the deadline has passed, and the block must be read again"
        cold.store(0)
        assert client.receive() == first
        client.ack(1)
        assert client.receive().number == 2


def test_a_chunk_that_cannot_be_had_ends_in_an_error_that_names_the_file(cold: Cold) -> None:
    with cold.rack.client() as client:
        begin(client, blksize=1468)
        assert cold.missed() == [0]
        cold.rack.reactor.chunk(cold.blob, 0, UPSTREAM)
        packet = client.receive()
        assert packet[:3] == ("ERROR", 0, b"image: its bytes cannot be had from the region")
        client.ack(0)
        cold.rack.settle()
        assert client.waiting() == []


def test_a_chunk_that_does_not_come_in_time_ends_in_an_error_that_says_to_try_again(tmp_path: pathlib.Path) -> None:
    cold = Cold(tmp_path, park_limit_s=0.1)
    with cold.rack.client() as client:
        begin(client, blksize=1468)
        packet = client.receive()
        assert packet[:2] == ("ERROR", 0)
        assert packet.data == b"image: the region has not sent it in time; try again"
    assert cold.rack.counters()["park_timeouts"] == 1
    cold.close()


@pytest.mark.parametrize("ending", ["error", "other name", "stop"])
def test_a_transfer_that_ends_while_it_is_parked_wakes_nobody(cold: Cold, ending: str) -> None:
    with cold.rack.client() as client:
        begin(client, blksize=1468)
        assert cold.missed() == [0]
        if ending == "error":
            client.error(0)
        elif ending == "other name":
            client.rrq("nobody has this")
            assert client.receive()[:2] == ("ERROR", 1)
        else:
            cold.rack.reactor.stop()
            return
        cold.rack.settle()
        cold.store(0)
        cold.rack.settle()
        assert client.waiting() == []
        cold.rack.reactor.drain()
        assert cold.rack.mail() == [("drained",)]


def test_what_a_transfer_holds_is_given_back(tmp_path: pathlib.Path) -> None:
    core_blob.reap()
    before = core_blob.counts()
    cold = Cold(tmp_path, timeout_s=60)
    idle = cold.blob.references
    cold.store(*range(6), tell=False)
    with cold.rack.client() as client, cold.rack.client() as other:
        assert client.fetch("image", blksize=1428, windowsize=16).data == IMAGE
        begin(client, blksize=1428)
        begin(other, blksize=1428, windowsize=64)
        cold.rack.settle()
        assert cold.blob.references == idle + 2, "one for each transfer"
        client.error(0)
        other.error(0)
        cold.rack.settle()
        assert cold.blob.references == idle
    cold.close()
    del cold
    core_blob.reap()
    after = core_blob.counts()
    assert after == before


def test_a_file_cut_under_its_mapping_ends_in_an_error_and_not_in_zeros(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(IMAGE)
    blob = Blob.open_file(str(path), hashlib.sha256(IMAGE).hexdigest(), len(IMAGE))
    with serving({"kernel": blob}, timeout_s=60) as rack, rack.client() as client:
        client.rrq("kernel", blksize=8192)
        client.receive()
        client.ack(0)
        assert client.receive().data == IMAGE[:8192]
        os.truncate(path, 4096)
        client.ack(1)
        packet = client.receive()
        assert packet[:3] == ("ERROR", 0, b"kernel: its file on the rack's disk cannot be read")


def test_one_client_port_may_talk_to_two_request_sockets_at_once() -> None:
    """A rack has one socket per address family or address; a session is one of a client and a socket."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for each in sockets:
        each.setblocking(False)
        each.bind(("127.0.0.1", 0))
    reactor = Reactor(tftp=[each.fileno() for each in sockets], tftp_options={"timeout_s": 60})
    reactor.publish(Table({"a": Blob.memory(b"a" * 600), "b": Blob.memory(b"b" * 700)}, 1))
    reactor.start()
    with TftpClient(sockets[0].getsockname()) as client:
        sources = {}
        for name, each in zip("ab", sockets, strict=True):
            client.server = each.getsockname()
            client.rrq(name)
            while not select.select([client.socket], [], [], 0.5)[0]:
                client.repeat(name)  # the reactor had no snapshot yet
            packet, sources[name] = client.receive_from()
            assert packet == Packet("DATA", 1, name.encode() * 512, {})
        for name, rest in (("a", 88), ("b", 188)):
            client.ack(1, to=sources[name])
            assert client.receive_from() == (Packet("DATA", 2, name.encode() * rest, {}), sources[name])
    reactor.stop()
    for each in sockets:
        each.close()


def test_random_packets_from_many_clients_upset_nothing() -> None:
    rng = random.Random(5)
    names = ["k", "k", "empty", "nobody", "x.lst", "grub/grub.cfg"]
    options: list[dict[str, object]] = [
        {},
        {"blksize": 8},
        {"blksize": 70000, "windowsize": 7},
        {"blksize": 1428, "windowsize": 64},
        {"tsize": 0, "timeout": 1},
    ]
    content = os.urandom(100_000)
    with serving({"k": content, "empty": b""}, timeout_s=0.05, retries=3, max_transfers=20, park_limit_s=0.2) as rack:
        clients = [rack.client() for _ in range(30)]
        servers = {rack.address}
        for _ in range(15_000):
            client, dice = rng.choice(clients), rng.random()
            if dice < 0.2:
                client.rrq(rng.choice(names), rng.choice(["octet"] * 5 + ["mail"]), **rng.choice(options))
            elif dice < 0.6:
                block = rng.choice([rng.randrange(80), rng.randrange(65536)])
                client.send(b"\0\4" + block.to_bytes(2, "big"), rng.choice(sorted(servers)))
            elif dice < 0.65:
                client.send(b"\0\5\0\0\0", rng.choice(sorted(servers)))
            elif dice < 0.75:
                client.send(
                    b"\0" + bytes([rng.randrange(8)]) + rng.randbytes(rng.randrange(60)), rng.choice(sorted(servers))
                )
            elif dice < 0.752:  # its transfer, if any, ends by ICMP
                client.socket.close()
                clients[clients.index(client)] = rack.client()
            else:
                while select.select([client.socket], [], [], 0)[0]:
                    servers.add(client.receive_from()[1])
            if rng.random() < 0.01:
                for mail in rack.reactor.take():
                    rack.reactor.answer(mail[1], rng.choice([None, Blob.memory(rng.randbytes(3000))]))
        for client in clients:
            client.socket.close()
        with rack.client() as client:
            while True:
                client.rrq("k", blksize=1428, windowsize=16, tsize=0)
                packet = client.receive()
                if packet.kind == "OACK":
                    break  # before that, all 20 places were taken
            client.error(8)
        counters = rack.counters()
        moved = ("tftp_requests", "tftp_repeated", "tftp_malformed", "tftp_aborted", "names_unknown")
        assert not [name for name in moved if counters[name] == 0]
        rack.reactor.drain()
        while ("drained",) not in rack.mail():
            pass
        ended = rack.reactor.counters()
        assert ended["names_found"] + ended["names_dynamic"] + ended["names_unknown"] == ended["lookups"]

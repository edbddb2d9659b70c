"""How each way a TFTP request can end is recorded, with what the wire saw of it."""

from __future__ import annotations

import collections
import hashlib
import os
import pathlib
import random
import select
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from bootplane.core.digest import Verifier
from bootplane.core.lru import Cache
from bootplane.core.reactor import Record
from bootplane.core.tftp_transfer import TransferProbe
from tests.fakes.tftp_client import Packet, Rack, serving

MIB = 1 << 20
ST_UNKNOWN, ST_UPSTREAM = 10, 13
KERNEL = os.urandom(10_000)
FILES = {"kernel": KERNEL, "exact": KERNEL[:1024], "empty": b""}


@pytest.fixture
def rack() -> Iterator[Rack]:
    with serving(FILES, timeout_s=60) as rack:
        yield rack


def ended(rack: Rack) -> list[Record]:
    """What has ended, without the write requests by which the fake rack settles."""
    rack.settle()
    return [record for record in rack.reactor.records(100_000) if record.name != "settle"]


def only(rack: Rack) -> Record:
    (record,) = ended(rack)
    assert (record.proto, record.offset, record.head, record.agent, record.reused) == ("tftp", 0, False, "", 0)
    assert record.began_ns <= record.ended_ns
    return record


def wire(record: Record) -> tuple[int, int, int, int, int, int]:
    """blksize, windowsize, DATA sent, of them again, ACKs that moved nothing, bytes delivered."""
    return (*record[11:16], record.sent)


# -- complete ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("kernel", {}, (512, 1, 20, 0, 0, 10_000)),
        ("kernel", {"blksize": 1000, "windowsize": 4}, (1000, 4, 11, 0, 0, 10_000)),
        ("kernel", {"blksize": 60_000, "windowsize": 500}, (8192, 64, 2, 0, 0, 10_000)),
        ("exact", {"tsize": 0}, (512, 1, 3, 0, 0, 1024)),
        ("empty", {}, (512, 1, 1, 0, 0, 0)),
        ("x86_64-efi/command.lst", {"blksize": 1024, "tsize": 0}, (1024, 1, 1, 0, 0, 0)),
    ],
)
def test_a_complete_transfer_tells_what_was_granted_and_sent(
    rack: Rack, name: str, options: dict[str, int], expected: tuple[int, ...]
) -> None:
    with rack.client() as client:
        client.fetch(name, **options)
        record = only(rack)
        assert (record.peer, record.name, record.outcome, record.status) == (client.address, name, "complete", 0)
    assert (record.source, record.size) == ("hit", expected[-1])
    assert wire(record) == expected


def test_loss_shows_as_packets_sent_again_and_duplicate_acks_and_never_in_what_was_delivered() -> None:
    dice = random.Random(3)
    with serving(FILES, timeout_s=0.05) as rack, rack.client() as client:
        lost = 0

        def lose(packet: Packet) -> bool:
            nonlocal lost
            gone = packet.kind == "DATA" and dice.random() < 0.1
            lost += gone
            return gone

        fetched = client.fetch("kernel", blksize=100, windowsize=4, lose=lose)
        record = only(rack)
    assert lost > 5
    assert (record.outcome, record.size, record.sent) == ("complete", 10_000, 10_000)
    assert record.packets - record.retransmits == 101
    assert record.retransmits >= lost
    assert record.packets >= fetched.received
    assert record.duplicate_acks <= fetched.acks


def test_every_ack_that_moves_nothing_is_counted_and_none_is_answered(rack: Rack) -> None:
    with rack.client() as client:
        client.rrq("kernel", blksize=1000, windowsize=4)
        client.receive()
        client.ack(7)  # of an OACK only ACK 0 is one
        client.ack(0)
        for n in (1, 2, 3, 4):
            assert client.receive().number == n
        for n in (0, 0, 5, 60_000):  # repeated twice, and two of what never was sent
            client.ack(n)
        client.ack(4)
        for n in (5, 6, 7, 8):
            assert client.receive().number == n
        client.ack(2)  # late
        client.error(0)
        record = only(rack)
    assert wire(record) == (1000, 4, 8, 0, 6, 4000)


def test_a_transfer_counts_its_own_packets_alone() -> None:
    t = TransferProbe(2600, blksize=500, windowsize=2)
    t.send()
    t.feed("ack", 0)
    t.feed("ack", 2)
    t.feed("ack", 2)
    t.feed("tick", now=60.0)
    assert t.wire == (6, 2, 1, 1000)
    t.feed("ack", 4, now=61.0)
    t.feed("ack", 6, now=61.0)
    assert t.wire == (8, 2, 1, 2600)


# -- ended by the client ----------------------------------------------------------------------------------------------


def test_error_8_to_an_oack_is_a_probe(rack: Rack) -> None:
    with rack.client() as client:
        client.rrq("kernel", tsize=0, blksize=1468, windowsize=4)
        client.receive()
        client.error(8, "User aborted the transfer")
        record = only(rack)
    assert (record.outcome, record.status, record.size) == ("probe", 8, 10_000)
    assert wire(record) == (1468, 4, 0, 0, 0, 0)


def test_error_8_after_ack_0_is_a_probe_until_data_is_acknowledged(rack: Rack) -> None:
    for acked, outcome in ((0, "probe"), (1, "aborted")):
        with rack.client() as client:
            client.rrq("kernel", tsize=0, blksize=1468)
            client.receive()
            for block in range(acked + 1):
                client.ack(block)
                client.receive()
            client.error(8)
            record = only(rack)
        assert (record.outcome, record.status, record.packets, record.sent) == (outcome, 8, acked + 1, acked * 1468)


def test_error_8_without_an_oack_is_no_probe(rack: Rack) -> None:
    with rack.client() as client:
        client.rrq("kernel")
        client.receive()
        client.error(8)
        assert only(rack).outcome == "aborted"


def test_error_0_to_an_oack_with_the_size_is_a_probe(rack: Rack) -> None:
    """ROMs of BIOS machines; "TFTP Aborted" is then in the log of every TFTP server, and nothing was wrong."""
    with rack.client() as client:
        client.rrq("kernel", tsize=0)
        client.receive()
        client.error(0, "TFTP Aborted")
        record = only(rack)
    assert (record.outcome, record.status, record.size) == ("probe", 0, 10_000)


@pytest.mark.parametrize("options", [{}, {"blksize": 1000}, {"tsize": 0, "blksize": 1000}])
def test_error_0_is_an_abort_when_no_size_was_asked_for_or_ack_0_has_come(rack: Rack, options: dict[str, int]) -> None:
    with rack.client() as client:
        client.rrq("kernel", **options)
        client.receive()
        if "tsize" in options:
            client.ack(0)
            client.receive()
        client.error(0)
        record = only(rack)
    assert (record.outcome, record.status) == ("aborted", 0)


@pytest.mark.parametrize("code", [3, 4, 65535])
def test_any_other_error_is_an_abort_and_its_code_is_kept(rack: Rack, code: int) -> None:
    """OVMF that gets no OACK sends ERROR 4 for the first DATA."""
    with rack.client() as client:
        client.rrq("kernel", tsize=0)
        client.receive()
        client.error(code, "User aborted download")
        record = only(rack)
    assert (record.outcome, record.status) == ("aborted", code)


def test_a_machine_that_vanishes_before_it_has_its_oack_has_aborted_and_asked_for_no_size(rack: Rack) -> None:
    with rack.client() as client:
        client.rrq("kernel", tsize=0, timeout=1)
        client.receive()
        client.socket.close()  # the next OACK meets a closed port
    rack.until("tftp_aborted", 1)
    assert only(rack).outcome == "aborted"


def test_a_client_whose_port_is_closed_has_aborted_without_a_code(rack: Rack) -> None:
    with rack.client() as client:
        client.rrq("kernel", blksize=1000)
        client.receive()
        client.ack(0)
        client.receive()
        client.ack(1)
        client.socket.close()
    rack.until("tftp_aborted", 1)
    record = only(rack)
    assert (record.outcome, record.status, record.sent) == ("aborted", 0, 1000)


def test_a_request_for_another_file_from_the_same_port_ends_the_first(rack: Rack) -> None:
    with rack.client() as client:
        client.rrq("kernel")
        client.receive()
        client.rrq("exact")
        client.receive()
        client.rrq("nobody")
        client.receive()
        records = ended(rack)
    assert [(r.name, r.outcome, r.status, r.packets) for r in records] == [
        ("kernel", "aborted", 0, 1), ("exact", "aborted", 0, 1), ("nobody", "refused", 1, 0),
    ]  # fmt: skip
    assert len({record.peer for record in records}) == 1


def test_a_repeated_request_is_no_transfer_of_its_own(rack: Rack) -> None:
    with rack.client() as client:
        client.rrq("exact", tsize=0)
        for _ in range(5):
            client.repeat("exact", tsize=0)
        while client.receive().kind != "OACK":
            pass
        client.ack(0)
        for block in (1, 2, 3):
            while client.receive().number != block:
                pass
            client.ack(block)
        assert only(rack).outcome == "complete"


# -- ended by time ----------------------------------------------------------------------------------------------------


def test_a_client_that_falls_silent_has_timed_out() -> None:
    with serving(FILES, timeout_s=0.02, retries=3) as rack, rack.client() as client:
        client.rrq("kernel", blksize=1000)
        client.receive()
        client.ack(0)
        client.receive()
        client.ack(1)
        rack.until("tftp_timed_out", 1)
        record = only(rack)
        counters = rack.counters()
    assert (record.outcome, record.status, record.sent) == ("timeout", 0, 1000)
    assert (record.packets, record.retransmits) == (counters["tftp_data"], counters["tftp_retransmitted"])
    assert record.retransmits == 2


def test_a_transfer_that_lacks_only_its_last_ack_has_timed_out_as_its_counter_says() -> None:
    with serving(FILES, timeout_s=0.02, retries=2) as rack, rack.client() as client:
        client.rrq("exact")
        for block in (1, 2):
            client.receive()
            client.ack(block)
        assert client.receive() == Packet("DATA", 3, b"", {})
        rack.until("tftp_timed_out", 1)
        record = only(rack)
    assert (record.outcome, record.sent, record.size) == ("timeout", 1024, 1024)


# -- refused and cut --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "status", "name"),
    [
        (b"\0\1nobody\0octet\0", 1, "nobody"),
        (b"\0\1/boot\\./nobody\0octet\0blksize\x001432\0", 1, "boot/nobody"),
        (b"\0\1../kernel\0octet\0", 1, "../kernel"),
        (b"\0\1/\0octet\0", 1, "/"),
        (b"\0\1a\x1bb\0octet\0", 1, "a?b"),
        (b"\0\1" + b"n" * 300 + b"\0octet\0", 1, "n" * 255),
        (b"\0\2//kernel\0octet\0", 2, "kernel"),
        (b"\0\1kernel\0netascii\0", 0, "kernel"),
    ],
)
def test_a_request_that_is_answered_with_an_error_is_refused(rack: Rack, packet: bytes, status: int, name: str) -> None:
    with rack.client() as client:
        client.send(packet)
        assert client.receive()[:2] == ("ERROR", status)
        records = [record for record in rack.reactor.records() if record.name != "settle"]
        assert [(r.peer, r.name, r.outcome, r.status, r.size, r.source) for r in records] == [
            (client.address, name, "refused", status, -1, "")
        ], "whoever has got the ERROR can read the record"
    assert wire(records[0]) == (0, 0, 0, 0, 0, 0)


def test_a_request_above_the_limit_of_transfers_is_refused_with_the_size_of_what_it_wanted() -> None:
    with serving(FILES, max_transfers=1) as rack, rack.client() as first, rack.client() as second:
        first.rrq("kernel")
        first.receive()
        first.ack(1)  # else it would have to leave
        first.receive()
        for name in ("exact", "grub/grub.cfg"):
            second.rrq(name)
            assert second.receive()[:2] == ("ERROR", 0)
        assert [(r.peer, r.name, r.outcome, r.status, r.size) for r in ended(rack)] == [
            (second.address, "exact", "refused", 0, 1024), (second.address, "grub/grub.cfg", "refused", 0, -1),
        ]  # fmt: skip


def test_what_is_met_with_silence_is_not_recorded(rack: Rack) -> None:
    with rack.client() as client:
        client.send(b"\0\1kernel")
        client.send(b"\0\4\0\1")  # to the request socket
        client.send(b"junk")
        assert ended(rack) == []
        assert client.waiting() == []


def test_an_ack_of_nobody_s_gets_its_error_5_and_no_record(rack: Rack) -> None:
    with rack.client() as client, rack.client() as stranger:
        client.rrq("kernel")
        client.receive()
        stranger.ack(1, client.tid)
        assert stranger.receive()[:2] == ("ERROR", 5)
        assert ended(rack) == []


def test_dynamic_names_are_dynamic_whether_answered_or_denied(rack: Rack) -> None:
    with rack.client() as client:
        for content in (b"boot\n", None):
            client.rrq("/grub/grub.cfg", blksize=1024, tsize=0)
            ((_, request, *_),) = rack.mail()
            rack.reactor.answer(request, Blob.memory(content) if content else None, 0 if content else ST_UNKNOWN)
            packet = client.receive()
            if packet.kind == "OACK":
                client.ack(0)
                client.receive()
                client.ack(1)
        records = ended(rack)
    assert [(r.name, r.outcome, r.status, r.size, r.source, *wire(r)) for r in records] == [
        ("grub/grub.cfg", "complete", 0, 5, "dynamic", 1024, 1, 1, 0, 0, 5),
        ("grub/grub.cfg", "refused", 1, -1, "dynamic", 0, 0, 0, 0, 0, 0),
    ]


class Cold:
    """A rack whose one file is in a cache that holds nothing yet."""

    def __init__(self, directory: pathlib.Path, **options: object) -> None:
        self.data = os.urandom(2 * MIB)
        self.cache = Cache(str(directory / "cache"), 64 * MIB)
        verifier = Verifier()
        verifier.update(self.data)
        verified = verifier.finish()
        self.blob = self.cache.blob(verified.sha256, verified.size, verified.chunks)
        self.rack = Rack({"image": self.blob}, timeout_s=60, **options)

    def store(self, chunk: int) -> None:
        assert self.cache.begin(self.blob, chunk)
        self.cache.store(self.blob, chunk, self.data[chunk * MIB : (chunk + 1) * MIB])
        self.rack.reactor.chunk(self.blob, chunk)


@pytest.fixture
def cold_rack(tmp_path: pathlib.Path) -> Iterator[Cold]:
    it = Cold(tmp_path)
    yield it
    it.rack.close()
    it.cache.close()


def test_bytes_that_cannot_be_had_refuse_before_the_first_data_and_cut_after_it(cold_rack: Cold) -> None:
    rack = cold_rack.rack
    with rack.client() as client:
        for chunk, outcome in ((0, "refused"), (1, "cut")):
            client.rrq("image", blksize=8192, windowsize=64)
            client.receive()
            client.ack(0)
            if chunk == 1:
                rack.mail()
                cold_rack.store(0)
                for window in (1, 2):
                    while client.receive().number < 64 * window:
                        pass
                    client.ack(64 * window)
            assert rack.mail() == [("miss", cold_rack.blob.id, chunk)]
            rack.reactor.chunk(cold_rack.blob, chunk, ST_UPSTREAM)
            assert client.receive()[:2] == ("ERROR", 0)
            record = only(rack)
            assert (record.outcome, record.status, record.source) == (outcome, 0, "miss")
            assert (record.packets, record.sent, record.size) == (128 * chunk, chunk * MIB, 2 * MIB)


def test_followers_of_a_fill_are_told_from_its_leader(cold_rack: Cold) -> None:
    rack = cold_rack.rack
    clients = [rack.client() for _ in range(3)]
    for client in clients:
        client.rrq("image", blksize=8192)
        client.receive()
        client.ack(0)
        rack.settle()
    cold_rack.store(0)
    for client in clients:
        assert client.receive().number == 1
        client.error(0)
    assert [record.source for record in ended(rack)] == ["miss", "coalesced", "coalesced"]
    with rack.client() as client:
        client.rrq("image", blksize=8192)
        client.receive()
        client.error(0)
        assert only(rack).source == "hit"
    for client in clients:
        client.socket.close()
    counters = rack.counters()
    assert (counters["hits"], counters["misses"], counters["coalesced"]) == (1, 1, 2)
    assert counters["lookups"] == counters["names_found"] == 4


def test_a_file_cut_on_disk_is_a_cut(tmp_path: pathlib.Path) -> None:
    data = os.urandom(100_000)
    (tmp_path / "file").write_bytes(data)
    blob = Blob.open_file(str(tmp_path / "file"), hashlib.sha256(data).hexdigest(), len(data))
    with serving({"file": blob}, timeout_s=60) as rack, rack.client() as client:
        client.rrq("file", blksize=8192)
        client.receive()
        client.ack(0)
        client.receive()
        os.truncate(tmp_path / "file", 4096)
        client.ack(1)
        assert client.receive()[:2] == ("ERROR", 0)
        record = only(rack)
        assert (record.outcome, record.sent) == ("cut", 8192)


def test_what_stopping_cuts_is_on_the_record() -> None:
    rack = Rack(FILES, timeout_s=60)
    with rack.client() as running, rack.client() as asking:
        running.rrq("kernel")
        running.receive()
        asking.rrq("grub/grub.cfg")
        rack.settle()
        rack.close()
        records = [record for record in rack.reactor.records() if record.name != "settle"]
        assert sorted((r.name, r.outcome, r.size, r.packets) for r in records) == [
            ("grub/grub.cfg", "cut", -1, 0), ("kernel", "cut", 10_000, 1),
        ]  # fmt: skip


# -- sums -------------------------------------------------------------------------------------------------------------


def test_every_request_is_one_record_and_the_counters_add_up() -> None:
    """Whatever 20 clients do: what began or was refused is recorded once, and the records add up to the counters."""
    dice = random.Random(11)
    names = ["kernel", "kernel", "exact", "nobody", "x.lst", "grub/grub.cfg", "../x"]
    with serving(FILES, timeout_s=0.05, retries=2, max_transfers=10, park_limit_s=0.1) as rack:
        clients = [rack.client() for _ in range(20)]
        clients[0].fetch("kernel", windowsize=4)
        for options in ({"tsize": 0}, {}):  # a probe, an abort; then whatever the dice say
            clients[1].rrq("kernel", **options)
            clients[1].receive()
            clients[1].error(8)
        records: list[Record] = []
        for _ in range(4000):
            client = dice.choice(clients)
            roll = dice.random()
            if roll < 0.3:
                client.rrq(dice.choice(names), dice.choice(["octet"] * 9 + ["mail"]), windowsize=dice.randrange(1, 9))
            elif roll < 0.8 and client.tid:
                client.ack(dice.randrange(25))
            elif roll < 0.83 and client.tid:
                client.error(dice.choice([0, 8]))
            else:
                while select.select([client.socket], [], [], 0)[0]:
                    client.tid = client.receive_from()[1]
            records += rack.reactor.records()
        rack.reactor.drain()
        while ("drained",) not in rack.mail():
            pass
        counters = rack.reactor.counters()  # it reads no requests any more: no settling
        records += rack.reactor.records(100_000)
        for client in clients:
            client.socket.close()
    assert counters["records_lost"] == 0
    by = collections.Counter(record.outcome for record in records)
    assert by.keys() == {"complete", "aborted", "probe", "timeout", "refused"}
    began = [record for record in records if record.blksize]
    assert by["complete"] == counters["tftp_completed"]
    assert by["aborted"] + by["probe"] == counters["tftp_aborted"]
    assert by["timeout"] == counters["tftp_timed_out"]
    assert len(began) == counters["hits"] + counters["misses"] + counters["coalesced"]
    assert sum(r.packets for r in records) == counters["tftp_data"]
    assert sum(r.retransmits for r in records) == counters["tftp_retransmitted"]
    assert counters["records"] == len(records)

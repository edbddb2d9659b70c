from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from bootplane.dataplane import reports
from bootplane.dataplane.machines import Machines
from bootplane.dataplane.region_client import RegionRefused, RegionUnreachable, Taken
from bootplane.dataplane.reports import Reporter
from bootplane.dataplane.transfers import BATCH_TRANSFERS, Batch, Transfer, decode_batch

MAC = "52:54:00:77:00:01"


class Record(NamedTuple):
    """As core's, which is a type only."""

    began_ns: int = 90_000_000_000
    ended_ns: int = 91_500_000_000
    proto: str = "tftp"
    peer: tuple[str, int] = ("10.77.0.9", 25300)
    name: str = "bootx64.efi"
    outcome: str = "complete"
    status: int = 0
    size: int = 960_000
    offset: int = 0
    sent: int = 960_000
    source: str = "hit"
    blksize: int = 1468
    windowsize: int = 4
    packets: int = 660
    retransmits: int = 6
    duplicate_acks: int = 2
    head: bool = False
    agent: str = ""
    reused: int = 0


class Site:
    """Rings, a region and a clock, all by hand."""

    def __init__(self, **options: Any) -> None:
        self.now = 100.0
        self.wall = 1_795_000_000.0
        self.ring: list[Record] = []
        self.limits: list[int] = []
        self.lost = 0
        self.batches: list[Batch] = []
        self.fault: Exception | None = None
        self.taken = Taken(0, [])
        self.after_hearing: Exception | None = None
        machines = Machines(dict, lambda: self.now)
        self.reporter = Reporter(
            self.read, lambda: self.lost, self.post, machines, clock=lambda: self.now, wall=lambda: self.wall, **options
        )

    def read(self, limit: int) -> Sequence[Any]:
        self.limits.append(limit)
        found, self.ring = self.ring[:limit], self.ring[limit:]
        return found

    def post(self, body: bytes) -> Taken:
        if self.fault is not None:
            raise self.fault
        self.batches.append(decode_batch(body))
        if self.after_hearing is not None:
            raise self.after_hearing
        return self.taken

    def fetch(self, count: int, **change: Any) -> None:
        self.ring += [Record(**change)] * count

    @property
    def heard(self) -> list[int]:
        return [transfer.seq for batch in self.batches for transfer in batch.transfers]


def test_a_transfer_is_told_with_its_wire_facts_on_the_wall_clock() -> None:
    site = Site()
    site.fetch(1)
    assert site.reporter.poll() == 1 and site.reporter.send()
    [batch] = site.batches
    assert batch.transfers == (
        Transfer(
            seq=1,
            at=1_795_000_000.0 - 10,  # it began 10 s ago
            protocol="tftp",
            address="10.77.0.9",
            outcome="complete",
            seconds=1.5,
            port=25300,
            name="bootx64.efi",
            size=960_000,
            sent=960_000,
            source="hit",
            blksize=1468,
            windowsize=4,
            packets=660,
            retransmits=6,
            duplicate_acks=2,
        ),
    )
    assert (batch.start, batch.sent, batch.lost, batch.told) == (site.reporter.start_id, site.wall, 0, 0)
    assert site.reporter.ended == {("tftp", "complete"): 1}


def test_a_busy_machine_moves_no_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes by while the ring is read, and between the reading of one clock and the other's."""
    site = Site()
    site.fetch(1)
    read, delays = site.reporter._read, [3.0, 0.0, 7.0]

    def passes(seconds: float) -> None:
        site.now, site.wall = site.now + seconds, site.wall + seconds

    def slowly_read(limit: int) -> Sequence[Any]:
        passes(5.0)
        return read(limit)

    def slowly_told() -> float:
        passes(delays.pop(0))
        return site.wall

    monkeypatch.setattr(site.reporter, "_read", slowly_read)
    monkeypatch.setattr(site.reporter, "_wall", slowly_told)
    site.reporter.poll()
    monkeypatch.undo()
    site.reporter.send()
    assert site.batches[0].transfers[0].at == 1_795_000_000.0 - 10


def test_a_clock_that_is_put_right_while_transfers_wait_leaves_them_to_the_region_to_put_right() -> None:
    """A machine without a battery starts in 1970; the network's time comes when it has served already."""
    site = Site()
    site.wall = 1000.0
    site.fetch(1)
    site.reporter.poll()
    site.now, site.wall = site.now + 20, 1_795_000_020.0
    site.fetch(1)
    site.reporter.poll()
    assert site.reporter.send() and site.reporter.send()
    old, new = site.batches
    assert [(old.sent, [each.at for each in old.transfers])] == [(1020.0, [990.0])]
    assert [(new.sent, [each.at for each in new.transfers])] == [(1_795_000_020.0, [1_795_000_020.0 - 30])]


def test_a_machine_is_named_by_what_it_asked_for_and_afterwards_by_its_address() -> None:
    site = Site()
    site.fetch(1, name="bootx64.efi")
    site.fetch(1, name=f"grub/grub.cfg-{MAC}", source="dynamic")
    site.fetch(1, name="squashfs", proto="http", agent="Wget\x1b[2J")
    site.reporter.poll()
    site.reporter.send()
    first, second, third = site.batches[0].transfers
    assert [(each.mac, each.known_by) for each in (first, second, third)] == [("", ""), (MAC, "name"), (MAC, "memory")]
    assert third.agent == "Wget?[2J"


def test_batches_are_bounded_and_in_order() -> None:
    site = Site()
    site.fetch(BATCH_TRANSFERS + 10)
    while site.reporter.poll():
        pass
    assert site.reporter.send() and site.reporter.send()
    assert [len(batch.transfers) for batch in site.batches] == [BATCH_TRANSFERS, 10]
    assert site.heard == list(range(1, BATCH_TRANSFERS + 11))
    assert (site.reporter.sent, site.reporter.waiting) == (BATCH_TRANSFERS + 10, 0)
    assert site.reporter.send() and len(site.batches) == 2  # nothing waits, nothing is sent


def test_a_batch_that_nobody_answered_is_repeated_as_it_was() -> None:
    site = Site()
    site.fetch(3)
    site.reporter.poll()
    site.after_hearing = RegionUnreachable("cut")
    assert not site.reporter.send()
    site.fetch(2)
    site.reporter.poll()
    site.after_hearing = None
    assert site.reporter.send() and site.reporter.send()
    assert [[each.seq for each in batch.transfers] for batch in site.batches] == [[1, 2, 3], [1, 2, 3], [4, 5]]
    assert len({batch.start for batch in site.batches}) == 1
    assert site.reporter.sent == 5


def test_a_full_queue_drops_the_oldest_and_the_region_hears_how_many(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    site = Site(queue_transfers=4)
    site.fault = RegionUnreachable("no region reachable: http://r: refused")
    site.fetch(2)
    site.reporter.poll()
    assert not site.reporter.send()  # 1 and 2 are on their way from here on
    site.fetch(7)
    site.reporter.poll()
    assert not site.reporter.send()
    site.lost = 5  # and the ring was full for a while
    site.fault = None
    assert site.reporter.send() and site.reporter.send()
    assert site.heard == [1, 2, 6, 7, 8, 9]
    assert [(batch.lost, batch.told) for batch in site.batches] == [(8, 0), (8, 8)]
    assert (site.reporter.sent, site.reporter.dropped, site.reporter.lost) == (6, Counter(queue=3), 8)
    assert [record.message for record in caplog.records] == [
        "transfers wait for a region: no region reachable: http://r: refused",
        "a region takes transfers again; 4 wait",
    ]


def test_refused_requests_fill_a_quarter_of_the_queue_and_push_out_no_transfer() -> None:
    site = Site(queue_transfers=8)
    site.fault = RegionUnreachable("no region reachable: http://r: refused")
    site.fetch(3)
    site.fetch(50, outcome="refused", name="nobody")
    site.fetch(3)
    site.reporter.poll()
    site.fault = None
    assert site.reporter.send()
    assert site.heard == [1, 2, 3, 4, 5, 54, 55, 56]
    assert site.reporter.dropped == Counter(refusals=48)
    site.fetch(1, outcome="refused")
    site.reporter.poll()
    assert site.reporter.send() and site.heard[-1] == 57


def test_a_batch_the_region_will_never_take_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.fetch(2)
    site.reporter.poll()
    site.fault = RegionRefused("transfers of http://r: expected 200, got 413")
    assert site.reporter.send()
    site.fault = None
    site.fetch(1)
    site.reporter.poll()
    site.reporter.send()
    assert site.heard == [3] and site.batches[0].lost == 2
    assert (site.reporter.sent, site.reporter.dropped) == (1, Counter(region=2))
    assert "2 transfers are not in the boot timeline: transfers of http://r" in caplog.text


def test_what_the_region_refuses_of_a_batch_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.fetch(5)
    site.taken = Taken(4, ["one", "two", "three", "four"])
    site.reporter.poll()
    assert site.reporter.send()
    assert (site.reporter.sent, site.reporter.dropped["region"], site.reporter.waiting) == (1, 4, 0)
    assert [record.message.rpartition(" ")[2] for record in caplog.records] == ["one", "two", "three"]


def test_a_flood_is_read_at_a_bounded_rate() -> None:
    site = Site()
    site.fetch(100_000)
    read = 0
    for _ in range(2 * 60):
        site.now += 0.5
        read += site.reporter.poll()
    assert read == int(reports.READ_BURST + 59.5 * reports.READ_PER_S)  # it was full when the flood came
    assert max(site.limits) == reports.POLL_RECORDS


def test_a_quiet_minute_does_not_save_up_for_more_than_one_full_ring() -> None:
    site = Site()
    site.now += 3600
    site.fetch(100_000)
    read = 0
    while got := site.reporter.poll():
        read += got
    assert read == reports.READ_BURST


def test_the_end_takes_what_the_rings_hold_and_sends_it() -> None:
    site = Site()
    site.reporter.start()
    site.fetch(BATCH_TRANSFERS + 1)
    site.reporter.stop(10.0)
    assert site.heard == list(range(1, BATCH_TRANSFERS + 2))


def test_an_end_without_a_region_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.fault = RegionUnreachable("gone")
    site.reporter.start()
    site.fetch(3)
    site.reporter.stop(10.0)
    assert "3 transfers are not in the boot timeline: no region took them" in caplog.text


def test_the_threads_poll_and_send_by_themselves_and_outlive_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reports, "POLL_S", 0.001)
    monkeypatch.setattr(reports, "SEND_S", 0.001)
    monkeypatch.setattr(reports, "BACKOFF_S", (0.001,))
    site = Site()
    arrived = threading.Event()
    faults: list[Exception] = [ValueError("a bug"), RegionUnreachable("gone")]
    hear = site.post

    def post(body: bytes) -> Taken:
        if faults:
            raise faults.pop()
        taken = hear(body)
        arrived.set()
        return taken

    site.reporter._post = post
    site.reporter.start()
    try:
        for number in range(3):
            arrived.clear()
            site.fetch(1)
            assert arrived.wait(20), number
        assert site.heard == [1, 2, 3]
        assert "transfers could not be sent" in caplog.text
    finally:
        site.reporter.stop(10.0)

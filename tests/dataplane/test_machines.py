from __future__ import annotations

from collections.abc import Mapping

import pytest

from bootplane.dataplane import machines
from bootplane.dataplane.machines import Machine, Machines

A, B = "52:54:00:77:00:01", "52:54:00:77:00:02"
PEER = "10.77.0.9"


class Link:
    """A neighbour table that counts how often it is read, and a clock."""

    def __init__(self, **table: str) -> None:
        self.table: dict[str, str] = {}
        self.reads = 0
        self.now = 1000.0
        self.error: OSError | None = None

    def read(self) -> Mapping[str, str]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return dict(self.table)

    def machines(self) -> Machines:
        return Machines(self.read, lambda: self.now)


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.mark.parametrize(
    "name",
    [
        "grub/grub.cfg-52:54:00:77:00:01",
        "grub/grub.cfg-52-54-00-77-00-01",
        "bios/pxelinux.cfg/01-52-54-00-77-00-01",
        "ipxe.cfg-52:54:00:77:00:01",
        "GRUB/GRUB.CFG-52:54:00:77:00:01",
    ],
)
def test_a_name_that_says_the_mac_is_believed_before_the_neighbour_table(link: Link, name: str) -> None:
    link.table[PEER] = B
    assert link.machines().of(name, PEER) == Machine(A, "name")


def test_the_neighbour_table_is_believed_before_what_was_said_earlier(link: Link) -> None:
    found = link.machines()
    found.of(f"ipxe.cfg-{A}", PEER)
    assert found.of("bootx64.efi", PEER) == Machine(A, "memory")
    link.table[PEER] = B
    link.now += 1
    assert found.of("bootx64.efi", PEER) == Machine(B, "neighbour")


def test_what_an_address_said_last_holds_for_a_quarter_of_an_hour(link: Link) -> None:
    found = link.machines()
    found.of(f"ipxe.cfg-{A}", PEER)
    found.of(f"ipxe.cfg-{B}", PEER)
    link.now += 15 * 60
    assert found.of("squashfs", PEER) == Machine(B, "memory")
    link.now += 1
    assert found.of("squashfs", PEER) == Machine()


def test_what_the_neighbour_table_said_is_remembered_too(link: Link) -> None:
    link.table[PEER] = A
    found = link.machines()
    found.of("bootx64.efi", PEER)
    link.table.clear()
    link.now += 60
    assert found.of("grubx64.efi", PEER) == Machine(A, "memory")


def test_a_uuid_is_told_beside_the_mac_and_alone(link: Link) -> None:
    uuid = "564d3a60-1111-2222-3333-0123456789ab"
    found = link.machines()
    assert found.of(f"pxelinux.cfg/{uuid}", PEER) == Machine("", "", uuid)
    link.table[PEER] = A
    link.now += 1
    assert found.of(f"pxelinux.cfg/{uuid}", PEER) == Machine(A, "neighbour", uuid)


def test_a_mac_of_zeros_is_none(link: Link) -> None:
    assert link.machines().of("grub/grub.cfg-00:00:00:00:00:00", PEER) == Machine()


def test_the_table_is_read_once_for_many_and_again_for_an_address_it_lacks(link: Link) -> None:
    link.table[PEER] = A
    found = link.machines()
    for _ in range(100):
        found.of("x", PEER)
    assert link.reads == 1
    link.table["10.77.0.10"] = B
    assert found.of("x", "10.77.0.10") == Machine()  # not sooner than READ_S
    link.now += machines.READ_S
    assert found.of("x", "10.77.0.10").mac == B and link.reads == 2
    link.now += machines.FRESH_S - 0.1
    found.of("x", PEER)
    assert link.reads == 2
    link.now += 0.1
    found.of("x", PEER)
    assert link.reads == 3


def test_reading_a_slow_table_takes_a_hundredth_of_the_time(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.25] * 10)
    monkeypatch.setattr(machines.time, "perf_counter", lambda: next(ticks))
    found = link.machines()
    found.of("x", PEER)
    link.now += 24.9
    found.of("x", PEER)
    assert link.reads == 1
    link.now += 0.1
    found.of("x", PEER)
    assert link.reads == 2


def test_loopback_is_not_looked_for(link: Link) -> None:
    found = link.machines()
    for address in ("127.0.0.1", "127.3.2.1", "::1"):
        found.of("x", address)
    assert link.reads == 0
    found.of("x", "no address")
    assert link.reads == 1


def test_a_table_that_cannot_be_read_is_said_once_and_names_still_work(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    link.error = PermissionError(1, "Operation not permitted")
    found = link.machines()
    for _ in range(3):
        assert found.of("x", PEER) == Machine()
        link.now += machines.FAILED_S
    assert found.of(f"ipxe.cfg-{A}", PEER) == Machine(A, "name")
    assert [record.message for record in caplog.records] == [
        "machines are known by the names they ask for alone: [Errno 1] Operation not permitted"
    ]


def test_a_table_that_can_no_longer_be_read_is_not_believed(link: Link) -> None:
    link.table[PEER] = A
    found = link.machines()
    assert found.of("x", PEER).known_by == "neighbour"
    link.error = OSError(105, "No buffer space available")
    link.now += machines.FRESH_S
    assert found.of("x", PEER) == Machine(A, "memory")
    link.now += machines.FORGET_S
    assert found.of("x", PEER) == Machine()


def test_the_addresses_remembered_are_bounded_and_the_newest_stay(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "MACHINES", 2)
    found = link.machines()
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"):
        found.of(f"ipxe.cfg-{A}", address)
    assert [found.of("x", f"10.0.0.{n}").mac for n in (1, 2, 3)] == [A, "", A]


def test_what_no_longer_holds_is_not_kept(link: Link) -> None:
    found = link.machines()
    for number in range(100):
        found.of(f"ipxe.cfg-{A}", f"10.77.1.{number}")
        link.now += machines.FORGET_S / 50
    assert len(found._known) <= 51

"""Boot events in the database: kept once, given their MAC afterwards, found by MAC and address, pruned in steps."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from bootplane.control.domain.boots import BootEvent, MachineKey
from bootplane.control.storage.database import Database
from bootplane.control.storage.timeline import Cursor, TimelineRepository

A, B = "52:54:00:77:00:01", "52:54:00:77:00:02"
PEER = "10.77.0.9"
NOON = 1_795_000_000.0
START = "0123456789abcdef"


@pytest.fixture
def events(database: Database) -> TimelineRepository:
    return TimelineRepository(database)


def event(at: float, name: str, mac: str | None = None, **change: Any) -> BootEvent:
    """A transfer of the rack's, *at* seconds after noon; its number is its time."""
    facts: dict[str, Any] = {"address": PEER, "rack": "r1", "outcome": "complete", "start": START, "seq": int(at * 10)}
    return BootEvent(at=NOON + at, mac=mac, name=name, **({"kind": "transfer"} | facts | change))


def own(at: float, name: str, mac: str | None = None, **change: Any) -> BootEvent:
    """An event of the region itself."""
    return event(at, name, mac, start="", seq=0, **change)


def names(found: list[BootEvent]) -> list[str]:
    return [each.name for each in found]


def of(mac: str = "", address: str = "") -> MachineKey:
    return MachineKey(mac, address)


def test_an_event_comes_back_as_it_was_put(events: TimelineRepository) -> None:
    put = event(1.25, "bootx64.efi", A, detail={"blksize": 1468, "agent": "caf\xe9"})
    assert events.add([put]) == 1
    [found] = events.events(of(A), 0, 10)
    assert found.id and found == BootEvent(**{name: getattr(put, name) for name in put.__slots__} | {"id": found.id})


def test_what_a_rack_tells_twice_is_kept_once_and_its_restart_counts_anew(events: TimelineRepository) -> None:
    batch = [event(n, f"f{n}", A) for n in (1, 2, 3)]
    assert events.add(batch) == 3
    assert events.add([*batch, event(4, "f4", A)]) == 1
    assert events.add([event(1, "f1", A, start="f" * 16)]) == 1
    assert events.add([event(1, "f1", A, rack="r2")]) == 1
    assert len(events.events(of(A), 0, 100)) == 6


def test_events_of_the_region_itself_are_never_taken_for_repetitions(events: TimelineRepository) -> None:
    assert events.add([own(1, "grub.cfg", A), own(1, "grub.cfg", A)]) == 2


def test_steps_are_files_of_images_boots_and_reports_each_at_its_last_time(events: TimelineRepository) -> None:
    image = "/images/0123456789abcdef/ubuntu/amd64/ga-24.04/noble/stable/squashfs"
    events.add(
        [event(1, image, A), event(2, image, A), event(3, "bootx64.efi", A), event(4, image, address="10.0.0.1")]
    )
    boots, nothing = own(5, "grub.cfg", A, kind="config", outcome="boots"), own(6, "grub.cfg", A, kind="config")
    events.add([boots, nothing, own(7, "init", A, kind="report", outcome="SUCCESS"), own(8, "boot", A, kind="ticket")])
    found = sorted(events.steps(NOON))
    assert [(step.at - NOON, step.kind, step.mac, step.address, step.outcome) for step in found] == [
        (2, "transfer", A, PEER, "complete"),
        (4, "transfer", "", "10.0.0.1", "complete"),
        (5, "config", A, PEER, "boots"),
        (7, "report", A, PEER, "SUCCESS"),
    ]
    assert [step.name for step in found[:2]] == [image, image] and events.steps(NOON + 7.5) == []


def test_nothing_to_keep_is_no_transaction(events: TimelineRepository) -> None:
    assert events.add([]) == 0


def test_earlier_events_of_the_address_get_the_mac_and_no_others(events: TimelineRepository) -> None:
    events.add([event(0, "too old"), event(2, "bootx64.efi"), event(3, "grubx64.efi", address="10.77.0.10")])
    events.add([event(4, "grubx64.efi", rack="r2"), event(5, "grubx64.efi")])
    events.add([event(901.5, f"grub/grub.cfg-{A}", A), event(901.4, "in the same batch")])
    assert names(events.events(of(A), 0, 10)) == [
        "bootx64.efi",
        "grubx64.efi",
        "in the same batch",
        f"grub/grub.cfg-{A}",
    ]
    [nameless] = [each for each in events.events(of(address=PEER), 0, 10) if each.name == "too old"]
    assert nameless.mac is None


def test_two_machines_on_one_address_one_after_the_other_share_nothing(events: TimelineRepository) -> None:
    events.add(
        [event(1, "a1"), event(2, "a2", A), event(3, "b1"), event(4, "b2", B), event(5, "b3"), event(6, "b4", B)]
    )
    assert names(events.events(of(A), 0, 10)) == ["a1", "a2"]
    assert names(events.events(of(B), 0, 10)) == ["b1", "b2", "b3", "b4"]


def test_what_happened_during_a_named_transfer_is_that_machines(events: TimelineRepository) -> None:
    events.add([own(10.2, "grub/grub.cfg")])
    events.add([event(10, "grub/grub.cfg", A, detail={"seconds": 0.5})])
    assert names(events.events(of(A), 0, 10)) == ["grub/grub.cfg", "grub/grub.cfg"]


def test_an_event_of_the_region_without_mac_takes_the_last_one_of_its_address(events: TimelineRepository) -> None:
    events.add([event(1, "x", A), event(2, "y", B), event(3, "elsewhere", A, rack="r2")])
    events.add([own(4, "report"), own(904.5, "too late"), own(5, "unknown", address="10.77.0.77")])
    assert names(events.events(of(B), 0, 10)) == ["y", "report"]
    assert [each.mac for each in events.events(of(address=PEER), NOON + 900, 10)] == [None]


def test_an_event_of_the_region_takes_the_mac_of_an_earlier_one_in_the_same_batch(events: TimelineRepository) -> None:
    events.add([own(2, "ipxe.cfg"), own(1, f"ipxe.cfg-{A}", A), own(903, "too late"), own(3, "r2", rack="r2")])
    assert names(events.events(of(A), 0, 10)) == [f"ipxe.cfg-{A}", "ipxe.cfg"]


def test_a_racks_own_word_about_who_it_was_is_not_changed(events: TimelineRepository) -> None:
    """It knows its link; the region would guess."""
    events.add([event(1, "x", A)])
    events.add([event(2, "y")])
    assert names(events.events(of(A), 0, 10)) == ["x"]


def test_the_newest_events_come_oldest_first_and_page_by_page(events: TimelineRepository) -> None:
    events.add([event(n // 2, f"f{n}", A, seq=n + 1) for n in range(10)])  # pairs at the same time
    newest = events.events(of(A), 0, 3)
    assert names(newest) == ["f7", "f8", "f9"]
    older = events.events(of(A), 0, 4, Cursor(newest[0].at, str(newest[0].id)))
    assert names(older) == ["f3", "f4", "f5", "f6"]
    assert names(events.events(of(A), NOON + 4, 10)) == ["f8", "f9"]
    last = events.last(of(A))
    assert last is not None and last.name == "f9" and events.last(of(B)) is None


def test_machines_are_listed_by_their_last_event(events: TimelineRepository) -> None:
    events.add([event(1, "a", A, address="10.0.0.1"), event(5, "b", B), event(5, "b2", B, seq=99)])
    events.add([event(7, "c", None, address="10.0.0.3"), event(9, "a2", A, address="10.0.0.4")])
    seen = events.machines(10)
    assert [(each.machine, each.last.name, each.last.address) for each in seen] == [
        (A, "a2", "10.0.0.4"),
        ("10.0.0.3", "c", "10.0.0.3"),
        (B, "b2", PEER),
    ]
    first, second = events.machines(1), events.machines(2, Cursor(NOON + 9, A))
    assert [each.machine for each in (*first, *second)] == [A, "10.0.0.3", B]


def test_machines_of_one_moment_are_each_listed_once(events: TimelineRepository) -> None:
    events.add([event(1, "x", f"52:54:00:77:00:{n:02x}", seq=n + 1, address=f"10.0.0.{n}") for n in range(5)])
    found: list[str] = []
    after: Cursor | None = None
    while page := events.machines(2, after):
        found += [each.machine for each in page]
        after = Cursor(page[-1].last.at, page[-1].machine)
    assert found == [f"52:54:00:77:00:{n:02x}" for n in range(5)]


def test_the_oldest_go_by_age_and_by_number_in_steps(events: TimelineRepository) -> None:
    events.add([event(n, f"f{n}", A) for n in range(1, 11)])
    assert events.prune(NOON + 4, keep=100, step=2) == 2
    assert events.prune(NOON + 4, keep=100, step=2) == 1
    assert events.prune(NOON + 4, keep=100, step=2) == 0
    assert events.prune(0, keep=5, step=100) == 2
    assert names(events.events(of(A), 0, 100)) == ["f6", "f7", "f8", "f9", "f10"]
    assert events.prune(0, keep=5, step=100) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("SELECT * FROM boot_events WHERE mac = 'x' AND at >= 1 ORDER BY at DESC, id DESC", "ix_boot_events_mac"),
        ("SELECT * FROM boot_events WHERE address = 'x' AND at >= 1 ORDER BY at DESC", "ix_boot_events_address"),
        (
            "UPDATE boot_events SET mac='m' WHERE mac IS NULL AND rack = 'r' AND address = 'a' AND at BETWEEN 1 AND 2",
            "ix_boot_events_nameless",
        ),
    ],
)
def test_every_question_has_its_index(database: Database, statement: str, index: str) -> None:
    with database.read() as session:
        plan = session.execute(sa.text(f"EXPLAIN QUERY PLAN {statement}")).all()
    assert any(f"USING INDEX {index}" in str(row) for row in plan), plan
    assert not any("TEMP B-TREE" in str(row) for row in plan), plan

"""The timeline: what racks and the region tell, counted once, on one clock, told to watchers, kept within bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from bootplane.control import timeline as module
from bootplane.control.errors import CallerError, NotFound
from bootplane.control.events import Hub
from bootplane.control.storage.database import Database
from bootplane.control.storage.timeline import TimelineRepository
from bootplane.control.timeline import BootEvent, Timeline
from bootplane.dataplane.transfers import Batch, Transfer

MAC = "52:54:00:77:00:01"
NOW = 1_795_000_000.0
START = "0123456789abcdef"


class Watcher(Hub):
    """Keeps what is published, and can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, Any]] = []
        self.changed = threading.Condition()

    def publish(self, name: str, data: Any) -> None:
        with self.changed:
            self.heard.append((name, data))
            self.changed.notify_all()


@pytest.fixture
def hub() -> Watcher:
    return Watcher()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'region.sqlite'}")
    made.migrate()
    yield made
    made.close()


def build(database: Database, hub: Hub, **options: Any) -> Timeline:
    settings: dict[str, Any] = {"age_s": 30 * 86400.0, "events": 1000, "clock": lambda: NOW}
    return Timeline(TimelineRepository(database), hub, **(settings | options))


@pytest.fixture
def timeline(database: Database, hub: Watcher) -> Timeline:
    return build(database, hub)


def transfer(seq: int, **change: Any) -> Transfer:
    facts: dict[str, Any] = {"at": NOW - 10, "protocol": "tftp", "address": "10.77.0.9", "outcome": "complete"}
    return Transfer(seq=seq, **(facts | {"name": f"f{seq}", "mac": MAC} | change))


def batch(*transfers: Transfer, **change: Any) -> Batch:
    facts: dict[str, Any] = {"start": START, "sent": NOW, "lost": 0, "told": 0}
    return Batch(transfers=transfers, **(facts | change))


def own(name: str = "grub/grub.cfg", kind: str = "config", mac: str | None = MAC) -> BootEvent:
    return BootEvent(NOW, kind, mac, "10.77.0.9", "r1", name, "boots")


def test_a_transfer_is_an_event_with_its_wire_facts_as_detail(timeline: Timeline) -> None:
    wire = {"seconds": 1.5, "sent": 90, "size": 90, "blksize": 1468, "windowsize": 4, "retransmits": 3}
    timeline.take(batch(transfer(7, known_by="name", source="hit", **wire)), "r1")
    [event] = timeline.of("52-54-00-77-00-01")
    assert (event.at, event.kind, event.mac, event.address, event.rack) == (
        NOW - 10,
        "transfer",
        MAC,
        "10.77.0.9",
        "r1",
    )
    assert (event.name, event.outcome, event.start, event.seq) == ("f7", "complete", START, 7)
    assert event.detail == {"protocol": "tftp", "known_by": "name", "source": "hit", **wire}
    assert timeline.of("10.77.0.9") == [event]


def test_a_repeated_batch_adds_nothing_and_is_not_counted(timeline: Timeline) -> None:
    for _ in range(2):
        timeline.take(batch(transfer(1), transfer(2)), "r1")
    timeline.take(batch(transfer(2), transfer(3)), "r1")
    assert [event.name for event in timeline.of(MAC)] == ["f1", "f2", "f3"]
    assert timeline.taken == {"transfer": 3}


def test_events_are_counted_by_kind(timeline: Timeline) -> None:
    timeline.add([own(), own(), own(kind="report")])
    timeline.take(batch(transfer(1)), "r1")
    assert timeline.taken == {"config": 2, "report": 1, "transfer": 1}


def test_an_event_of_a_kind_nobody_knows_is_a_bug_and_nothing_is_kept(timeline: Timeline) -> None:
    with pytest.raises(ValueError, match="expected a kind of transfer, config, ticket, report, got 'rumour'"):
        timeline.add([own(), own(kind="rumour")])
    assert timeline.of(MAC) == []


@pytest.mark.parametrize("ahead", [-86400, 7200.0])
def test_the_clock_of_a_rack_that_is_wrong_is_put_right(timeline: Timeline, ahead: float) -> None:
    timeline.take(batch(transfer(1, at=NOW + ahead - 10), sent=NOW + ahead), "r1")
    assert timeline.of(MAC)[0].at == NOW - 10


def test_a_little_difference_of_clocks_is_left_alone_and_nothing_is_in_the_future(timeline: Timeline) -> None:
    timeline.take(batch(transfer(1, at=NOW - 0.5), transfer(2, at=NOW + 0.5), sent=NOW + 1), "r1")
    assert [event.at for event in timeline.of(MAC)] == [NOW - 0.5, NOW]


def test_what_racks_lost_is_counted_once_however_often_it_is_told(
    timeline: Timeline, caplog: pytest.LogCaptureFixture
) -> None:
    timeline.take(batch(transfer(1), lost=5), "r1")
    timeline.take(batch(transfer(1), lost=5), "r1")  # repeated
    timeline.take(batch(transfer(2), lost=7, told=5), "r1")
    timeline.take(batch(transfer(1), lost=4, start="f" * 16), "r1")  # another start counts from 0
    timeline.take(batch(transfer(1), lost=3), "r2")
    assert timeline.lost == 5 + 2 + 4 + 3
    assert "rack r1: 2 transfers are in no timeline, it could not keep them" in caplog.text


def test_a_region_that_has_restarted_does_not_count_what_another_was_told(timeline: Timeline) -> None:
    timeline.take(batch(transfer(1), lost=9, told=6), "r1")
    assert timeline.lost == 3


def test_refused_transfers_are_counted_and_the_first_is_said(
    timeline: Timeline, caplog: pytest.LogCaptureFixture
) -> None:
    timeline.take(batch(transfer(1), refused=("transfer 1: nonsense", "transfer 2: more")), "r1")
    assert timeline.refused == 2 and len(timeline.of(MAC)) == 1
    assert "rack r1: 2 transfers refused, the first: transfer 1: nonsense" in caplog.text


def test_nothing_known_of_a_machine_is_not_found_and_nonsense_is_refused(timeline: Timeline) -> None:
    with pytest.raises(NotFound, match=f"machine {MAC}: no rack of this region has told anything of it"):
        timeline.last(MAC)
    with pytest.raises(CallerError, match="expected a MAC or an IP address, got 'kiruna'"):
        timeline.of("kiruna")


def test_a_note_is_kept_without_waiting_and_survives_a_database_that_is_away(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add = timeline._repository.add

    def broken(events: Any) -> int:
        raise OperationalError("INSERT", {}, Exception("disk I/O error"))

    monkeypatch.setattr(timeline._repository, "add", broken)
    timeline.note(own("first"))
    timeline.note(own("second"))
    timeline._write_notes()
    assert "2 events wait for the database: disk I/O error" in caplog.text
    monkeypatch.setattr(timeline._repository, "add", add)
    timeline.close()
    assert [event.name for event in timeline.of(MAC)] == ["first", "second"]
    timeline._write_notes()
    assert len(timeline.of(MAC)) == 2


def test_notes_are_bounded_and_what_is_dropped_is_counted(timeline: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTES", 2)
    for name in "abc":
        timeline.note(own(name))
    timeline.close()
    assert [event.name for event in timeline.of(MAC)] == ["b", "c"] and timeline.lost == 1


def test_watchers_hear_of_machines_by_mac_and_address_once(timeline: Timeline, hub: Watcher) -> None:
    timeline.add([own(), own()])
    timeline.add([own(mac=None)])
    timeline.tell()
    timeline.tell()
    assert hub.heard == [("machines", {"ids": ["10.77.0.9", MAC]})]


def test_news_of_very_many_machines_is_said_without_naming_them(timeline: Timeline, hub: Watcher) -> None:
    timeline.take(batch(*(transfer(n, address=f"10.77.1.{n}", mac="") for n in range(1, 66))), "r1")
    timeline.tell()
    assert hub.heard == [("machines", {"ids": None})]


def test_pruning_goes_by_age_and_by_number(database: Database, hub: Watcher) -> None:
    timeline = build(database, hub, age_s=100.0, events=3)
    old = [transfer(n, at=NOW - 200) for n in range(1, 4)]
    timeline.take(batch(*old, *(transfer(n) for n in range(4, 9))), "r1")
    assert timeline.prune() == 5
    assert [event.name for event in timeline.of(MAC)] == ["f6", "f7", "f8"]
    assert timeline.prune() == 0


def test_the_keeper_writes_notes_tells_watchers_and_prunes(
    database: Database, hub: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NEWS_S", 0.001)
    monkeypatch.setattr(module, "PRUNE_EVERY_S", 0.001)
    monkeypatch.setattr(module, "PRUNE_STEP", 2)
    monkeypatch.setattr(module, "PRUNE_PAUSE_S", 0.0)
    timeline = build(database, hub, events=5)
    timeline.take(batch(*(transfer(n) for n in range(1, 60))), "r1")
    timeline.start()
    try:
        timeline.note(own("noted"))
        with hub.changed:
            assert hub.changed.wait_for(lambda: len(hub.heard) >= 1, timeout=20)
        tick = threading.Event()
        for _ in range(2000):
            if len(timeline.of(MAC)) == 5:
                break
            tick.wait(0.01)
        assert [event.name for event in timeline.of(MAC)] == ["f56", "f57", "f58", "f59", "noted"]
    finally:
        timeline.close()

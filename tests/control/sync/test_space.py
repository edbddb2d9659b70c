"""Room for a sync: all of it or none, what is partly here counted once, a warning before it is too late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from bootplane.control.app import Region
from bootplane.control.storage.banners import BannerRepository
from bootplane.control.storage.database import Database
from bootplane.control.sync import space
from bootplane.control.sync.decide import Fetch
from bootplane.control.sync.space import Room
from bootplane.dataplane.store import InsufficientSpace, Store
from tests.control.sync.test_coordinator import GA_KERNEL
from tests.control.sync.test_store_start import banners as shown
from tests.control.sync.test_store_start import until
from tests.fakes.mirror import Fault, MirrorServer
from tests.fakes.regions import ENDS_S

A, B = Fetch("aa" * 32, 1000, "a", ()), Fetch("bb" * 32, 500, "b", ())


@pytest.fixture
def banners(tmp_path: Path) -> Iterator[BannerRepository]:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.migrate()
    yield BannerRepository(database)
    database.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_is_promised_is_no_longer_free_until_it_is_given_back(store: Store, banners: BannerRepository) -> None:
    room = Room(store, banners, 0)
    big = Fetch("cc" * 32, 1 << 30, "c", ())
    before = store.free_bytes()
    room.reserve([big])
    assert before - store.free_bytes() >= (1 << 30) - (16 << 20)
    room.release()
    assert abs(store.free_bytes() - before) <= 16 << 20 and room.reservations == {}


def test_what_has_arrived_is_not_reserved_again(store: Store, banners: BannerRepository) -> None:
    store.partial_path(A.sha256).write_bytes(b"x" * 600)
    room = Room(store, banners, 0)
    room.reserve([A, B])
    assert {sha: reservation.left for sha, reservation in room.reservations.items()} == {A.sha256: 400, B.sha256: 500}
    room.release()


def test_too_little_room_reserves_nothing_and_names_the_sum(
    store: Store, banners: BannerRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "free_bytes", lambda: 1200)
    room = Room(store, banners, 0)
    with pytest.raises(InsufficientSpace, match="expected 1500 bytes free, got 1200"):
        room.reserve([A, B])
    assert room.reservations == {}


def test_a_low_disk_is_said_before_it_is_full_and_unsaid_after(store: Store, banners: BannerRepository) -> None:
    Room(store, banners, 1 << 60).reserve([A])
    [banner] = banners.list()
    assert banner.id == "low-space" and str(store.directory) in banner.text
    Room(store, banners, 0).reserve([B])
    assert banners.list() == []


def test_a_sync_that_waits_for_room_goes_on_when_it_has_come_over_a_restart_too(
    store: Store, banners: BannerRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(store, banners, 0)
    assert not room.waits()
    room.lacked("store: expected 5000 bytes free, got 1", 5000)
    assert banners.list()[0].id == "disk-full"
    monkeypatch.setattr(store, "free_bytes", lambda: 4999)
    assert room.waits() and not room.has_come()
    monkeypatch.setattr(store, "free_bytes", lambda: 5001)
    assert room.has_come()
    assert Room(store, banners, 0).waits()  # a new process finds the banner
    room.sufficed()
    assert not room.waits() and not Room(store, banners, 0).waits()


def test_the_warning_ends_while_a_sync_runs(
    region: Region, client: TestClient, mirror: MirrorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "LOOK_S", 0.1)
    room, goes_on = region.coordinator._room, threading.Event()
    room._low_space_bytes = 1 << 60
    mirror.faults[GA_KERNEL] = Fault(first=lambda: goes_on.wait(ENDS_S))
    try:
        client.post("/api/v1/sync")
        until(lambda: "low-space" in shown(client), "the warning")
        until(lambda: region.coordinator.document()["state"] == "downloading", "a sync that downloads")
        room._low_space_bytes = 0
        until(lambda: "low-space" not in shown(client), "no warning while the sync runs")
        assert region.coordinator.document()["state"] == "downloading"
    finally:
        goes_on.set()
    assert region.coordinator.wait_ended(ENDS_S)

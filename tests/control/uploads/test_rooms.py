"""Room for uploads: taken once, kept while somebody is at it, given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootplane.control.uploads.rooms import KEPT_S, Rooms
from bootplane.dataplane.store import InsufficientSpace, Store


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def lacks_nothing_more() -> int:
    raise AssertionError("asked again")


def test_room_is_taken_once_and_given_back_to_its_last_byte(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rooms = Rooms(store)
    room = rooms.hold("a", lambda: 5000)
    assert store._reserved == 5000
    assert rooms.hold("a", lacks_nothing_more) is room
    room.spend(2000)
    rooms.drop("a")
    rooms.drop("a")
    assert store._reserved == 0


def test_room_of_the_quiet_is_given_back_and_that_of_the_busy_is_not(tmp_path: Path) -> None:
    store, clock = Store(tmp_path), Clock()
    rooms = Rooms(store, clock)
    for upload, nbytes in (("quiet", 1), ("busy", 20), ("back", 300)):
        rooms.hold(upload, lambda nbytes=nbytes: nbytes)
    clock.now += KEPT_S - 1
    rooms.use("back")
    rooms.use("nobody")
    clock.now += 2
    rooms.drop_quiet({"busy"})
    assert store._reserved == 320
    clock.now += KEPT_S
    rooms.drop_quiet(())
    assert store._reserved == 0
    assert rooms.use("back") is None


def test_a_disk_without_room_leaves_no_room_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rooms = Rooms(store)
    with pytest.raises(InsufficientSpace):
        rooms.hold("a", lambda: 1 << 60)
    assert rooms.use("a") is None and store._reserved == 0

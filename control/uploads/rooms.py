"""Room on the disk for what uploads lack: taken for the whole of one before its first byte, given back when nobody has
wanted it for a while. Thread-safe. Left to others: how much an upload lacks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from bootplane.dataplane.store import Reservation, Store

KEPT_S = 120.0  # for an upload whose client has gone quiet


@dataclass(slots=True)
class _Room:
    reservation: Reservation
    used: float  # when it was last wanted, on the clock


class Rooms:
    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._rooms: dict[str, _Room] = {}  # by upload id

    def hold(self, upload_id: str, lacking: Callable[[], int]) -> Reservation:
        """The upload's room, or *lacking()* bytes of new room. Raises the store's InsufficientSpace."""
        held = self.use(upload_id)
        if held is not None:
            return held
        nbytes = lacking()  # looks at files and rows
        with self._lock:
            if upload_id not in self._rooms:
                self._rooms[upload_id] = _Room(self._store.reserve(nbytes), self._clock())
            return self._rooms[upload_id].reservation

    def use(self, upload_id: str) -> Reservation | None:
        """A sign of life."""
        with self._lock:
            room = self._rooms.get(upload_id)
            if room is None:
                return None
            room.used = self._clock()
            return room.reservation

    def drop(self, upload_id: str) -> None:
        with self._lock:
            room = self._rooms.pop(upload_id, None)
        if room is not None:
            room.reservation.release()

    def drop_quiet(self, busy: Collection[str]) -> None:
        """Gives back the room of those that have been quiet for KEPT_S, but for *busy* ones."""
        before = self._clock() - KEPT_S
        with self._lock:
            quiet = [upload_id for upload_id, room in self._rooms.items() if room.used < before]
        for upload_id in quiet:
            if upload_id not in busy:
                self.drop(upload_id)

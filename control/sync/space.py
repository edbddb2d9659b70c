"""Room on the disk for a sync: reserved before the first byte, for all of its files or for none.

Half a set boots nothing, so a sync that does not fit does not begin. What is lacking is remembered, and the sync goes
on by itself when it is there. A warning comes before that, and stands no longer than LOOK_S after there is room again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from bootplane.control.banners import DISK_FULL, LOW_SPACE, Board
from bootplane.control.storage.banners import BannerRepository
from bootplane.control.sync.decide import Fetch
from bootplane.dataplane.store import InsufficientSpace, Reservation, Store

LOOK_S = 60.0


class Room:
    """Reservations of one sync at a time, and the banners about space."""

    def __init__(self, store: Store, banners: BannerRepository, low_space_bytes: int) -> None:
        self._store = store
        self._banners = banners
        self._board = Board(banners)
        self._low_space_bytes = low_space_bytes
        self.reservations: dict[str, Reservation] = {}
        self._next_look = 0.0
        self.needed_bytes: int | None = None  # free bytes that a stopped sync waits for

    def waits(self) -> bool:
        """Whether a sync stopped for lack of room, in this process or an earlier one."""
        if self.needed_bytes is None and any(banner.id == DISK_FULL.id for banner in self._banners.list()):
            self.needed_bytes = 0
        return self.needed_bytes is not None

    def reckon_anew(self) -> None:
        """How much a stopped sync waits for is no longer known: the next look at it lets it try."""
        if self.needed_bytes is not None:
            self.needed_bytes = 0

    def has_come(self) -> bool:
        return self.needed_bytes is not None and self._store.free_bytes() > self.needed_bytes

    def reserve(self, wanted: Iterable[Fetch]) -> None:
        """Room for what these files still lack. Raises InsufficientSpace with the sum, and reserves nothing then."""
        lacking = {each.sha256: max(each.size - self._store.kept_bytes(each.sha256), 0) for each in wanted}
        total = sum(lacking.values())
        free = self._store.free_bytes()
        if total > free and self._store.make_room(total - free):
            free = self._store.free_bytes()
        try:
            if total > free:
                raise InsufficientSpace(self._store.directory, total, max(free, 0))
            for sha256, nbytes in lacking.items():
                self.reservations[sha256] = self._store.reserve(nbytes)
        except InsufficientSpace:
            self.release()
            raise
        self.look()

    def release(self) -> None:
        while self.reservations:
            self.reservations.popitem()[1].release()

    def lacked(self, sentence: str, needed_bytes: int) -> None:
        """The sync stops: say so, and remember how much it waits for."""
        self.needed_bytes = needed_bytes
        self._board.show(DISK_FULL, f"The sync stopped: {sentence}.")

    def sufficed(self) -> None:
        self.needed_bytes = None
        self._board.end(DISK_FULL)

    def look_if_due(self) -> None:
        """For a sync that runs, or is paused, for hours."""
        if time.monotonic() >= self._next_look:
            self.look()

    def look(self) -> None:
        """Warn while there still is room; take the warning back when there is enough."""
        self._next_look = time.monotonic() + LOOK_S
        free_bytes = self._store.free_bytes()
        if free_bytes >= self._low_space_bytes:
            self._board.end(LOW_SPACE)
            return
        text = (
            f"{self._store.directory}: expected at least {self._low_space_bytes} bytes free, what a running sync needs "
            f"left out, got {max(free_bytes, 0)}."
        )
        self._board.show(LOW_SPACE, text)

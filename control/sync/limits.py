"""When a sync may fetch, and how fast: the operator's limits, changeable while one runs.

The limit is of all downloads together: each asks for its next piece before it reads it and gives back what did not
come, so that the sum keeps to the rate whatever their number. Metadata is not counted. What is in the socket buffers
(some MiB for each connection) is ahead of the reckoning.

The window is in the region's local time, by the clock on the wall, also over midnight; it is looked at again and again,
so a change to summer time needs no rule of its own. It binds what begins by itself; who asks for a sync gets it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from datetime import time as Clock
from typing import Any

from bootplane.control.errors import CallerError
from bootplane.control.storage.settings import SettingsRepository
from bootplane.dataplane.budget import Budget

LEAST_BYTES_S = 8000  # 64 kbit/s: below, a file of 500 MB takes a day
LIMIT, WINDOW = "sync_limit_bytes_s", "sync_window"  # settings

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)\Z")


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of the day in which syncs run: from *begin* to before *end*. ``22:00-06:00`` goes over midnight."""

    begin: Clock
    end: Clock

    @classmethod
    def parse(cls, text: str) -> Window:
        """Raises CallerError in one sentence."""
        found = _WINDOW.match(text.strip())
        if found is None:
            raise CallerError(f"sync window: expected HH:MM-HH:MM like 22:00-06:00, got {text[:40]!r}")
        begin, end = Clock(int(found[1]), int(found[2])), Clock(int(found[3]), int(found[4]))
        if begin == end:
            raise CallerError(f"sync window: expected two different times, or none for the whole day, got {text!r}")
        return cls(begin, end)

    def is_open(self, at: datetime) -> bool:
        now = Clock(at.hour, at.minute)
        if self.begin < self.end:
            return self.begin <= now < self.end
        return now >= self.begin or now < self.end

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"


class Throttle:
    """A budget of bytes a second that threads share. Without a limit it costs a comparison."""

    def __init__(self, limit_bytes_s: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = Budget(limit_bytes_s)
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def limit_bytes_s(self) -> int:
        return self._budget.limit_bytes_s

    def change(self, limit_bytes_s: int) -> None:
        with self._lock:
            self._budget.change(limit_bytes_s, self._clock())

    def take(self, nbytes: int, stopping: threading.Event) -> int:
        """How many of *nbytes* may be read now, at least 1; waits until some may, or until *stopping*."""
        while True:
            if not self._budget.limit_bytes_s:
                return nbytes
            with self._lock:
                wait_s = self._budget.wait_s(self._clock())
                if not wait_s:
                    allowed = max(min(nbytes, self._budget.longest_run() or nbytes), 1)
                    self._budget.spend(allowed, self._clock())
                    return allowed
            if stopping.wait(min(wait_s, 1.0)):  # a limit that is lifted meanwhile is seen within a second
                return nbytes

    def give_back(self, nbytes: int) -> None:
        """So many of what ``take`` allowed have not come."""
        if nbytes and self._budget.limit_bytes_s:
            with self._lock:
                self._budget.give_back(nbytes)


class SyncLimits:
    """What the operator has set, kept in the database; ``throttle`` follows it."""

    def __init__(
        self, settings: SettingsRepository, local_now: Callable[[], datetime] = lambda: datetime.now().astimezone()
    ) -> None:
        self._settings = settings
        self._local_now = local_now
        self.throttle = Throttle(int(settings.get(LIMIT) or 0))
        text = settings.get(WINDOW)
        self.window = Window.parse(text) if text else None

    def is_open(self) -> bool:
        """Whether a sync may run by itself now."""
        return self.window is None or self.window.is_open(self._local_now())

    def change(self, changes: Mapping[str, Any]) -> None:
        """``limit_bytes_s`` (null or 0: none) and ``window`` (null: the whole day), those that are named. Raises
        CallerError, and has changed nothing then."""
        if not changes:
            raise CallerError("sync: expected limit_bytes_s or window to be set, got none")
        limit = changes.get("limit_bytes_s") or 0
        if limit and limit < LEAST_BYTES_S:
            raise CallerError(f"sync limit: expected {LEAST_BYTES_S} bytes/s (64 kbit/s) or more, got {limit}")
        window = Window.parse(changes["window"]) if changes.get("window") else None
        if "limit_bytes_s" in changes:
            self._settings.put({LIMIT: str(limit)})
            self.throttle.change(limit)
        if "window" in changes:
            self._settings.put({WINDOW: str(window) if window else ""})
            self.window = window

    def document(self) -> dict[str, Any]:
        """The part of the API's <sync> that is about limits."""
        return {
            "limit_bytes_s": self.throttle.limit_bytes_s or None,
            "window": str(self.window) if self.window else None,
            "window_open": self.is_open(),
        }

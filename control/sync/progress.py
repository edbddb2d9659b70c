"""How far a sync is, in memory: written by downloads, read by the API and the event stream.

Invariant: ``bytes_done`` of a file is what stands verified-so-far in the store, resumed prefixes included, so a total
never runs backwards because of a restart. Rates are bytes that came over the wire, over the last few seconds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

FileState = Literal["waiting", "downloading", "done", "failed", "stopped"]
RATE_WINDOW_S = 5.0


class Rate:
    """Bytes per second over the last RATE_WINDOW_S. Not thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque()  # (time, bytes) of the last seconds, one mark a tenth at most
        self._sum = 0
        self._since: float | None = None

    def add(self, nbytes: int) -> None:
        now = self._clock()
        if self._since is None:
            self._since = now
        self._sum += nbytes
        if self._marks and now - self._marks[-1][0] < 0.1:
            time_s, before = self._marks[-1]
            self._marks[-1] = (time_s, before + nbytes)
        else:
            self._marks.append((now, nbytes))
        self._expire(now)

    def value(self) -> float:
        now = self._clock()
        self._expire(now)
        if self._since is None or not self._marks:
            return 0.0
        return self._sum / min(RATE_WINDOW_S, max(now - self._since, 0.5))

    def _expire(self, now: float) -> None:
        while self._marks and now - self._marks[0][0] > RATE_WINDOW_S:
            self._sum -= self._marks.popleft()[1]


@dataclass(slots=True)
class FileProgress:
    sha256: str
    path: str
    size: int  # bytes
    rate: Rate
    done: int = 0  # bytes
    state: FileState = "waiting"
    error: str | None = None


class Progress:
    """The files of the running sync. Thread-safe; every method is short."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._files: dict[str, FileProgress] = {}
        self._total_rate = Rate(clock)

    def begin(self, files: list[tuple[str, str, int]]) -> None:
        """A new sync of these (sha256, path, size)."""
        with self._lock:
            self._files = {sha256: FileProgress(sha256, path, size, Rate(self._clock)) for sha256, path, size in files}
            self._total_rate = Rate(self._clock)

    def at(self, sha256: str, done: int) -> None:
        """*done* bytes of the file stand in the store: after a resume, or after starting over."""
        with self._lock:
            if (file := self._files.get(sha256)) is not None:
                file.done, file.state = done, "downloading"

    def received(self, sha256: str, nbytes: int) -> None:
        with self._lock:
            if (file := self._files.get(sha256)) is not None:
                file.done += nbytes
                file.rate.add(nbytes)
                self._total_rate.add(nbytes)

    def end(self, sha256: str, state: FileState, error: str | None = None) -> None:
        with self._lock:
            if (file := self._files.get(sha256)) is not None:
                file.state, file.error = state, error
                if state == "done":
                    file.done = file.size

    def document(self) -> dict[str, Any]:
        """The part of the API's <sync> that is about bytes."""
        with self._lock:
            files = [
                {
                    "sha256": file.sha256,
                    "path": file.path,
                    "size": file.size,
                    "done": file.done,
                    "rate": round(file.rate.value()) if file.state == "downloading" else 0,
                    "state": file.state,
                    "error": file.error,
                }
                for file in self._files.values()
            ]
            rate = round(self._total_rate.value())
        total = sum(file["size"] for file in files)  # type: ignore[misc]
        done = sum(file["done"] for file in files)  # type: ignore[misc]
        left = total - done
        return {
            "files": files,
            "bytes_total": total,
            "bytes_done": done,
            "rate": rate,
            "eta_s": round(left / rate, 1) if rate and left else (0.0 if not left else None),
        }

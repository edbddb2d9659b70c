"""Progress of long work that a command does itself: how much of how much, rate, time left.

On a terminal one line that is written again, at most four times a second; elsewhere a line at each tenth, at most one
a second, which a log can bear. It goes to standard error: a pipe carries the result alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from bootplane.control.cli import figures, output

EACH_S = 0.25
LINE_S = 1.0  # work that is over sooner needs no progress in a log
WINDOW_S = 20.0  # the rate is that of the last while: a slow beginning is forgotten


class Meter:
    """Call it with bytes (or another *unit*) as they are done; a context manager that ends its line."""

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "bytes",
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._unit, self._clock = what, total, unit, clock
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._quiet = quiet or total <= 0
        self._done = 0
        self._tenth = 0
        self._shown_at = self._mark_at = clock()
        self._mark_done = 0
        self._older: tuple[float, int] = (self._mark_at, 0)

    def __call__(self, nbytes: int) -> None:
        self._done += nbytes
        if self._quiet:
            return
        now = self._clock()
        if now - self._mark_at >= WINDOW_S / 2:
            self._older = (self._mark_at, self._mark_done)
            self._mark_at, self._mark_done = now, self._done
        if self._is_terminal:
            if now - self._shown_at >= EACH_S:
                self._shown_at = now
                self._stream.write(f"\r\x1b[K{self.line(now)}")
                self._stream.flush()
        elif 10 * self._done // self._total > self._tenth and now - self._shown_at >= LINE_S:
            self._shown_at = now
            self._tenth = 10 * self._done // self._total
            self._stream.write(self.line(now) + "\n")
            self._stream.flush()

    def line(self, now: float) -> str:
        since, before = self._older
        rate_s = (self._done - before) / (now - since) if now > since else 0.0
        left = max(self._total - self._done, 0)
        percent = min(100 * self._done // self._total, 100)
        if self._unit == "bytes":
            text = f"{self._what}: {figures.size(self._done)} of {figures.size(self._total)} ({percent}%)"
        else:
            text = f"{self._what}: {self._done} of {self._total} {self._unit} ({percent}%)"
        if rate_s > 0:
            text += f", {figures.rate(rate_s)}" if self._unit == "bytes" else f", {rate_s:.0f}/s"
            text += f", {figures.duration(left / rate_s)} left" if left else ""
        return output.clean(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._is_terminal and not self._quiet:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

"""Logging of every process: one line an event to standard error, UTC, with the part that speaks.

A rack's disk or region that fails fails for each chunk of each file, so of each kind of warning a few lines pass:

    MOST lines within PERIOD_S, the last of them with "(more of these are not logged for 60 s)"
    the first one after that with "(381 more of these were not logged)"

Invariant: what is left out was counted and is told with the next line of its kind; what is no warning always passes.
Libraries speak at WARNING and above. Left to others: what is worth a line; secrets never are; numbers (metrics).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
MOST = 20
PERIOD_S = 60.0
KINDS = 1000  # remembered; ours are the fixed sentences of the source, a library's may be any


def install(*filters: logging.Filter, level: int = logging.INFO) -> None:
    formatter = logging.Formatter(FORMAT, "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    for each in filters:
        handler.addFilter(each)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("bootplane").setLevel(level)


@dataclass(slots=True)
class _Kind:
    since: float
    passed: int = 0
    left_out: int = 0


class Bounded(logging.Filter):
    """Lets MOST lines of a kind pass in PERIOD_S: of one logger, and of one sentence before its values are put in."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        with self._lock:
            words = self._words(record.name, str(record.msg))
        if words:
            record.msg, record.args = record.getMessage() + words, ()
        return words is not None

    def _words(self, name: str, sentence: str) -> str | None:
        """What is to be added to the line; None: it does not pass."""
        now = self._now()
        if len(self._kinds) >= KINDS:
            self._kinds.clear()
        kind = self._kinds.setdefault((name, sentence), _Kind(now))
        words = ""
        if now - kind.since >= PERIOD_S:
            words = f" ({kind.left_out} more of these were not logged)" if kind.left_out else ""
            kind.since, kind.passed, kind.left_out = now, 0, 0
        if kind.passed == MOST:
            kind.left_out += 1
            return None
        kind.passed += 1
        return f" (more of these are not logged for {PERIOD_S:.0f} s)" if kind.passed == MOST else words

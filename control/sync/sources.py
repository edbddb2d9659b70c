"""Looking at boot sources: read, judge against what was accepted before, remember.

The rule of going back: a source whose index or product list is *older* than what was accepted from it (mirrors behind
a balancer step back by minutes; an attacker replays) is not believed: ours is kept, and the next period tries again.
After a day of that, it is said. A source that cannot be read costs its own news only.

Invariant: a look that fails, for whatever reason, changes nothing but the source's ``error``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from bootplane.control.domain.images import BootSource
from bootplane.control.errors import Refused
from bootplane.control.simplestreams.errors import SourceError
from bootplane.control.simplestreams.fetch import Fetcher
from bootplane.control.simplestreams.paths import shown_url
from bootplane.control.simplestreams.reader import SourceReading, read_source
from bootplane.control.storage.sources import SourceRepository

OLDER_PATIENCE_S = 24 * 3600.0
INDEX = ""  # the index's key among accepted documents


class OlderThanAccepted(SourceError):
    """Validly signed, but older than what this source has said before."""


@dataclass(frozen=True, slots=True)
class Looked:
    """Outcome of looking at one source: a reading, an error, or neither (older than ours: ours is kept for now)."""

    source: BootSource
    reading: SourceReading | None
    error: Refused | None


class SourceKeeper:
    """Reads sources and keeps the last reading of each in memory, so that nothing new costs one request."""

    def __init__(self, sources: SourceRepository, fetcher: Callable[[], Fetcher] = Fetcher) -> None:
        self._sources = sources
        self._fetcher = fetcher
        self._readings: dict[str, SourceReading] = {}
        self._older_since: dict[str, float] = {}
        self._lock = threading.Lock()  # one look at a time: an operator's check may meet a sync's refresh

    def read(self, source: BootSource) -> SourceReading:
        """A first look at a source that is not stored. Raises Refused."""
        with self._fetcher() as fetcher:
            return read_source(source, fetcher)

    def remember(self, source: BootSource, reading: SourceReading) -> None:
        """*reading* is accepted: later ones are measured against it."""
        self._sources.accept(source.id, _stamps(reading))
        self._sources.offer(source.id, {(product.os, product.release) for product in reading.products})
        self._readings[source.id] = reading
        self._older_since.pop(source.id, None)

    def look(self, source: BootSource, *, patient: bool, accept_older: bool = False) -> Looked:
        """Read a stored source now and note the outcome. *patient*: an older index is no error for a day."""
        with self._lock:
            previous = self._readings.get(source.id)
            try:
                with self._fetcher() as fetcher:
                    reading = read_source(source, fetcher, previous)
                if not accept_older:
                    _refuse_older(source, reading, self._sources.accepted(source.id))
            except OlderThanAccepted as error:
                since = self._older_since.setdefault(source.id, time.monotonic())
                if patient and time.monotonic() - since < OLDER_PATIENCE_S:
                    self._sources.checked(source.id, updated=None, error=None)
                    return Looked(source, previous, None)
                self._sources.checked(source.id, updated=None, error=str(error))
                return Looked(source, None, error)
            except Refused as error:
                self._sources.checked(source.id, updated=None, error=str(error))
                return Looked(source, None, error)
            if previous is None or reading.changed:
                self.remember(source, reading)
            self._readings[source.id] = reading
            updated = reading.updated.isoformat() if reading.updated else None
            self._sources.checked(source.id, updated=updated, error=None)
            return Looked(source, reading, None)

    def forget(self, source_id: str) -> None:
        self._readings.pop(source_id, None)
        self._older_since.pop(source_id, None)


def _stamps(reading: SourceReading) -> dict[str, str]:
    stamps = {each.content_id: each.updated.isoformat() for each in reading.lists if each.updated}
    if reading.updated:
        stamps[INDEX] = reading.updated.isoformat()
    return stamps


def _refuse_older(source: BootSource, reading: SourceReading, accepted: dict[str, str]) -> None:
    for content_id, stamp in _stamps(reading).items():
        before = accepted.get(content_id)
        if before is not None and _time(stamp) < _time(before):
            what = f"product list {content_id}" if content_id else "index"
            raise OlderThanAccepted(
                f"{shown_url(source.url)}: {what}: expected updated {before} or newer, as accepted before, got {stamp}"
            )


def _time(stamp: str) -> datetime:
    when = datetime.fromisoformat(stamp)
    return when if when.tzinfo else when.replace(tzinfo=UTC)

"""Looking at boot sources: read, judge against what was accepted before, remember, and say what is wrong.

The rule of going back: a source whose index or product list is *older* than what was accepted from it (mirrors behind
a balancer step back by minutes; an attacker replays) is not believed: ours is kept, and the next period tries again.
After a day of that, it is said. An index that has not moved for long is taken, and said: whoever holds one back hides
security updates. One that is dated in the future is taken, and said: the clock that is wrong may be ours, and a region
must not stop for it. Its date is not remembered: what was accepted before goes on counting, so that the next one with
an honest date is not older.
A source that cannot be read costs its own news only.

Invariant: a look that fails, for whatever reason, changes nothing but the source's ``error`` and banners.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from bootplane.control.banners import SOURCE_AWAY, SOURCE_FROZEN, SOURCE_FUTURE, SOURCE_OLDER, SOURCE_REFUSED, Board
from bootplane.control.domain.images import BootSource
from bootplane.control.errors import Refused
from bootplane.control.simplestreams.errors import AccessRefused, NotFound, SourceError, Unreachable
from bootplane.control.simplestreams.fetch import Fetcher
from bootplane.control.simplestreams.paths import shown_url
from bootplane.control.simplestreams.reader import SourceReading, read_source
from bootplane.control.storage.sources import SourceRepository

OLDER_PATIENCE_S = 24 * 3600.0
FROZEN_AFTER_S = 45 * 24 * 3600.0
FUTURE_S = 24 * 3600.0  # what clocks and time zones may differ by
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

    def __init__(
        self,
        sources: SourceRepository,
        fetcher: Callable[[BootSource], Fetcher] = lambda source: Fetcher(),
        *,
        board: Board | None = None,
        frozen_after_s: float = FROZEN_AFTER_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sources = sources
        self._fetcher = fetcher
        self._board = board
        self._frozen_after_s = frozen_after_s  # 0: an index may be as old as it likes
        self._now = now
        self._readings: dict[str, SourceReading] = {}
        self._lock = threading.Lock()  # one look at a time: an operator's check may meet a sync's refresh

    def read(self, source: BootSource) -> SourceReading:
        """A first look at a source that is not stored. Raises Refused."""
        with self._fetcher(source) as fetcher:
            return read_source(source, fetcher)

    def read_changed(self, source: BootSource) -> SourceReading:
        """A stored source as it is to be from now on. Raises Refused, also for what is older than was accepted from it
        before."""
        reading = self.read(source)
        _refuse_older(source, reading, self._sources.accepted(source.id))
        return reading

    def remember(self, source: BootSource, reading: SourceReading) -> None:
        """*reading* is accepted: later ones are measured against it."""
        self._sources.accept(source.id, self._remembered(reading, self._sources.accepted(source.id)))
        self._sources.offer(source.id, {(product.os, product.release) for product in reading.products})
        self._readings[source.id] = reading
        self._say(source, reading, None)

    def look(self, source: BootSource, *, patient: bool, accept_older: bool = False) -> Looked:
        """Read a stored source now and note the outcome. *patient*: an older index is no error for a day."""
        with self._lock:
            previous = self._readings.get(source.id)
            try:
                with self._fetcher(source) as fetcher:
                    reading = read_source(source, fetcher, previous)
                accepted = {} if accept_older else self._sources.accepted(source.id)
                _refuse_older(source, reading, accepted)
            except OlderThanAccepted as error:
                is_long = _age_s(self._sources.older(source.id)) >= OLDER_PATIENCE_S
                if is_long:
                    self._say(source, None, error)
                if patient and not is_long:
                    self._sources.checked(source.id, updated=None, error=None)
                    return Looked(source, previous, None)
                self._sources.checked(source.id, updated=None, error=str(error))
                return Looked(source, None, error)
            except Refused as error:
                self._sources.checked(source.id, updated=None, error=str(error))
                self._say(source, None, error)
                return Looked(source, None, error)
            remembered = self._remembered(reading, accepted)
            if remembered.items() - accepted.items():
                self._sources.accept(source.id, remembered)
            self._readings[source.id] = reading
            updated = reading.updated.isoformat() if reading.updated else ""
            self._sources.checked(source.id, updated=updated, error=None)
            self._say(source, reading, None)
            return Looked(source, reading, None)

    def _remembered(self, reading: SourceReading, accepted: dict[str, str]) -> dict[str, str]:
        """What later readings are measured against: the dates of *reading*, but for those of the future. Of these what
        was *accepted* before stays (if a clock of ours is behind, it opens no way back), or today begins."""
        now = self._now()
        stamps = _stamps(reading)
        for content_id, stamp in stamps.items():
            if (_time(stamp) - now).total_seconds() > FUTURE_S:
                stamps[content_id] = accepted.get(content_id) or now.isoformat()
        return stamps

    def last(self, source_id: str) -> SourceReading | None:
        """The last reading of it in this process."""
        return self._readings.get(source_id)

    def forget(self, source_id: str) -> None:
        self._readings.pop(source_id, None)
        if self._board is not None:
            for kind in (SOURCE_AWAY, SOURCE_REFUSED, SOURCE_OLDER, SOURCE_FROZEN, SOURCE_FUTURE):
                self._board.end(kind, source_id)

    def _say(self, source: BootSource, reading: SourceReading | None, error: Refused | None) -> None:
        """The banners of one look. Of what nobody wants to hear, none."""
        if self._board is None or not source.enabled:
            return
        shown = None
        if error is not None:
            is_away = isinstance(error, Unreachable | NotFound | AccessRefused)
            shown = SOURCE_OLDER if isinstance(error, OlderThanAccepted) else SOURCE_AWAY if is_away else SOURCE_REFUSED
            self._board.show(shown, f"Boot source {source.name}: {error}.", source.id)
        for kind in (SOURCE_AWAY, SOURCE_REFUSED, SOURCE_OLDER):
            if kind is not shown:
                self._board.end(kind, source.id)
        if reading is None:
            return
        self._say_future(source, reading)
        age_s = (self._now() - reading.updated).total_seconds() if reading.updated else 0.0
        if not 0 < self._frozen_after_s < age_s:
            self._board.end(SOURCE_FROZEN, source.id)
            return
        text = (
            f"Boot source {source.name}: expected an index that moved in the last {self._frozen_after_s / 86400:g} "
            f"days, got one of {reading.updated:%Y-%m-%d}."
        )
        self._board.show(SOURCE_FROZEN, text, source.id)

    def _say_future(self, source: BootSource, reading: SourceReading) -> None:
        assert self._board is not None
        now, latest = self._now(), max((_time(stamp) for stamp in _stamps(reading).values()), default=None)
        if latest is None or (latest - now).total_seconds() <= FUTURE_S:
            self._board.end(SOURCE_FUTURE, source.id)
            return
        text = (
            f"Boot source {source.name}: expected no date after today, {now:%Y-%m-%d} by this region's clock, got "
            f"{latest:%Y-%m-%d}."
        )
        self._board.show(SOURCE_FUTURE, text, source.id)


def _stamps(reading: SourceReading) -> dict[str, str]:
    stamps = {each.content_id: each.updated.isoformat() for each in reading.lists if each.updated}
    if reading.updated:
        stamps[INDEX] = reading.updated.isoformat()
    return stamps


def _refuse_older(source: BootSource, reading: SourceReading, accepted: dict[str, str]) -> None:
    stamps: dict[str, str | None] = {
        INDEX: None,
        **{each.content_id: None for each in reading.lists},
        **_stamps(reading),
    }
    for content_id, stamp in stamps.items():
        before = accepted.get(content_id)
        if before is not None and (stamp is None or _time(stamp) < _time(before)):
            what = f"product list {content_id}" if content_id else "index"
            raise OlderThanAccepted(
                f"{shown_url(source.url)}: {what}: expected updated {before} or newer, as accepted before, "
                f"got {stamp or 'none'}"
            )


def _age_s(since: str) -> float:
    return (datetime.now(UTC) - _time(since)).total_seconds()


def _time(stamp: str) -> datetime:
    when = datetime.fromisoformat(stamp)
    return when if when.tzinfo else when.replace(tzinfo=UTC)

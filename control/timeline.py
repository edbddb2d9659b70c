"""The boot timeline: what each machine did, in order, as racks and the region itself tell it.

    rack ──POST /rack/v1/transfers──▶ take()  ─┐
    tickets, reports ────────────────▶ add()   ─┼─▶ one table ──▶ of(), machines() ──▶ API, command line
    boot configurations ─────────────▶ note()  ─┘        └─ pruned by the keeper's thread, in small steps

Invariants: add() is one transaction, and an event that is told twice counts once; nothing that a machine waits for
waits for the database (note() only queues); what happened lies in the past: a rack whose clock is wrong is put right.

The keeper's thread writes what was noted, tells watchers which machines have news, and prunes. Left to others: SQL
(storage.timeline), the form of a rack's batch (dataplane.transfers), words for people (cli).
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from bootplane.control.domain.boots import KINDS, BootEvent, MachineKey, machine_key
from bootplane.control.errors import NotFound
from bootplane.control.events import Hub
from bootplane.control.storage.timeline import Cursor, Seen, TimelineRepository
from bootplane.dataplane.transfers import Batch, Transfer

__all__ = ["KINDS", "BootEvent", "MachineKey", "Timeline", "machine_key"]

NEWS_S = 1.0  # between two events to watchers
NEWS_MACHINES = 64  # named in one of them
NOTES = 10_000  # queued while the database does not take them
PRUNE_EVERY_S = 60.0
PRUNE_STEP = 1000  # events in one transaction
PRUNE_STEPS = 10  # in one turn of the keeper; the rest follows in the next
PRUNE_PAUSE_S = 0.05  # between two steps: others write meanwhile
CLOCK_S = 2.0  # a rack's clock may differ by so much before its times are moved
LIMIT = 500

_LOG = logging.getLogger("bootplane.timeline")
_TOLD_APART = ("seq", "at", "mac", "address", "name", "outcome")  # a transfer's fields that are no detail
_DEFAULTS: dict[str, Any] = {
    field.name: None if field.default is dataclasses.MISSING else field.default
    for field in dataclasses.fields(Transfer)
    if field.name not in _TOLD_APART
}


class Timeline:
    """Thread-safe. Everything but note() may wait for the database: call it from a thread."""

    def __init__(
        self,
        repository: TimelineRepository,
        hub: Hub,
        *,
        age_s: float,
        events: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._hub = hub
        self._age_s = age_s
        self._keep = events
        self._clock = clock
        self._lock = threading.Lock()
        self._notes: deque[BootEvent] = deque()
        self._news: set[str] = set()
        self._lost_by: dict[str, tuple[str, int]] = {}  # rack -> (start, lost as told)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keeper, name="timeline", daemon=True)
        # for metrics
        self.taken: Counter[str] = Counter()  # kind -> events that were new
        self.refused = 0  # transfers a rack told wrongly
        self.lost = 0  # events that racks, or note(), had to drop

    # -- what happened

    def add(self, events: Sequence[BootEvent]) -> None:
        """Keeps them all, or raises."""
        odd = next((event.kind for event in events if event.kind not in KINDS), None)
        if odd is not None:
            raise ValueError(f"boot event: expected a kind of {', '.join(KINDS)}, got {odd!r}")
        added = self._repository.add(events)
        own = Counter(event.kind for event in events if not event.start)  # never told twice
        with self._lock:
            self.taken.update(own)
            self.taken["transfer"] += added - own.total()
            self._news.update(id_ for event in events for id_ in (event.mac, event.address) if id_)
        self._wake.set()

    def note(self, event: BootEvent) -> None:
        """Keeps it soon. Never waits; when the database does not take events for long, the oldest are dropped."""
        with self._lock:
            self._notes.append(event)
            if len(self._notes) > NOTES:
                self._notes.popleft()
                self.lost += 1
        self._wake.set()

    def take(self, batch: Batch, rack: str) -> None:
        """Keeps what *rack* tells of its transfers."""
        now = self._clock()
        ahead = batch.sent - now
        shift = round(ahead) if abs(ahead) > CLOCK_S else 0
        self.add([_of_transfer(transfer, batch.start, rack, shift, now) for transfer in batch.transfers])
        with self._lock:
            self.refused += len(batch.refused)
            start, known = self._lost_by.get(rack, ("", 0))
            new = batch.lost - max(batch.told, known if start == batch.start else 0)
            self._lost_by[rack] = (batch.start, batch.lost)
            self.lost += max(new, 0)
        if new > 0:
            _LOG.warning("rack %s: %d transfers are in no timeline, it could not keep them", rack, new)
        if batch.refused:
            _LOG.error("rack %s: %d transfers refused, the first: %s", rack, len(batch.refused), batch.refused[0])

    # -- what is known

    def of(
        self, machine: str, *, since: float = 0.0, limit: int = LIMIT, before: Cursor | None = None
    ) -> list[BootEvent]:
        """The newest events of *machine* (a MAC in any notation, or an IP address), oldest first."""
        return self._repository.events(machine_key(machine), since, limit, before)

    def last(self, machine: str) -> BootEvent:
        """Raises NotFound when nothing is known of it."""
        key = machine_key(machine)
        found = self._repository.last(key)
        if found is None:
            raise NotFound(f"machine {key}: no rack of this region has told anything of it")
        return found

    def machines(self, limit: int = LIMIT, after: Cursor | None = None) -> list[Seen]:
        """Machines that were seen, the last one first."""
        return self._repository.machines(limit, after)

    # -- the keeper

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Writes what was noted."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._write_notes()

    def prune(self) -> int:
        """One small step; returns how many events went."""
        return self._repository.prune(self._clock() - self._age_s, self._keep, PRUNE_STEP)

    def tell(self) -> None:
        """Watchers hear which machines have news; null stands for more than NEWS_MACHINES."""
        with self._lock:
            news, self._news = self._news, set()
        if news:
            self._hub.publish("machines", {"ids": sorted(news) if len(news) <= NEWS_MACHINES else None})

    def _keeper(self) -> None:
        prune_at = time.monotonic()
        while not self._stopping.is_set():
            self._wake.wait(max(prune_at - time.monotonic(), 0.0))
            self._wake.clear()
            self._write_notes()
            self.tell()
            if time.monotonic() >= prune_at and not self._prune_some():
                prune_at = time.monotonic() + PRUNE_EVERY_S
            self._stopping.wait(NEWS_S)

    def _write_notes(self) -> None:
        with self._lock:
            notes = list(self._notes)
        if not notes:
            return
        try:
            self.add(notes)
        except SQLAlchemyError as error:  # they stay; the next event, or the next minute, tries again
            _LOG.error("%d events wait for the database: %s", len(notes), getattr(error, "orig", None) or error)
            return
        with self._lock:
            for note in notes:
                if self._notes and self._notes[0] is note:  # unless it was dropped meanwhile
                    self._notes.popleft()

    def _prune_some(self) -> bool:
        """Several steps. True when there is more to go."""
        gone = step = 0
        try:
            for _ in range(PRUNE_STEPS):
                step = self.prune()
                gone += step
                if step < PRUNE_STEP or self._stopping.wait(PRUNE_PAUSE_S):
                    break
        except SQLAlchemyError as error:
            _LOG.error("the timeline was not pruned: %s", getattr(error, "orig", None) or error)
            return False
        if gone:
            _LOG.info("removed %d boot events: older than %.0f s, or more than %d", gone, self._age_s, self._keep)
        return step == PRUNE_STEP


def _of_transfer(transfer: Transfer, start: str, rack: str, shift: float, now: float) -> BootEvent:
    detail = {name: value for name, default in _DEFAULTS.items() if (value := getattr(transfer, name)) != default}
    return BootEvent(
        at=min(transfer.at - shift, now),
        kind="transfer",
        mac=transfer.mac or None,
        address=transfer.address,
        rack=rack,
        name=transfer.name,
        outcome=transfer.outcome,
        detail=detail,
        start=start,
        seq=transfer.seq,
    )

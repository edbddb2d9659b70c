"""Boot events: the one table of the timeline, and the only SQL about it.

Invariants: a batch is one transaction; an event that a rack tells again adds nothing. An event with a MAC gives it to
earlier ones of the same (rack, address) that have none, at most ADOPT_S before: firmware fetches its loader before
anything says who it is. Events of the region itself that lack a MAC take the one that address had last, as far back.

Left to others: what events say, when to prune (control.timeline).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from bootplane.control.domain.boots import BootEvent, MachineKey
from bootplane.control.storage.database import Database
from bootplane.control.storage.models import BootEventRow

ADOPT_S = 15 * 60.0  # as long as a rack remembers who an address was
LOOK_BACK = 200  # events of an address that are looked through for its MAC

_EVENTS = cast(sa.Table, BootEventRow.__table__)


class Cursor(NamedTuple):
    """A place in a list that goes from the newest to the oldest."""

    at: float
    key: str  # id of an event, or the machine


class Seen(NamedTuple):
    """A machine and the last that is known of it."""

    machine: str  # MAC, or the address where no MAC is known
    last: BootEvent


class Step(NamedTuple):
    """Something a machine did on its way through a boot, and when it did that last. "" for what is not known."""

    at: float  # Unix seconds
    kind: str  # transfer, config, report
    mac: str
    address: str
    name: str
    outcome: str


class TimelineRepository:
    def __init__(self, database: Database) -> None:
        self._database = database
        dialect = postgresql if database.engine.dialect.name == "postgresql" else sqlite
        insert = dialect.insert(_EVENTS).on_conflict_do_nothing(index_elements=["rack", "start", "seq"])
        self._insert = insert.returning(_EVENTS.c.id)  # rows that were new: psycopg does not count those of many

    def add(self, events: Sequence[BootEvent]) -> int:
        """Keeps *events* and returns how many of them were new."""
        if not events:
            return 0
        with self._database.begin() as session:
            named = self._named(session, events)
            added = len(session.connection().execute(self._insert, [_row(event) for event in named]).all())
            runs = list(_runs(named))
            nameless = self._nameless(session, runs)
            for event, first, last in runs:
                if (event.rack, event.address) in nameless:
                    session.execute(
                        sa.update(_EVENTS)
                        .where(
                            _EVENTS.c.mac.is_(None),
                            _EVENTS.c.rack == event.rack,
                            _EVENTS.c.address == event.address,
                            _EVENTS.c.at.between(first - ADOPT_S, last),
                        )
                        .values(mac=event.mac)
                    )
        return added

    def events(self, machine: MachineKey, since: float, limit: int, before: Cursor | None = None) -> list[BootEvent]:
        """The newest *limit* events since then (and before the cursor), oldest first."""
        chosen = _EVENTS.c.mac == machine.mac if machine.mac else _EVENTS.c.address == machine.address
        query = sa.select(_EVENTS).where(chosen, _EVENTS.c.at >= since)
        if before is not None:
            at, key = before.at, int(before.key)
            query = query.where(
                _EVENTS.c.at <= at, sa.or_(_EVENTS.c.at < at, sa.and_(_EVENTS.c.at == at, _EVENTS.c.id < key))
            )
        query = query.order_by(_EVENTS.c.at.desc(), _EVENTS.c.id.desc()).limit(limit)
        with self._database.read() as session:
            return [_event(row) for row in session.execute(query).mappings()][::-1]

    def last(self, machine: MachineKey) -> BootEvent | None:
        found = self.events(machine, 0.0, 1)
        return found[0] if found else None

    def machines(self, limit: int, after: Cursor | None = None) -> list[Seen]:
        """Machines, the one that did something last first."""
        newest_at = sa.func.max(_EVENTS.c.at).label("at")
        named = sa.select(_EVENTS.c.mac.label("machine"), newest_at, sa.true().label("named"))
        nameless = sa.select(_EVENTS.c.address, newest_at, sa.false())
        all_ = sa.union_all(
            named.where(_EVENTS.c.mac.is_not(None)).group_by(_EVENTS.c.mac),
            nameless.where(_EVENTS.c.mac.is_(None)).group_by(_EVENTS.c.address),
        ).subquery()
        page = sa.select(all_)
        if after is not None:
            later = sa.and_(all_.c.at == after.at, all_.c.machine > after.key)
            page = page.where(sa.or_(all_.c.at < after.at, later))
        found = page.order_by(all_.c.at.desc(), all_.c.machine).limit(limit).subquery()
        inner = _EVENTS.alias()
        order = (inner.c.at.desc(), inner.c.id.desc())
        of_mac = sa.select(inner.c.id).where(inner.c.mac == found.c.machine)
        of_address = sa.select(inner.c.id).where(inner.c.mac.is_(None), inner.c.address == found.c.machine)
        newest = sa.case(
            (found.c.named, of_mac.order_by(*order).limit(1).correlate(found).scalar_subquery()),
            else_=of_address.order_by(*order).limit(1).correlate(found).scalar_subquery(),
        )
        query = sa.select(found.c.machine.label("machine"), _EVENTS).join_from(found, _EVENTS, _EVENTS.c.id == newest)
        query = query.order_by(found.c.at.desc(), found.c.machine)
        with self._database.read() as session:
            return [Seen(row["machine"], _event(row)) for row in session.execute(query).mappings()]

    def steps(self, since: float) -> list[Step]:
        """Files of images that machines fetched since then, configurations that boot, and reports."""
        columns = _EVENTS.c.kind, _EVENTS.c.mac, _EVENTS.c.address, _EVENTS.c.name, _EVENTS.c.outcome
        is_file = sa.and_(_EVENTS.c.kind == "transfer", _EVENTS.c.name.like("%images%"))
        is_boot = sa.and_(_EVENTS.c.kind == "config", _EVENTS.c.outcome == "boots")
        query = sa.select(sa.func.max(_EVENTS.c.at).label("at"), *columns).group_by(*columns)
        query = query.where(_EVENTS.c.at >= since, sa.or_(is_file, is_boot, _EVENTS.c.kind == "report"))
        with self._database.read() as session:
            return [
                Step(row.at, row.kind, row.mac or "", row.address, row.name, row.outcome)
                for row in session.execute(query)
            ]

    def prune(self, before: float, keep: int, step: int) -> int:
        """Removes up to *step* of the oldest events that are older than *before*, or more than *keep*; how many."""
        with self._database.begin() as session:
            count = session.scalar(sa.select(sa.func.count()).select_from(_EVENTS)) or 0
            oldest = session.execute(sa.select(_EVENTS.c.id, _EVENTS.c.at).order_by(_EVENTS.c.id).limit(step)).all()
            gone = [row.id for number, row in enumerate(oldest) if row.at < before or count - number > keep]
            if gone:
                session.execute(sa.delete(_EVENTS).where(_EVENTS.c.id.in_(gone)))
            return len(gone)

    def _named(self, session: Session, events: Sequence[BootEvent]) -> list[BootEvent]:
        """The events; those of the region itself without MAC have the one that their address had last."""
        named: list[BootEvent] = []
        known: dict[tuple[str, str], BootEvent] = {}
        for event in sorted(events, key=lambda event: event.at):
            if event.mac is None and not event.start and event.address:
                last = known.get((event.rack, event.address))
                is_near = last is not None and event.at - last.ended <= ADOPT_S
                event = replace(event, mac=last.mac if last and is_near else self._last_mac(session, event))
            if event.mac is not None:
                known[event.rack, event.address] = event
            named.append(event)
        return named

    def _last_mac(self, session: Session, event: BootEvent) -> str | None:
        """The MAC that the address of *event* had last."""
        recent = (
            sa.select(_EVENTS.c.mac, _EVENTS.c.rack)
            .where(_EVENTS.c.address == event.address, _EVENTS.c.at.between(event.at - ADOPT_S, event.at))
            .order_by(_EVENTS.c.at.desc(), _EVENTS.c.id.desc())
            .limit(LOOK_BACK)
            .subquery()
        )
        return session.scalar(
            sa.select(recent.c.mac).where(recent.c.mac.is_not(None), recent.c.rack == event.rack).limit(1)
        )

    def _nameless(self, session: Session, runs: Sequence[_Run]) -> set[tuple[str, str]]:
        """The places among *runs* that have events without a MAC, most often none: one question instead of many."""
        found: set[tuple[str, str]] = set()
        for rack in {event.rack for event, _, _ in runs}:
            addresses = {event.address for event, _, _ in runs if event.rack == rack}
            earliest = min(first for event, first, _ in runs if event.rack == rack) - ADOPT_S
            query = sa.select(_EVENTS.c.address).distinct()
            query = query.where(_EVENTS.c.mac.is_(None), _EVENTS.c.rack == rack, _EVENTS.c.at >= earliest)
            found |= {(rack, each) for each in session.scalars(query.where(_EVENTS.c.address.in_(addresses)))}
        return found


_Run = tuple[BootEvent, float, float]


def _runs(events: Sequence[BootEvent]) -> Iterator[_Run]:
    """(one event, first and last second) of each run of events in which one MAC spoke from one (rack, address)."""
    runs: dict[tuple[str, str], tuple[BootEvent, float, float]] = {}
    for event in sorted(events, key=lambda event: event.at):
        if event.mac is None or not event.address:
            continue
        place = event.rack, event.address
        known = runs.get(place)
        if known is not None and known[0].mac == event.mac:
            runs[place] = (known[0], known[1], max(known[2], event.ended))
            continue
        if known is not None:
            yield known
        runs[place] = (event, event.at, event.ended)
    yield from runs.values()


def _row(event: BootEvent) -> dict[str, Any]:
    return {
        "at": event.at,
        "kind": event.kind,
        "mac": event.mac,
        "address": event.address,
        "rack": event.rack,
        "name": event.name,
        "outcome": event.outcome,
        "detail": dict(event.detail),
        "start": event.start or None,
        "seq": event.seq if event.start else None,
    }


def _event(row: Mapping[Any, Any]) -> BootEvent:
    return BootEvent(
        at=row["at"],
        kind=row["kind"],
        mac=row["mac"],
        address=row["address"],
        rack=row["rack"],
        name=row["name"],
        outcome=row["outcome"],
        detail=row["detail"],
        start=row["start"] or "",
        seq=row["seq"] or 0,
        id=row["id"],
    )

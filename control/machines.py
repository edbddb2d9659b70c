"""Machines as documents of the API: who was seen, and what one of them did. Pages, cursors and times stand here.

A page holds the newest there is, the next one what came before; within a timeline's page the oldest stands first, as
people read it. Left to others: what happened (timeline), the routes (api).
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

from bootplane.control.domain import boots
from bootplane.control.domain.boots import BootEvent
from bootplane.control.errors import CallerError
from bootplane.control.storage.timeline import Cursor
from bootplane.control.timeline import Timeline

_CURSOR = re.compile(r"(?P<at>[0-9]{1,12}(?:\.[0-9]{1,9})?)_(?P<key>[0-9]{1,18}|[0-9a-f.:]{1,64})\Z")


def listed(timeline: Timeline, limit: int, after: str | None) -> dict[str, Any]:
    """Machines, the one that did something last first."""
    found = timeline.machines(limit + 1, _cursor(after) if after else None)
    page = found[:limit]
    following = Cursor(page[-1].last.at, page[-1].machine) if len(found) > limit else None
    return {
        "items": [_machine(seen.machine, seen.last) for seen in page],
        "next": _cursor_text(following) if following else None,
    }


def boot_timeline(timeline: Timeline, machine: str, limit: int, since: str | None, after: str | None) -> dict[str, Any]:
    """The newest *limit* events of *machine*. Raises NotFound when nothing is known of it, CallerError on nonsense."""
    now = time.time()
    last = timeline.last(machine)
    begin = boots.since(since, now) if since else 0.0
    before = _cursor(after, of_events=True) if after else None
    found = timeline.of(machine, since=begin, limit=limit + 1, before=before)
    page = found[-limit:]
    following = Cursor(page[0].at, str(page[0].id)) if len(found) > limit else None
    return {
        "machine": _machine(str(boots.machine_key(machine)), last),
        "events": [_boot_event(event) for event in page],
        "next": _cursor_text(following) if following else None,
        "now": _precise(now),
    }


def _machine(machine: str, last: BootEvent) -> dict[str, Any]:
    return {
        "id": machine,
        "mac": last.mac,
        "address": last.address,
        "rack": last.rack,
        "seen": _precise(last.at),
        "kind": last.kind,
        "name": last.name,
        "outcome": last.outcome,
    }


def _boot_event(event: BootEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "at": _precise(event.at),
        "kind": event.kind,
        "mac": event.mac,
        "address": event.address,
        "rack": event.rack,
        "name": event.name,
        "outcome": event.outcome,
        "detail": dict(event.detail),
    }


def _precise(at: float) -> str:
    """To the millisecond: a boot loader asks for ten files within five of them."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def _cursor_text(cursor: Cursor) -> str:
    return f"{cursor.at!r}_{cursor.key}"


def _cursor(text: str, of_events: bool = False) -> Cursor:
    found = _CURSOR.match(text)
    if found is None or (of_events and not found["key"].isdecimal()):
        raise CallerError(f"after: expected what an answer gave as next, got {text[:80]!r}")
    return Cursor(float(found["at"]), found["key"])

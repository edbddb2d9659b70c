"""What must have happened in a boot: the rack's and region's own words about it, and the machine's.

Everything is an event; no clock is looked at except to give up waiting for one. A failure shows what was expected, the
timeline, the console's end and the logs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.vm.guests import Guest
from tests.vm.lab import Lab
from tests.vm.scenarios import Fetch, Scenario

PHASE_S = 240.0  # of one guest's next sign of life; quiet machines take 5
TELL_S = 60.0  # until what has happened stands in the timeline; a rack tells its region once a second
Event = Mapping[str, Any]


def switched_off(lab: Lab, guest: Guest) -> None:
    """Waits until the guest has switched itself off. It may take as long as it likes while its console moves on."""
    said, deadline = -1, time.monotonic() + PHASE_S
    while not guest.wait_off(1.0):
        now = len(guest.console)
        if now != said:
            said, deadline = now, time.monotonic() + PHASE_S
        if time.monotonic() > deadline:
            raise AssertionError(failure(lab, guest, f"expected another sign of life within {PHASE_S:.0f} s, got none"))


def until(lab: Lab, guest: Guest, what: str, found: Callable[[], bool], limit_s: float = PHASE_S) -> None:
    """Waits until *found* is true, while the guest is on. Raises AssertionError."""
    deadline = time.monotonic() + limit_s
    while not found():
        if time.monotonic() > deadline or not guest.is_on:
            end = f"within {limit_s:.0f} s" if guest.is_on else "before the machine went off"
            raise AssertionError(failure(lab, guest, f"expected {what} {end}, got none"))
        time.sleep(0.25)


def whole_story(lab: Lab, scenario: Scenario) -> list[dict[str, Any]]:
    """The machine's timeline once all that must stand in it does, or what there is after TELL_S.

    A report is kept before it is answered; transfers come with the rack's next batch, a ticket with the keeper's turn.
    """
    deadline = time.monotonic() + TELL_S
    while True:
        events = lab.timeline(scenario.mac)
        kinds = {event["kind"] for event in events}
        if {"ticket", "report"} <= kinds and not missing(events, scenario.fetches):
            return events
        if time.monotonic() > deadline:
            return events
        time.sleep(0.5)


def missing(events: Sequence[Event], fetches: Sequence[Fetch]) -> list[Fetch]:
    """What of *fetches* does not stand in *events* as complete transfers, in that order."""
    left = list(fetches)
    for event in sorted(events, key=lambda event: str(event["at"])):
        if left and is_complete(event, left[0]):
            left.pop(0)
    return left


def is_complete(event: Event, fetch: Fetch) -> bool:
    return (
        event["kind"] == "transfer"
        and event["outcome"] == "complete"
        and event["detail"].get("protocol") == fetch.proto
        and re.fullmatch(fetch.name, event["name"]) is not None
    )


def transfers(events: Sequence[Event], proto: str, outcome: str = "complete") -> list[Event]:
    return [
        event
        for event in events
        if event["kind"] == "transfer" and event["outcome"] == outcome and event["detail"].get("protocol") == proto
    ]


def report(events: Sequence[Event]) -> tuple[Event, dict[str, str]]:
    """The machine's own report, which must be there once, and what it says: key -> value."""
    (event,) = [event for event in events if event["kind"] == "report"]
    words = [word.partition("=") for word in event["detail"]["description"].split()]
    return event, {key: value for key, _, value in words}


def told(events: Sequence[Event]) -> str:
    """A timeline as lines."""
    return "\n".join(
        f"{event['at']} {event['kind']:8} {event['outcome']:9} {event['address']:15} {event['name']} {event['detail']}"
        for event in events
    )


def failure(lab: Lab, guest: Guest, text: str, events: Sequence[Event] = ()) -> str:
    console = "\n".join(guest.console.splitlines()[-30:])
    return f"{guest.mac}: {text}\n--- timeline\n{told(events)}\n--- console\n{console}\n{lab.logs()}"

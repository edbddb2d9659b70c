"""Who still uses what is to go: machines in mid-boot on a version, racks with an older catalogue.

A machine is in mid-boot on a set when it has fetched a file of it, or was given a boot configuration while the set was
the one to boot, within MID_BOOT_S, and has not reported since: its script names the files by their content, and it asks
for the next one when it is ready. A rack is bound to what its catalogue names until it tells that it has a later one;
one that has not been heard of for SILENT_S comes back with a question for the newest catalogue, and binds nothing.

A transfer of a blob that runs needs nobody's care: it has the file open, and goes on to its end when the name is gone.

Nothing here writes, and what cannot be known counts as no use: the grace time stands before all of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from bootplane.control.storage.blobs import Unnamed
from bootplane.control.storage.images import StoredSet
from bootplane.control.storage.racks import RackRecord
from bootplane.control.storage.timeline import Step
from bootplane.dataplane.namespace import PREFIX_HEX

MID_BOOT_S = 3 * 3600.0
SILENT_S = 24 * 3600.0


class _Booting(NamedTuple):
    """A machine that has not reported since. *prefixes*: of the files it has fetched."""

    machine: str
    prefixes: frozenset[str]
    configured: float  # Unix seconds of its last boot configuration; 0.0: none


class Users:
    """*steps*: what machines did since a time (Unix seconds)."""

    def __init__(
        self,
        racks: Callable[[], list[RackRecord]],
        steps: Callable[[float], Iterable[Step]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._racks, self._steps, self._clock = racks, steps, clock

    def machines_on(self, sets: Sequence[StoredSet]) -> dict[int, str]:
        """Set id -> which machine is in mid-boot on this marked set, as a clause. Sets without one are left out."""
        booting = _booting(self._steps(self._clock() - MID_BOOT_S)) if sets else []
        return {stored.id: clause for stored in sets if (clause := _clause(stored, booting))}

    def bound(self, unnamed: Sequence[Unnamed]) -> set[str]:
        """Of these blobs, those that a rack may still ask for."""
        oldest = min((rack.catalogue_version or 0 for rack in self.racks_heard()), default=None)
        return {each.sha256 for each in unnamed if oldest is not None and oldest < each.unnamed_in}

    def racks_heard(self) -> list[RackRecord]:
        """Racks that were heard of lately and have told which catalogue they have."""
        silent = self._clock() - SILENT_S
        return [
            rack
            for rack in self._racks()
            if rack.catalogue_version is not None and rack.last_seen and _seconds(rack.last_seen) >= silent
        ]


def _clause(stored: StoredSet, booting: Iterable[_Booting]) -> str:
    prefixes = {file.sha256[:PREFIX_HEX] for file in stored.resource_set.files}
    marked = _seconds(stored.marked) if stored.marked else 0.0
    for each in booting:
        if each.prefixes & prefixes:
            return f"machine {each.machine} has fetched files of it and has not reported yet"
        if 0.0 < each.configured < marked:
            return f"machine {each.machine} was told what to boot before it was superseded and has not reported yet"
    return ""


def _booting(steps: Iterable[Step]) -> list[_Booting]:
    known = list(steps)
    reports = [step for step in known if step.kind == "report"]
    by_mac, by_address = _latest(reports, lambda step: step.mac), _latest(reports, lambda step: step.address)
    nameless = _latest((step for step in reports if not step.mac), lambda step: step.address)
    fetched: dict[str, set[str]] = {}
    configured: dict[str, float] = {}
    for step in known:
        if step.mac:  # an address may have been another machine's
            reported = max(by_mac.get(step.mac, 0.0), nameless.get(step.address, 0.0))
        else:
            reported = by_address.get(step.address, 0.0)
        machine = step.mac or step.address
        if reported >= step.at:
            continue
        if step.kind == "config" and step.outcome == "boots":
            configured[machine] = max(step.at, configured.get(machine, 0.0))
        elif step.kind == "transfer" and (prefix := _prefix(step.name)):
            fetched.setdefault(machine, set()).add(prefix)
    return [
        _Booting(machine, frozenset(fetched.get(machine, ())), configured.get(machine, 0.0))
        for machine in sorted(fetched.keys() | configured.keys())
    ]


def _latest(steps: Iterable[Step], key: Callable[[Step], str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for step in steps:
        if key(step):
            found[key(step)] = max(step.at, found.get(key(step), 0.0))
    return found


def _prefix(name: str) -> str:
    """The digits of the digest in ``images/<16 hex>/...``; "" for another name."""
    first, _, rest = name.replace("\\", "/").lstrip("/").partition("/")
    return rest[:PREFIX_HEX] if first == "images" and rest[PREFIX_HEX : PREFIX_HEX + 1] == "/" else ""


def _seconds(text: str) -> float:
    time_ = datetime.fromisoformat(text)
    return (time_ if time_.tzinfo else time_.replace(tzinfo=UTC)).timestamp()

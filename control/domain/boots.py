"""A machine's boot as a line of events, and how people name a machine. Plain data and pure functions.

An event is something that happened at one time to the machine at one address of one rack: it fetched a file, it was
given a configuration, what it booted has reported.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bootplane.control.errors import CallerError

KINDS = ("transfer", "config", "ticket", "report")

_MAC_FORMS = re.compile(
    r"(?:[0-9a-f]{12}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}|(?:01-)?[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4})\Z"
)
_AGO = re.compile(r"(?P<number>\d{1,9})\s*(?P<unit>s|m|h|d)\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class BootEvent:
    """*name* is the file, the configuration or the phase; *outcome* one word; *detail* whatever else is known, as JSON.

    *start* and *seq* are the rack's own count of what it tells (dataplane.transfers): an event that is told again is no
    new one. Events of the region itself have none. *id* is given when it is kept.
    """

    at: float  # Unix seconds
    kind: str  # one of KINDS
    mac: str | None  # "52:54:00:77:00:01"
    address: str  # the machine's
    rack: str  # id
    name: str
    outcome: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    seq: int = 0
    id: int = 0

    @property
    def ended(self) -> float:
        """Unix seconds; a transfer takes some."""
        return self.at + float(self.detail.get("seconds", 0.0))


class MachineKey(NamedTuple):
    """How a machine is looked for: by its MAC, or by an address it had. One of them is ""."""

    mac: str
    address: str

    def __str__(self) -> str:
        return self.mac or self.address


def machine_key(text: str) -> MachineKey:
    """Reads a MAC in any notation (52:54:00:77:00:01, 52-54-..., 5254.0077.0001, 525400770001, PXELINUX's 01-52-...)
    or an IP address. Raises CallerError."""
    word = text.strip().lower()
    if _MAC_FORMS.match(word):
        digits = re.sub(r"[^0-9a-f]", "", word)[-12:]
        return MachineKey(":".join(re.findall("..", digits)), "")
    try:
        address = ipaddress.ip_address(word.strip("[]").partition("%")[0])  # a rack does not tell interfaces
    except ValueError:
        raise CallerError(f"machine: expected a MAC or an IP address, got {text[:80]!r}") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return MachineKey("", str(mapped or address))


def since(text: str, now: float) -> float:
    """Unix seconds of a time (2026-11-21T10:00:00Z) or of so long ago (90s, 10m, 2h, 1d). Raises CallerError."""
    ago = _AGO.match(text.strip().lower())
    if ago is not None:
        return now - int(ago["number"]) * _UNIT_S[ago["unit"]]
    try:
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise CallerError(f"since: expected a time, or 90s, 10m, 2h, 1d; got {text[:80]!r}") from None

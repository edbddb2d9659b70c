"""Boot tickets: the one-time word in every boot script, by which what the script has booted can say "I run".

A ticket is signed and says itself what it is for, so its validity needs no storage: one that was handed out before the
region restarted is good after it, and good at every region that has the same key.

    expires 4 | nonce 4 | MAC 6, zeros when unknown | n 1 | address n | rack id | tag 16      as base64url, unpadded

That is 59 characters for an IPv4 machine and the rack ids a region makes (75 for IPv6). The tag is BLAKE2b, keyed and
of 128 bits; its key is the region's secret under a personalisation that nothing else uses.

What is remembered, in memory, is what was done with a ticket: claimed, and how often it has reported. A restart
forgets it, and past LIMIT tickets within the hour those that expire first are forgotten: such a ticket could be
claimed a second time. That gives nobody anything, which is the invariant here: a ticket opens nothing but reports
about one boot. It says for whom a script was made and not who speaks: whoever has read the kernel's command line can
report in that machine's name.

Left to others: what a report says and whose address it came from (metadata), where it is kept (timeline).
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import hmac
import ipaddress
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from bootplane.control.errors import CallerError, Gone, NotFound

LIFETIME_S = 3600
REPORTS = 256  # of one ticket; cloud-init sends about 60 in a boot
LIMIT = 65_536  # tickets of which something is remembered
NONCE_BYTES = 4
MAC_BYTES = 6
TAG_BYTES = 16
FIXED_BYTES = 4 + NONCE_BYTES + MAC_BYTES + 1

_PERSON = b"bootplane-ticket"  # at most 16 bytes
_FORM = re.compile(r"[A-Za-z0-9_-]{1,148}")  # IPv6 and the longest rack id there may be
_Value = TypeVar("_Value")


class TooManyReports(CallerError):
    """A ticket has been used REPORTS times."""

    status = 429
    title = "too many reports"
    kind = "too-many-reports"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a boot script was made for."""

    mac: str | None
    rack: str  # id of the rack that asked for the script
    address: str  # of the boot loader; "" when the rack did not know it
    expires: int  # Unix s
    key: bytes  # its tag: unique, and of use to nobody but Tickets

    @property
    def id(self) -> str:
        """Tells one boot from another; too short to be the ticket's tag."""
        return self.key[:4].hex()


class Tickets:
    """Thread-safe. *secret* is the region's own, 16 to 64 bytes; *clock* gives Unix seconds."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time, limit: int = LIMIT) -> None:
        self._secret = secret
        self._clock = clock
        self._lock = threading.Lock()
        self._claimed: _Book[str] = _Book(limit)  # by which address
        self._reports: _Book[int] = _Book(limit)

    def issue(self, mac: str | None, rack: str, address: str) -> str:
        """A new ticket for the script that *address* asked *rack* for; *mac* as 52:54:00:77:00:01, or None.

        An address that is none is left out: the script matters more.
        """
        place = _packed(address)
        body = (int(self._clock()) + LIFETIME_S).to_bytes(4, "big") + secrets.token_bytes(NONCE_BYTES)
        body += bytes.fromhex(mac.replace(":", "")) if mac else bytes(MAC_BYTES)
        body += bytes([len(place)]) + place + rack.encode("ascii")
        return _text(body + self._tag(body))

    def look(self, ticket: str) -> Ticket:
        """What *ticket* is for, if claim() would take it. Raises as claim() does, and changes nothing."""
        opened = self._open(ticket)
        with self._lock:
            self._must_be_unclaimed(opened)
        return opened

    def claim(self, ticket: str, address: str) -> Ticket:
        """Uses *ticket*, once. Raises NotFound when no such ticket was made here, Gone when it is used or too old."""
        opened = self._open(ticket)
        with self._lock:
            self._must_be_unclaimed(opened)
            self._claimed.put(opened, address, self._clock())
        return opened

    def report(self, ticket: str) -> Ticket:
        """Counts one more report; claimed or not. Raises NotFound, Gone when it is too old, TooManyReports."""
        opened = self._open(ticket)
        with self._lock:
            count = (self._reports.get(opened) or 0) + 1
            if count > REPORTS:
                raise TooManyReports(f"boot ticket: expected at most {REPORTS} reports, got one more")
            self._reports.put(opened, count, self._clock())
        return opened

    def _open(self, ticket: str) -> Ticket:
        raw = _bytes(ticket)
        body, tag = raw[:-TAG_BYTES], raw[-TAG_BYTES:]
        if len(body) < FIXED_BYTES or not hmac.compare_digest(tag, self._tag(body)):
            raise NotFound("boot ticket: expected one from a boot script of this region, got something else")
        expires = int.from_bytes(body[:4], "big")
        if self._clock() >= expires:
            when = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise Gone(
                f"boot ticket: expected one of the last {LIFETIME_S // 60} minutes, got one that ended at {when}"
            )
        mac = body[4 + NONCE_BYTES : FIXED_BYTES - 1]
        rack_at = FIXED_BYTES + body[FIXED_BYTES - 1]
        place = body[FIXED_BYTES:rack_at]
        return Ticket(
            mac.hex(":") if any(mac) else None,
            body[rack_at:].decode("ascii"),
            str(ipaddress.ip_address(place)) if place else "",
            expires,
            tag,
        )

    def _must_be_unclaimed(self, ticket: Ticket) -> None:
        by = self._claimed.get(ticket)
        if by is not None:
            raise Gone(f"boot ticket: expected one that is not used yet, got one that {by} has used")

    def _tag(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, digest_size=TAG_BYTES, key=self._secret, person=_PERSON).digest()


class _Book(Generic[_Value]):
    """A value for each of at most *limit* tickets. Those that expire first are forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: dict[bytes, _Value] = {}
        self._order: list[tuple[int, bytes]] = []  # a heap; each key of _values once

    def get(self, ticket: Ticket) -> _Value | None:
        return self._values.get(ticket.key)

    def put(self, ticket: Ticket, value: _Value, now: float) -> None:
        if ticket.key not in self._values:
            while self._order and (self._order[0][0] <= now or len(self._order) >= self._limit):
                del self._values[heapq.heappop(self._order)[1]]
            heapq.heappush(self._order, (ticket.expires, ticket.key))
        self._values[ticket.key] = value


def _packed(address: str) -> bytes:
    try:
        return ipaddress.ip_address(address).packed
    except ValueError:
        return b""


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    """b"" for what _text() never gives, other spellings of the same bytes included."""
    if not _FORM.fullmatch(text) or len(text) % 4 == 1:
        return b""
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return raw if _text(raw) == text else b""

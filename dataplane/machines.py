"""Which machine is at an address: the MAC for a transfer's name and peer.

    the name asked for says it    grub/grub.cfg-<mac>, pxelinux.cfg/01-<mac>, ipxe.cfg-<mac>     the machine's own word
    else the kernel's neighbour   for machines on our own networks                               the link's word
    else what was known here      of this address, at most FORGET_S ago

Invariants: a newer word about an address replaces the older; what is remembered is bounded; asking costs no more than
one reading of the neighbour table each READ_S, and at most 1 % of the time. None of it is proof: it sorts a timeline
and decides nothing.

Thread-compatible: one thread asks. Left to others: reading the table (neighbours), names (namespace).
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bootplane.dataplane import neighbours
from bootplane.dataplane.namespace import parse_boot_name

FORGET_S = 15 * 60.0
READ_S = 0.4  # a machine that has just come is looked for again; less than the pause between two polls
FRESH_S = 5.0  # an answer of the table is believed for so long before it is read again
SHARE = 100  # reading may take one hundredth of the time
FAILED_S = 60.0  # a table that cannot be read is tried again so much later
MACHINES = 65536  # addresses remembered
NO_MAC = "00:00:00:00:00:00"

log = logging.getLogger("bootplane.machines")


class Machine(NamedTuple):
    """What is known of a peer; "" where nothing is."""

    mac: str = ""
    known_by: str = ""  # "name", "neighbour" or "memory"
    uuid: str = ""  # PXELINUX's, when it asked by it


class Machines:
    def __init__(
        self, read: Callable[[], Mapping[str, str]] = neighbours.read, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()  # address -> MAC, when
        self._neighbours: Mapping[str, str] = {}
        self._read_at = float("-inf")
        self._next_read = float("-inf")
        self._failed = False

    def of(self, name: str, address: str) -> Machine:
        """The machine at *address* that asked for *name*."""
        now = self._clock()
        parsed = parse_boot_name(name)
        uuid = (parsed.uuid if parsed else None) or ""
        if parsed is not None and parsed.mac is not None and parsed.mac != NO_MAC:
            self._remember(address, parsed.mac, now)
            return Machine(parsed.mac, "name", uuid)
        mac = self._neighbour(address, now)
        if mac is not None:
            self._remember(address, mac, now)
            return Machine(mac, "neighbour", uuid)
        known = self._known.get(address)
        if known is not None and now - known[1] <= FORGET_S:
            return Machine(known[0], "memory", uuid)
        return Machine("", "", uuid)

    def _remember(self, address: str, mac: str, now: float) -> None:
        self._known[address] = (mac, now)
        self._known.move_to_end(address)
        while len(self._known) > MACHINES or now - next(iter(self._known.values()))[1] > FORGET_S:
            self._known.popitem(last=False)

    def _neighbour(self, address: str, now: float) -> str | None:
        """The table is read again when it is old, or sooner when it lacks this address."""
        mac = self._neighbours.get(address)
        if now < self._next_read or (mac is not None and now - self._read_at < FRESH_S) or _is_loopback(address):
            return mac
        began = time.perf_counter()
        try:
            self._neighbours = self._read()
            pause_s = max(READ_S, SHARE * (time.perf_counter() - began))
            self._failed = False
        except OSError as error:
            self._neighbours = {}
            pause_s = FAILED_S
            if not self._failed:
                log.warning("machines are known by the names they ask for alone: %s", error)
            self._failed = True
        self._read_at, self._next_read = now, now + pause_s
        return self._neighbours.get(address)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False

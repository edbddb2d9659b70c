"""What a rack tells a machine when it cannot reach its region: a script that says so on the console and tries again.

Invariant: a script from here never starts, installs, erases or changes anything. It prints what is missing and whom to
ask, and ends as the region's own scripts end (retry): a GRUB or an iPXE that is in the loop of a script of the region
goes on with that loop, and the region's next script goes on with the loop of one from here. PXELINUX has no loop: its
waits are counted here, for each machine, so that a full rack of them does not fall upon a region that has just come
back.

Pure: no socket; time is given. Left to others: deciding that the region is gone (dynamic).
"""

from __future__ import annotations

import re
from collections import OrderedDict

from bootplane.dataplane.namespace import parse_boot_name
from bootplane.dataplane.retry import WAITS_S, grub_loop, grub_open, ipxe_loop, ipxe_open, pxelinux_again

FORGET_S = 600.0  # a machine that was away longer starts from the first wait again
MAX_MACHINES = 16384

_UNSAFE = re.compile(
    r"[^A-Za-z0-9 ._:/,\[\]()+-]"
)  # what could end a quoted text or a line in one of the three languages


class Waits:
    """How often each machine has been sent away; bounded."""

    def __init__(self) -> None:
        self._tries: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def next(self, machine: str, now: float) -> tuple[int, int]:
        """(number of this try, seconds to wait after it)."""
        tries, last = self._tries.pop(machine, (0, now))
        tries = 1 if now - last > FORGET_S else tries + 1
        self._tries[machine] = (tries, now)
        if len(self._tries) > MAX_MACHINES:
            self._tries.popitem(last=False)
        return tries, WAITS_S[min(tries, len(WAITS_S)) - 1]


def retry_script(name: str, rack: str, http: str, regions: str, reason: str, attempt: int, wait_s: int) -> bytes | None:
    """The script for the boot loader that asked for *name*, or None when it is not a configuration we know, or one that
    PXELINUX asks for before those of its MAC and ``default`` (those names keep working when the region is back).

    *rack* and *regions* say for the operator who could not reach whom, *http* ("H:P") is where machines reach the rack;
    *reason* says why the region did not answer.
    """
    parsed = parse_boot_name(name)
    if parsed is None or parsed.uuid or parsed.address_hex:
        return None
    tried = f"try {attempt}; the next one in {wait_s} s. " if parsed.loader == "pxelinux" else ""
    said = [
        f"bootplane: the boot configuration of this machine is missing: {name}",
        f"bootplane: rack {rack} at {http} cannot get it from its region {regions}",
        f"bootplane: {reason}",
        f"bootplane: {tried}Nothing has been changed on this machine.",
    ]
    plain = [_UNSAFE.sub("?", line.replace(";", ","))[:200] for line in said]
    target = _UNSAFE.sub("?", name)
    if parsed.loader == "grub":
        begin, end = grub_open(parsed.is_first), grub_loop(parsed.is_first, target)
        lines = [f"{begin}set bootplane_answered=y", *(f"echo '{line}'" for line in plain), end]
    elif parsed.loader == "ipxe":
        begin, end = ipxe_open(parsed.is_first), ipxe_loop(parsed.is_first, f"http://{http}/{target}")
        lines = [f"#!ipxe\n{begin}".rstrip(), *(f"echo {line}" for line in plain), end]
    else:
        again = target[target.lower().rindex("pxelinux.cfg/") :]  # PXELINUX puts its own folder before every name
        lines = [*(f"SAY {line}" for line in plain), "PROMPT 1", "DEFAULT again", pxelinux_again(again, wait_s)]
    return "\n".join(lines).encode()

"""What a rack tells a machine when it cannot reach its region: a script that says so on the console and tries again.

Invariant: a script from here never starts, installs, erases or changes anything. It prints what is missing and whom to
ask, waits, and asks for the same name again; waits grow with each try of one machine, so that a full rack of machines
does not fall upon a region that has just come back.

Pure: no socket; time is given. Left to others: deciding that the region is gone (dynamic).
"""

from __future__ import annotations

import re
from collections import OrderedDict

from bootplane.dataplane.namespace import parse_boot_name

WAITS_S = (5, 10, 20, 30, 60)
FORGET_S = 600.0  # a machine that was away longer starts from the first wait again
MAX_MACHINES = 16384
GRUB_ROUNDS = 30  # of the longest wait, then a restart: GRUB's loops without an end need a module that may be missing

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


def retry_script(name: str, rack: str, regions: str, reason: str, attempt: int, wait_s: int) -> bytes | None:
    """The script for the boot loader that asked for *name*, or None when it is not a configuration we know.

    *rack* and *regions* are addresses for the operator; *reason* says why the region did not answer.
    """
    parsed = parse_boot_name(name)
    if parsed is None:
        return None
    lines = [
        f"bootplane: the boot configuration of this machine is missing: {name}",
        f"bootplane: rack {rack} cannot get it from its region {regions}",
        f"bootplane: {reason}",
        f"bootplane: try {attempt}; the next one in {wait_s} s. Nothing has been changed on this machine.",
    ]
    plain = [_UNSAFE.sub("?", line.replace(";", ","))[:200] for line in lines]
    target = _UNSAFE.sub("?", name)
    if parsed.loader == "grub":
        said = "\n".join(f"echo '{line}'" for line in plain)
        waits = " ".join(str(wait) for wait in (wait_s, *WAITS_S, *WAITS_S[-1:] * GRUB_ROUNDS))
        again = f"for wait in {waits}; do\n  sleep $wait\n  configfile /{target}\ndone\nreboot"
        return f"{said}\n{again}\n".encode()
    if parsed.loader == "ipxe":
        said = "\n".join(f"echo {line}" for line in plain)
        waits = "\n".join(f"sleep {wait}\nchain --replace /{target} ||" for wait in (wait_s, *WAITS_S))
        again = f":again\nsleep {WAITS_S[-1]}\nchain --replace /{target} || goto again"
        return f"#!ipxe\n{said}\n{waits}\n{again}\n".encode()
    said = "\n".join(f"SAY {line}" for line in plain)
    return (
        f"DEFAULT retry\nPROMPT 1\nTIMEOUT {wait_s * 10}\nONTIMEOUT retry\n{said}\nLABEL retry\n  CONFIG /{target}\n"
    ).encode()

"""What a service manager hears of this process: sd_notify(3), a datagram to the socket in NOTIFY_SOCKET.

Without that variable, or with nobody there, nothing is said and nothing fails: a rack under a shell is no worse.
Left to others: what is true when (rackservice, control).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping


class Manager:
    """Speaks to whoever started this process; the variables are gone afterwards, so that no child speaks for it."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        address = variables.pop("NOTIFY_SOCKET", "")
        watchdog = variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s: float | None = None  # it expects alive() that often, or ends us
        if watchdog[0].isdecimal() and int(watchdog[0]) and watchdog[1] in ("", str(os.getpid())):
            self.watchdog_s = int(watchdog[0]) / 1e6

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        self._tell(f"STOPPING=1\nSTATUS={status}")

    def alive(self) -> None:
        """Any thread; never waits for a manager that does not read."""
        self._tell("WATCHDOG=1", socket.MSG_DONTWAIT)

    def _tell(self, text: str, flags: int = 0) -> None:
        if self._address[:1] not in ("/", "\0"):
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(text.encode(), flags, self._address)

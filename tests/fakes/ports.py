"""A free port that nobody is given by chance meanwhile: below those from which the kernel picks for clients and for
port 0. For what must be told a port before it is bound, or binds it again later."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def quiet_port(kind: int = socket.SOCK_STREAM, host: str = "127.0.0.1") -> int:
    """One that can be bound now on *host*."""
    end = int(_RANGE.read_text().split()[0])
    assert end > LOWEST + 1000, f"expected 1000 ports or more above {LOWEST} that the kernel does not pick, got {end}"
    while True:
        port = random.randrange(LOWEST, end)
        with socket.socket(socket.AF_INET, kind) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port

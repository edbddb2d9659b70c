"""Addresses as people and headers write them: "H:P", "[::1]:5248", ":69". One parser for options and for the wire."""

from __future__ import annotations

from typing import NamedTuple


class HostPort(NamedTuple):
    host: str  # without brackets; "" means every address
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str, what: str = "address") -> HostPort:
    """Raises ValueError, one sentence with *what* and the text."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # a bare IPv6 address: its last group is no port
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{what}: expected HOST:PORT, got {text!r}")
    return HostPort(host, int(port))


def is_unspecified(host: str) -> bool:
    """Whether *host* is a wildcard, good to listen on and useless to connect to."""
    return host in ("", "0.0.0.0", "::")

"""The kernel's neighbour table: which link-layer address an IP address on our own networks has.

Asked by rtnetlink (RTM_GETNEIGH, one dump for IPv4 and IPv6 alike), which needs no privilege and sees this process's
network namespace. Invariant: only entries the kernel has resolved count; an address that two interfaces resolve
differently, equally sure of it, is nobody's.

A machine behind a router is not in here. Left to others: how often to ask, and what else tells a machine (machines).
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

# linux/netlink.h, linux/rtnetlink.h, linux/neighbour.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
NLM_F_REQUEST, NLM_F_DUMP = 0x001, 0x300
NDA_DST, NDA_LLADDR = 1, 2
NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x80

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NEIGHBOUR = struct.Struct("=BBHiHBB")  # family, pad, pad, ifindex, state, flags, type
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_SURE = {NUD_STALE: 1, NUD_DELAY: 2, NUD_PROBE: 2, NUD_REACHABLE: 2, NUD_PERMANENT: 2}
_SIZES = {4: socket.AF_INET, 16: socket.AF_INET6}

RECEIVE_BYTES = 256 << 10
TIMEOUT_S = 1.0


class Neighbour(NamedTuple):
    address: str
    mac: str  # "52:54:00:77:00:01"
    state: int  # NUD_*


def read() -> dict[str, str]:
    """Address -> MAC of every resolved neighbour. Raises OSError when the kernel cannot be asked."""
    found: list[Neighbour] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.bind((0, 0))
        request = _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0)
        header = _HEADER.pack(_HEADER.size + len(request), RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
        sock.send(header + request)
        is_done = False
        while not is_done:
            data = sock.recv(RECEIVE_BYTES)
            is_done = not data
            for kind, body in messages(data):
                if kind == NLMSG_DONE:
                    is_done = True
                elif kind == NLMSG_ERROR:
                    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                    raise OSError(number, f"neighbour table: {os.strerror(number)}")
                elif kind == RTM_NEWNEIGH:
                    found += neighbours(body)
    return table(found)


def table(found: list[Neighbour]) -> dict[str, str]:
    """The surest MAC of each address; none where two are equally sure."""
    best: dict[str, tuple[int, str | None]] = {}
    for each in found:
        sure = _SURE[each.state]
        known = best.get(each.address)
        if known is None or sure > known[0]:
            best[each.address] = (sure, each.mac)
        elif sure == known[0] and each.mac != known[1]:
            best[each.address] = (sure, None)
    return {address: mac for address, (_sure, mac) in best.items() if mac is not None}


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each netlink message in one datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += _padded(length)


def neighbours(body: bytes) -> Iterator[Neighbour]:
    """The neighbour of one RTM_NEWNEIGH, if it is resolved to a MAC."""
    if len(body) < _NEIGHBOUR.size:
        return
    state = _NEIGHBOUR.unpack_from(body)[4]
    if state not in _SURE:
        return
    found: dict[int, bytes] = {}
    at = _NEIGHBOUR.size
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if not _ATTRIBUTE.size <= length <= len(body) - at:
            return
        found[kind] = body[at + _ATTRIBUTE.size : at + length]
        at += _padded(length)
    raw, mac = found.get(NDA_DST, b""), found.get(NDA_LLADDR, b"")
    if len(raw) in _SIZES and len(mac) == 6 and any(mac):
        yield Neighbour(socket.inet_ntop(_SIZES[len(raw)], raw), mac.hex(":"), state)


def _padded(length: int) -> int:
    return (length + 3) & ~3

"""TFTP requests, and the OACK and ERROR that answer them. Input: one datagram."""

from __future__ import annotations

from bootplane.core.tftp_packet import build_error, build_oack, parse_request
from tests.fuzz import reference

MAX_LEN = 600
WORDS = [
    b"\0\1", b"\0\2", b"\0\4", b"octet\0", b"netascii\0", b"mail\0", b"blksize\0", b"timeout\0", b"tsize\0",
    b"windowsize\0", b"512\0", b"1468\0", b"65464\0", b"65535\0", b"255\0", b"4294967296\0", b"0\0",
    b"multicast\0", b"\0",
]  # fmt: skip


def check(data: bytes) -> None:
    got, expected = parse_request(data), reference.request(data)
    assert (got is None) == (expected is None), f"expected {expected}, got {got}"
    if got is None or expected is None:
        return
    assert tuple(got) == tuple(expected), f"expected {expected}, got {got}"
    granted = {key: int(value) for key, value in got.options.items()}
    order = [key for key in ("blksize", "timeout", "tsize", "windowsize") if key in granted]
    oack = b"\0\6" + b"".join(b"%b\0%d\0" % (key.encode(), granted[key]) for key in order)
    assert build_oack(**granted) == oack
    error = build_error(1, b"", got.name, b": nobody has it")
    shown = bytes(c if 32 <= c < 127 else 63 for c in got.name)[: 516 - 5 - 15]
    assert error == b"\0\5\0\1" + shown + b": nobody has it\0"

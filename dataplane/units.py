"""Sizes and rates in words, both ways: what an operator types, and what a log line or a page says.

Left to others: which values make sense.
"""

from __future__ import annotations

import re
from decimal import Decimal

_MAX = (1 << 63) - 1
_SIZES = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
_RATES = {
    "bit/s": Decimal(1) / 8,
    "kbit/s": Decimal(10**3) / 8,
    "Mbit/s": Decimal(10**6) / 8,
    "Gbit/s": Decimal(10**9) / 8,
    **{f"{unit}/s": Decimal(factor) for unit, factor in _SIZES.items() if unit},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)\Z")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+/s)\Z")


def parse_size(text: str, what: str = "size") -> int:
    """Bytes of "4GiB", "512 MiB", "20GB" or a plain number. Raises ValueError, one sentence with *what*."""
    found = _SIZE.match(text.strip())
    if found is None or found[2] not in _SIZES:
        raise ValueError(f"{what}: expected a number with KiB, MiB, GiB, TiB, kB, MB or GB, got {text!r}")
    return _bytes(Decimal(found[1]) * _SIZES[found[2]], text, what)


def parse_rate(text: str, what: str = "rate") -> int:
    """Bytes a second of "250Mbit/s" or "30 MiB/s"; 0, which is no limit, of "none". Raises ValueError, one sentence."""
    if text.strip() == "none":
        return 0
    found = _RATE.match(text.strip())
    if found is None or found[2] not in _RATES:
        raise ValueError(f"{what}: expected none, or a number with kbit/s, Mbit/s, Gbit/s, MB/s or MiB/s, got {text!r}")
    count = _bytes(Decimal(found[1]) * _RATES[found[2]], text, what)
    if not count:  # which would be no limit
        raise ValueError(f"{what}: expected none for no limit, or 1 byte a second or more, got {text!r}")
    return count


def _bytes(count: Decimal, text: str, what: str) -> int:
    if count > _MAX:
        got = text if len(text) <= 40 else f"{text[:40]}..."
        raise ValueError(f"{what}: expected less than {size(_MAX)}, got {got!r}")
    return int(count)


def size(count: float | None) -> str:
    """Bytes for people, in binary units: 404.2 MiB."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable: TiB ends the loop")


def rate(bytes_s: int | None) -> str:
    """A limit on a line, for people, in the unit lines are sold by: 250 Mbit/s; "no limit" for 0."""
    if bytes_s is None:
        return "-"
    bits = bytes_s * 8
    for unit, factor in (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)):
        if bits >= factor:
            return f"{bits / factor:.4g} {unit}"
    return f"{bits} bit/s" if bits else "no limit"

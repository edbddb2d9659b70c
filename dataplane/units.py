"""Sizes and rates in words, both ways: what an operator types, and what a log line or a page says.

Left to others: which values make sense.
"""

from __future__ import annotations

import re

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
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)\Z")


def parse_size(text: str, what: str = "size") -> int:
    """Bytes of "4GiB", "512 MiB", "20GB" or a plain number. Raises ValueError, one sentence with *what*."""
    found = _SIZE.match(text.strip())
    if found is None or found[2] not in _SIZES:
        raise ValueError(f"{what}: expected a number with KiB, MiB, GiB, TiB, kB, MB or GB, got {text!r}")
    return int(float(found[1]) * _SIZES[found[2]])


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
